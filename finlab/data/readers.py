"""Readers: a file in, rows out. One entry in READERS for each format.

A reader yields `(place, row)`, where the place is a line number, `row 3` of a JSON array, or 0 for
a file that is one row. What it cannot read it adds to a quarantine with file, line and reason, and
goes on.
"""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import pyarrow
import pyarrow.parquet

from finlab.data import documents

Place = int | str
Rows = Iterator[tuple[Place, Any]]
COMPRESSION = {".gz": "gzip", ".zst": "zstd"}


@dataclass(frozen=True)
class Options:
    """What a data card says about reading its files.

    Attributes:
        encoding: The files' encoding.
        rows: Where the rows are in a JSON file, such as `data.*.context`; `*` is each item.
    """

    encoding: str = "utf-8-sig"
    rows: str = "*"


Reader = Callable[[Path, list[dict], Options], Rows]


# --- bytes and text ------------------------------------------------------------------------------
def _open(path: Path) -> BinaryIO:
    """Open a file for reading bytes, unpacked where its name ends in .gz or .zst."""
    compression = COMPRESSION.get(path.suffix)
    if compression is None:
        return open(path, "rb")
    return io.BufferedReader(pyarrow.input_stream(str(path), compression=compression))


def decode(path: Path, encoding: str) -> str:
    """Return the text of a file.

    Args:
        path: The file.
        encoding: As the card says; `utf-8` accepts a byte order mark.

    Raises:
        ValueError: The file has another encoding. The error says which, where that can be told.
    """
    with _open(path) as file:
        content = file.read()
    try:
        return content.decode(encoding)
    except UnicodeDecodeError as error:
        raise ValueError(
            f"{path}: not {_encoding_name(encoding)} at byte {error.start}{_encoding_hint(content)}"
        ) from None


def _encoding_name(encoding: str) -> str:
    """Return an encoding's name as an error shows it: in capitals, without Python's `-SIG`."""
    return encoding.upper().removesuffix("-SIG")


def _encoding_hint(content: bytes) -> str:
    """Return the encoding that a file seems to have, as advice for the error."""
    try:
        content.decode("gb18030")
    except UnicodeDecodeError:
        return ": write its encoding in the card, as in `encoding: utf-16`"
    return ": it reads as GB18030; write `encoding: gb18030` in the card"


# --- the readers ---------------------------------------------------------------------------------
def read_json_lines(path: Path, quarantine: list[dict], options: Options) -> Rows:
    """Read one JSON value a line.

    Args:
        path: The file.
        quarantine: Lines that are no JSON are added here, with their place and reason.
        options: Of the card.

    Yields:
        (place, value).
    """
    with _open(path) as file:
        for number, line in enumerate(file, 1):
            if not line.strip():
                continue
            try:
                row = json.loads(line.decode(options.encoding))
            except ValueError as error:
                if isinstance(error, json.JSONDecodeError):
                    reason = f"not JSON: {error.msg}"
                else:
                    reason = f"not {_encoding_name(options.encoding)}{_encoding_hint(line)}"
                text = line.decode("utf-8", "replace").strip()
                quarantine.append({"where": f"{path.name}:{number}", "reason": reason, "row": text})
                continue
            yield number, row


def read_json(path: Path, quarantine: list[dict], options: Options) -> Rows:
    """Read the rows of a JSON file, found by `options.rows`.

    Many files named .json hold JSON lines; they are read as such.

    Args:
        path: The file.
        quarantine: Lines of such a file that are no JSON are added here.
        options: `rows` is the route to the rows.

    Yields:
        (place, value).

    Raises:
        ValueError: It is an array that is broken, or has nothing at the end of the route.
    """
    text = decode(path, options.encoding)
    try:
        content = json.loads(text)
    except ValueError as error:
        if not text.lstrip().startswith("["):
            yield from read_json_lines(path, quarantine, options)
            return
        raise ValueError(
            f"{path}: the JSON array is broken ({error}): mend the file, or write it as JSON lines"
        ) from None
    for number, row in enumerate(_descend(content, options.rows.split(".")), 1):
        yield f"row {number}", row


def _descend(value: Any, route: list[str]) -> Iterator[Any]:
    """Yield what lies at the end of a route such as ["data", "*", "context"].

    Args:
        value: What was read.
        route: Keys, places in a list, and `*` for every element of a list or mapping.
    """
    if not route:
        yield value
        return
    first, rest = route[0], route[1:]
    if first == "*":
        items = value if isinstance(value, list) else value.values()
        for item in items:
            yield from _descend(item, rest)
        return
    try:
        inner = value[int(first) if first.isdigit() else first]
    except (KeyError, IndexError, TypeError):
        raise ValueError(
            f"the JSON has no '{first}' where the card's `rows` looks for it"
        ) from None
    yield from _descend(inner, rest)


def _read_table(path: Path, quarantine: list[dict], options: Options, delimiter: str) -> Rows:
    """Read a table with a header, and set aside lines with another number of cells."""
    csv.field_size_limit(2**31 - 1)
    content = io.StringIO(decode(path, options.encoding), newline="")
    # Fields beyond the header land under "", fields that are missing hold None.
    reader = csv.DictReader(content, delimiter=delimiter, restkey="", restval=None)
    for row in reader:
        if "" in row or None in row.values():
            reason = f"has not the {len(reader.fieldnames)} fields of the header"
            where = f"{path.name}:{reader.line_num}"
            quarantine.append({"where": where, "reason": reason, "row": str(row)})
        else:
            yield reader.line_num, row


def read_csv(path: Path, quarantine: list[dict], options: Options) -> Rows:
    """Read comma-separated values with a header."""
    return _read_table(path, quarantine, options, ",")


def read_tsv(path: Path, quarantine: list[dict], options: Options) -> Rows:
    """Read tab-separated values with a header."""
    return _read_table(path, quarantine, options, "\t")


def read_arrow(path: Path, quarantine: list[dict], options: Options) -> Rows:
    """Read a folder that `datasets` has saved."""
    import datasets

    yield from enumerate(datasets.load_from_disk(str(path)), 1)


def read_parquet(path: Path, quarantine: list[dict], options: Options) -> Rows:
    """Read a Parquet file, a thousand rows at a time."""
    number = 0
    for batch in pyarrow.parquet.ParquetFile(path).iter_batches(1000):
        for row in batch.to_pylist():
            number += 1
            yield number, row


def read_text(path: Path, quarantine: list[dict], options: Options) -> Rows:
    """Read a text file, one document a line."""
    for number, line in enumerate(decode(path, options.encoding).splitlines(), 1):
        if line.strip():
            yield number, line


def read_markdown(path: Path, quarantine: list[dict], options: Options) -> Rows:
    """Read a Markdown file as one document."""
    yield 0, decode(path, options.encoding)


def read_html(path: Path, quarantine: list[dict], options: Options) -> Rows:
    """Read the main text of an HTML page as one document."""
    page = decode(path, options.encoding)
    yield from _read_document(path, quarantine, lambda: documents.from_html(page))


def read_pdf(path: Path, quarantine: list[dict], options: Options) -> Rows:
    """Read the text of a PDF as one document."""
    yield from _read_document(path, quarantine, lambda: documents.from_pdf(path))


def _read_document(path: Path, quarantine: list[dict], read: Callable[[], str]) -> Rows:
    """Yield a whole document as one row, or set it aside where it cannot be read."""
    try:
        yield 0, read()
    except ValueError as error:
        quarantine.append({"where": path.name, "reason": str(error), "row": str(path)})


READERS: dict[str, Reader] = {
    "jsonl": read_json_lines,
    "json": read_json,
    "csv": read_csv,
    "tsv": read_tsv,
    "text": read_text,
    "markdown": read_markdown,
    "parquet": read_parquet,
    "arrow": read_arrow,
    "html": read_html,
    "pdf": read_pdf,
}
