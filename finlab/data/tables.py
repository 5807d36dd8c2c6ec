"""Tables as people have them: CSV with any separator, exports of pandas, Excel sheets.

    rows, header = parse(text, ",")    # [(2, {"title": "a", "text": "..."}), ...]

A row that cannot be read is set aside with its line, and never swallows the next one.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from finlab.data import file_text

SEPARATORS = (",", ";", "\t", "|")
LONG_CELL = 20  # characters: a header's names are shorter
csv.field_size_limit(2**31 - 1)


# --- records -------------------------------------------------------------------------------------
def records(
    text: str, delimiter: str, name: str, quarantine: list[dict]
) -> Iterator[tuple[int, list[str]]]:
    """Yield (line, cells) of each record of a table.

    A quoted cell may hold newlines. Where a quote is opened and never closed properly, that line
    alone is set aside, and reading goes on with the next.

    Args:
        text: The table.
        delimiter: Between cells.
        name: The file's, for what is set aside.
        quarantine: Such lines are added here.
    """
    lines = file_text.lines_of(text)
    # Where the next line with a quote is: a record without one needs no search.
    place = 0
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
    """Return the cells of a record that begins at a line and may run over several.

    Args:
        lines: Of the table.
        start: The record's first line, from 0 on.
        delimiter: Between cells.

    Returns:
        The cells, None where no such record ends properly; and the first line behind it.
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
    """Return what separates the cells of a table.

    Args:
        text: The table.
        expected: What its format says. Another one counts where the header has it and not this.
    """
    first = next((line for line in file_text.lines_of(text) if line.strip()), "")
    if expected in first:
        return expected
    counts = {sign: first.count(sign) for sign in SEPARATORS}
    best = max(counts, key=lambda sign: counts[sign])
    return best if counts[best] else expected


def clean_header(cells: list[str], path: Path) -> list[str]:
    """Return the names of a header, white space and byte order mark off.

    An empty name is a column of numbers that pandas wrote, or what stands behind a comma at the
    end; such columns are not read.

    Args:
        cells: The first row.
        path: The file, for errors.

    Raises:
        ValueError: A name stands there twice.
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
        table: (line, cells), the header first.
        path: The file.
        quarantine: Rows with another number of cells are added here.

    Yields:
        (line, {name: cell}).
    """
    first = next(table, None)
    if first is None:
        raise ValueError(f"{path}: the file is empty")
    header = clean_header(first[1], path)
    read = 0
    for line, cells in table:
        read += 1
        # A comma at the end of rows, or of the header, alone.
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
    """Read a table with a header; arguments as in `records` and `find_delimiter`."""
    text = file_text.decode(path, encoding)
    delimiter = find_delimiter(text, expected)
    yield from rows_of(records(text, delimiter, path.name, quarantine), path, quarantine)


def read_excel(path: Path, quarantine: list[dict]) -> Iterator[tuple[int, dict[str, Any]]]:
    """Read the first sheet of an Excel file; its first row is the header.

    Args:
        path: The file, for errors.
        quarantine: Rows with another number of cells are added here.

    Raises:
        ValueError: It is no Excel file.
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
    """Yield (row number, cells) of a sheet; empty rows are passed over, cells become text."""
    empty = 0
    for number, cells in enumerate(sheet.iter_rows(values_only=True), 1):
        if not any(cell is not None and str(cell).strip() for cell in cells):
            empty += 1
            if empty > MAX_EMPTY_ROWS:
                return  # a sheet that was formatted to its end has a million of them
            continue
        empty = 0
        yield number, ["" if cell is None else str(cell) for cell in cells]


MAX_EMPTY_ROWS = 1000


def seems_headerless(names: list[str]) -> bool:
    """Tell whether a header looks like a row: one of its names is a long text."""
    return any(len(name) > LONG_CELL for name in names)
