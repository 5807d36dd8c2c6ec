"""Personal data, found by form and check digit, replaced by placeholders such as [手机号].

Numbers with a check digit must pass it, so amounts, stock codes and dates stay. To add a kind of
data, write an entry in PERSONAL.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass

# Not preceded or followed by a letter or digit: a number of its own.
_ALONE = r"(?<![0-9A-Za-z])"
_ENDS = r"(?![0-9A-Za-z])"


# --- check digits --------------------------------------------------------------------------------
ID_WEIGHTS = (7, 9, 10, 5, 8, 4, 2, 1, 6, 3, 7, 9, 10, 5, 8, 4, 2)
ID_CHECKS = "10X98765432"
CREDIT_SIGNS = "0123456789ABCDEFGHJKLMNPQRTUWXY"


def resident_id_valid(number: str) -> bool:
    """Check the last digit of a resident identity number (GB 11643).

    Args:
        number: 18 signs, the last one a digit or X.
    """
    number = re.sub("[ -]", "", number)
    weighted = [int(digit) * weight for digit, weight in zip(number[:17], ID_WEIGHTS, strict=True)]
    return ID_CHECKS[sum(weighted) % 11] == number[17].upper()


def credit_code_valid(code: str) -> bool:
    """Check the last sign of a unified social credit code (GB 32100: weights 3^i, modulus 31)."""
    code = code.upper()
    total = 0
    for place, sign in enumerate(code[:17]):
        total += CREDIT_SIGNS.index(sign) * pow(3, place, 31)
    return CREDIT_SIGNS[-total % 31] == code[17]


def luhn_valid(number: str) -> bool:
    """Check a bank card number by the Luhn rule (ISO/IEC 7812)."""
    digits = [int(digit) for digit in reversed(number) if digit.isdigit()]
    doubled = [sum(divmod(2 * digit, 10)) for digit in digits[1::2]]
    return (sum(digits[0::2]) + sum(doubled)) % 10 == 0


# --- numbers and addresses -----------------------------------------------------------------------
@dataclass(frozen=True)
class PersonalKind:
    """One kind of personal data.

    Attributes:
        name: The placeholder's text.
        pattern: Finds it; group 1, where there is one, is what gets replaced.
        valid: Checks what was found; None takes everything.
        hint: What a text must hold for the pattern to be tried: `@`, `number`, or `long number`.
    """

    name: str
    pattern: re.Pattern
    valid: Callable[[str], bool] | None = None
    hint: str = "number"


PERSONAL = (
    PersonalKind(
        "身份证号",
        re.compile(
            rf"{_ALONE}[1-9]\d{{5}}[ -]?(?:18|19|20)\d{{2}}(?:0[1-9]|1[0-2])"
            rf"(?:0[1-9]|[12]\d|3[01])[ -]?\d{{3}}[\dXx]{_ENDS}"
        ),
        resident_id_valid,
        "long number",
    ),
    PersonalKind(
        "统一社会信用代码",
        re.compile(
            rf"{_ALONE}[1-9ANY][1-9A-HJ-NPQRTUWXY][1-8]\d{{5}}[0-9A-HJ-NPQRTUWXY]{{10}}{_ENDS}",
            re.I,
        ),
        credit_code_valid,
        "long number",
    ),
    PersonalKind(
        "银行卡号",
        re.compile(
            r"(?<![0-9A-Za-z.])(?:62|4\d|5[1-5]|35|9558|60)\d{2}(?:[ -]?\d{4}){3}"
            r"(?:[ -]?\d{1,3})?(?![0-9A-Za-z]|\.\d|\s*[元股份万亿])"
        ),
        luhn_valid,
        "long number",
    ),
    PersonalKind(
        "电子邮箱",
        re.compile(
            r"(?<![A-Za-z0-9._%+-])[A-Za-z0-9._%+-]{1,64}"
            r"@[A-Za-z0-9-]+(?:\.[A-Za-z0-9-]+)*\.[A-Za-z]{2,10}"
        ),
        hint="@",
    ),
    PersonalKind("固定电话", re.compile(rf"(?:电话|座机|传真)[^\d\n]{{0,8}}(0\d{{9,11}}){_ENDS}")),
    PersonalKind(
        "固定电话",
        re.compile(
            r"(?<![0-9A-Za-z.,-])(?:\(0\d{2,3}\)|（0\d{2,3}）|0\d{2,3} ?[-－— ] ?)"
            r"[2-9]\d{2,3}[ -]?\d{4}(?:-\d{1,5})?"
            r"(?![0-9A-Za-z]|-\d|[.,]\d|\s*[元股份万亿])"
        ),
    ),
    PersonalKind(
        "手机号",
        re.compile(
            r"(?<![0-9A-Za-z.,￥¥$-])(?:\+?86[- ]?)?1[3-9]\d(?:\d{8}|-\d{4}-\d{4}| \d{4} \d{4})"
            r"(?![0-9A-Za-z]|[.,]\d|\s*(?:[元股份万亿吨户人张手笔]|美元|港元|%))"
        ),
    ),
)
LONG_NUMBER = re.compile(r"\d[\dA-Za-z -]{14}")
NUMBER = re.compile(r"\d{3}(?:\d{4}|[- －—）)]+\d)")
WIDE_DIGIT = re.compile("[０-９]")
WIDE_DIGITS = str.maketrans("０１２３４５６７８９", "0123456789")


# --- names of people, in dialogues only ----------------------------------------------------------
SURNAMES = (
    "欧阳|司马|上官|诸葛|东方|皇甫|尉迟|公孙|慕容|令狐|夏侯|端木|独孤|宇文|南宫|闻人|"
    "[王李张刘陈杨赵黄周吴徐孙胡朱高林何郭马罗梁宋郑谢韩唐冯于董萧程曹袁邓许傅沈曾彭吕苏卢蒋蔡"
    "贾丁魏薛叶阎余潘杜戴夏钟汪田任姜范方石姚谭廖邹熊金陆郝孔白崔康毛邱秦江史顾侯邵孟龙万段"
    "雷钱汤尹黎易常武乔贺赖龚文庞樊兰殷施陶洪翟安颜倪严牛温芦季俞章鲁葛伍韦申尤毕聂丛焦向柳"
    "邢路岳齐梅莫庄辛管祝左涂谷祁时舒耿牟卜詹关苗凌费纪靳盛童欧甄项曲成游阳裴席卫查屈鲍位覃"
    "霍翁隋甘景薄单包司柏宁柯阮桂闵解强柴华车冉房边辜吉饶]"
)
TITLES = "先生|女士|小姐|太太"
NAME = f"(?:{SURNAMES}) ?(?:(?!{TITLES})[\u4e00-\u9fff]){{1,2}}"
_ROLES = (
    "客户|用户|联系人|申请人|借款人|担保人|投保人|被保险人|受益人|持卡人|开户人|户主|经办人|付款人"
    "|收款人|转账人|姓名|户名|我叫|我是|本人"
)
_AFTER_A_NAME = (
    rf"[^\u4e00-\u9fff]|$|的|{TITLES}|身份|手机|电话|致电|来电|反映|您|你|想|要|来|于|在|已|啊|吧"
    "|名字|今|昨|上周|申请|办理|卡"
)
_BEFORE_A_NAME = "和与跟给向对为由是请找叫问让替帮了到户的"
PEOPLE = (  # group 1 is the name
    re.compile(rf"(?:{_ROLES})(?:姓名|名字)?[:：是叫为 ]{{0,3}}({NAME})(?={_AFTER_A_NAME})"),
    re.compile(rf"(?<![\u4e00-\u9fff])({NAME}|(?:{SURNAMES}))(?=(?:{TITLES}))"),
    re.compile(rf"(?<=[{_BEFORE_A_NAME}])({NAME}|(?:{SURNAMES}))(?=(?:{TITLES}))"),
)
# Words that begin like a name and are none.
NOT_NAMES = re.compile(
    r"^(?:高管|成员|单位|马上|安全|文件|金额|方式|关于|万元|常见|包括|解决|管理|成功|强调|项目|时间"
    r"|向您|任何|任意|石油|黄金|华为|于[昨今本上下此前当即]|安排|康复|全部|位于|章程|白领|何时|何种"
    r"|边际|车辆|房产|房屋|费用|和|余额|谢谢|关注|关系|单击|查询|向你|文档|方面)"
)


# --- replacing -----------------------------------------------------------------------------------
def _replace(
    text: str,
    name: str,
    pattern: re.Pattern,
    valid: Callable[[str], bool] | None,
    counts: Counter,
) -> str:
    """Put [name] where a pattern finds something valid; full-width digits count as digits.

    Args:
        text: The text.
        name: The kind of personal data.
        pattern: What it looks like.
        valid: Checks its check digit, if it has one.
        counts: {kind: number}, which is added to.
    """
    searched = text
    if WIDE_DIGIT.search(text):
        searched = text.translate(WIDE_DIGITS)
    group = 1 if pattern.groups else 0
    parts = []
    end = 0
    for match in pattern.finditer(searched):
        if valid is None or valid(match[group]):
            parts += [text[end : match.start(group)], f"[{name}]"]
            end = match.end(group)
            counts[name] += 1
    return "".join(parts) + text[end:]


def _not_a_word(name: str) -> bool:
    """Tell whether a match is a word that only looks like a name."""
    return not NOT_NAMES.match(name)


def deidentify_text(text: str, people: bool = False) -> tuple[str, Counter]:
    """Replace personal data by typed placeholders.

    Args:
        text: The text.
        people: Also replace names after cues such as 客户 and before 先生 or 女士. Meant for
            dialogues: in reports and news the names of officers are public.

    Returns:
        The text, and the number of replacements by kind.
    """
    counts: Counter = Counter()
    # Most texts hold nothing like it, and need no search for each kind.
    hints = set()
    if "@" in text:
        hints.add("@")
    if NUMBER.search(text):
        hints.add("number")
        if LONG_NUMBER.search(text):
            hints.add("long number")
    for kind in PERSONAL:
        if kind.hint in hints:
            text = _replace(text, kind.name, kind.pattern, kind.valid, counts)
    if people:
        for pattern in PEOPLE:
            text = _replace(text, "姓名", pattern, _not_a_word, counts)
    return text, counts


def deidentify_messages(messages: list[dict], counts: Counter) -> list[dict]:
    """De-identify the turns of a dialogue, names included.

    Args:
        messages: The turns, {role, content}.
        counts: The number of replacements by kind is added here.

    Returns:
        The turns with placeholders.
    """
    result = []
    for message in messages:
        text, found = deidentify_text(message["content"], people=True)
        counts.update(found)
        result.append(message | {"content": text})
    return result
