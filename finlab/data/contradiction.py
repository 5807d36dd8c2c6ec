"""Whether two nearly equal texts contradict each other: then they are two documents.

    contradicts("净利润为1.5亿元", "净利润为2.5亿元")              # True: another amount
    contradicts("获批2,700万元", "某股份(sh601058)获批2700万元")   # False: more, and nothing else

Both texts are cut into tokens: figures with their units as values (2,700 is 2700, 3% is 百分之三),
characters, words. The token sequences are aligned, and each place where they differ is looked at.
What only one text says contradicts nothing. Two values, two directions (涨, 跌), two periods, or two
names at one place do.
"""

from __future__ import annotations

import functools
import re
from collections import Counter
from decimal import Decimal
from typing import NamedTuple

from rapidfuzz.distance import Indel

from finlab.data import facts, opposites, recogniser
from finlab.data.facts import Token

NEGATION = re.compile(
    r"拟(?![合人态])|解除|终止|取消|停止|撤销|撤回|中止|暂停|不(?![断仅过久少同光等妨料得])|未(?!来)|[没勿莫否]|无(?![论锡线人机])|非(?![常洲])"
)
NEGATIONS = {"not", "no", "never", "without", "cannot", "t"}  # don't is cut into don and t
SHARED = 2  # tokens that two terms at one place may have in common: 定向增(发), (发)行可转债
SHORT = 4  # tokens: an added 不 in so short a change turns the sentence round
LIST = 14  # tokens: in a longer change, opposite characters may be chance
MOST_TOKENS = 20_000  # longer texts are compared up to here
MOST_PLACES = 200  # that differ; beyond, nothing is looked for that changed places
REMEMBERED = 64  # texts; the pairs of one text come one after another


def contradicts(first: str, second: str) -> bool:
    """Tell whether two nearly equal texts say contrary things at one place.

    Args:
        first: A text.
        second: Another one.
    """
    one, other = _read(first), _read(second)
    # Which text comes first decides how equal tokens are aligned, so both ways are looked at.
    places = differences(one.signs, other.signs)
    turned = differences(other.signs, one.signs)
    if _facts_contradict(one.tokens, other.tokens, places):
        return True
    if _facts_contradict(other.tokens, one.tokens, turned):
        return True
    # Last, and once for each place, since to recognise a name takes a model.
    places += [(a, b) for b, a in turned if (a, b) not in places]
    return any(_names_differ((one, a), (other, b)) for a, b in places)


def _facts_contradict(
    left: list[Token], right: list[Token], places: list[tuple[slice, slice]]
) -> bool:
    """Tell whether two texts give other values, periods, codes or directions at one place.

    Args:
        left, right: The tokens of both texts.
        places: Where they differ, from `differences`.
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


class Reading(NamedTuple):
    """A text as it is compared; nobody changes it.

    Attributes:
        text: From `facts.normalise`.
        tokens: Of this text.
        signs: A hash for each token: of its kind, text and unit, which equal tokens share.
    """

    text: str
    tokens: list[Token]
    signs: list[int]


@functools.lru_cache(REMEMBERED)
def _read(text: str) -> Reading:
    """Read a text, up to MOST_TOKENS."""
    normal = facts.normalise(text)
    tokens = facts.tokens(normal)[:MOST_TOKENS]
    return Reading(normal, tokens, [hash(token[:3]) for token in tokens])


def _joined(places: list[tuple[slice, slice]]) -> list[tuple[slice, slice]]:
    """Return places that nearly touch as one: a term may share a character with its opposite.

    Args:
        places: Where two texts differ, from `differences`.
    """
    joined: list[tuple[slice, slice]] = []
    for a, b in places:
        if joined and a.start - joined[-1][0].stop <= SHARED:
            before, others = joined.pop()
            a, b = slice(before.start, a.stop), slice(others.start, b.stop)
        joined.append((a, b))
    return joined


def _characters(tokens: list[Token]) -> str:
    """Return the words and characters among tokens."""
    return "".join(token.text for token in tokens if token.kind in ("char", "word"))


def differences(left: list[int], right: list[int]) -> list[tuple[slice, slice]]:
    """Return the places where two token sequences differ, as slices of both.

    Args:
        left: The signs of one text's tokens.
        right: The signs of the other's.
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


TURNS = set("向给由被对把卖买与和")  # with these, who does what depends on the order
NEAR = 40  # tokens: two amounts that change places stand near each other


def _swapped(left: list[Token], right: list[Token], places: list[tuple[slice, slice]]) -> bool:
    """Tell whether two things have changed places: 甲增9%，乙增14% and 甲增14%，乙增9%.

    Args:
        left, right: The tokens of both texts.
        places: Where they differ, from `differences`.
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
            # An amount that is taken out here stands there, on the other side of another one.
            moved = (set(ours) & set(theirs_later)) | (set(theirs) & set(ours_later))
            moved -= set(ours) & set(theirs)
            amount_moved = any(key.startswith("value") for key in moved)
            if amount_moved and later.start - a.stop <= NEAR:
                if any(token.kind == "value" for token in left[a.stop : later.start]):
                    return True
    return _bounds_moved(left, right, places)


def _bounds_moved(left: list[Token], right: list[Token], places: list[tuple[slice, slice]]) -> bool:
    """Tell whether a range has other bounds, one of which is the same: 1亿元-2亿元, 2亿元-4亿元.

    Args:
        left, right: The tokens of both texts.
        places: Where they differ.
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
    """Tell whether what is taken out here stands there in another order: 甲或向乙出售, 乙或向甲出售.

    Args:
        *sides: What each text says at the first place, and at the second.
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
    """Return what tokens share with equal ones."""
    return [token.key for token in tokens]


def _only_in(one: list[str], other: list[str]) -> list[str]:
    """Return what stands in one list and not in the other, as often as it does.

    Args:
        one: What one text says.
        other: What the other says.
    """
    return list((Counter(one) - Counter(other)).elements())


def _facts_differ(left: list[Token], right: list[Token]) -> bool:
    """Tell whether both sides give a value, a period or a code, and not the same.

    Args:
        left: The tokens of one text.
        right: The tokens of the other.
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
    """Return values, with a fall that is told in words as the minus figure of the other text.

    Args:
        values: What only one text gives.
        said: All that it says there: 亏损2570万元.
        others: What only the other gives: -2570万元.
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
    """Take out values that are one in another form.

    A unit may be missing (1.5亿, 1.5亿元), and a value given in 亿 may be rounded from one in 万.

    Args:
        ours: What only the first text says.
        theirs: What only the second says.
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
        one: What one text says.
        other: What the other says.
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
    """Tell whether one side says the opposite of the other, or adds a 不.

    Args:
        left: The tokens of one text.
        right: The tokens of the other.
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


ENTITY_TAGS = ("PER", "LOC", "ORG", "nz")
# What short names leave out: 同光(半导体)股份, 萍乡(市)中(级人民法)院.
LEFT_OUT = re.compile(
    r"半导体|科技|药业|制药|实业|集团|电子|控股|股份|有限|生物|新材|材料|汽车|技术|环保|能源|医药|智能|网络|信息|传媒|国际"
    r"|中国|人民|监督|管理|委员会|发展|建设|工程|证券|登记|注册"
)
OFFICE = re.compile(r"(?:局|法院|中院|高院|委|委员会|部|中心|医院|署|院|厅|所|政府)$")
CONTEXT = 12  # characters on both sides by which a name is recognised


def _names_differ(left: tuple[Reading, slice], right: tuple[Reading, slice]) -> bool:
    """Tell whether both sides name somebody or something, and not the same.

    Args:
        left: A text, and the tokens in it that differ.
        right: The same of the other text.
    """
    (one, here), (other, there) = left, right
    if not one.tokens[here] or not other.tokens[there]:  # what only one text says
        return _stands_inside_a_name(*left) or _stands_inside_a_name(*right)
    ours = _names(*left)
    if not ours:
        return False  # to recognise the other's takes a model
    theirs = _names(*right)
    for name in ours:
        for another in theirs:
            if name not in another and another not in name:
                return not (set(ours) & set(theirs))
    return False


def _stands_inside_a_name(reading: Reading, place: slice) -> bool:
    """Tell whether what only one text says is the middle of a name: 中信(建投)证券.

    Args:
        reading: The text.
        place: Which of its tokens the other has not.
    """
    text, changed = reading.text, reading.tokens[place]
    if not 2 <= len(changed) <= SHORT:
        return False
    start, end = changed[0].start, changed[-1].end
    first = max(0, start - CONTEXT)
    for word, tag, at in recogniser.tagged(text[first : end + CONTEXT]):
        if tag in ENTITY_TAGS and first + at < start and end < first + at + len(word):
            shortened = OFFICE.search(word) or LEFT_OUT.search(text[start:end])
            return not shortened
    return False


def _names(reading: Reading, place: slice) -> list[str]:
    """Return the names that stand where two texts differ.

    Args:
        reading: A text.
        place: Which of its tokens differ.
    """
    text, changed = reading.text, reading.tokens[place]
    start, end = changed[0].start, changed[-1].end
    first = max(0, start - CONTEXT)
    context = text[first : end + CONTEXT]
    found = []
    for word, tag, at in recogniser.tagged(context):
        begins, stops = first + at, first + at + len(word)
        spelt = not word.isdigit()  # a stock's code is no name
        if tag in ENTITY_TAGS and spelt and begins < end and start < stops:
            found.append(word)
    return found
