"""Cleaning: the named rules that change or drop a text, and the removal of personal data. Text in, text out; no files, no frames.

No rule touches a digit, a unit or a code: in an announcement the figures are the news.
"""

from __future__ import annotations

import functools
import html
import re
import unicodedata
import zlib
from collections import Counter
from collections.abc import Callable

HAN = r"\u3400-\u4dbf\u4e00-\u9fff"
HAN_RUN, LATIN_RUN = re.compile(f"[{HAN}]+"), re.compile(r"[A-Za-z]+")
THRESHOLDS = {"min_chars": 8, "min_letters": 0.2, "min_language": 0.1, "max_repeated_lines": 0.5, "min_compression": 0.06}
RULE_KEYS = {*THRESHOLDS, "simplify", "drop_text", "drop_lines", "blocked_words"}

FRONT_MATTER = re.compile(r"\A\s*---\n(?:[\w ]+:[^\n]*\n|[ \t]*- [^\n]*\n|\n)+---\n")
TAGS = re.compile(r"</?(?:p|br|div|span|a|b|i|u|em|strong|font|img|h\d|li|ul|ol|section|center)\b[^<>]*>", re.I)
ENTITIES = re.compile(r"&(?:nbsp|amp|lt|gt|quot|ldquo|rdquo|mdash|hellip|middot|#\d{2,5}|#x[0-9a-f]{2,5});", re.I)
LATIN_MOJIBAKE = re.compile(r"(?:[ÂÃâ][\x80-\xbf€™œ“”]|[äåæçèé][\x80-\xff“”•–—˜™š›œžŸ¡-¿][\x80-\xff“”•–—˜™š›œžŸ¡-¿])")
GBK_SIGNS = "锛銆鐨涓鍦浜鏄璇鎴"  # what the first bytes of ， 。 的 中 在 人 是 make when UTF-8 is read as GBK
LOST_SIGNS = ("锟", "烫烫烫", "屯屯屯", "\ufffd")
LOST = re.compile(r"(?:锟斤拷)+|烫{3,}|屯{3,}|\ufffd+")
CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u00ad\u200b-\u200f\u2028-\u202e\u2060-\u2064\ufeff\ue000-\uf8ff]+")
RADICALS = re.compile(r"[\u2e80-\u2fdf\uf900-\ufaff]+")
CODE_NEAR = r"0-9０-９A-Za-z.．\-－%％"
WIDE_LETTER = re.compile("[Ａ-Ｚａ-ｚ]")
WIDE_LETTERS = re.compile(f"(?<![{CODE_NEAR}Ａ-Ｚａ-ｚ])[Ａ-Ｚａ-ｚ]+(?![{CODE_NEAR}Ａ-Ｚａ-ｚ])")
NARROW_MARKS = re.compile(f"(?<=[{HAN}])[,;:?!](?=[{HAN}\n]|$)")
SPACE = re.compile(f" [{HAN}] [{HAN}]")
SPACED = re.compile(f"(?<![{HAN}])(?:[{HAN}] ){{3,}}[{HAN}](?![{HAN}])")
REPEATED = re.compile(r"([。，！？、；：…~～\-—=#_.·•★☆■□▲△◆◇])\1{4,}")
NAVIGATION = re.compile(r"^[ \t]*(?:(?:上一页|下一页|上一篇|下一篇|返回首页|返回顶部|返回列表|首页|尾页|末页|打印本页|打印|关闭窗口|关闭|收藏|分享到|分享|举报|字号|"
                        r"点击查看更多|查看更多|展开全文|阅读全文|网站地图|联系我们|责任编辑|当前位置)[\s|>»›·:：-]*)+$\n?", re.M)
DISCLAIMER = re.compile(
    r"[（(【][^（）()【】\n]{0,80}(?:不构成(?:任何)?投资建议|风险自担|入市(?:需|须)谨慎)[^（）()【】\n]{0,80}[)）】]|"
    r"(?:^|(?<=[。！？\n]))[^。！？\n]{0,80}(?:不构成(?:任何|具体的?)?(?:投资|操作)建议|(?:据此|风险).{0,6}(?:风险自担|责任自负|后果自负)|入市(?:需|须)谨慎|投资(?:需|须)谨慎)[^。！？\n]{0,40}[。！？]?|"
    r"^[ \t]*(?:免责(?:声明|条款)|特别声明|版权(?:声明|所有)|责任编辑|(?:未经|非经)[^\n]{0,20}(?:授权|许可|同意)[^\n]{0,20}转载|转载(?:请|须)注明|扫(?:码|一扫|描)[^\n]{0,20}(?:关注|二维码|公众号)|"
    r"欢迎(?:关注|订阅)[^\n]{0,20}公众号|Copyright\b|All rights reserved)[^\n]{0,160}$\n?", re.M)
DISCLAIMER_WORDS = ("投资建议", "操作建议", "自担", "自负", "谨慎", "声明", "免责", "版权", "责任编辑", "转载", "扫", "公众号", "Copyright", "All rights")
BLANK_LINES = re.compile(r"\n{3,}")


def _unmix(text: str) -> str:
    """Repair lines of UTF-8 that were read as Latin-1 or as GBK, where the bytes survived."""
    if any(sign in text for sign in "ÂÃâäåæçèé") and LATIN_MOJIBAKE.search(text):
        import ftfy

        text = "\n".join(ftfy.fix_encoding(line) if LATIN_MOJIBAKE.search(line) else line for line in text.split("\n"))
    if any(sign in text for sign in GBK_SIGNS):
        text = "\n".join(_from_gbk(line) if any(sign in line for sign in GBK_SIGNS) else line for line in text.split("\n"))
    return text


def _from_gbk(line: str) -> str:
    try:
        return line.encode("gb18030").decode("utf-8")
    except UnicodeError:
        return line


def _readable(lines: list[str]) -> list[str]:
    """Drop lines of which a tenth or more was lost in some conversion; elsewhere take out the signs that mark what was lost."""
    return [LOST.sub("", line) for line in lines if 10 * sum(map(len, LOST.findall(line))) < len(line) or not line]


def _narrow(match: re.Match) -> str:
    return unicodedata.normalize("NFKC", match[0])


def _repeated_lines(text: str) -> str:
    """Keep the first of lines without a digit that come four times or more: page headers, footers, buttons."""
    lines = text.split("\n")
    if len(lines) < 8:
        return text
    counts, seen, kept = Counter(lines), set(), []
    for line in lines:
        if counts[line] < 4 or len(line.strip()) < 4 or any(char.isdigit() for char in line) or line not in seen:
            kept.append(line)
        seen.add(line)
    return "\n".join(kept)


@functools.cache
def _simplifier() -> Callable[[str], str]:
    import opencc

    return opencc.OpenCC("t2s").convert


@functools.cache
def _lines(patterns: tuple[str, ...]) -> re.Pattern:
    return re.compile("|".join(f"^[^\n]*(?:{pattern})[^\n]*$\n?" for pattern in patterns), re.M)


def rules(settings: dict | None = None) -> dict[str, Callable[[str], str]]:
    """Return the text rules in their order, {name: function}, for a card's `rules:` settings.

    `simplify: true` adds traditional to simplified (OpenCC t2s); `drop_text` and `drop_lines`, lists of regular expressions, take out a
    source's own marks (each leaves a new line) and its own lines.
    """
    settings = settings or {}
    marks, drop = tuple(settings.get("drop_text", ())), tuple(settings.get("drop_lines", ()))
    return {
        **({"marks of this source": lambda text: re.sub("|".join(marks), "\n", text)} if marks else {}),
        "front matter": lambda text: FRONT_MATTER.sub("", text),
        "html remnants": lambda text: ENTITIES.sub(lambda match: html.unescape(match[0]), TAGS.sub("", text)) if "<" in text or "&" in text else text,
        "mojibake repaired": _unmix,
        "unicode form": lambda text: RADICALS.sub(_narrow, unicodedata.normalize("NFC", text)),
        "control characters": lambda text: CONTROL.sub("", text.replace("\r\n", "\n").replace("\r", "\n") if "\r" in text else text),
        "wide letters": lambda text: WIDE_LETTERS.sub(_narrow, changed) if WIDE_LETTER.search(changed := text.replace("\u3000", " ")) else changed,
        "narrow punctuation": lambda text: NARROW_MARKS.sub(lambda match: chr(ord(match[0]) + 0xFEE0), text) if any(mark in text for mark in ",;:?!") else text,
        "spaced characters": lambda text: SPACED.sub(lambda match: match[0].replace(" ", ""), text) if SPACE.search(text) else text,
        "repeated symbols": lambda text: REPEATED.sub(r"\1\1\1", text),
        **({"traditional to simplified": _simplifier()} if settings.get("simplify") else {}),
        "navigation lines": lambda text: NAVIGATION.sub("", text),
        "disclaimers": lambda text: DISCLAIMER.sub("", text) if any(word in text for word in DISCLAIMER_WORDS) else text,
        **({"lines of this source": lambda text: _lines(drop).sub("", text)} if drop else {}),
        "mojibake lines": lambda text: "\n".join(_readable(text.split("\n"))) if any(sign in text for sign in LOST_SIGNS) else text,
        "repeated lines": _repeated_lines,
        "blank space": lambda text: BLANK_LINES.sub("\n\n", "\n".join(map(str.rstrip, text.split("\n")))).strip(),
    }


def clean_text(text: str, named: dict[str, Callable[[str], str]] | None = None) -> list[tuple[str, str]]:
    """Return the steps of cleaning, (rule that changed the text, the text after it); empty when no rule had anything to do."""
    steps = []
    for name, rule in (named or rules()).items():
        changed = rule(text)
        if changed != text:
            steps.append((name, changed))
            text = changed
    return steps


def drop_reason(text: str, language: str, settings: dict | None = None) -> str:
    """Return why a cleaned document is dropped as a whole, or an empty string; `settings` are thresholds, as in a card's `rules:`."""
    limits = THRESHOLDS | (settings or {})
    if not text:
        return "empty after cleaning"
    if len(text) < limits["min_chars"]:
        return "too short"
    han = sum(map(len, HAN_RUN.findall(text)))
    if language != "zh" or han < limits["min_letters"] * len(text):
        latin = sum(map(len, LATIN_RUN.findall(text)))
        if han + latin < limits["min_letters"] * len(text):
            return "too few letters"
        if (han if language == "zh" else latin) < limits["min_language"] * len(text):
            return "another language"
    lines = [line for line in text.split("\n") if line.strip()]
    if len(lines) >= 8 and sum(map(len, lines)) - sum(map(len, set(lines))) > limits["max_repeated_lines"] * len(text):
        return "repeated lines throughout"
    if len(text) >= 200 and len(set(text[::1 + len(text) // 200])) < 60 and len(zlib.compress(data := text[:20000].encode(), 1)) < limits["min_compression"] * len(data):
        return "too repetitive"
    if any(word in text for word in limits.get("blocked_words", ())):
        return "blocked word"
    return ""


# --- personal data --------------------------------------------------------------------------------------------------
WIDE_DIGIT = re.compile("[０-９]")
WIDE_DIGITS = str.maketrans("０１２３４５６７８９", "0123456789")
ID_WEIGHTS = (7, 9, 10, 5, 8, 4, 2, 1, 6, 3, 7, 9, 10, 5, 8, 4, 2)
CREDIT_SIGNS = "0123456789ABCDEFGHJKLMNPQRTUWXY"
SURNAMES = ("欧阳|司马|上官|诸葛|东方|皇甫|尉迟|公孙|慕容|令狐|夏侯|端木|独孤|宇文|南宫|闻人|"
            "[王李张刘陈杨赵黄周吴徐孙胡朱高林何郭马罗梁宋郑谢韩唐冯于董萧程曹袁邓许傅沈曾彭吕苏卢蒋蔡贾丁魏薛叶阎余潘杜戴夏钟汪田任姜范方石姚谭廖邹熊金陆郝孔白崔康毛邱秦江史顾侯邵孟龙万段"
            "雷钱汤尹黎易常武乔贺赖龚文庞樊兰殷施陶洪翟安颜倪严牛温芦季俞章鲁葛伍韦申尤毕聂丛焦向柳邢路岳齐梅莫庄辛管祝左涂谷祁时舒耿牟卜詹关苗凌费纪靳盛童欧甄项曲成游阳裴席卫查屈鲍位覃霍翁隋甘景薄单包司柏宁柯阮桂闵解强柴华车冉房边辜吉饶]")
TITLES = "先生|女士|小姐|太太"
NOT_NAMES = re.compile(r"^(?:高管|成员|单位|马上|安全|文件|金额|方式|关于|万元|常见|包括|解决|管理|成功|强调|项目|时间|向您|任何|任意|石油|黄金|华为|于[昨今本上下此前当即]|安排|康复|全部|位于|章程|白领|何时|何种|边际|车辆|房产|房屋|费用|和|余额|谢谢|关注|关系|单击|查询|向你|文档|方面)")
NAME = f"(?:{SURNAMES}) ?(?:(?!{TITLES})[\u4e00-\u9fff]){{1,2}}"
PERSONAL: list[tuple[str, re.Pattern, Callable[[str], bool]]] = []


def _kind(kind: str, pattern: str, flags: int = 0) -> Callable:
    def register(check: Callable[[str], bool]) -> Callable[[str], bool]:
        PERSONAL.append((kind, re.compile(pattern, flags), check))
        return check

    return register


@_kind("身份证号", r"(?<![0-9A-Za-z])[1-9]\d{5}[ -]?(?:18|19|20)\d{2}(?:0[1-9]|1[0-2])(?:0[1-9]|[12]\d|3[01])[ -]?\d{3}[\dXx](?![0-9A-Za-z])")
def resident_id_valid(number: str) -> bool:
    """Check the last digit of a resident identity number (GB 11643)."""
    number = re.sub("[ -]", "", number)
    return "10X98765432"[sum(int(digit) * weight for digit, weight in zip(number[:17], ID_WEIGHTS, strict=True)) % 11] == number[17].upper()


@_kind("统一社会信用代码", r"(?<![0-9A-Za-z])[1-9ANY][1-9A-HJ-NPQRTUWXY][1-8]\d{5}[0-9A-HJ-NPQRTUWXY]{10}(?![0-9A-Za-z])", re.I)
def credit_code_valid(code: str) -> bool:
    """Check the last sign of a unified social credit code (GB 32100: weights 3^i, modulus 31)."""
    code = code.upper()
    total = sum(CREDIT_SIGNS.index(sign) * pow(3, place, 31) for place, sign in enumerate(code[:17]))
    return CREDIT_SIGNS[-total % 31] == code[17]


@_kind("银行卡号", r"(?<![0-9A-Za-z.])(?:62|4\d|5[1-5]|35|9558|60)\d{2}(?:[ -]?\d{4}){3}(?:[ -]?\d{1,3})?(?![0-9A-Za-z]|\.\d|\s*[元股份万亿])")
def luhn_valid(number: str) -> bool:
    """Check a bank card number by the Luhn rule (ISO/IEC 7812)."""
    digits = [int(digit) for digit in reversed(number) if digit.isdigit()]
    return sum(digits[0::2]) % 10 == (-sum(sum(divmod(2 * digit, 10)) for digit in digits[1::2])) % 10


@_kind("手机号", r"(?<![0-9A-Za-z.,￥¥$-])(?:\+?86[- ]?)?1[3-9]\d(?:\d{8}|-\d{4}-\d{4}| \d{4} \d{4})(?![0-9A-Za-z]|[.,]\d|\s*(?:[元股份万亿吨户人张手笔]|美元|港元|%))")
@_kind("固定电话", r"(?<![0-9A-Za-z.,-])(?:\(0\d{2,3}\)|（0\d{2,3}）|0\d{2,3} ?[-－— ] ?)[2-9]\d{2,3}[ -]?\d{4}(?:-\d{1,5})?(?![0-9A-Za-z]|-\d|[.,]\d|\s*[元股份万亿])")
@_kind("固定电话", r"(?:电话|座机|传真)[^\d\n]{0,8}(0\d{9,11})(?![0-9A-Za-z])")
@_kind("电子邮箱", r"(?<![A-Za-z0-9._%+-])[A-Za-z0-9._%+-]{1,64}@[A-Za-z0-9-]+(?:\.[A-Za-z0-9-]+)*\.[A-Za-z]{2,10}")
def _always(text: str) -> bool:
    return True


PEOPLE = [re.compile(pattern) for pattern in (  # group 1 is the name; used on dialogues only
    rf"(?:客户|用户|联系人|申请人|借款人|担保人|投保人|被保险人|受益人|持卡人|开户人|户主|经办人|付款人|收款人|转账人|姓名|户名|我叫|我是|本人)(?:姓名|名字)?[:：是叫为 ]{{0,3}}"
    rf"({NAME})(?=[^\u4e00-\u9fff]|$|的|{TITLES}|身份|手机|电话|致电|来电|反映|您|你|想|要|来|于|在|已|啊|吧|名字|今|昨|上周|申请|办理|卡)",
    rf"(?<![\u4e00-\u9fff])({NAME}|(?:{SURNAMES}))(?=(?:{TITLES}))",
    rf"(?<=[和与跟给向对为由是请找叫问让替帮了到户的])({NAME}|(?:{SURNAMES}))(?=(?:{TITLES}))")]
LONG = re.compile(r"\d[\dA-Za-z -]{14}")
MAYBE = re.compile(r"\d{3}(?:\d{4}|[- －—）)]+\d)")


def _replaced(text: str, kind: str, pattern: re.Pattern, valid: Callable[[str], bool], counts: Counter) -> str:
    """Put [kind] where the pattern (its group 1, if it has one) finds something valid; wide digits count as digits."""
    parts, done = [], 0
    for match in pattern.finditer(text.translate(WIDE_DIGITS) if WIDE_DIGIT.search(text) else text):
        group = pattern.groups and 1
        if valid(match[group]):
            parts += [text[done:match.start(group)], f"[{kind}]"]
            done = match.end(group)
            counts[kind] += 1
    return "".join(parts) + text[done:]


def deidentify_text(text: str, people: bool = False) -> tuple[str, Counter]:
    """Replace personal data by typed placeholders such as [手机号]; return the text and counts by kind.

    Numbers with a check digit must pass it, so amounts, stock codes and dates stay. `people` also replaces names after cues such as
    客户 and before 先生 or 女士: meant for dialogues, since in reports and news the names of officers are public.
    """
    counts = Counter()
    mail, number = "@" in text, MAYBE.search(text)
    long = number and LONG.search(text)
    for kind, pattern, valid in PERSONAL if mail or number else ():
        if mail if kind == "电子邮箱" else long if valid is not _always else number:  # most texts have nothing that long
            text = _replaced(text, kind, pattern, valid, counts)
    for pattern in PEOPLE if people else ():
        text = _replaced(text, "姓名", pattern, lambda name: not NOT_NAMES.match(name), counts)
    return text, counts


def deidentify_messages(messages: list[dict], counts: Counter) -> list[dict]:
    """De-identify the turns of a dialogue, names included, adding to `counts` by kind."""
    result = []
    for message in messages:
        text, kinds = deidentify_text(message["content"], people=True)
        counts.update(kinds)
        result.append(message | {"content": text})
    return result
