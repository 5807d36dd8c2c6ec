"""Readers, which read a file and yield rows. READERS has one entry for each format.

A reader yields `(place, row)`. The place is a line number, text such as `row 3` for a JSON array,
or 0 for a file that is a single row. A row that cannot be read is added to a quarantine with file,
line and reason, and reading continues.
"""

from __future__ import annotations

import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path

import pyarrow
import pyarrow.parquet

from finlab.data import documents, file_text, json_files, tables
from finlab.data.file_text import Options, Rows, decode

Reader = Callable[[Path, list[dict], Options], Rows]


# --- the readers ---------------------------------------------------------------------------------
def read_csv(path: Path, quarantine: list[dict], options: Options) -> Rows:
    """Read a table with a header, whose values are separated by commas, semicolons or tabs.

    Args:
        path: The file.
        quarantine: Rows that cannot be read are added here, {where, reason, row}.
        options: The card's settings for reading.
    """
    yield from tables.read_delimited(path, options.encoding, ",", quarantine)


def read_tsv(path: Path, quarantine: list[dict], options: Options) -> Rows:
    """Read tab-separated values with a header.

    Args:
        path: The file.
        quarantine: Rows that cannot be read are added here, {where, reason, row}.
        options: The card's settings for reading.
    """
    yield from tables.read_delimited(path, options.encoding, "\t", quarantine)


def read_xlsx(path: Path, quarantine: list[dict], options: Options) -> Rows:
    """Read the first sheet of an Excel file.

    Args:
        path: The file.
        quarantine: Rows that cannot be read are added here, {where, reason, row}.
        options: The card's settings for reading.
    """
    yield from tables.read_excel(path, quarantine)


def read_arrow(path: Path, quarantine: list[dict], options: Options) -> Rows:
    """Read a folder that `datasets` has saved.

    Args:
        path: The folder.
        quarantine: Rows that cannot be read are added here, {where, reason, row}.
        options: The card's settings for reading.
    """
    import datasets

    try:
        rows = datasets.load_from_disk(str(path))
    except (OSError, ValueError) as error:
        reason = str(error).split("\n")[0]
        raise ValueError(f"{path}: no data set that `datasets` saved ({reason})") from None
    yield from enumerate(rows, 1)


def read_parquet(path: Path, quarantine: list[dict], options: Options) -> Rows:
    """Read a Parquet file, a thousand rows at a time.

    Args:
        path: The file.
        quarantine: Rows that cannot be read are added here, {where, reason, row}.
        options: The card's settings for reading.
    """
    number = 0
    try:
        for batch in pyarrow.parquet.ParquetFile(path).iter_batches(1000):
            for row in batch.to_pylist():
                number += 1
                yield number, row
    except (pyarrow.ArrowException, OSError) as error:
        reason = str(error).split("\n")[0]
        raise ValueError(
            f"{path}: it is not a whole Parquet file (row {number + 1}: {reason}): "
            "get it again, or correct `format:` in the card"
        ) from None


def read_text(path: Path, quarantine: list[dict], options: Options) -> Rows:
    """Read a text file, one document a line.

    Args:
        path: The file.
        quarantine: Rows that cannot be read are added here, {where, reason, row}.
        options: The card's settings for reading.
    """
    for number, line in enumerate(file_text.lines_of(decode(path, options.encoding)), 1):
        if line.strip():
            yield number, line


def read_markdown(path: Path, quarantine: list[dict], options: Options) -> Rows:
    """Read a Markdown file as one document.

    Args:
        path: The file.
        quarantine: Rows that cannot be read are added here, {where, reason, row}.
        options: The card's settings for reading.
    """
    yield 0, decode(path, options.encoding)


def read_html(path: Path, quarantine: list[dict], options: Options) -> Rows:
    """Read the main text of an HTML page as one document.

    Args:
        path: The file.
        quarantine: Rows that cannot be read are added here, {where, reason, row}.
        options: The card's settings for reading.
    """
    page = decode(path, options.encoding)
    yield from _read_document(path, quarantine, lambda: documents.from_html(page))


def read_pdf(path: Path, quarantine: list[dict], options: Options) -> Rows:
    """Read the text of a PDF as one document.

    Args:
        path: The file.
        quarantine: Rows that cannot be read are added here, {where, reason, row}.
        options: The card's settings for reading.
    """
    yield from _read_document(path, quarantine, lambda: documents.from_pdf(path))


def read_docx(path: Path, quarantine: list[dict], options: Options) -> Rows:
    """Read a Word file (.docx) as one document.

    Args:
        path: The file.
        quarantine: Rows that cannot be read are added here, {where, reason, row}.
        options: The card's settings for reading.
    """
    yield from _read_document(path, quarantine, lambda: documents.from_docx(path))


def _read_document(path: Path, quarantine: list[dict], read: Callable[[], str]) -> Rows:
    """Yield a whole document as one row, or set it aside if it cannot be read.

    Args:
        path: The file, for the quarantine.
        quarantine: The document is added here if it cannot be read.
        read: Returns the text of the document.
    """
    try:
        yield 0, read()
    except ValueError as error:
        quarantine.append({"where": path.name, "reason": str(error), "row": str(path)})


READERS: dict[str, Reader] = {
    "jsonl": json_files.read_lines,
    "json": json_files.read,
    "csv": read_csv,
    "tsv": read_tsv,
    "xlsx": read_xlsx,
    "text": read_text,
    "markdown": read_markdown,
    "parquet": read_parquet,
    "arrow": read_arrow,
    "html": read_html,
    "pdf": read_pdf,
    "docx": read_docx,
}


# --- packed files --------------------------------------------------------------------------------
def unpack(path: Path, folder: Path) -> list[Path]:
    """Unpack a zip file.

    Args:
        path: The zip file.
        folder: The folder to unpack into.

    Returns:
        Paths of the unpacked files, sorted, without hidden files of macOS.

    Raises:
        ValueError: The file is damaged, or it unpacks to more than MAX_RATIO times its size, see
            `file_text`.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            size = sum(member.file_size for member in archive.infolist())
            packed = path.stat().st_size
            if size > max(file_text.MAX_UNPACKED, file_text.MAX_RATIO * packed):
                raise ValueError(
                    f"{path}: it unpacks to {size:,} bytes, {size // packed} times its size: "
                    "check where it comes from, or unpack it yourself"
                )
            archive.extractall(folder)
    except (zipfile.BadZipFile, zlib.error, OSError, EOFError, RuntimeError) as error:
        raise ValueError(f"{path}: it cannot be unpacked ({error}): get it again") from None
    hidden = ("__MACOSX", ".DS_Store")
    members = [member for member in folder.rglob("*") if member.is_file()]
    return sorted(member for member in members if not any(name in member.parts for name in hidden))
