"""The cleaning rules: each is a function that takes a text and returns the cleaned text.

No rule changes a figure or joins two figures, because the figures are the content of an
announcement. If something between two figures is removed, a space is left (`take_out`). The ledger
records the tokens that each rule removes under the rule's name, also for rules that drop whole
lines or sentences, such as page headers.

To add a rule, write a function here and a line in `cleaning.rules` that names it.
"""

from __future__ import annotations

import functools
import html
import re
import unicodedata
from collections import Counter
from collections.abc import Callable

Rule = Callable[[str], str]

# A digit of any script: 2, ２, ٢.
DIGIT = re.compile(r"\d")
HAN = r"\u3400-\u4dbf\u4e00-\u9fff"


# --- figures stay apart --------------------------------------------------------------------------
# Characters other than digits that belong to a figure: signs, points, commas, percent signs. So
# `1.5` and `-2%` must not be joined.
FIGURE_SIGNS = set(".．,，%％‰+＋-－−")


def _in_figure(char: str) -> bool:
    """Tell whether a character can be part of a figure."""
    return char.isdigit() or char in FIGURE_SIGNS


def take_out(pattern: re.Pattern, text: str, spare: re.Pattern | None = None) -> str:
    """Remove all matches of a pattern; between two figures, leave a space.

    Args:
        pattern: The pattern of what to remove.
        text: The text, such as `100<b>200`.
        spare: A match in which this pattern is found is kept; None removes all matches.

    Returns:
        The text, such as `100 200`.
    """
    parts: list[str] = []
    end = 0
    before = ""
    for match in pattern.finditer(text):
        if spare and spare.search(match[0]):
            continue
        if match.start() > end:
            parts.append(text[end : match.start()])
            before = parts[-1][-1]
        end = match.end()
        after = text[end : end + 1]
        if before and after and _in_figure(before) and _in_figure(after):
            parts.append(" ")
            before = " "
    return "".join(parts) + text[end:]


def figures_of(text: str) -> list[str]:
    """Return the runs of digits of a text, in order; cleaning must not change them."""
    return re.findall(r"\d+", text)


# --- marks and conversions -----------------------------------------------------------------------
FRONT_MATTER = re.compile(r"\A\s*---\n(?:[\w ]+:[^\n]*\n|[ \t]*- [^\n]*\n|\n)+---\n")


def drop_front_matter(text: str) -> str:
    """Remove the YAML block at the beginning of a Markdown file."""
    return FRONT_MATTER.sub("", text)


# A tag of a block element becomes a newline, and a tag of a table cell becomes a space. An inline
# tag is removed.
_BLOCKS = (
    "address|article|aside|blockquote|body|br|caption|center|dd|details|div|dl|dt|fieldset"
    "|figcaption|figure|footer|form|h[1-6]|head|header|hr|html|iframe|legend|li|main|nav|ol"
    "|option|p|pre|script|section|select|style|summary|table|tbody|textarea|tfoot|thead|title|tr"
    "|ul"
)
_CELLS = "td|th"
_INLINE = (
    "a|abbr|acronym|audio|b|base|basefont|bdi|bdo|big|button|canvas|cite|code|col|colgroup|data"
    "|del|dfn|em|embed|font|frame|i|img|input|ins|kbd|label|link|map|mark|meta|meter|noscript"
    "|object|output|param|picture|progress|q|rp|rt|ruby|s|samp|small|source|span|strike|strong"
    "|sub|sup|svg|template|time|track|tt|u|var|video|wbr"
)
TAG_NAMES = f"{_BLOCKS}|{_CELLS}|{_INLINE}".replace("[1-6]", "1").split("|")
# Attributes that may follow a tag's name. `A<B 且 C>D` has no valid attributes, so it is not a tag.
_ATTRIBUTES = (
    r"(?:\s+[A-Za-z_:@][\w:.-]*(?:\s*=\s*(?:\"[^\"<>]*\"|'[^'<>]*'|[^\s\"'<>=]+))?)*\s*/?>"
)
BLOCK_TAGS = re.compile(rf"(?:(?<!\s)\s+)?</?(?:{_BLOCKS}){_ATTRIBUTES}\s*", re.I | re.A)
CELL_TAGS = re.compile(rf"</?(?:{_CELLS}){_ATTRIBUTES}", re.I | re.A)
INLINE_TAGS = re.compile(rf"</?(?:{_INLINE}){_ATTRIBUTES}", re.I | re.A)
ENTITIES = re.compile(r"&(?:[A-Za-z][A-Za-z0-9]{1,31}|#\d{1,7}|#[xX][0-9A-Fa-f]{1,6});")


def drop_html(text: str) -> str:
    """Remove HTML tags, and convert HTML entities to their characters.

    A tag such as `<br>` or `<p>` becomes a newline, and a tag of a table cell becomes a space.
    """
    if "<" in text:
        text = CELL_TAGS.sub(" ", text)
        text = BLOCK_TAGS.sub("\n", text)
        text = take_out(INLINE_TAGS, text)
    if "&" in text:
        text = ENTITIES.sub(lambda match: html.unescape(match[0]), text)
    return text


LATIN_MOJIBAKE = re.compile(
    r"(?:[ÂÃâ][\x80-\xbf€™œ“”]"
    r"|[äåæçèé][\x80-\xff“”•–—˜™š›œžŸ¡-¿][\x80-\xff“”•–—˜™š›œžŸ¡-¿])"
)
LATIN_SIGNS = "ÂÃâäåæçèé"
# The characters that the first bytes of ， 。 的 中 在 人 是 become if UTF-8 is read as GBK.
GBK_SIGNS = "锛銆鐨涓鍦浜鏄璇鎴"


def repair_mojibake(text: str) -> str:
    """Repair lines of UTF-8 that were read as Latin-1 or GBK, if no bytes were lost."""
    if any(sign in text for sign in LATIN_SIGNS) and LATIN_MOJIBAKE.search(text):
        text = "\n".join(_from_latin(line) for line in text.split("\n"))
    if any(sign in text for sign in GBK_SIGNS):
        text = "\n".join(_from_gbk(line) for line in text.split("\n"))
    return text


def _from_latin(line: str) -> str:
    """Repair a line of UTF-8 that was read as Latin-1; return other lines unchanged."""
    if not LATIN_MOJIBAKE.search(line):
        return line
    import ftfy

    repaired = ftfy.fix_encoding(line)
    return repaired if figures_of(repaired) == figures_of(line) else line


def _from_gbk(line: str) -> str:
    """Repair a line of UTF-8 that was read as GBK; return other lines unchanged."""
    if not any(sign in line for sign in GBK_SIGNS):
        return line
    try:
        repaired = line.encode("gb18030").decode("utf-8")
    except UnicodeError:
        return line
    # In GB18030 some characters have bytes that would be read as digits, so compare the figures.
    return repaired if figures_of(repaired) == figures_of(line) else line


LOST_SIGNS = ("锟", "烫烫烫", "屯屯屯", "\ufffd")
LOST = re.compile(r"(?:锟斤拷)+|烫{3,}|屯{3,}|\ufffd+")


def drop_lost_text(text: str) -> str:
    """Drop lines that lost a tenth or more in a conversion; remove the marks from other lines.

    A mark is text such as 锟斤拷 or U+FFFD, which stands for characters that were lost.
    """
    if not any(sign in text for sign in LOST_SIGNS):
        return text
    kept = []
    for line in text.split("\n"):
        lost = sum(map(len, LOST.findall(line)))
        if not line or 10 * lost < len(line):
            kept.append(take_out(LOST, line))
    return "\n".join(kept)


RADICALS = re.compile(r"[\u2e80-\u2fdf\uf900-\ufaff]+")


def _narrow(match: re.Match) -> str:
    """Return a match in the normal form NFKC."""
    return unicodedata.normalize("NFKC", match[0])


def unify_unicode(text: str) -> str:
    """Convert a text to NFC, and radicals and compatibility ideographs to usual characters."""
    return RADICALS.sub(_narrow, unicodedata.normalize("NFC", text))


# Characters that end a line or page: CR, vertical tab, form feed, separators, NEL, U+2028, U+2029.
LINE_SIGNS = re.compile(r"\r\n|[\r\x0b\x0c\x1c-\x1f\x85\u2028\u2029]")
CONTROL = re.compile(
    r"[\x00-\x08\x0e-\x1b\x7f-\x84\x86-\x9f"  # control characters
    r"\u00ad\u061c\u115f\u1160\u180b-\u180f\u200b-\u200f\u202a-\u202e"  # characters without a width
    r"\u2060-\u206f\u3164\ufe00-\ufe0f\ufeff\uffa0\ufff9-\ufffb"
    r"\ue000-\uf8ff]+"  # private use: characters of a single font
)


def drop_control_characters(text: str) -> str:
    """Remove control, zero-width and private-use characters; make every line end a newline."""
    return take_out(CONTROL, LINE_SIGNS.sub("\n", text))


# --- width, spaces and repetition ----------------------------------------------------------------
CODE_NEAR = r"0-9０-９A-Za-z.．\-－%％"
WIDE_LETTER = re.compile("[Ａ-Ｚａ-ｚ]")
WIDE_LETTERS = re.compile(f"(?<![{CODE_NEAR}Ａ-Ｚａ-ｚ])[Ａ-Ｚａ-ｚ]+(?![{CODE_NEAR}Ａ-Ｚａ-ｚ])")


def narrow_letters(text: str) -> str:
    """Make full-width letters half-width, except in codes, and ideographic spaces plain spaces."""
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


NUMERALS = "〇零一二三四五六七八九十百千万亿兆两壹贰叁肆伍陆柒捌玖拾佰仟廿卅"
NUMERALS_APART = re.compile(f"[{NUMERALS}] [{NUMERALS}]")
SPACE_BETWEEN = re.compile(f" [{HAN}] [{HAN}]")
SPACED = re.compile(f"(?<![{HAN}])(?:[{HAN}] ){{3,}}[{HAN}](?![{HAN}])")


def join_spaced_characters(text: str) -> str:
    """Join Chinese characters that are separated by spaces, as in headings.

    A row of numerals, such as 一 二 三, is not joined, because it would become another figure.
    """
    if not SPACE_BETWEEN.search(text):
        return text

    def joined(match: re.Match) -> str:
        return match[0] if NUMERALS_APART.search(match[0]) else match[0].replace(" ", "")

    return SPACED.sub(joined, text)


REPEATED = re.compile(r"([。，！？、；：…~～\-—=#_.·•★☆■□▲△◆◇])\1{4,}")


def shorten_repeated_symbols(text: str) -> str:
    """Shorten a symbol that is repeated five times or more in a row to three."""
    return REPEATED.sub(r"\1\1\1", text)


@functools.cache
def _simplifier() -> Rule:
    """Return the conversion of OpenCC; it is loaded only once, when it is first needed."""
    try:
        import opencc
    except ModuleNotFoundError:
        raise ImportError("`simplify: true` needs OpenCC: pip install -e '.[chinese]'") from None
    return opencc.OpenCC("t2s").convert


def simplify(text: str) -> str:
    """Convert traditional Chinese characters to simplified ones."""
    return _simplifier()(text)


# --- lines ---------------------------------------------------------------------------------------
NAVIGATION = re.compile(
    r"^[ \t]*(?:(?:上一页|下一页|上一篇|下一篇|返回首页|返回顶部|返回列表|首页|尾页|末页|打印本页"
    r"|打印|关闭窗口|关闭|收藏|分享到|分享|举报|字号|点击查看更多|查看更多|展开全文|阅读全文"
    r"|网站地图|联系我们|责任编辑|当前位置)[\s|>»›·:：-]*)+$\n?",
    re.M,
)


def drop_navigation(text: str) -> str:
    """Drop lines that hold only the buttons of a web page."""
    return NAVIGATION.sub("", text)


_NO_ADVICE = r"不构成(?:任何)?投资建议|风险自担|入市(?:需|须)谨慎"
_NO_LIABILITY = (
    r"不构成(?:任何|具体的?)?(?:投资|操作)建议"
    r"|(?:据此|风险).{0,6}(?:风险自担|责任自负|后果自负)"
    r"|入市(?:需|须)谨慎|投资(?:需|须)谨慎"
)
DISCLAIMER_BRACKET = re.compile(
    rf"[（(【][^（）()【】\n]{{0,80}}(?:{_NO_ADVICE})[^（）()【】\n]{{0,80}}[)）】]"
)
DISCLAIMER_SENTENCE = re.compile(
    rf"(?:^|(?<=[。！？\n]))[^。！？\n]{{0,80}}(?:{_NO_LIABILITY})[^。！？\n]{{0,40}}[。！？]?",
    re.M,
)
DISCLAIMER_LINE = re.compile(
    r"^[ \t]*(?:免责(?:声明|条款)|特别声明|版权(?:声明|所有)|责任编辑"
    r"|(?:未经|非经)[^\n]{0,20}(?:授权|许可|同意)[^\n]{0,20}转载|转载(?:请|须)注明"
    r"|扫(?:码|一扫|描)[^\n]{0,20}(?:关注|二维码|公众号)|欢迎(?:关注|订阅)[^\n]{0,20}公众号"
    r"|Copyright\b|All rights reserved)[^\n]{0,160}$\n?",
    re.M,
)
DISCLAIMER_WORDS = (
    "投资建议",
    "操作建议",
    "自担",
    "自负",
    "谨慎",
    "声明",
    "免责",
    "版权",
    "责任编辑",
    "转载",
    "扫",
    "公众号",
    "Copyright",
    "All rights",
)


def drop_disclaimers(text: str) -> str:
    """Remove disclaimers, copyright notes and requests to follow an account.

    A sentence or bracket with a digit says more than a disclaimer, so it is kept.
    """
    if not any(word in text for word in DISCLAIMER_WORDS):
        return text
    text = take_out(DISCLAIMER_BRACKET, text, spare=DIGIT)
    text = take_out(DISCLAIMER_SENTENCE, text, spare=DIGIT)
    return take_out(DISCLAIMER_LINE, text)


# Signs that a line is speech or data: it ends like a sentence or a speaker's name (投资者：), has a
# tick box, or is a row of a table.
SPEECH = re.compile(r"[。！？；：，、…!?;:,)）\]】」』”\"]\s*$|[√☑✓✔□☐■●○]|^\s*[|+]")


def drop_repeated_lines(text: str) -> str:
    """Keep only the first of equal lines that occur four times or more, such as page headers.

    Lines with a digit, sentences, speakers' names with a colon, tick boxes and rows of tables are
    always kept, because in a transcript or report each of them has a meaning. Lines with fewer
    than four characters are kept too.
    """
    lines = text.split("\n")
    if len(lines) < 8:
        return text
    counts = Counter(lines)
    seen, kept = set(), []
    for line in lines:
        short = len(line.strip()) < 4
        says_something = DIGIT.search(line) or SPEECH.search(line)
        if counts[line] < 4 or short or says_something or line not in seen:
            kept.append(line)
        seen.add(line)
    return "\n".join(kept)


BLANK_LINES = re.compile(r"\n{3,}")


def trim_blank_space(text: str) -> str:
    """Remove white space at the ends of lines and of the text; keep one of several blank lines."""
    lines = [line.rstrip() for line in text.split("\n")]
    return BLANK_LINES.sub("\n\n", "\n".join(lines)).strip()


def without_lines(patterns: tuple[str, ...]) -> Rule:
    """Return a rule that drops each line in which one of the patterns is found.

    Args:
        patterns: Regular expressions, from the `drop_lines` of a card.
    """
    lines = [f"^[^\n]*(?:{pattern})[^\n]*$\n?" for pattern in patterns]
    pattern = re.compile("|".join(lines), re.M)
    return lambda text: pattern.sub("", text)
