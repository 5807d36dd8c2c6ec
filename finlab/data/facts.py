"""Cut a text into facts: values with their units, periods, codes, words and characters.

A fact has the same token in all forms of writing: 2,700万元, 2700万元 and 0.27亿元; 3%, ３％ and
百分之三; 第三季度 and Q3; sh600519 and 600519.SH.
"""

from __future__ import annotations

import functools
import re
import unicodedata
from decimal import Decimal
from typing import NamedTuple

# --- tokens --------------------------------------------------------------------------------------
HAN = "\u3400-\u4dbf\u4e00-\u9fff"
_DIGITS = "〇○零一二三四五六七八九壹贰叁肆伍陆柒捌玖两幺"
_PLACES = "十百千万亿拾佰仟萬億"
DIGIT_VALUE = dict(zip("零一二三四五六七八九", range(10), strict=True))
DIGIT_VALUE |= dict(zip("〇壹贰叁肆伍陆柒捌玖", range(10), strict=True))
DIGIT_VALUE |= {"○": 0, "两": 2, "幺": 1}
PLACE_VALUE = {"十": 10, "百": 100, "千": 1000, "万": 10**4, "亿": 10**8}
PLACE_VALUE |= {"拾": 10, "佰": 100, "仟": 1000, "萬": 10**4, "億": 10**8}
# After these characters, a - means a range, not a minus: 1.58亿元-1.88亿元.
_IN_RANGE = r"(?<![\d.%元万亿股年月日号吨时点])"
# Chinese characters with which a value or a period may begin. All others are single tokens.
_BEGINS = "上下半全年中前第一二三四首百" + _DIGITS + _PLACES
TOKEN = re.compile(
    rf"(?P<chars>(?:(?![{_BEGINS}])[{HAN}])+)"
    # a loss in brackets: (20%), (1,234.5)
    r"|(?P<loss>\(\s*(?P<lost>(?=[\d,.]*[,.%万亿元])\d[\d,]*(?:\.\d+)?)"
    r"(?P<lostscale>[万亿]*)(?P<lostunit>%|元)?\s*\))"
    # a stock's code: 600519.SH, sh600519, 03883.HK, 000858
    r"|(?P<stock>(?<![A-Za-z0-9])(?:[Ss][HhZz]|[Hh][Kk])?\.?(?P<digits>\d{4,6})\.(?:[Ss][HhZzSs]"
    r"|[Hh][Kk])(?![A-Za-z])"
    r"|(?<![A-Za-z0-9])(?:[Ss][HhZz]|[Hh][Kk])(?P<digits2>\d{4,6})(?!\d)"
    r"|(?<![\d.])(?P<digits3>0\d{3,5})(?![\d.%])"
    r"|(?<=\()(?P<digits4>[3689]\d{5})(?=\)))"
    r"|(?P<code>(?<![A-Za-z0-9])[A-Za-z]+(?!-\d+(?:\.\d+)?(?:bp|%|个基点))[-.]?\d[\dA-Za-z.-]*)"
    r"|(?P<period>上半年|下半年|半年度?|全年|年度|中期(?!票据|借贷|借款|国债|规划)|前?第?[一二三四1-4]季度?(?![A-Za-z0-9])"
    r"|[QH][1-4])"
    r"|(?P<first>首(?=[个家届批款只例]))"
    rf"|(?P<percent>百分之[{_DIGITS}{_PLACES}]+(?:点[{_DIGITS}]+)?)"
    rf"|(?P<figure>(?:{_IN_RANGE}[+\-−])?(?:\d[\d,]*\d|\d)(?:\.\d+)?|\.\d+)"
    rf"|(?P<numeral>[{_DIGITS}{_PLACES}]+)"
    r"|(?P<word>[A-Za-z]+|[$€£¥])"
    rf"|(?P<char>[{HAN}])"
)
MOST_TOKENS = 20_000  # only this many tokens of a text are compared
REMEMBERED = 64  # texts kept in memory, because the pairs of one text come one after another
STOCK_DIGITS = ("digits", "digits2", "digits3", "digits4")
SCALES = {
    "百": 100,
    "千": 1000,
    "万": 10**4,
    "百万": 10**6,
    "千万": 10**7,
    "亿": 10**8,
    "百亿": 10**10,
    "千亿": 10**11,
    "万亿": 10**12,
}
IN_BASE_UNITS = {
    "万股": ("股", 10**4),
    "千瓦": ("瓦", 1000),
    "万千瓦": ("瓦", 10**7),
    "兆瓦": ("瓦", 10**6),
}
SCALE = re.compile(r"\s*[余多]?(万亿|千万|百万|千亿|百亿|[万亿千百](?![个分]))")
BELOW_YI = re.compile(r"(\d[\d,]*(?:\.\d+)?)(千万|百万|万)(?![个分])")  # 5000万 in 3亿5000万
UNIT = re.compile(
    r"\s*[余多]?(%|‰|个百分点|个基点|bp(?![a-z])|人民币|美元|港元|港币|欧元|英镑|日元|日圆|韩元|澳元|加元|卢布|新元|新台币|台币|瑞郎|卢比|泰铢"
    r"|林吉特|雷亚尔|里拉|比索|纽元|克朗|元|年|月份?|日|号"
    r"|个?季度?|时|点|分|万?股|倍|吨|人|家|名|岁|次|期|届|条|件|套|手|户|亩|头|桶|辆|千瓦时|度(?!电?[站价厂])|兆瓦|MW|万?千瓦|kW)"
)
SAME_UNIT = {
    "月份": "月",
    "号": "日",
    "港币": "港元",
    "日圆": "日元",
    "人民币": "元",
    "bp": "个基点",
    "季": "季度",
    "个季度": "季度",
    "点": "时",
    "度": "千瓦时",
    "MW": "兆瓦",
    "kW": "千瓦",
}


class Token(NamedTuple):
    """A piece of a text.

    Attributes:
        kind: `value`, `period`, `code`, `word` or `char`.
        text: The content, in one form for all ways of writing it.
        unit: Unit of a value, or the exchange of a stock code; "" for none.
        start, end: Index of the first character in the normalised text, and index after the last.
        step: The smallest difference that the figures of a value can show: 0.01亿 for 1.31亿; 0 for
            other kinds.
    """

    kind: str
    text: str
    unit: str
    start: int
    end: int
    step: Decimal = Decimal(0)

    @property
    def key(self) -> str:
        """Return a text that is the same for equal tokens."""
        return f"{self.kind}:{self.text}:{self.unit}"


def numeral_value(numeral: str) -> Decimal:
    """Return the value of a Chinese numeral, such as 二〇二二, 一百二十, 十二 or 壹佰."""
    whole, _, rest = numeral.partition("点")
    if not any(sign in PLACE_VALUE for sign in whole):
        value = Decimal("".join(str(DIGIT_VALUE[sign]) for sign in whole) or "0")
    else:
        value = Decimal(_with_places(whole))
    if rest:
        value += Decimal("0." + "".join(str(DIGIT_VALUE[sign]) for sign in rest))
    return value


def _with_places(numeral: str) -> int:
    """Return the value of a numeral with 十, 百, 千, 万 or 亿."""
    total = section = digit = 0
    next_place = 1  # place value of a last digit: 10 in 一百二, and 1 in 一百零二
    for sign in numeral:
        if sign in DIGIT_VALUE:
            digit = DIGIT_VALUE[sign]
            next_place = next_place if digit else 1
            continue
        place = PLACE_VALUE[sign]
        next_place = place // 10
        if place < 10**4:
            section += (digit or 1) * place
            digit = 0
            continue
        section += digit
        if total < place:  # 一万二千亿: this place multiplies everything before it
            total = (total + section) * place or place
        else:  # 一亿二千万: it multiplies only what follows the larger place
            total += section * place
        section = digit = 0
    return total + section + digit * next_place


def normalise(text: str) -> str:
    """Return a text in the form NFKC, with half-width characters and one kind of dash."""
    text = unicodedata.normalize("NFKC", text)
    return re.sub(r"[‐-―−─]+", "-", text)


def tokens(text: str) -> list[Token]:
    """Cut a normalised text into tokens; punctuation and white space are left out.

    Args:
        text: A text from `normalise`.
    """
    found: list[Token] = []
    end = 0
    for match in TOKEN.finditer(text):
        start, stop = match.span()
        kind = match.lastgroup
        if kind in ("chars", "char"):  # most matches
            # The first characters may be the unit of the figure before; these are skipped.
            places = range(max(start, end), stop)
            found += [Token("char", text[place], "", place, place + 1) for place in places]
            continue
        if start < end:
            continue
        if kind == "figure":
            token = _figure(text, match)
        elif kind == "numeral":
            token = _numeral(text, match)
        else:
            token = _other(match)
        if token:
            found.append(token)
            end = token.end
            continue
        # A numeral without a unit, such as 一 in 一些, is not a value. It becomes characters.
        for place in range(match.start(), match.end()):
            found.append(Token("char", text[place], "", place, place + 1))
    return found


def _other(match: re.Match) -> Token:
    """Return the token of a match that is not a figure, a numeral or a character.

    Args:
        match: A match of TOKEN.
    """
    start, end = match.span()
    if match["loss"]:
        value = -_plain(match["lost"]) * SCALES.get(match["lostscale"], 1)
        return Token("value", _form(value), match["lostunit"] or "", start, end)
    if match["percent"]:
        return Token("value", _form(numeral_value(match[0][3:])), "%", start, end)
    if match["first"]:
        return Token("value", "1", "", start, end)
    if match["stock"]:
        digits = next(match[name] for name in STOCK_DIGITS if match[name])
        exchange = "".join(char for char in match[0].lower() if char.isalpha())
        return Token("code", digits, exchange.replace("ss", "sh"), start, end)
    if match["period"]:
        return Token("period", _period(match[0]), "", start, end)
    kind = "code" if match["code"] else "word"
    return Token(kind, match[0].lower(), "", start, end)


def _plain(figure: str) -> Decimal:
    """Return the value of a figure such as 2,700.50 or -3."""
    return Decimal(figure.replace(",", "").replace("−", "-"))


def _form(value: Decimal) -> str:
    """Return a value as text without unneeded zeros: 1.5 for 1.50."""
    text = format(value, "f")
    # Decimal.normalize() would round to 28 digits.
    text = text.rstrip("0").rstrip(".") if "." in text else text
    return "0" if text in ("-0", "") else text


def _period(text: str) -> str:
    """Return a period in one form: Q3 for 第三季度, 三季度 and Q3."""
    numbers = dict(zip("一二三四1234", "12341234", strict=True))
    found = [numbers[sign] for sign in text if sign in numbers]
    if found and text[0] != "H":
        return ("前" if text[0] == "前" else "") + "Q" + found[-1]
    return {"半年": "上半年", "半年度": "上半年", "中期": "上半年", "年度": "全年"}.get(text, text)


def _figure(text: str, match: re.Match) -> Token:
    """Return the token of a figure, with its scale and unit.

    Args:
        text: The normalised text.
        match: A match of TOKEN.
    """
    value = _plain(match["figure"])
    step = Decimal(1).scaleb(value.as_tuple().exponent)
    end = match.end()
    scale = SCALE.match(text, end)
    if scale:
        value, step = value * SCALES[scale[1]], step * SCALES[scale[1]]
        end = scale.end()
    below = None
    if scale and scale[1] == "亿":
        below = BELOW_YI.match(text, end)
    if below:
        part, times = _plain(below[1]), SCALES[below[2]]
        value += (part * times).copy_sign(value)
        step = Decimal(1).scaleb(part.as_tuple().exponent) * times
        end = below.end()
    return _with_unit(text, value, step, match.start(), end)


def _numeral(text: str, match: re.Match) -> Token | None:
    """Return the token of a Chinese numeral; None if it has no unit and no 第 before it.

    Args:
        text: The normalised text.
        match: A match of TOKEN.
    """
    ordinal = text[: match.start()].endswith("第")
    if not ordinal and not UNIT.match(text, match.end()):
        return None
    value = numeral_value(match["numeral"])
    return _with_unit(text, value, Decimal(1), match.start(), match.end())


def _with_unit(text: str, value: Decimal, step: Decimal, start: int, end: int) -> Token:
    """Return the token of a value with the unit after it, converted to the base unit.

    Args:
        text: The normalised text.
        value: The value before its unit.
        step: The smallest difference that the figures can show.
        start: Index of the value's first character in the text.
        end: Index at which its unit may begin.
    """
    unit = UNIT.match(text, end)
    name = ""
    if unit:
        end = unit.end()
        name = SAME_UNIT.get(unit[1], unit[1])
        name, factor = IN_BASE_UNITS.get(name, (name, 1))
        value, step = value * factor, step * factor
    return Token("value", _form(value), name, start, end, step)


class Reading(NamedTuple):
    """A text in the form in which it is compared.

    It is shared by a cache, so it must not be changed.

    Attributes:
        text: The normalised text, from `normalise`.
        tokens: The tokens of the normalised text, at most MOST_TOKENS.
        signs: A hash for each token, of its kind, text and unit; equal tokens have equal hashes.
    """

    text: str
    tokens: list[Token]
    signs: list[int]


@functools.lru_cache(REMEMBERED)
def read(text: str) -> Reading:
    """Return a text in the form in which it is compared, up to MOST_TOKENS tokens."""
    normal = normalise(text)
    kept = tokens(normal)[:MOST_TOKENS]
    return Reading(normal, kept, [hash(token[:3]) for token in kept])
