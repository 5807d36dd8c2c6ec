"""Read and compare numbers as people write them.

Examples: 1.2亿元, 12,000万元, １２０００００００, 1.2×10^8, -3.5%, 1/3, 25个基点.

    read("12,000万元") == Quantity(Fraction(120000000), "元", ...)
    same(read("1.2亿元"), read("12,000万元"))        # True

5% is 0.05, and 5 is never read as 5%. If the question asks for a unit, a number without a unit gets
that unit.
"""

from __future__ import annotations

import re
import unicodedata
from dataclasses import dataclass
from fractions import Fraction

RELATIVE = Fraction(1, 1000)  # largest relative error if the question does not ask for decimals
LONGEST = 80  # most characters of a number with its unit
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
POINTS = ("个百分点", "百分点", "个基点", "基点", "bps", "bp")  # for differences of shares
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
CALENDAR = ("年", "月", "日")  # with these, a number must be exact: 2024年 is not 2023年


def _either(words: list[str]) -> str:
    """Return a regular expression that matches any of the words, the longest first."""
    return "|".join(re.escape(word) for word in sorted(words, key=len, reverse=True))


FIGURE = r"(?:\d{1,3}(?:,\d{3})+(?:\.\d+)?|\d+(?:\.\d+)?|\.\d+)"
# The exponent has at most two digits, because 1e999999999 would fill the memory.
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
# Text that may be before or after a number without changing its value.
LEADING = re.compile(r"^(?:(?:答案|结果)?[是为:]\s*|约为?|大约|≈|=|~|approximately|about)\s*", re.I)
TRAILING = re.compile(r"[\s。.;]+$")
MINUS = re.compile(r"[−–—﹣－]")


@dataclass(frozen=True)
class Quantity:
    """A number with its unit.

    Attributes:
        value: The value in base units: for 亿元 in 元, for % as a share (5% is 0.05).
        unit: A currency or a thing that is counted; `point` for differences between shares, `share`
            for % and ‰; empty for a number without a unit; `undefined` for a division by zero.
        step: Value of one unit in the last written digit; 0 for a fraction.
        exact: Whether the number was written as a fraction.
        scaled: Whether a scale such as 万 was written.
    """

    value: Fraction
    unit: str = ""
    step: Fraction = Fraction(1)
    exact: bool = False
    scaled: bool = False

    @property
    def bare(self) -> bool:
        """Whether the number was written without scale and unit."""
        return not self.unit and not self.scaled


def plain(text: str) -> str:
    """Return a text in half-width characters, with `-` for every kind of minus sign."""
    text = unicodedata.normalize("NFKC", text.replace("￥", "¥"))
    text = MINUS.sub("-", text).replace("，", ",")
    return text.replace("负", "-") if re.match(r"\s*负\s*\d", text) else text


def read(text: str) -> Quantity | None:
    """Return the number if a text consists of one number; None for any other text.

    Args:
        text: The text, such as `约1.2亿元。`. `大约1到2亿` and `3或4` are not numbers.
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
    """Return all numbers in a text, each with its unit, as written."""
    found = []
    for match in NUMBER.finditer(plain(text)):
        written = match[0].strip()
        if written:
            found.append(written)
    return found


def _quantity(found: re.Match) -> Quantity:
    """Return the quantity from a match of NUMBER."""
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
    """Return the value of a decimal number that may have commas."""
    return Fraction(figure.replace(",", ""))


def _power(text: str | None) -> int:
    """Return the exponent in `e8`, `×10^8` or `\\times 10^{8}`; 0 if there is none."""
    if not text:
        return 0
    digits = re.findall(r"[+-]?\d+", text)
    return int(digits[-1])


def _unit(found: re.Match) -> tuple[str, Fraction]:
    """Return the name of the unit, and the factor from this unit to the base unit."""
    written = (found["unit"] or "").lower()
    if written in SHARES:
        return ("point" if written in POINTS else "share"), SHARES[written]
    if not written:
        written = (found["before"] or found["after"] or "").lower()
    return ALIASES.get(written, ""), Fraction(1)


# --- comparing -----------------------------------------------------------------------------------
def in_unit(found: Quantity, asked: str) -> Quantity:
    """Return a number with the unit that the question asks for, if it has no unit of its own.

    Args:
        found: The number as written.
        asked: The unit that the question asks for, such as `亿元` or `%`; empty for none.

    Raises:
        ValueError: `asked` is not a known unit.
    """
    if not asked or not found.bare:
        return found
    one = read(f"1{asked}")
    if one is None:
        raise ValueError(f"'{asked}' is not a known unit: write one such as 亿元, % or 股")
    return Quantity(found.value * one.value, one.unit, found.step * one.value, found.exact, True)


def same_unit(answer: Quantity, gold: Quantity) -> bool:
    """Tell whether the units of two numbers are compatible.

    If only one of the numbers has a unit, they are compatible. There are two exceptions: a currency
    other than the yuan, and a difference between shares. So 2个百分点 is not 2%, and 2美元 is not 2.
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
        answer: The number in the answer.
        gold: The right number.
        decimals: Number of decimals that the question asks for, in its unit. The answer may be off
            by half a unit in the last decimal.
        relative: Largest allowed error as a share of the gold; it goes before `decimals`.
        absolute: Largest allowed error in base units; it goes before `relative`.
        asked: The unit that the question asks for; empty for none.
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
