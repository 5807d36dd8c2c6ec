"""Cut documents into passages that can be cited; each has its place in its document.

    document = Document("laws/证券法", text, title="证券法", date="2019-12-28")
    for passage in split(document):
        passage.section, passage.text       # 第二条, 第二条 在中华人民共和国境内……

A law is cut by article, Markdown by heading, and other text by windows of sentences. Tables stay
whole. The text of a passage is exactly the document's text between the passage's offsets.
"""

from __future__ import annotations

import datetime
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from finlab.data.card_schema import Card

MAX_CHARACTERS = 400  # in a window of sentences; a longer sentence is a window by itself
MAX_DOCUMENT = 20_000_000  # characters; a longer text is a dump, not a document
ARTICLES = 3  # a text with this many lines that begin with 第…条 is a law

_NUMERAL = "零〇一二三四五六七八九十百千0-9"
ARTICLE = re.compile(rf"^[ \t　]*(第[{_NUMERAL}]+条(?:之[{_NUMERAL}]+)?)(?=[ \t　\n：:]|$)", re.M)
HEADING = re.compile(r"^(#{1,6})[ \t]+(\S.*)$", re.M)
TABLE = re.compile(r"(?:^[ \t]*\|.*\|[ \t]*(?:\n|\Z)){2,}", re.M)
SENTENCE_END = re.compile(r"[。！？!?]+[”’」』）)]*|(?<=[a-z0-9)])\.(?=\s|$)|\n+")
TITLE_DATE = re.compile(r"[(（](\d{4})[-年](\d{1,2})[-月](\d{1,2})日?[)）]")
CHINESE_DATE = re.compile(r"((?:19|20)\d\d)年(\d{1,2})月(\d{1,2})日")
ISO_DATE = re.compile(r"(?<!\d)((?:19|20)\d\d)-(\d{2})-(\d{2})(?!\d)")
NEAR_THE_END = 40  # characters: where an announcement has its date


@dataclass(frozen=True)
class Document:
    """A document of a knowledge base.

    Attributes:
        id: Id of the document, unique in the base.
        text: The whole text.
        title: The title by which it is cited; all versions of a work have the same title.
        date: Date of this version, such as 2019-12-28; empty if it is not known.
        licence: Licence of the card that the document comes from.
        source: Name of the card, or of a customer's folder.
        url: Address where a person can read it; empty if there is none.
        work: The work that this is a version of; empty if the document has no versions.
    """

    id: str
    text: str
    title: str = ""
    date: str = ""
    licence: str = ""
    source: str = ""
    url: str = ""
    work: str = ""


@dataclass(frozen=True)
class Passage:
    """A piece of a document that an answer can cite.

    Attributes:
        id: The document's id, `#` and the passage's number in it.
        document: The document's id.
        section: An article such as 第八十五条, or the headings above the passage; empty if it has
            neither.
        start, end: Where the passage starts and ends in the document's text, in characters.
        text: The document's text between `start` and `end`.
        title, date, licence, source, url, work: The same as for the document.
    """

    id: str
    document: str
    section: str
    start: int
    end: int
    text: str
    title: str = ""
    date: str = ""
    licence: str = ""
    source: str = ""
    url: str = ""
    work: str = ""

    @property
    def searched(self) -> str:
        """The text that a question is matched with: the title, the section and the text."""
        return f"{self.title}\n{self.section}\n{self.text}"

    @property
    def reference(self) -> str:
        """How a person cites it: 《证券法》（2019-12-28）第二条."""
        date = f"（{self.date}）" if self.date else ""
        section = f" {self.section}" if self.section else ""
        return f"《{self.title.strip('《》')}》{date}{section}"


# --- documents -----------------------------------------------------------------------------------
def from_rows(card: Card, rows: Iterable[dict]) -> Iterator[Document]:
    """Yield the rows of a text card as documents.

    Args:
        card: The card.
        rows: Rows {id, text}, as from `cards.stream`.
    """
    url = card.spec.get("source_url", "")
    for row in rows:
        title, date = title_and_date(row["id"], row["text"])
        # A date in the name marks a version; a date at the end of the text does not.
        work = title if TITLE_DATE.search(row["id"].rpartition("/")[2]) else ""
        text = row["text"]
        yield Document(row["id"], text, title, date, card.licence, card.name, url, work)


def title_and_date(identity: str, text: str) -> tuple[str, str]:
    """Return the title of a document, and the date of this version.

    The date is taken from the name, as in 证券法(2019-12-28).md, or from the end of the text, as in
    an announcement. If there is no date, it is empty.

    Args:
        identity: The document's id, which may be a path.
        text: The document's text.
    """
    name = identity.rpartition("/")[2]
    dated = TITLE_DATE.search(name)
    heading = HEADING.search(text[:400])
    first_line = text.strip().partition("\n")[0].strip("# ")
    if dated:
        title = name[: dated.start()]
    elif heading:
        title = _heading(heading)
    elif len(first_line) <= 40:
        title = first_line
    else:
        # The first words of a text without a title, up to punctuation: 恒信银行（银行），英文名为……
        title = re.split(r"[，。；：（(,.;:]", first_line)[0][:40]
    found = dated or ISO_DATE.search(name)
    if not found:
        ending = text.strip()[-NEAR_THE_END:]
        dates = list(CHINESE_DATE.finditer(ending))
        found = dates[-1] if dates else None
    date = "-".join(f"{int(part):02d}" for part in found.groups()) if found else ""
    return title.strip() or name, date


def in_force(dates: list[str], date: str) -> str:
    """Return the date of the version that is in force on a day.

    Args:
        dates: The dates of all versions.
        date: The day; empty for today, so that a rule that begins next month does not count yet.

    Returns:
        The newest date up to the day. If all versions are later, it is the oldest date.
    """
    day = date or datetime.date.today().isoformat()
    earlier = [each for each in dates if each <= day]
    return max(earlier) if earlier else min(dates, default="")


# --- passages ------------------------------------------------------------------------------------
def split(document: Document, max_characters: int = MAX_CHARACTERS) -> list[Passage]:
    """Cut a document into passages.

    Args:
        document: The document.
        max_characters: Maximum number of characters in a window of sentences; an article or a
            table is never cut.

    Raises:
        ValueError: The document is empty, binary, or a dump of more than 20 million characters.
    """
    text = document.text
    if not text.strip():
        raise ValueError(f"document {document.id} is empty: take it out, or look at its file")
    if "\x00" in text:
        raise ValueError(f"document {document.id} is binary, not text: convert it first")
    if len(text) > MAX_DOCUMENT:
        raise ValueError(
            f"document {document.id} has {len(text):,} characters: it is a dump of documents; "
            "split it into one row a document"
        )
    articles = list(ARTICLE.finditer(text))
    if len(articles) >= ARTICLES:
        pieces = _by_article(text, articles, max_characters)
    else:
        pieces = _by_heading(text, 0, len(text), max_characters)
    passages = _passages(document, pieces)
    if not passages:  # the text has only headings
        whole = _windows(text, 0, len(text), max_characters)
        passages = _passages(document, (("", start, end) for start, end in whole))
    return passages


def _passages(document: Document, pieces: Iterable[tuple[str, int, int]]) -> list[Passage]:
    """Return the pieces of a document as passages.

    Args:
        document: The document.
        pieces: (section, start, end) of each.
    """
    text = document.text
    passages: list[Passage] = []
    for section, start, end in pieces:
        start, end = _trimmed(text, start, end)
        if start == end:
            continue
        passage = Passage(
            f"{document.id}#{len(passages)}",
            document.id,
            section,
            start,
            end,
            text[start:end],
            document.title,
            document.date,
            document.licence,
            document.source,
            document.url,
            document.work,
        )
        passages.append(passage)
    return passages


def _trimmed(text: str, start: int, end: int) -> tuple[int, int]:
    """Return a span without the white space at its ends."""
    inside = text[start:end]
    start += len(inside) - len(inside.lstrip())
    return start, start + len(inside.strip())


def _by_article(
    text: str, articles: list[re.Match], max_characters: int
) -> Iterator[tuple[str, int, int]]:
    """Yield (section, start, end) of a law: the text before its articles, then each article.

    Args:
        text: The law.
        articles: The matches at the beginning of each article, in order.
        max_characters: Maximum number of characters in a window of the text outside the articles.
    """
    for start, end in _windows(text, 0, articles[0].start(), max_characters):
        yield "", start, end
    ends = [match.start() for match in articles[1:]] + [len(text)]
    for match, end in zip(articles, ends, strict=True):
        # A heading ends the article; the text below it, such as an annex, is cut on its own.
        heading = HEADING.search(text, match.start(), end)
        yield match[1], match.start(), heading.start() if heading else end
        if heading:
            yield from _by_heading(text, heading.start(), end, max_characters)


def _heading(match: re.Match) -> str:
    """Return the words of a heading."""
    return match[2].rstrip("# \t")


def _by_heading(
    text: str, start: int, end: int, max_characters: int
) -> Iterator[tuple[str, int, int]]:
    """Yield (section, start, end) below each heading; the section names the headings above.

    Args:
        text: Markdown, or plain text, which has no headings.
        start, end: The part of the text to cut, in characters.
        max_characters: Maximum number of characters in a window of sentences.
    """
    headings = list(HEADING.finditer(text, start, end))
    starts = [(start, 0, "")]
    starts += [(match.end(), len(match[1]), _heading(match)) for match in headings]
    ends = [match.start() for match in headings] + [end]
    # The title of the whole document is not a section.
    first = HEADING.search(text)
    title = _heading(first) if first and len(first[1]) == 1 else ""
    above: dict[int, str] = {}
    for (begin, level, name), stop in zip(starts, ends, strict=True):
        if level:
            above = {depth: each for depth, each in above.items() if depth < level}
            above[level] = name
        names = [name for depth, name in sorted(above.items()) if (depth, name) != (1, title)]
        for left, right in _with_tables(text, begin, stop, max_characters):
            yield " › ".join(names), left, right


def _with_tables(text: str, start: int, end: int, max_characters: int) -> Iterator[tuple[int, int]]:
    """Yield the windows of a section, with each table as a whole.

    Args:
        text: The text of the document.
        start, end: Where the section starts and ends, in characters.
        max_characters: Maximum number of characters in a window of sentences.
    """
    place = start
    for table in TABLE.finditer(text, start, end):
        yield from _windows(text, place, table.start(), max_characters)
        yield table.span()
        place = table.end()
    yield from _windows(text, place, end, max_characters)


def _windows(text: str, start: int, end: int, max_characters: int) -> Iterator[tuple[int, int]]:
    """Yield windows of whole sentences.

    A window ends before the sentence that would make it too long. If there is room, the next window
    begins with the last sentence of the window before, so that no fact is split between the two.

    Args:
        text: The text of the document.
        start, end: The part of the text to cut, in characters.
        max_characters: Maximum number of characters in a window.
    """
    sentences = _sentences(text, start, end)
    first = 0
    while first < len(sentences):
        last = first
        begin = sentences[first][0]
        while last + 1 < len(sentences) and sentences[last + 1][1] - begin <= max_characters:
            last += 1
        yield begin, sentences[last][1]
        if last + 1 == len(sentences):
            return
        short = sentences[last][1] - sentences[last][0] <= max_characters // 3
        fits = sentences[last + 1][1] - sentences[last][0] <= max_characters
        first = last if short and fits and last > first else last + 1


def _sentences(text: str, start: int, end: int) -> list[tuple[int, int]]:
    """Return (start, end) of the sentences between two places; very long ones are cut."""
    found = []
    place = start
    for match in SENTENCE_END.finditer(text, start, end):
        found.append((place, match.end()))
        place = match.end()
    found.append((place, end))
    pieces = []
    for first, last in found:
        if not text[first:last].strip():
            continue
        # A table of figures or a base64 text has no sentences.
        for begin in range(first, last, 4 * MAX_CHARACTERS):
            pieces.append((begin, min(last, begin + 4 * MAX_CHARACTERS)))
    return pieces
