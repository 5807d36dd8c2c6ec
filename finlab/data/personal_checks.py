"""Check whether a number that looks like personal data is one, by check digits and context.

The check of each kind takes (text, start, end), and tells whether text[start:end] is of this kind.
"""

from __future__ import annotations

import re

# --- check digits --------------------------------------------------------------------------------
ID_WEIGHTS = (7, 9, 10, 5, 8, 4, 2, 1, 6, 3, 7, 9, 10, 5, 8, 4, 2)
ID_CHECKS = "10X98765432"
CREDIT_SIGNS = "0123456789ABCDEFGHJKLMNPQRTUWXY"


def resident_id_valid(number: str) -> bool:
    """Check the last digit of a resident identity number (GB 11643).

    Args:
        number: 18 characters, the last a digit or X; spaces and hyphens are ignored.
    """
    number = re.sub("[ -]", "", number)
    weighted = [int(digit) * weight for digit, weight in zip(number[:17], ID_WEIGHTS, strict=True)]
    return ID_CHECKS[sum(weighted) % 11] == number[17].upper()


def credit_code_valid(code: str) -> bool:
    """Check the last character of a unified social credit code.

    GB 32100 defines it, with weights 3^i and modulus 31.
    """
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


# --- the context of a number ---------------------------------------------------------------------
# A number with a unit after it is an amount.
_UNITS = (
    r"\s*(?:[元股份亿億吨噸角分点點只件台辆輛平亩畝桶手笔筆户戶张張人%‰°]|万(?!女士|先生|小姐|经理|总)|千[元克瓦米伏]|百万|[美欧歐港日韩韓澳加新泰]元|英镑|英鎊"
    r"|卢布|日圆|日圓|盎司|公[里斤顷]|平方|个|個|度|[kK]?[Ww]h?(?![A-Za-z])|kg|USD|CNY|HKD|RMB)"
)
AMOUNT_BEHIND = re.compile(_UNITS)
# Here characters of _UNITS begin another word, so they are not units: 张工, 户名, 人事部.
WORD_BEHIND = re.compile(
    r"\s*(?:[张張](?!可转|存单|卡|票|发票|保单|图|表)|户名|户主|人事|人员|个人|手机|手机号|点击|分机|分行|件人|元旦|平时|平安)"
)
AMOUNT_BEFORE = re.compile(
    r"(?:[￥¥$€£]|成交[量额額]?|数量|金额|金額|余额|餘額|总[价额资]\w{0,3}|资产|资金|营收|收入|利润|市值|规模|编号|編號|单号|單號|流水号?|批[次号]"
    r"|订单|訂單|工单|合同号?|票号|序号|型号|代码|配号|货号|头寸|HKD|USD|CNY|RMB|JPY|EUR|GBP|vol|amt|ISBN|No\.?|volume"
    r"|Order|SKU|ID)[\s:：为是约=]{0,3}$",
    re.I,
)
PHONE_CUE = re.compile(
    r"拨|电话|電話|手机|手機|座机|传真|傳真|热线|熱線|拨打|致电|来电|联系|聯絡|联络|号码|號碼|客服|专线|总机|短信|预留|微信|打给|打|call"
    r"|[tT]el|TEL|phone|Phone|mobile|Mobile|Fax|fax|☎|转分?机",
)


def _before(text: str, place: int, width: int = 16) -> str:
    """Return the text before a position, within the same line.

    Args:
        text: The text.
        place: The position, an index into `text`.
        width: How many characters to return at most.
    """
    return text[max(0, place - width) : place].rsplit("\n", 1)[-1]


def is_telephone(text: str, start: int, end: int) -> bool:
    """Tell whether a number is a telephone number, not an amount, volume or order number.

    Args:
        text: The text.
        start: Index of the number's first character.
        end: Index after its last character.
    """
    before = _before(text, start)
    digits = re.sub(r"\D", "", text[start:end])
    cue = bool(PHONE_CUE.search(before) or PHONE_CUE.search(text[end : end + 8]))
    behind = text[end:]
    if AMOUNT_BEFORE.search(before):
        return False
    if AMOUNT_BEHIND.match(behind):
        # In 手机13812345678张工, 张 is a surname, not a unit. 元 and 股 are always units.
        person = WORD_BEHIND.match(behind)
        return bool(person) and (
            cue or not behind.lstrip().startswith(("张", "張")) or "工" in behind[:3]
        )
    if cue:
        return True
    line_start = text.rfind("\n", 0, start) + 1
    line = text[line_start:].split("\n", 1)[0]
    in_table = line.count("|") >= 3 and not PHONE_CUE.search(line)
    return not in_table and not digits.endswith("00000")


def is_landline(text: str, start: int, end: int) -> bool:
    """Tell whether a number in the form of a landline number is a telephone number.

    A number with an area code and a space, such as `0700 23456789`, may be a stock code and its
    volume. So a word such as 电话 must be near it.

    Args:
        text: The text.
        start: Index of the number's first character.
        end: Index after its last character.
    """
    number = text[start:end]
    cue = PHONE_CUE.search(_before(text, start, 24)) or PHONE_CUE.search(text[end : end + 8])
    if re.fullmatch(r"0\d{2,3} [\d ]+|0\d{9,11}|\d{7,8}", number) and not cue:
        return False
    return is_telephone(text, start, end)


CARD_CUE = re.compile(
    r"(?:卡号?|卡號|储蓄卡|信用卡|借记卡|工资卡|VISA|visa|Visa|card)[\s:：是为（(\[]{0,3}$"
)


def is_card(text: str, start: int, end: int) -> bool:
    """Tell whether a number is a bank card number: it passes Luhn or follows a word for a card.

    Args:
        text: The text.
        start: Index of the number's first character.
        end: Index after its last character.
    """
    return luhn_valid(text[start:end]) or bool(CARD_CUE.search(_before(text, start)))


ID_CUE = re.compile(r"身份证|身分證|证件号|證件號|公民身份|ID card|identity", re.I)


def is_resident_id(text: str, start: int, end: int) -> bool:
    """Tell whether a number has the form and check digit of a resident identity number.

    After a word such as 身份证, a wrong check digit is accepted as a typing error.

    Args:
        text: The text.
        start: Index of the number's first character.
        end: Index after its last character.
    """
    number = re.sub("[ -]", "", text[start:end])
    if not re.fullmatch(
        r"\d{6}(?:18|19|20)\d\d(?:0[1-9]|1[0-2])(?:0[1-9]|[12]\d|3[01])\d{3}[\dXx]", number
    ):
        return False
    return resident_id_valid(number) or bool(ID_CUE.search(_before(text, start)))


OLD_ID_CUE = re.compile(r"身份证|证件|證件|一代|15位|旧版")


def is_old_id(text: str, start: int, end: int) -> bool:
    """Tell whether 15 digits are an identity number from before 1999.

    A word such as 身份证 must be before them.

    Args:
        text: The text.
        start: Index of the number's first character.
        end: Index after its last character.
    """
    return bool(OLD_ID_CUE.search(_before(text, start, 24)))


def is_credit_code(text: str, start: int, end: int) -> bool:
    """Tell whether a unified social credit code passes the check of GB 32100.

    Args:
        text: The text.
        start: Index of the number's first character.
        end: Index after its last character.
    """
    return credit_code_valid(text[start:end])


def is_account(text: str, start: int, end: int) -> bool:
    """Tell whether a number after 账号 is an account number.

    It must have at least six digits, and must not be a date or an amount.

    Args:
        text: The text.
        start: Index of the number's first character.
        end: Index after its last character.
    """
    number = re.sub("[ -]", "", text[start:end])
    date = re.fullmatch(r"(?:19|20)\d\d(?:0[1-9]|1[0-2])(?:0[1-9]|[12]\d|3[01])", number)
    return not date and not AMOUNT_BEHIND.match(text[end:]) and sum(map(str.isdigit, number)) >= 6


def is_plate(text: str, start: int, end: int) -> bool:
    """Tell whether a match is a number plate: at least two digits, not a code such as 沪ETF300.

    Args:
        text: The text.
        start: Index of the number's first character.
        end: Index after its last character.
    """
    body = text[start + 2 : end]
    return sum(map(str.isdigit, body)) >= 2 and not body.startswith("TF")


PASSPORT_CUE = re.compile(r"护照|護照|passport", re.I)


def is_passport(text: str, start: int, end: int) -> bool:
    """Tell whether a number in the form of a passport number is near a word such as 护照.

    Args:
        text: The text.
        start: Index of the number's first character.
        end: Index after its last character.
    """
    if text[start:end].isdigit():
        return bool(
            re.search(
                r"(?:护照|護照|passport)(?:[号號码no. ]|number){0,4}[:：为是 ]{0,2}$",
                text[:start],
                re.I,
            )
        )
    return bool(PASSPORT_CUE.search(text[max(0, start - 24) : end + 6]))
