"""Find personal data by its form, check digit and context, and replace it by placeholders.

    deidentify_text("手机13812345678张工", people=True)    # ("手机[手机号][姓名]工", {...})

A number with a check digit must have the right one, or follow a word such as 身份证. Amounts, stock
codes, order numbers and dates are kept. To add a kind of data, write an entry in PERSONAL. Names
are found in `people`, and addresses in `addresses`. docs/data.md says how well each kind is found.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass

from finlab.data import addresses
from finlab.data import people as people_names
from finlab.data import personal_checks as checks

Found = tuple[str, int, int]  # (kind, index of the first character, index after the last)

# No letter or digit stands directly before or after the number.
_ALONE = r"(?<![0-9A-Za-z])"
_ENDS = r"(?![0-9A-Za-z])"


URL = re.compile(r"(?:https?://|www\.)[^\s\u4e00-\u9fff，。；）)]+", re.I)


# --- the kinds -----------------------------------------------------------------------------------
@dataclass(frozen=True)
class PersonalKind:
    """One kind of personal data.

    Attributes:
        name: Text of the placeholder, without brackets.
        pattern: Finds the data. If it has a group 1, only this group is replaced.
        valid: Checks (text, start, end) of a match; None accepts every match.
        hint: A key of HINTS or HINTS_BESIDE_DIGITS. The pattern is tried only on a text that has
            this hint.
    """

    name: str
    pattern: re.Pattern
    valid: Callable[[str, int, int], bool] | None = None
    hint: str = "telephone"


_EXTENSION = r"(?:\s*(?:转|轉|-|—|分机|ext\.?)\s*\d{1,6}(?!\d))?"
_AREA = (
    r"(?:0(?:10|2[0-57-9]|3(?:1\d|35|49|5\d|7\d|9[1-8])|4(?:1\d|2[179]|3\d|5\d|6[4789]|7\d|8[23])"
    r"|5(?:1\d|2[37]|3\d|4[36]|5\d|6[1-6]|7\d|8[01]|9\d)|6(?:3[1-5]|6\d|9[12])"
    r"|7(?:01|1\d|2\d|3\d|4[3-6]|5\d|6[02368]|69|7\d|9\d)|8(?:1[23678]|2\d|3\d|5\d|7\d|8\d|9[1-8])"
    r"|9(?:0[1-9]|1[1-9]|3\d|4[13]|5\d|7\d|9\d)))"
)
_LOCAL = r"(?:[2-9]\d{2,3}[ -]?\d{4}|[2-9]\d{3}[ -]\d{3})"
_COUNTRY = r"(?:\(?(?:\+|00)86\)?[ -]?)"
_ACCOUNT_CUE = (
    r"(?:(?:资金|资产|股东|证券|基金|信用|期权|保证金|结算|对公|往来|收款|付款|存折|贷款|缴费|客户|开户|期货|交易|沪市|深市|深圳|上海|活期|定期)?"
    r"(?:账号|账户|帳號|帳戶|帐号|帐户|户头|股东卡号?|股东代码|A/C|account(?: no\.?)?)(?:号码?)?(?:[AB]账户)?)"
)
_WECHAT_CUE = (
    r"(?:微 ?信|薇信|威信|(?<![A-Za-z])(?:vx|VX|Vx|wx|WX|V信|v信|WeChat|wechat|Wechat|weixin)"
    r"|(?<![A-Za-z])[Vv](?=[:：]|[a-z]| [a-z]+\d))"
)
_WECHAT_ID = r"[A-Za-z][A-Za-z0-9_-]{4,19}"

PERSONAL = (
    PersonalKind(
        "电子邮箱",
        re.compile(
            r"(?<![A-Za-z0-9._%+-])[A-Za-z0-9._%+-]{1,64}"
            r"@[A-Za-z0-9-]+(?:\.[A-Za-z0-9-]+)*\.[A-Za-z]{2,10}"
        ),
        hint="@",
    ),
    PersonalKind(
        "身份证号",
        re.compile(rf"{_ALONE}[1-9](?:[ -]?\d){{16}}[ -]?[\dXx]{_ENDS}"),
        checks.is_resident_id,
        "long number",
    ),
    PersonalKind(
        "身份证号",
        re.compile(rf"{_ALONE}[1-9]\d{{7}}(?:0[1-9]|1[0-2])(?:0[1-9]|[12]\d|3[01])\d{{3}}{_ENDS}"),
        checks.is_old_id,
        "long number",
    ),
    PersonalKind(
        "统一社会信用代码",
        re.compile(
            rf"{_ALONE}[1-9ANY][1-9A-HJ-NPQRTUWXY]\d{{6}}[0-9A-HJ-NPQRTUWXY]{{10}}{_ENDS}",
            re.I,
        ),
        checks.is_credit_code,
        "long number",
    ),
    PersonalKind(
        "银行卡号",
        re.compile(
            r"(?<![0-9A-Za-z.])(?:62|4\d|5[1-5]|35|9558|60)\d{2}(?:[ -]?\d{4}){3}"
            r"(?:[ -]?\d{1,3})?(?![0-9A-Za-z]|\.\d|\s*[元股份万亿])"
        ),
        checks.is_card,
        "long number",
    ),
    PersonalKind(
        "银行卡号",
        re.compile(
            r"(?:银行卡|储蓄卡|信用卡|借记卡|工资卡|卡号|卡號)[\s:：是为（(]{0,3}(\d{4}(?:[ -]?\d{4}){3}(?:[ -]?\d{1,3})?)"
            r"(?![0-9A-Za-z]|\.\d)"
        ),
        hint="long number",
    ),
    PersonalKind(
        "账号",
        re.compile(
            rf"{_ACCOUNT_CUE}[\s:：是为（(【「\"“,，]{{0,3}}(?:应?为|号码?|是)?[\s:：]{{0,2}}"
            r"([A-Z]?\d[\dA-Z]*(?:[ -]\d{2,}){0,6})(?![0-9A-Za-z]|\.\d)"
        ),
        checks.is_account,
        "account",
    ),
    PersonalKind(
        "QQ号",
        re.compile(
            r"(?:QQ|Q ?Q|qq|扣扣|企鹅号|Q号|(?<![A-Za-z0-9])Q(?=[:：/是 ]?\d))(?:号码?"
            r"|群号?)?[^\d\n]{0,6}?([1-9]\d{4,10}|[1-9]\d{2} \d{3} \d{3,4})"
            r"(?![0-9A-Za-z]|[.,]\d|@)"
        ),
        lambda text, start, end: not checks.AMOUNT_BEHIND.match(text[end:]),
        "QQ",
    ),
    PersonalKind(
        "微信号",
        re.compile(r"(?<![A-Za-z0-9_-])wxid_[A-Za-z0-9]{5,20}"),
        hint="letters",
    ),
    PersonalKind(
        "微信号",
        re.compile(
            rf"{_WECHAT_CUE}(?:，|[^A-Za-z\d\n，。；]{{0,8}}|\s?(?:ID"
            rf"|id)\s?[:：]?\s?)({_WECHAT_ID})(?![A-Za-z0-9_.@-])"
        ),
        lambda text, start, end: (
            bool(re.search(r"[\d_-]", text[start:end])) or text[start - 1] in ":：号为是 "
        ),
        "letters",
    ),
    PersonalKind(
        "微信号",
        re.compile(rf"(?<![A-Za-z0-9_-])({_WECHAT_ID})(?=(?:的|这个|這個)微信)"),
        hint="letters",
    ),
    # The id comes later in the sentence: 我微信改了，现在是nanfang_wangqi.
    PersonalKind(
        "微信号",
        re.compile(
            rf"{_WECHAT_CUE}[^A-Za-z\d\n。；]{{0,14}}(?:是|：|:|，|,)\s?"
            r"((?=[A-Za-z0-9_-]*[\d_-])[A-Za-z][A-Za-z0-9_-]{5,19})(?![A-Za-z0-9_.@-])"
        ),
        hint="letters",
    ),
    PersonalKind(
        "护照号",
        re.compile(rf"{_ALONE}([A-Z]{{1,2}} ?(?:\d{{7,8}}|\d{{4}} \d{{4}})[A-Z]?|\d{{9}}){_ENDS}"),
        checks.is_passport,
    ),
    PersonalKind(
        "车牌号",
        re.compile(
            r"[京津沪渝冀豫云辽黑湘皖鲁新苏浙赣鄂桂甘晋蒙陕吉闽贵粤青藏川宁琼][A-HJ-NP-Z][·.• -]?"
            r"(?:[A-HJ-NP-Z]{1,2}\d{5}|[A-HJ-NP-Z][A-HJ-NP-Z0-9]\d{4}|\d{5}[A-HJ-K]"
            r"|[A-HJ-NP-Z0-9]{4}[A-HJ-NP-Z0-9挂学警港澳])(?![A-Za-z0-9])"
        ),
        checks.is_plate,
        "letters",
    ),
    PersonalKind(
        "手机号",
        re.compile(
            r"(?<![0-9A-Za-z.￥¥$-])(?:\(?(?:\+|00)?86\)?[- ]?)?"
            r"1[3-9]\d(?:\d{8}|[ .-]\d{4}[ .-]?\d{4}|[ .-]\d{3}[ .-]?\d{5}|[ .-]\d{8})"
            r"(?![0-9A-Za-z]|[.,]\d|-\d)"
        ),
        checks.is_telephone,
    ),
    # Mobile numbers of Hong Kong and Taiwan, and digits written as they are spoken.
    PersonalKind(
        "手机号",
        re.compile(rf"(?<![0-9A-Za-z.-])\+?852[ -]?[5-79]\d{{3}}[ -]?\d{{4}}{_ENDS}"),
        checks.is_telephone,
    ),
    PersonalKind(
        "手机号",
        re.compile(rf"(?<![0-9A-Za-z.-])(?:\+?886[ -]?9|09)\d{{2}}[ -]\d{{3}}[ -]\d{{3}}{_ENDS}"),
        checks.is_telephone,
    ),
    PersonalKind(
        "手机号",
        re.compile(
            r"(?<![零〇幺一二三四五六七八九])[幺一][三四五六七八九][零〇幺一二三四五六七八九]{9}(?![零〇幺一二三四五六七八九])"
        ),
        hint="spoken",
    ),
    PersonalKind(
        "固定电话",
        re.compile(rf"(?<![0-9A-Za-z.-])0[2-8][ -]\d{{4}}[ -]\d{{4}}{_ENDS}"),
        checks.is_telephone,
    ),
    PersonalKind(
        "固定电话",
        re.compile(
            rf"(?<![0-9A-Za-z.-])\+?(?:852|853|886)[ -]\d{{1,4}}[ -]?\d{{3,4}}[ -]?\d{{0,4}}{_ENDS}"
        ),
        checks.is_telephone,
    ),
    PersonalKind(
        "固定电话",
        re.compile(
            rf"(?<![0-9A-Za-z.,-])(?:{_COUNTRY}?(?:\({_AREA}\)|{_AREA}[ ]?[-—–][ ]?|{_AREA} ?)"
            rf"|{_COUNTRY}\(?[1-9]\d{{1,2}}\)?[ -]?)[ ]?{_LOCAL}{_EXTENSION}"
            r"(?![0-9A-Za-z]|-\d|[.,]\d)"
        ),
        checks.is_landline,
    ),
    PersonalKind(
        "固定电话",
        re.compile(
            r"(?<![0-9A-Za-z.,-])[48]00(?:-?\d{7}|[ -]\d{3}[ -]?\d{4}"
            r"|[ -]\d{4}[ -]?\d{3})(?![0-9A-Za-z]|-\d|[.,]\d)"
        ),
        checks.is_telephone,
    ),
    PersonalKind(
        "固定电话",
        re.compile(
            rf"(?:电话|電話|座机|传真|傳真|致电|拨打|[tT]el"
            rf"|区号\d{{3,4}}[，, ]?号码)[^\d\n]{{0,6}}([2-9]\d{{6,7}}{_EXTENSION})"
            rf"{_ENDS}"
        ),
        checks.is_telephone,
    ),
)
# Hints are quick tests: a text without a hint is not searched with the patterns that need it, and
# most texts have no hint. HINTS_BESIDE_DIGITS are tested only in a text with five digits close
# together, HINTS in every text.
FIVE_DIGITS = re.compile(r"\d(?:[ .()（）+—–A-Z-]*\d){4}")
HINTS_BESIDE_DIGITS = {
    "account": re.compile(r"[账帳帐]|户头|股东[卡代]|A/C|account"),
    "QQ": re.compile(r"[Qq]|扣扣|企鹅号"),
    "telephone": re.compile(r"\d(?:[ .()（）+—–-]*\d){6}"),
    "long number": re.compile(r"\d[\dA-Za-z -]{13}"),
}
HINTS = {
    "@": re.compile("@"),
    "spoken": re.compile(r"[零〇幺一二三四五六七八九]{11}"),
    "letters": re.compile(
        r"微 ?信|wxid_|[薇威V]信|[vVwW][xX]|[wW]e[cC]hat|weixin|[Vv][:：]"
        r"|[京津沪渝冀豫云辽黑湘皖鲁新苏浙赣鄂桂甘晋蒙陕吉闽贵粤青藏川宁琼][A-Z]"
    ),
}
# Full-width letters, digits and some signs are read as the plain ones. The text keeps its length.
FULL_WIDTH = re.compile(r"[！-～](?<![，！？；＜＞])")


BESIDE_NAMES = ("手机号", "身份证号", "银行卡号", "护照号", "电子邮箱")


# --- finding and replacing -----------------------------------------------------------------------
def find(text: str, people: bool = False) -> list[Found]:
    """Find personal data in a text.

    Args:
        text: The text.
        people: Whether to find names and addresses too. Use it for dialogues. In reports and news,
            the names of officers and the addresses of companies are public.

    Returns:
        (kind, start, end) of each finding, in order of `start`; they do not overlap.
    """
    plain = FULL_WIDTH.sub(lambda match: chr(ord(match[0]) - 0xFEE0), text)
    taken: list[tuple[int, int]] = [match.span() for match in URL.finditer(plain)]
    found: list[Found] = []
    hints = _hints(plain)
    for kind in PERSONAL:
        if kind.hint not in hints:
            continue
        group = 1 if kind.pattern.groups else 0
        for match in kind.pattern.finditer(plain):
            start, end = match.span(group)
            free = all(end <= first or last <= start for first, last in taken)
            if free and (kind.valid is None or kind.valid(plain, start, end)):
                found.append((kind.name, start, end))
                taken.append((start, end))
    if people:
        numbers = [(start, end) for kind, start, end in found if kind in BESIDE_NAMES]
        spans = {
            "地址": addresses.addresses(text),
            "姓名": people_names.names(text, numbers),
        }
        for name, places in spans.items():
            for start, end in places:
                if all(end <= first or last <= start for first, last in taken):
                    found.append((name, start, end))
                    taken.append((start, end))
    return sorted(found, key=lambda each: each[1])


def _hints(text: str) -> set[str]:
    """Return the names of the hints that a text has."""
    hints = {name for name, pattern in HINTS.items() if pattern.search(text)}
    if FIVE_DIGITS.search(text):
        hints |= {name for name, pattern in HINTS_BESIDE_DIGITS.items() if pattern.search(text)}
    return hints


def deidentify_text(text: str, people: bool = False) -> tuple[str, Counter]:
    """Replace personal data by typed placeholders.

    Args:
        text: The text.
        people: Whether to replace names and addresses too, as in `find`.

    Returns:
        (the text with placeholders, {kind: number of replacements}).
    """
    counts: Counter = Counter()
    parts = []
    end = 0
    for kind, start, after in find(text, people):
        parts += [text[end:start], f"[{kind}]"]
        end = after
        counts[kind] += 1
    return "".join(parts) + text[end:], counts


def masked(text: str) -> str:
    """Return a text with stars after the first two characters of each finding: 13*********.

    Such a text can be shown in a table of what was replaced.
    """
    parts = []
    end = 0
    for _, start, after in find(text):
        shown_to = start + 2
        parts.append(text[end:shown_to])
        parts.append("*" * (after - shown_to))
        end = after
    return "".join(parts) + text[end:]


def deidentify_messages(messages: list[dict], counts: Counter, people: bool = True) -> list[dict]:
    """Replace personal data in the turns of a dialogue by placeholders.

    Args:
        messages: The turns, {role, content}.
        counts: {kind: number of replacements}; the replacements here are added to it.
        people: Whether to replace names and addresses too, as in `find`.

    Returns:
        The turns with placeholders.
    """
    result = []
    for message in messages:
        text, found = deidentify_text(message["content"], people)
        counts.update(found)
        result.append(message | {"content": text})
    return result
