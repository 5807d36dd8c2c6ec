"""Cleaning: the named rules that change a text, and the reasons to drop one.

No rule is meant to touch a digit, a unit or a code: in an announcement the figures are the news.

To add a rule, write a function from text to text and give it a line in `rules`. Its name there is
the name in the ledger.
"""

from __future__ import annotations

import functools
import html
import re
import unicodedata
import zlib
from collections import Counter
from collections.abc import Callable
from typing import Any

Rule = Callable[[str], str]
Settings = dict[str, Any]  # a card's `rules:` block

THRESHOLDS = {
    "min_chars": 8,
    "min_letters": 0.2,  # share of characters that are Chinese or Latin letters
    "min_language": 0.1,  # share of characters in the source's language
    "max_repeated_lines": 0.5,  # share of characters in lines that stood there before
    "min_compression": 0.06,  # compressed size over size: below it a text repeats itself
}
RULE_KEYS = {*THRESHOLDS, "simplify", "drop_text", "drop_lines", "blocked_words"}

HAN = r"\u3400-\u4dbf\u4e00-\u9fff"
HAN_RUN = re.compile(f"[{HAN}]+")
LATIN_RUN = re.compile(r"[A-Za-z]+")


# --- marks and conversions -----------------------------------------------------------------------
FRONT_MATTER = re.compile(r"\A\s*---\n(?:[\w ]+:[^\n]*\n|[ \t]*- [^\n]*\n|\n)+---\n")


def drop_front_matter(text: str) -> str:
    """Take out the YAML block at the beginning of a Markdown file."""
    return FRONT_MATTER.sub("", text)


TAGS = re.compile(
    r"</?(?:p|br|div|span|a|b|i|u|em|strong|font|img|h\d|li|ul|ol|section|center)\b[^<>]*>", re.I
)
ENTITIES = re.compile(
    r"&(?:nbsp|amp|lt|gt|quot|ldquo|rdquo|mdash|hellip|middot|#\d{2,5}|#x[0-9a-f]{2,5});", re.I
)


def drop_html(text: str) -> str:
    """Take out HTML tags, and turn HTML entities into their characters."""
    if "<" not in text and "&" not in text:
        return text
    return ENTITIES.sub(lambda match: html.unescape(match[0]), TAGS.sub("", text))


LATIN_MOJIBAKE = re.compile(
    r"(?:[ÂÃâ][\x80-\xbf€™œ“”]"
    r"|[äåæçèé][\x80-\xff“”•–—˜™š›œžŸ¡-¿][\x80-\xff“”•–—˜™š›œžŸ¡-¿])"
)
LATIN_SIGNS = "ÂÃâäåæçèé"
# What the first bytes of ， 。 的 中 在 人 是 become when UTF-8 is read as GBK.
GBK_SIGNS = "锛銆鐨涓鍦浜鏄璇鎴"


def repair_mojibake(text: str) -> str:
    """Repair lines of UTF-8 that were read as Latin-1 or as GBK, where the bytes survived."""
    if any(sign in text for sign in LATIN_SIGNS) and LATIN_MOJIBAKE.search(text):
        text = "\n".join(_from_latin(line) for line in text.split("\n"))
    if any(sign in text for sign in GBK_SIGNS):
        text = "\n".join(_from_gbk(line) for line in text.split("\n"))
    return text


def _from_latin(line: str) -> str:
    """Return a line of UTF-8 that was read as Latin-1, repaired, or as it was."""
    if not LATIN_MOJIBAKE.search(line):
        return line
    import ftfy

    return ftfy.fix_encoding(line)


def _from_gbk(line: str) -> str:
    """Return a line of UTF-8 that was read as GBK, repaired, or as it was."""
    if not any(sign in line for sign in GBK_SIGNS):
        return line
    try:
        return line.encode("gb18030").decode("utf-8")
    except UnicodeError:
        return line


LOST_SIGNS = ("锟", "烫烫烫", "屯屯屯", "\ufffd")
LOST = re.compile(r"(?:锟斤拷)+|烫{3,}|屯{3,}|\ufffd+")


def drop_lost_text(text: str) -> str:
    """Drop lines that lost a tenth or more in a conversion; elsewhere take out what marks it."""
    if not any(sign in text for sign in LOST_SIGNS):
        return text
    kept = []
    for line in text.split("\n"):
        lost = sum(map(len, LOST.findall(line)))
        if not line or 10 * lost < len(line):
            kept.append(LOST.sub("", line))
    return "\n".join(kept)


RADICALS = re.compile(r"[\u2e80-\u2fdf\uf900-\ufaff]+")


def _narrow(match: re.Match) -> str:
    """Return a match as its compatibility form says (NFKC)."""
    return unicodedata.normalize("NFKC", match[0])


def unify_unicode(text: str) -> str:
    """Bring text into the form NFC, and radicals and compatibility signs to their characters."""
    return RADICALS.sub(_narrow, unicodedata.normalize("NFC", text))


CONTROL = re.compile(
    r"[\x00-\x08\x0b-\x1f\x7f-\x9f"  # control characters, but tab and newline
    r"\u00ad\u200b-\u200f\u2028-\u202e\u2060-\u2064\ufeff"  # signs without a width
    r"\ue000-\uf8ff]+"  # private use: a font's own signs
)


def drop_control_characters(text: str) -> str:
    """Take out control, zero-width and private-use characters; every line ends in a newline."""
    if "\r" in text:
        text = text.replace("\r\n", "\n").replace("\r", "\n")
    return CONTROL.sub("", text)


# --- width, spaces and repetition ----------------------------------------------------------------
CODE_NEAR = r"0-9０-９A-Za-z.．\-－%％"
WIDE_LETTER = re.compile("[Ａ-Ｚａ-ｚ]")
WIDE_LETTERS = re.compile(f"(?<![{CODE_NEAR}Ａ-Ｚａ-ｚ])[Ａ-Ｚａ-ｚ]+(?![{CODE_NEAR}Ａ-Ｚａ-ｚ])")


def narrow_letters(text: str) -> str:
    """Make full-width letters half-width, but not in codes, and ideographic spaces plain ones."""
    text = text.replace("\u3000", " ")
    if not WIDE_LETTER.search(text):
        return text
    return WIDE_LETTERS.sub(_narrow, text)


NARROW_MARKS = re.compile(f"(?<=[{HAN}])[,;:?!](?=[{HAN}\n]|$)")
TO_FULL_WIDTH = 0xFEE0  # the distance from ! to ！ in Unicode


def widen_punctuation(text: str) -> str:
    """Make half-width punctuation between Chinese characters full-width."""
    if not any(mark in text for mark in ",;:?!"):
        return text
    return NARROW_MARKS.sub(lambda match: chr(ord(match[0]) + TO_FULL_WIDTH), text)


SPACE_BETWEEN = re.compile(f" [{HAN}] [{HAN}]")
SPACED = re.compile(f"(?<![{HAN}])(?:[{HAN}] ){{3,}}[{HAN}](?![{HAN}])")


def join_spaced_characters(text: str) -> str:
    """Join Chinese characters that were set apart with spaces, as in headings."""
    if not SPACE_BETWEEN.search(text):
        return text
    return SPACED.sub(lambda match: match[0].replace(" ", ""), text)


REPEATED = re.compile(r"([。，！？、；：…~～\-—=#_.·•★☆■□▲△◆◇])\1{4,}")


def shorten_repeated_symbols(text: str) -> str:
    """Leave three of a symbol that stands five times or more in a row."""
    return REPEATED.sub(r"\1\1\1", text)


@functools.cache
def _simplifier() -> Rule:
    """Return OpenCC's conversion, which is loaded once, and only where a text is converted."""
    try:
        import opencc
    except ModuleNotFoundError:
        raise ImportError("`simplify: true` needs OpenCC: pip install -e '.[chinese]'") from None
    return opencc.OpenCC("t2s").convert


def simplify(text: str) -> str:
    """Bring traditional characters to simplified ones."""
    return _simplifier()(text)


# --- lines ---------------------------------------------------------------------------------------
NAVIGATION = re.compile(
    r"^[ \t]*(?:(?:上一页|下一页|上一篇|下一篇|返回首页|返回顶部|返回列表|首页|尾页|末页|打印本页"
    r"|打印|关闭窗口|关闭|收藏|分享到|分享|举报|字号|点击查看更多|查看更多|展开全文|阅读全文"
    r"|网站地图|联系我们|责任编辑|当前位置)[\s|>»›·:：-]*)+$\n?",
    re.M,
)


def drop_navigation(text: str) -> str:
    """Drop lines that are nothing but a web page's buttons."""
    return NAVIGATION.sub("", text)


_NO_ADVICE = r"不构成(?:任何)?投资建议|风险自担|入市(?:需|须)谨慎"
_NO_LIABILITY = (
    r"不构成(?:任何|具体的?)?(?:投资|操作)建议"
    r"|(?:据此|风险).{0,6}(?:风险自担|责任自负|后果自负)"
    r"|入市(?:需|须)谨慎|投资(?:需|须)谨慎"
)
DISCLAIMER = re.compile(
    # in brackets
    rf"[（(【][^（）()【】\n]{{0,80}}(?:{_NO_ADVICE})[^（）()【】\n]{{0,80}}[)）】]"
    # a sentence
    rf"|(?:^|(?<=[。！？\n]))[^。！？\n]{{0,80}}(?:{_NO_LIABILITY})[^。！？\n]{{0,40}}[。！？]?"
    # a line
    r"|^[ \t]*(?:免责(?:声明|条款)|特别声明|版权(?:声明|所有)|责任编辑"
    r"|(?:未经|非经)[^\n]{0,20}(?:授权|许可|同意)[^\n]{0,20}转载|转载(?:请|须)注明"
    r"|扫(?:码|一扫|描)[^\n]{0,20}(?:关注|二维码|公众号)|欢迎(?:关注|订阅)[^\n]{0,20}公众号"
    r"|Copyright\b|All rights reserved)[^\n]{0,160}$\n?",
    re.M,
)
DISCLAIMER_WORDS = (
    *("投资建议", "操作建议", "自担", "自负", "谨慎", "声明", "免责", "版权"),
    *("责任编辑", "转载", "扫", "公众号", "Copyright", "All rights"),
)


def drop_disclaimers(text: str) -> str:
    """Take out disclaimers, copyright notes and calls to follow an account."""
    if not any(word in text for word in DISCLAIMER_WORDS):
        return text
    return DISCLAIMER.sub("", text)


def drop_repeated_lines(text: str) -> str:
    """Keep the first of lines without a digit that stand four times or more: headers, footers."""
    lines = text.split("\n")
    if len(lines) < 8:
        return text
    counts = Counter(lines)
    seen, kept = set(), []
    for line in lines:
        short = len(line.strip()) < 4
        has_digit = any(char.isdigit() for char in line)
        if counts[line] < 4 or short or has_digit or line not in seen:
            kept.append(line)
        seen.add(line)
    return "\n".join(kept)


BLANK_LINES = re.compile(r"\n{3,}")


def trim_blank_space(text: str) -> str:
    """Drop white space at the ends of lines and of the text, and more than one blank line."""
    lines = [line.rstrip() for line in text.split("\n")]
    return BLANK_LINES.sub("\n\n", "\n".join(lines)).strip()


@functools.cache
def _whole_lines(patterns: tuple[str, ...]) -> re.Pattern:
    """Return a pattern of lines that consist of one of some patterns."""
    lines = [f"^[^\n]*(?:{pattern})[^\n]*$\n?" for pattern in patterns]
    return re.compile("|".join(lines), re.M)


# --- the rules in their order --------------------------------------------------------------------
def rules(settings: Settings | None = None) -> dict[str, Rule]:
    """Return the rules of a source in their order, {name: function}.

    Args:
        settings: A card's `rules:` block. `simplify: true` adds traditional to simplified (OpenCC
            t2s). `drop_text` and `drop_lines` are lists of regular expressions: the first take out
            a source's own marks and leave a new line, the second its own lines.
    """
    settings = settings or {}
    marks = "|".join(settings.get("drop_text", ()))
    lines = tuple(settings.get("drop_lines", ()))
    found: dict[str, Rule] = {}
    if marks:
        found["marks of this source"] = lambda text: re.sub(marks, "\n", text)
    found["front matter"] = drop_front_matter
    found["html remnants"] = drop_html
    found["mojibake repaired"] = repair_mojibake
    found["unicode form"] = unify_unicode
    found["control characters"] = drop_control_characters
    found["wide letters"] = narrow_letters
    found["narrow punctuation"] = widen_punctuation
    found["spaced characters"] = join_spaced_characters
    found["repeated symbols"] = shorten_repeated_symbols
    if settings.get("simplify"):
        found["traditional to simplified"] = simplify
    found["navigation lines"] = drop_navigation
    found["disclaimers"] = drop_disclaimers
    if lines:
        found["lines of this source"] = lambda text: _whole_lines(lines).sub("", text)
    found["mojibake lines"] = drop_lost_text
    found["repeated lines"] = drop_repeated_lines
    found["blank space"] = trim_blank_space
    return found


def clean_text(text: str, named_rules: dict[str, Rule] | None = None) -> list[tuple[str, str]]:
    """Clean a text.

    Args:
        text: The text.
        named_rules: The rules, from `rules`; by default those without settings.

    Returns:
        A pair (rule, text after it) for each rule that changed something.
    """
    steps = []
    for name, rule in (named_rules or rules()).items():
        changed = rule(text)
        if changed != text:
            steps.append((name, changed))
            text = changed
    return steps


# --- whole documents -----------------------------------------------------------------------------
def drop_reason(text: str, language: str, settings: Settings | None = None) -> str:
    """Return why a cleaned document is dropped as a whole, or an empty string.

    Args:
        text: The cleaned text.
        language: Of its source, `zh` or `en`.
        settings: A card's `rules:` block; its thresholds replace THRESHOLDS.
    """
    limits = THRESHOLDS | (settings or {})
    if not text:
        return "empty after cleaning"
    if len(text) < limits["min_chars"]:
        return "too short"
    reason = _wrong_letters(text, language, limits)
    if reason:
        return reason
    if _repeats_lines(text, limits["max_repeated_lines"]):
        return "repeated lines throughout"
    if _repeats_itself(text, limits["min_compression"]):
        return "too repetitive"
    if any(word in text for word in limits.get("blocked_words", ())):
        return "blocked word"
    return ""


def _wrong_letters(text: str, language: str, limits: Settings) -> str:
    """Return the reason to drop a text for its letters, or an empty string.

    Args:
        text: The text.
        language: `zh` or `en`.
        limits: The thresholds.
    """
    han = sum(map(len, HAN_RUN.findall(text)))
    if language == "zh" and han >= limits["min_letters"] * len(text):
        return ""
    latin = sum(map(len, LATIN_RUN.findall(text)))
    if han + latin < limits["min_letters"] * len(text):
        return "too few letters"
    own = han if language == "zh" else latin
    return "another language" if own < limits["min_language"] * len(text) else ""


def _repeats_lines(text: str, max_share: float) -> bool:
    """Tell whether too much of a text stands in lines that are repeated."""
    lines = [line for line in text.split("\n") if line.strip()]
    if len(lines) < 8:
        return False
    repeated = sum(map(len, lines)) - sum(map(len, set(lines)))
    return repeated > max_share * len(text)


def _repeats_itself(text: str, min_compression: float) -> bool:
    """Tell whether a text compresses too well to say much."""
    if len(text) < 200:
        return False
    # A sample of 200 characters tells most texts at once: they use many different ones.
    if len(set(text[:: 1 + len(text) // 200])) >= 60:
        return False
    data = text[:20000].encode()
    return len(zlib.compress(data, 1)) < min_compression * len(data)
