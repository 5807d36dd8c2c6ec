"""Tell whether two nearly equal texts contradict each other, and so are not copies.

    contradicts("净利润为1.5亿元", "净利润为2.5亿元")              # True: another amount
    contradicts("获批2,700万元", "某股份(sh601058)获批2700万元")   # False: it only says more

Both texts are cut into tokens: values with their units (2,700 is 2700, 3% is 百分之三), characters
and words. The token sequences are aligned, and each place where they differ is checked. What only
one text says is not a contradiction. Two different values, directions (涨, 跌), periods or names at
one place are a contradiction.
"""

from __future__ import annotations

import re
from collections import Counter
from decimal import Decimal

from rapidfuzz.distance import Indel

from finlab.data import changed_names, facts, opposites
from finlab.data.facts import Token

NEGATION = re.compile(
    r"拟(?![合人态])|解除|终止|取消|停止|撤销|撤回|中止|暂停|不(?![断仅过久少同光等妨料得])|未(?!来)|[没勿莫否]|无(?![论锡线人机])|非(?![常洲])"
)
NEGATIONS = {"not", "no", "never", "without", "cannot", "t"}  # don't is cut into don and t
SHARED = 2  # tokens that two terms at one place may share: 定向增(发), (发)行可转债
SHORT = 4  # tokens; in a change up to this length, an added 不 reverses the meaning
LIST = 14  # tokens; in a longer change, opposite characters may be there by chance
MOST_PLACES = 200  # if more places differ, swapped things are not searched


def contradicts(first: str, second: str) -> bool:
    """Tell whether two nearly equal texts say contradictory things at one place.

    Args:
        first: A text.
        second: The other text.
    """
    one, other = facts.read(first), facts.read(second)
    # The alignment of equal tokens depends on which text comes first, so both orders are checked.
    places = differences(one.signs, other.signs)
    turned = differences(other.signs, one.signs)
    if _facts_contradict(one.tokens, other.tokens, places):
        return True
    if _facts_contradict(other.tokens, one.tokens, turned):
        return True
    # Names are checked last, and once for each place, because this needs a model and is slow.
    places += [(a, b) for b, a in turned if (a, b) not in places]
    return any(changed_names.names_differ((one, a), (other, b)) for a, b in places)


def _facts_contradict(
    left: list[Token], right: list[Token], places: list[tuple[slice, slice]]
) -> bool:
    """Tell whether two texts have different values, periods, codes or directions at one place.

    Args:
        left, right: The tokens of both texts.
        places: The places where the texts differ, from `differences`.
    """
    if _swapped(left, right, places):
        return True
    for a, b in places:
        if _facts_differ(left[a], right[b]) or _turned_round(left[a], right[b]):
            return True
    for a, b in _joined(places):
        said, theirs = _characters(left[a]), _characters(right[b])
        if max(len(said), len(theirs)) <= LIST and opposites.terms(said, theirs):
            return True
    return False


def _joined(places: list[tuple[slice, slice]]) -> list[tuple[slice, slice]]:
    """Join places that are at most SHARED tokens apart.

    Two opposite terms may share a character, which then separates two places.

    Args:
        places: The places where two texts differ, from `differences`.
    """
    joined: list[tuple[slice, slice]] = []
    for a, b in places:
        if joined and a.start - joined[-1][0].stop <= SHARED:
            before, others = joined.pop()
            a, b = slice(before.start, a.stop), slice(others.start, b.stop)
        joined.append((a, b))
    return joined


def _characters(tokens: list[Token]) -> str:
    """Return the text of the words and characters among tokens."""
    return "".join(token.text for token in tokens if token.kind in ("char", "word"))


def differences(left: list[int], right: list[int]) -> list[tuple[slice, slice]]:
    """Return the places where two token sequences differ, as slices of both.

    Args:
        left: The signs of the first text's tokens, see `facts.Reading`.
        right: The signs of the second text's tokens.
    """
    blocks: list[list[int]] = []
    for operation in Indel.opcodes(left, right):
        if operation.tag == "equal":
            continue
        start, end = operation.src_start, operation.src_end
        begin, stop = operation.dest_start, operation.dest_end
        if blocks and blocks[-1][1] == start and blocks[-1][3] == begin:
            blocks[-1][1], blocks[-1][3] = end, stop
        else:
            blocks.append([start, end, begin, stop])
    return [(slice(a, b), slice(c, d)) for a, b, c, d in blocks]


TURNS = set("向给由被对把卖买与和")  # with these words, the order says who does what
NEAR = 40  # tokens; two amounts that are swapped are at most this far apart


def _swapped(left: list[Token], right: list[Token], places: list[tuple[slice, slice]]) -> bool:
    """Tell whether two things are swapped: 甲增9%，乙增14% and 甲增14%，乙增9%.

    Args:
        left, right: The tokens of both texts.
        places: The places where the texts differ, from `differences`.
    """
    if len(places) > MOST_PLACES:
        return False
    keys = [(_keys(left[a]), _keys(right[b])) for a, b in places]
    for number, (a, _) in enumerate(places):
        ours, theirs = keys[number]
        for further in range(number + 1, len(places)):
            later = places[further][0]
            ours_later, theirs_later = keys[further]
            if ours and theirs and ours == theirs_later and theirs == ours_later:
                return True
            if _names_turned(ours, theirs, ours_later, theirs_later):
                return True
            # An amount that is missing at one place is added at the other place, and another
            # amount is between the two places.
            moved = (set(ours) & set(theirs_later)) | (set(theirs) & set(ours_later))
            moved -= set(ours) & set(theirs)
            amount_moved = any(key.startswith("value") for key in moved)
            if amount_moved and later.start - a.stop <= NEAR:
                if any(token.kind == "value" for token in left[a.stop : later.start]):
                    return True
    return _bounds_moved(left, right, places)


def _bounds_moved(left: list[Token], right: list[Token], places: list[tuple[slice, slice]]) -> bool:
    """Tell whether a lower bound in one text is the upper bound in the other.

    An example is 1亿元-2亿元 and 2亿元-4亿元.

    Args:
        left, right: The tokens of both texts.
        places: The places where the texts differ, from `differences`.
    """
    for (a, b), (later, other) in zip(places, places[1:], strict=False):
        between = left[a.stop : later.start]
        if not between or len(between) > 2 or between[0].kind != "value":
            continue
        sides = left[a], right[b], left[later], right[other]
        given = [any(token.kind == "value" for token in side) for side in sides]
        if given in ([True, False, False, True], [False, True, True, False]):
            return True
    return False


def _names_turned(*sides: list[str]) -> bool:
    """Tell whether tokens moved from one place to another and changed their order.

    An example is 甲或向乙出售 and 乙或向甲出售.

    Args:
        *sides: Token keys of the first and the second text at the first place, then of the first
            and the second text at the second place.
    """
    ours, theirs, ours_later, theirs_later = sides
    if ours and not theirs and not ours_later:
        moved = ours, theirs_later
    elif theirs and not ours and not theirs_later:
        moved = theirs, ours_later
    else:
        return False
    signs = {key.split(":")[1] for key in moved[0]}
    turned = moved[0] != moved[1] and Counter(moved[0]) == Counter(moved[1])
    return turned and bool(TURNS & signs)


def _keys(tokens: list[Token]) -> list[str]:
    """Return the key of each token, which is the same for equal tokens."""
    return [token.key for token in tokens]


def _only_in(one: list[str], other: list[str]) -> list[str]:
    """Return the elements that are in one list but not in the other; repetitions count.

    Args:
        one: Words and characters of one text.
        other: Words and characters of the other text.
    """
    return list((Counter(one) - Counter(other)).elements())


def _facts_differ(left: list[Token], right: list[Token]) -> bool:
    """Tell whether both texts have a value, a period or a code at a place, and they differ.

    Args:
        left: Tokens of the first text at this place.
        right: Tokens of the second text at this place.
    """
    for kind in ("value", "period", "code"):
        one = [token for token in left if token.kind == kind]
        other = [token for token in right if token.kind == kind]
        if not one or not other:
            continue
        ours = [token for token in one if token.key not in {each.key for each in other}]
        theirs = [token for token in other if token.key not in {each.key for each in one}]
        if kind == "value":
            ours, theirs = _in_words(ours, left, theirs), _in_words(theirs, right, ours)
        if kind != "period":
            ours, theirs = _without_same_values(ours, theirs)
        if ours and theirs:
            return True
    return False


def _in_words(values: list[Token], said: list[Token], others: list[Token]) -> list[Token]:
    """Return values with a minus sign if words say that they are negative, as in 亏损2570万元.

    The sign is added only if the other text has the same value with a minus sign.

    Args:
        values: Values that only one text has.
        said: All tokens of this text at this place, such as 亏损2570万元.
        others: Values that only the other text has, such as -2570万元.
    """
    falls = opposites.DOWN | set("负")
    if not any(token.kind == "char" and token.text in falls for token in said):
        return values
    negative = {token.text for token in others}
    turned = []
    for token in values:
        minus = f"-{token.text}"
        turned.append(token._replace(text=minus) if minus in negative else token)
    return turned


def _without_same_values(ours: list[Token], theirs: list[Token]) -> tuple[list, list]:
    """Remove values that both texts have in different forms.

    A unit may be missing (1.5亿, 1.5亿元), and a value in 亿 may be rounded from a value in 万.

    Args:
        ours: Values or codes that only the first text has.
        theirs: Values or codes that only the second text has.

    Returns:
        Both lists without these values.
    """
    left, theirs = [], list(theirs)
    for token in ours:
        same = [other for other in theirs if _same_value(token, other)]
        if same:
            theirs.remove(same[0])
        else:
            left.append(token)
    return left, theirs


def _same_value(one: Token, other: Token) -> bool:
    """Tell whether two values are equal, or one is the other rounded to a larger unit.

    Args:
        one: A value or code of one text.
        other: A value or code of the other text.
    """
    if one.unit != other.unit and one.unit and other.unit:
        return False
    if one.kind == "code":
        return one.text == other.text
    first, second = Decimal(one.text), Decimal(other.text)
    if first == second:
        return True
    if one.unit == other.unit == "年" and min(first, second) < 100:
        return first % 100 == second % 100 and max(first, second) > 1900  # 15年, 2015年
    coarse = max(one.step, other.step)
    if coarse < 1000 * min(one.step, other.step) or not coarse:
        return False
    return abs(first - second) * 2 <= coarse


def _turned_round(left: list[Token], right: list[Token]) -> bool:
    """Tell whether one text says the opposite of the other at a place, or adds a 不.

    Args:
        left: Tokens of the first text at this place.
        right: Tokens of the second text at this place.
    """
    one = [token.text for token in left if token.kind in ("char", "word")]
    other = [token.text for token in right if token.kind in ("char", "word")]
    longest = max(len(left), len(right))
    said, theirs = _characters(left), _characters(right)
    if longest <= LIST and (
        opposites.words(_only_in(one, other), _only_in(other, one)) or opposites.terms(said, theirs)
    ):
        return True
    if longest > SHORT:
        return False
    if len(NEGATIONS.intersection(one)) != len(NEGATIONS.intersection(other)):
        return True
    return len(NEGATION.findall(said)) != len(NEGATION.findall(theirs))
