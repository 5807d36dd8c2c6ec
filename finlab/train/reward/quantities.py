"""Numbers as people write them: 1.2亿元, 12,000万元, １２０００００００, 1.2×10^8, -3.5%, 1/3, 25个基点.

    read("12,000万元") == Quantity(Fraction(120000000), "元", ...)
    same(read("1.2亿元"), read("12,000万元"))        # True

Values mean what they say: 5% is 0.05, and 5 is never 5%. A bare number takes the unit that the
question asks for, where it asks for one.
"""

from __future__ import annotations

import re
import unicodedata
from dataclasses import dataclass
from fractions import Fraction

RELATIVE = Fraction(1, 1000)  # how far a number may be off, where the question asks for no places
LONGEST = 80  # characters of a number with its unit
SCALES = {
    "万亿": 10**12,
    "千亿": 10**11,
    "百亿": 10**10,
    "十亿": 10**9,
    "亿": 10**8,
    "千万": 10**7,
    "百万": 10**6,
    "十万": 10**5,
    "万": 10**4,
    "千": 10**3,
    "trillion": 10**12,
    "billion": 10**9,
    "million": 10**6,
    "thousand": 10**3,
}
SHARES = {
    "%": Fraction(1, 100),
    "个百分点": Fraction(1, 100),
    "百分点": Fraction(1, 100),
    "‰": Fraction(1, 1000),
    "个基点": Fraction(1, 10000),
    "基点": Fraction(1, 10000),
    "bps": Fraction(1, 10000),
    "bp": Fraction(1, 10000),
}
POINTS = ("个百分点", "百分点", "个基点", "基点", "bps", "bp")  # differences of two shares
CURRENCIES = {
    "元": "人民币元 人民币 元 rmb cny ¥ ￥ 块",
    "美元": "美元 美金 usd us$ $ dollars dollar",
    "港元": "港元 港币 hkd hk$",
    "欧元": "欧元 eur €",
    "日元": "日元 日圆 jpy",
    "英镑": "英镑 gbp £",
}
COUNTED = "股 份 手 人 户 家 名 个 只 笔 项 次 倍 年 个月 月 天 日 周 季度 期 岁 吨 公斤 平方米 件 台 套 辆 点 张 位"
ALIASES = {alias: name for name, aliases in CURRENCIES.items() for alias in aliases.split()}
ALIASES |= {name: name for name in COUNTED.split()}
CALENDAR = ("年", "月", "日")  # of these a number is a name: 2024年 is not 2023年


def _either(words: list[str]) -> str:
    """Return a pattern of words, the longest first."""
    return "|".join(re.escape(word) for word in sorted(words, key=len, reverse=True))


FIGURE = r"(?:\d{1,3}(?:,\d{3})+(?:\.\d+)?|\d+(?:\.\d+)?|\.\d+)"
# At most two digits of exponent: 1e999999999 would fill the memory.
POWER = (
    r"(?:e[+-]?\d{1,2}(?!\d)"
    r"|\s*(?:×|x|\*|\\times|\\cdot)\s*10\s*(?:\^|\*\*)\s*\{?\s*[+-]?\d{1,2}(?!\d)\s*\}?)"
)
NUMBER = re.compile(
    rf"(?P<before>{_either(['人民币', 'rmb', 'us$', 'hk$', '¥', '￥', '$', '€', '£'])})?\s*"
    r"(?P<sign>[+-])?\s*"
    rf"(?P<after>{_either(['¥', '￥', '$', '€', '£'])})?\s*"
    rf"(?:\\d?frac\{{(?P<top>{FIGURE})\}}\{{(?P<under>{FIGURE})\}}"
    rf"|(?P<left>{FIGURE})\s*/\s*(?P<right>{FIGURE})"
    rf"|(?P<figure>{FIGURE})(?P<power>{POWER})?)\s*"
    rf"(?P<scale>{_either(list(SCALES))})?\s*"
    rf"(?P<unit>{_either([*SHARES, *ALIASES])})?",
    re.I,
)
PERCENT_WORD = re.compile(rf"百分之\s*(?P<sign>[+-负])?\s*(?P<figure>{FIGURE})")
# What may stand around a number without changing it.
LEADING = re.compile(r"^(?:(?:答案|结果)?[是为:]\s*|约为?|大约|≈|=|~|approximately|about)\s*", re.I)
TRAILING = re.compile(r"[\s。.;]+$")
MINUS = re.compile(r"[−–—﹣－]")


@dataclass(frozen=True)
class Quantity:
    """A number with its unit.

    Attributes:
        value: In base units: 元 for 亿元, 1 for %.
        unit: A currency or a thing that is counted; `point` for differences of shares, `share` for
            % and ‰; empty for a bare number.
        step: What one unit of its last printed place is worth.
        exact: Whether it was written as a fraction.
        scaled: Whether a scale such as 万 was written.
    """

    value: Fraction
    unit: str = ""
    step: Fraction = Fraction(1)
    exact: bool = False
    scaled: bool = False

    @property
    def bare(self) -> bool:
        """Whether neither scale nor unit was written."""
        return not self.unit and not self.scaled


def plain(text: str) -> str:
    """Return a text in half-width signs, with one kind of minus."""
    text = unicodedata.normalize("NFKC", text.replace("￥", "¥"))
    text = MINUS.sub("-", text).replace("，", ",")
    return text.replace("负", "-") if re.match(r"\s*负\s*\d", text) else text


def read(text: str) -> Quantity | None:
    """Return the number that a text consists of; None for any other text.

    Args:
        text: Such as `约1.2亿元。`. `大约1到2亿` and `3或4` are no numbers.
    """
    if len(text) > LONGEST:
        return None
    text = TRAILING.sub("", plain(text).strip())
    previous = None
    while text != previous:
        previous = text
        text = LEADING.sub("", text).strip()
    word = PERCENT_WORD.fullmatch(text)
    if word:
        sign = "-" if word["sign"] in ("-", "负") else ""
        text = f"{sign}{word['figure']}%"
    found = NUMBER.fullmatch(text)
    return _quantity(found) if found else None


def all_in(text: str) -> list[str]:
    """Return the numbers that stand in a text, each with its unit, as they are written."""
    found = []
    for match in NUMBER.finditer(plain(text)):
        written = match[0].strip()
        if written:
            found.append(written)
    return found


def _quantity(found: re.Match) -> Quantity:
    """Return the quantity of a match of NUMBER."""
    exact = bool(found["top"] or found["left"])
    if exact:
        top, under = found["top"] or found["left"], found["under"] or found["right"]
        if not _fraction(under):
            return Quantity(Fraction(0), "undefined")
        value, step = _fraction(top) / _fraction(under), Fraction(0)
    else:
        power = 10 ** Fraction(_power(found["power"]))
        value = _fraction(found["figure"]) * power
        places = len(found["figure"].partition(".")[2])
        step = Fraction(1, 10**places) * power
    factor = Fraction(SCALES.get((found["scale"] or "").lower(), 1))
    name, share = _unit(found)
    factor *= share
    if found["sign"] == "-":
        value = -value
    return Quantity(value * factor, name, step * factor, exact, bool(found["scale"]))


def _fraction(figure: str) -> Fraction:
    """Return the value of digits with commas."""
    return Fraction(figure.replace(",", ""))


def _power(text: str | None) -> int:
    """Return the exponent of `e8`, `×10^8` or `\\times 10^{8}`."""
    if not text:
        return 0
    digits = re.findall(r"[+-]?\d+", text)
    return int(digits[-1])


def _unit(found: re.Match) -> tuple[str, Fraction]:
    """Return the unit's name, and what one of it is worth."""
    written = (found["unit"] or "").lower()
    if written in SHARES:
        return ("point" if written in POINTS else "share"), SHARES[written]
    if not written:
        written = (found["before"] or found["after"] or "").lower()
    return ALIASES.get(written, ""), Fraction(1)


# --- comparing -----------------------------------------------------------------------------------
def in_unit(found: Quantity, asked: str) -> Quantity:
    """Return a bare number in the unit that the question asks for.

    Args:
        found: As it was written.
        asked: Such as `亿元` or `%`; empty for none.
    """
    if not asked or not found.bare:
        return found
    one = read(f"1{asked}")
    if one is None:
        raise ValueError(f"'{asked}' is not a known unit: write one such as 亿元, % or 股")
    return Quantity(found.value * one.value, one.unit, found.step * one.value, found.exact, True)


def same_unit(answer: Quantity, gold: Quantity) -> bool:
    """Tell whether two units go together.

    A unit that only one of them has is no fault, but for another currency than the yuan, and for a
    difference of shares: 2个百分点 is not 2%, and 2美元 is not 2.
    """
    if answer.unit == gold.unit:
        return True
    pair = {answer.unit, gold.unit}
    if "" in pair:
        other = (pair - {""}).pop()
        return other not in ("point", "undefined", *(set(CURRENCIES) - {"元"}))
    return False


def same(
    answer: Quantity,
    gold: Quantity,
    decimals: int | None = None,
    relative: float | None = None,
    absolute: float | None = None,
    asked: str = "",
) -> bool:
    """Tell whether an answer is the gold number.

    Args:
        answer: The answer's.
        gold: The right one.
        decimals: Places behind the point that the question asks for, in its unit: half a unit in
            the last of them may be missing.
        relative: How far it may be off, as a share of the gold.
        absolute: How far it may be off, in base units.
        asked: The unit that the question asks for.
    """
    answer, gold = in_unit(answer, asked), in_unit(gold, asked)
    if not same_unit(answer, gold):
        return False
    if answer.exact and gold.exact:
        return answer.value == gold.value
    if gold.unit in CALENDAR:
        return answer.value == gold.value
    allowed = Fraction(0)
    if absolute is not None:
        allowed = Fraction(absolute).limit_denominator(10**12)
    elif relative is not None:
        allowed = abs(gold.value) * Fraction(relative).limit_denominator(10**12)
    elif decimals is not None:
        one = read(f"1{asked}") if asked else Quantity(Fraction(1))
        allowed = Fraction(1, 2 * 10**decimals) * one.value
    elif gold.value:
        allowed = abs(gold.value) * RELATIVE
    else:
        allowed = gold.step / 2 if gold.step < 1 else Fraction(0)
    return abs(answer.value - gold.value) <= allowed
