"""Pages: the text of HTML and PDF documents (annual reports, announcements), tables kept as Markdown. The `documents` extra.

HTML goes through trafilatura, PDF through pdfplumber. Formulas come as the characters they are drawn with, scans have no text.
"""

from __future__ import annotations

from pathlib import Path


def from_html(source: str) -> str:
    """Return the main text of an HTML page as Markdown, without navigation; raise ValueError when it has none."""
    try:
        import trafilatura
    except ImportError:
        raise ImportError("reading HTML needs trafilatura: pip install -e '.[documents]'") from None
    text = trafilatura.extract(source, output_format="markdown", include_tables=True, include_comments=False, favor_recall=True)
    if not text:
        raise ValueError("no main text found in the HTML")
    return text


def from_pdf(path: Path) -> str:
    """Return the text of a PDF in reading order, a table as a Markdown table; raise ValueError for a broken file or one without text."""
    try:
        import pdfplumber
    except ImportError:
        raise ImportError("reading PDF needs pdfplumber: pip install -e '.[documents]'") from None
    try:
        with pdfplumber.open(path) as file:
            pages = [_page(page) for page in file.pages]
    except Exception as error:
        raise ValueError(f"the PDF cannot be read ({type(error).__name__}: {error})") from None
    text = "\n\n".join(page for page in pages if page)
    if not text.strip():
        raise ValueError("the PDF holds no text: it is a scan; run character recognition (OCR) on it first")
    return text


def _page(page: object) -> str:
    """Return the text of a page from top to bottom: what stands between tables as text, each table as Markdown."""
    parts, top = [], 0.0
    for table in sorted(page.find_tables(), key=lambda table: table.bbox[1]):
        if table.bbox[1] > top:
            parts.append(_joined(page.crop((0, top, page.width, table.bbox[1])).extract_text() or ""))
        parts.append(_markdown(table.extract()))
        top = max(top, min(table.bbox[3], page.height))
    if top < page.height:
        parts.append(_joined(page.crop((0, top, page.width, page.height)).extract_text() or ""))
    return "\n\n".join(part for part in parts if part)


def _joined(text: str) -> str:
    """Join lines that were broken at the margin: full lines of Chinese that end without a mark."""
    lines = [line.strip() for line in text.split("\n")]
    full = 0.85 * max(map(len, lines))
    result = ""
    for line, after in zip(lines, [*lines[1:], ""], strict=True):
        broken = len(line) >= full and line and line[-1] not in "。！？：；.!?:;" and "\u4e00" <= (after[:1] or " ") <= "\u9fff"
        result += line + ("" if broken else "\n")
    return result.strip()


def _markdown(rows: list[list[str | None]]) -> str:
    lines = ["| " + " | ".join((cell or "").replace("\n", "").replace("|", "\\|").strip() for cell in row) + " |" for row in rows]
    return "\n".join([lines[0], "|" + "---|" * len(rows[0]), *lines[1:]])
