"""Extract the text of HTML, PDF and Word documents, such as annual reports.

Tables become Markdown tables. HTML is read with trafilatura, PDF with pdfplumber and Word with
python-docx; all three are in the `documents` extra. A formula becomes the characters that it is
drawn with. A scanned PDF has no text, and is refused.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pdfplumber.page import Page

SENTENCE_ENDS = "。！？：；.!?:;"
FULL_LINE = 0.85  # a line of this share of the longest line was broken at the margin


def from_html(source: str) -> str:
    """Return the main text of an HTML page as Markdown, without navigation.

    Args:
        source: The HTML.

    Raises:
        ImportError: trafilatura is not installed.
        ValueError: The page has no main text.
    """
    try:
        import trafilatura
    except ImportError:
        raise ImportError("reading HTML needs trafilatura: pip install -e '.[documents]'") from None
    text = trafilatura.extract(
        source,
        output_format="markdown",
        include_tables=True,
        include_comments=False,
        favor_recall=True,
    )
    if not text:
        raise ValueError("no main text found in the HTML")
    return text


def from_pdf(path: Path) -> str:
    """Return the text of a PDF in reading order, each table as a Markdown table.

    Args:
        path: The PDF.

    Raises:
        ImportError: pdfplumber is not installed.
        ValueError: The file is damaged, or it holds no text.
    """
    try:
        import pdfplumber
    except ImportError:
        raise ImportError("reading PDF needs pdfplumber: pip install -e '.[documents]'") from None
    try:
        with pdfplumber.open(path) as file:
            pages = [_page_text(page) for page in file.pages]
    except Exception as error:
        reason = f"{type(error).__name__}: {error}"
        raise ValueError(f"the PDF cannot be read ({reason})") from None
    text = "\n\n".join(page for page in pages if page)
    if not text.strip():
        raise ValueError(
            "the PDF holds no text: it is a scan; run character recognition (OCR) on it first"
        )
    return text


def from_docx(path: Path) -> str:
    """Return the text of a Word file in reading order, each table as a Markdown table.

    Args:
        path: The .docx file.

    Raises:
        ImportError: python-docx is not installed.
        ValueError: The file is damaged, or it holds no text.
    """
    try:
        import docx
        from docx.table import Table
    except ImportError:
        raise ImportError("reading Word needs python-docx: pip install -e '.[documents]'") from None
    try:
        document = docx.Document(str(path))
    except Exception as error:
        reason = f"{type(error).__name__}: {error}"
        raise ValueError(f"the Word file cannot be read ({reason}): save it again") from None
    parts = []
    for block in document.iter_inner_content():
        if isinstance(block, Table):
            parts.append(_markdown_table([[cell.text for cell in row.cells] for row in block.rows]))
        else:
            parts.append(block.text)
    text = "\n".join(part for part in parts if part.strip())
    if not text.strip():
        raise ValueError("the Word file holds no text")
    return text


def _page_text(page: Page) -> str:
    """Return the text of a page from top to bottom, with each table as a Markdown table."""
    parts = []
    top = 0.0
    for table in sorted(page.find_tables(), key=lambda table: table.bbox[1]):
        table_top, table_bottom = table.bbox[1], table.bbox[3]
        if table_top > top:
            parts.append(_text_between(page, top, table_top))
        parts.append(_markdown_table(table.extract()))
        top = max(top, min(table_bottom, page.height))
    if top < page.height:
        parts.append(_text_between(page, top, page.height))
    return "\n\n".join(part for part in parts if part)


def _text_between(page: Page, top: float, bottom: float) -> str:
    """Return the text of a page between two heights, in points from its top."""
    text = page.crop((0, top, page.width, bottom)).extract_text() or ""
    return _join_broken_lines(text)


def _join_broken_lines(text: str) -> str:
    """Join lines that were broken at the margin.

    A line was broken if it is about as long as the longest line, does not end with a punctuation
    mark of SENTENCE_ENDS, and the next line begins with a Chinese character.
    """
    lines = [line.strip() for line in text.split("\n")]
    full = FULL_LINE * max(map(len, lines))
    result = ""
    for line, following in zip(lines, [*lines[1:], ""], strict=True):
        result += line
        open_end = bool(line) and line[-1] not in SENTENCE_ENDS
        chinese_follows = "\u4e00" <= (following[:1] or " ") <= "\u9fff"
        if not (len(line) >= full and open_end and chinese_follows):
            result += "\n"
    return result.strip()


def _markdown_table(rows: list[list[str | None]]) -> str:
    """Return the rows of a table in Markdown; the first row becomes the header."""
    lines = []
    for row in rows:
        cells = []
        for cell in row:
            text = " ".join((cell or "").split("\n")).replace("|", "\\|")
            cells.append(text.strip())
        lines.append(f"| {' | '.join(cells)} |")
    rule = "|" + "---|" * len(rows[0])
    return "\n".join([lines[0], rule, *lines[1:]])
