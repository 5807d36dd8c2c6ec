"""Read the tables that people have: CSV with any separator, exports of pandas, Excel sheets.

    for line, row in read_excel(path, quarantine):    # 2, {"title": "a", "text": "..."}

A row that cannot be read is set aside with its line number. The rows after it are still read.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from finlab.data import file_text

SEPARATORS = (",", ";", "\t", "|")
LONG_CELL = 20  # characters; a name in a header is not longer
csv.field_size_limit(2**31 - 1)


# --- records -------------------------------------------------------------------------------------
def records(
    text: str, delimiter: str, name: str, quarantine: list[dict]
) -> Iterator[tuple[int, list[str]]]:
    """Yield (line, cells) of each record of a table.

    A quoted cell may hold newlines. If a quote is opened and never closed properly, only this line
    is set aside, and reading continues with the next line.

    Args:
        text: The text of the table.
        delimiter: The character between cells.
        name: Name of the file, for the lines that are set aside.
        quarantine: Lines that are set aside are added here, {where, reason, row}.

    Yields:
        (line number from 1, cells).
    """
    lines = file_text.lines_of(text)
    place = 0  # index of the next line
    while place < len(lines):
        start = place
        record = lines[place]
        place += 1
        if not record.strip():
            continue
        if '"' not in record:
            yield start + 1, record.split(delimiter)
            continue
        cells, place = _quoted(lines, start, delimiter)
        if cells is None:
            quarantine.append(
                {
                    "where": f"{name}:{start + 1}",
                    "reason": 'a quote (") is opened and not closed as it should: '
                    'close it, or write two ("") for one',
                    "row": record[:500],
                }
            )
            place = start + 1
            continue
        yield start + 1, cells


def _quoted(lines: list[str], start: int, delimiter: str) -> tuple[list[str] | None, int]:
    """Return the cells of a record with quotes, which may continue over several lines.

    Args:
        lines: All lines of the table.
        start: Index of the record's first line, from 0.
        delimiter: The character between cells.

    Returns:
        (the cells, or None if the record never ends properly; index of the line after it).
    """
    quotes = 0
    for end in range(start, len(lines)):
        quotes += lines[end].count('"')
        if quotes % 2:
            continue
        record = "\n".join(lines[start : end + 1])
        try:
            parsed = list(
                csv.reader(io.StringIO(record, newline=""), delimiter=delimiter, strict=True)
            )
        except csv.Error:
            return None, start + 1
        if len(parsed) != 1:
            return None, start + 1
        return parsed[0], end + 1
    return None, start + 1


# --- headers -------------------------------------------------------------------------------------
def find_delimiter(text: str, expected: str) -> str:
    """Return the character that separates the cells of a table.

    Args:
        text: The text of the table.
        expected: The separator of the file's format. If the first line does not have it, the most
            frequent one of SEPARATORS is returned.
    """
    first = next((line for line in file_text.lines_of(text) if line.strip()), "")
    if expected in first:
        return expected
    counts = {sign: first.count(sign) for sign in SEPARATORS}
    best = max(counts, key=lambda sign: counts[sign])
    return best if counts[best] else expected


def clean_header(cells: list[str], path: Path) -> list[str]:
    """Return the names in a header, without outer white space and byte order mark.

    A name is empty if pandas wrote a column of row numbers, or if the header ends with a comma.
    Columns without a name are not read.

    Args:
        cells: Cells of the first row.
        path: The file, for errors.

    Raises:
        ValueError: A name occurs twice.
    """
    names = [
        str(cell if cell is not None else "").strip().strip("\ufeff").strip() for cell in cells
    ]
    for name in names:
        if name and names.count(name) > 1:
            raise ValueError(
                f"{path}: the header names {name!r} twice: give each column its own name"
            )
    return names


def rows_of(
    table: Iterator[tuple[int, list[Any]]], path: Path, quarantine: list[dict]
) -> Iterator[tuple[int, dict[str, Any]]]:
    """Yield the rows of a table below its header.

    Args:
        table: (line number, cells) of each row, the header first.
        path: The file, for errors.
        quarantine: Rows with another number of cells than the header are added here.

    Yields:
        (line number, {name of the column: cell}).

    Raises:
        ValueError: The file is empty or has only a header, or the header names a column twice.
    """
    first = next(table, None)
    if first is None:
        raise ValueError(f"{path}: the file is empty")
    header = clean_header(first[1], path)
    read = 0
    for line, cells in table:
        read += 1
        # Only the rows end with a comma, or only the header does.
        if len(cells) == len(header) + 1 and not cells[-1]:
            cells = cells[:-1]
        if len(cells) == len(header) - 1 and not header[-1]:
            cells = [*cells, ""]
        if len(cells) != len(header):
            reason = f"has {len(cells)} fields and not the {len(header)} fields of the header"
            where = f"{path.name}:{line}"
            quarantine.append({"where": where, "reason": reason, "row": str(cells)[:500]})
            continue
        yield line, {name: cell for name, cell in zip(header, cells) if name}
    if not read:
        raise ValueError(f"{path}: the file holds a header and no rows")


def read_delimited(
    path: Path, encoding: str, expected: str, quarantine: list[dict]
) -> Iterator[tuple[int, dict[str, str]]]:
    """Read a text file with a table and a header.

    Args:
        path: The file.
        encoding: Encoding of the file, as in the card.
        expected: The separator of the file's format, see `find_delimiter`.
        quarantine: Lines that cannot be read are added here.

    Yields:
        (line number, {name of the column: cell}).
    """
    text = file_text.decode(path, encoding)
    delimiter = find_delimiter(text, expected)
    yield from rows_of(records(text, delimiter, path.name, quarantine), path, quarantine)


def read_excel(path: Path, quarantine: list[dict]) -> Iterator[tuple[int, dict[str, Any]]]:
    """Read the first sheet of an Excel file; its first row is the header.

    Args:
        path: The .xlsx file.
        quarantine: Rows with another number of cells than the header are added here.

    Yields:
        (row number from 1, {name of the column: cell}).

    Raises:
        ValueError: The file is not an Excel file, or its table is not valid, see `rows_of`.
    """
    import openpyxl

    try:
        book = openpyxl.load_workbook(path, read_only=True, data_only=True)
    except Exception as error:
        reason = str(error).split("\n")[0]
        raise ValueError(
            f"{path}: it is not an Excel file (.xlsx) that can be read ({reason}): save it again"
        ) from None
    try:
        yield from rows_of(_sheet(book.worksheets[0]), path, quarantine)
    finally:
        book.close()


def _sheet(sheet: Any) -> Iterator[tuple[int, list[Any]]]:
    """Yield (row number, cells as text) for each row of a sheet that is not empty."""
    empty = 0
    for number, cells in enumerate(sheet.iter_rows(values_only=True), 1):
        if not any(cell is not None and str(cell).strip() for cell in cells):
            empty += 1
            if empty > MAX_EMPTY_ROWS:
                return  # a sheet that is formatted to its end has a million empty rows
            continue
        empty = 0
        yield number, ["" if cell is None else str(cell) for cell in cells]


MAX_EMPTY_ROWS = 1000


def seems_headerless(names: list[str]) -> bool:
    """Tell whether a header looks like a row: one of its names is a long text."""
    return any(len(name) > LONG_CELL for name in names)
