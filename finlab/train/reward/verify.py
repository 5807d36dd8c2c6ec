"""Check by code whether an answer is right, for rewards in training and for scores.

    gold = Gold("number", "1.2亿元")
    check("<think>…</think><answer>\\boxed{12,000万元}</answer>", gold).right      # True

Each kind of answer has one function in KINDS. It reads the text of the answer and decides whether
it equals the gold. For lists it also computes precision and recall. An answer with other words
beside it, several answers, and an answer that is only in the thinking are not right.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable
from typing import Any

from finlab.train.reward import lists, quantities, reading
from finlab.train.reward.gold import Gold, Verdict, single

LETTERS = "ABCDEFGHIJ"
BETWEEN = re.compile(r"[\s,、;/&+和与及]|\band\b", re.I)
YES = frozenset("是 对 正确 真 √ ✓ yes true 合规 成立".split())
NO = frozenset("否 错 错误 不是 不对 不正确 假 × ✗ no false 不合规 违规 不成立".split())
DATE = re.compile(
    r"(?P<year>\d{4})\s*(?:年|[-/.])\s*(?P<month>\d{1,2})\s*(?:月|[-/.])\s*(?P<day>\d{1,2})\s*日?"
    r"|(?P<year2>\d{4})\s*(?:年|[-/.])\s*(?P<month2>\d{1,2})\s*月?"
    r"|(?P<year3>(?:19|20)\d\d)(?P<month3>[01]\d)(?P<day3>[0-3]\d)"
    r"|(?P<year4>\d{4})\s*年"
)


def check(text: str, gold: Gold) -> Verdict:
    """Check a completion, and return the verdict.

    Args:
        text: The completion, thinking included.
        gold: The right answer.

    Raises:
        ValueError: The kind of the gold is unknown, or the gold itself cannot be read.
    """
    if gold.kind not in KINDS:
        raise ValueError(f"'{gold.kind}' is not a kind of answer: write one of {', '.join(KINDS)}")
    said = reading.final(text, gold.where)
    if said is None:
        return Verdict(False, None, "no answer at its place")
    return KINDS[gold.kind](said, gold)


def keeps_form(text: str, gold: Gold) -> bool:
    """Tell whether a completion has the required form.

    Args:
        text: The completion, from the beginning of the thinking.
        gold: The right answer. If `where` is `box`, the answer must have exactly one box.
    """
    return reading.well_formed(text, boxed=gold.where == "box")


def require_sound(golds: Iterable[Gold]) -> None:
    """Raise an error if a gold does not pass its own check.

    Such a gold would make rewards and scores wrong.

    Args:
        golds: The right answers.

    Raises:
        ValueError: Some golds do not pass. The message shows the first one.
    """
    bad = []
    for number, gold in enumerate(golds, 1):
        try:
            sound = KINDS[gold.kind](_as_text(gold.answer), gold).right
        except (KeyError, ValueError):
            sound = False
        if not sound:
            bad.append((number, gold))
    if bad:
        number, gold = bad[0]
        raise ValueError(
            f"{len(bad)} golds cannot be checked; the first is number {number}: "
            f"{gold.kind} {gold.answer!r}: correct it, or leave the question out"
        )


def probes(gold: Gold) -> list[tuple[str, str, bool]]:
    """Return completions that test whether a reward is given only for right answers.

    Args:
        gold: The right answer to a question, for the box or for the inside of `<answer>`.

    Returns:
        (description, completion, whether it must be rewarded) for each completion.
    """
    answer = _as_text(gold.answer)

    def put(text: str) -> str:
        return f"\\boxed{{{text}}}" if gold.where == "box" else text

    think = "<think>先想一想。</think>"
    found = [
        ("right, in its form", f"{think}<answer>{put(answer)}</answer>", True),
        (
            "right in the thinking alone",
            f"<think>{put(answer)}</think><answer>见上</answer>",
            False,
        ),
        ("thinking that never ends", f"<think>{put(answer)}", False),
        ("form without content", f"{think}<answer>{put('?')}</answer>", False),
        ("the answer and another", f"{think}<answer>{put(_with_another(gold))}</answer>", False),
        ("nothing", "", False),
    ]
    if gold.kind in ("number", "numbers"):
        inside = f"{think}<answer>{put('7' + answer.lstrip('-'))}</answer>"
        found.append(("the number inside another", inside, False))
    if gold.kind == "letters":
        every = f"{think}<answer>{put(LETTERS)}</answer>"
        found.append(("all letters", every, answer == LETTERS))
    return found


def _with_another(gold: Gold) -> str:
    """Return the answer of a gold together with another answer."""
    if isinstance(gold.answer, list):
        return _as_text([*gold.answer, "其他"])
    return f"{gold.answer}或其他"


def _as_text(answer: Any) -> str:
    """Return the answer of a gold as text; other values than text are written as JSON."""
    return answer if isinstance(answer, str) else json.dumps(answer, ensure_ascii=False)


# --- letters, yes and no -------------------------------------------------------------------------
def letters_of(text: str) -> str | None:
    """Return the letters of an answer, sorted and each once; None if there are other words.

    Args:
        text: The answer, such as AC, A、C, `(A)`, `a, c`, A和C, Ａ．
    """
    said = quantities.plain(text).upper()
    said = re.sub(r"[()\[\]{}<>。.:\"'“”‘’]", " ", said)
    said = BETWEEN.sub("", said)
    if not said or any(sign not in LETTERS for sign in said):
        return None
    return "".join(sorted(set(said)))


def _letters(said: str, gold: Gold) -> Verdict:
    """Check one or several letters, in any order."""
    right = letters_of(gold.answer)
    if right is None:
        raise ValueError(f"the gold {gold.answer!r} holds other signs than letters")
    found = letters_of(said)
    if found is None:
        return Verdict(False, None, "other words than letters")
    choices = gold.options.get("choices", 0)
    if choices and any(LETTERS.index(letter) >= choices for letter in found):
        return Verdict(False, found, "a letter that was not offered")
    hits = len(set(found) & set(right))
    verdict = found == right
    why = "" if verdict else f"{found} is not {right}"
    return Verdict(verdict, found, why, hits / len(found), hits / len(right))


def truth_of(text: str) -> bool | None:
    """Return True for a word such as 是, False for a word such as 否, None for other text."""
    said = quantities.plain(text).strip(" 。.!:\"'“”()\n").lower()
    if said in YES:
        return True
    return False if said in NO else None


def _value(said: str, gold: Gold, read: Callable[[str], Any], otherwise: str) -> Verdict:
    """Check an answer that is one value; it is right if it reads as the same value as the gold.

    Args:
        said: The text of the answer.
        gold: The right answer.
        read: A function that returns the value of a text, or None if there is no value.
        otherwise: Description of a text without a value, for the verdict and the error message.
    """
    right = read(str(gold.answer))
    if right is None:
        raise ValueError(f"the gold {gold.answer!r} is {otherwise}")
    found = read(said)
    if found is None:
        return Verdict(False, None, otherwise)
    return single(found == right, found, f"{said} is not {gold.answer}")


def _truth(said: str, gold: Gold) -> Verdict:
    """Check 是 or 否, 对 or 错."""
    return _value(said, gold, truth_of, "neither 是 nor 否")


# --- numbers and dates ---------------------------------------------------------------------------
def _gold_number(text: str) -> quantities.Quantity:
    """Return a gold as a number.

    Raises:
        ValueError: The gold is not a number.
    """
    found = quantities.read(str(text))
    if found is None:
        raise ValueError(f"the gold {text!r} is not a number")
    return found


def _limits(gold: Gold) -> dict[str, Any]:
    """Return the options of `quantities.same` for a gold."""
    known = {name: gold.options.get(name) for name in ("decimals", "relative", "absolute")}
    return known | {"asked": gold.options.get("unit", "")}


def _number(said: str, gold: Gold) -> Verdict:
    """Check one number."""
    right = _gold_number(gold.answer)
    found = quantities.read(said)
    if found is None:
        return Verdict(False, None, "no number, or more than one")
    return single(
        quantities.same(found, right, **_limits(gold)), said, f"{said} is not {gold.answer}"
    )


def _numbers(said: str, gold: Gold) -> Verdict:
    """Check several numbers separated by semicolons; their count and order must be right.

    With the option `ordered` false, any order is right.
    """
    golds = gold.answer if isinstance(gold.answer, list) else re.split("[;；]", gold.answer)
    rights = [_gold_number(part) for part in golds]
    parts = [part for part in re.split("[;；]", said) if part.strip()]
    found = [quantities.read(part) for part in parts]
    if not found or None in found:
        return Verdict(False, None, "a part that is not a number")
    limits = _limits(gold)
    if gold.options.get("ordered", True):
        hits = sum(quantities.same(one, other, **limits) for one, other in zip(found, rights))
    else:
        left = list(rights)
        for one in found:
            match = next((other for other in left if quantities.same(one, other, **limits)), None)
            if match is not None:
                left.remove(match)
        hits = len(rights) - len(left)
    right = hits == len(rights) == len(found)
    why = "" if right else f"{hits} of {len(rights)} numbers, {len(found)} given"
    return Verdict(right, said, why, hits / len(found), hits / len(rights))


def date_of(text: str) -> tuple[int, ...] | None:
    """Return a date as (year, month, day), or without day or month; None for any other text.

    Args:
        text: The date, such as 2024年5月7日, 2024-05-07, 20240507 or 2024年5月.
    """
    found = DATE.fullmatch(quantities.plain(text).strip(" 。.\n"))
    if not found:
        return None
    parts = found.groupdict()
    numbers = []
    for name in ("year", "month", "day"):
        written = [
            parts[f"{name}{which}"] for which in ("", "2", "3", "4") if f"{name}{which}" in parts
        ]
        value = next((each for each in written if each), None)
        if value:
            numbers.append(int(value))
    # A date may consist of only a year, or of year and month.
    month = numbers[1] if len(numbers) > 1 else 1
    day = numbers[2] if len(numbers) > 2 else 1
    return tuple(numbers) if 1 <= month <= 12 and 1 <= day <= 31 else None


def _date(said: str, gold: Gold) -> Verdict:
    """Check a date, in any way of writing it."""
    return _value(said, gold, date_of, "no date")


KINDS: dict[str, Callable[[str, Gold], Verdict]] = {
    "letters": _letters,
    "truth": _truth,
    "number": _number,
    "numbers": _numbers,
    "date": _date,
    "names": lists.names,
    "entities": lists.entities,
    "tools": lists.tools,
}
