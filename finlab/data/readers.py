"""Readers: a file in, rows out. One entry in READERS for each format.

A reader yields `(place, row)`, where the place is a line number, `row 3` of a JSON array, or 0 for
a file that is one row. What it cannot read it adds to a quarantine with file, line and reason, and
goes on.
"""

from __future__ import annotations

import json
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.parquet

from finlab.data import documents, file_text, tables
from finlab.data.file_text import decode

Place = int | str
Rows = Iterator[tuple[Place, Any]]
MAX_LINE = 64 << 20  # bytes: a longer line of JSON is set aside


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


# --- the readers ---------------------------------------------------------------------------------
def parse_json(text: str) -> Any:
    """Return the value of JSON text.

    Raises:
        ValueError: It is no JSON, or nested deeper than Python can follow.
    """
    try:
        return json.loads(text)
    except RecursionError:
        raise ValueError("the JSON is nested too deeply") from None


def read_json_lines(path: Path, quarantine: list[dict], options: Options) -> Rows:
    """Read one JSON value a line; values that run over several lines are read too.

    Args:
        path: The file.
        quarantine: Lines that are no JSON are added here, with their place and reason.
        options: Of the card.

    Yields:
        (place, value).
    """
    with file_text.open_bytes(path) as file:
        start = file.read(4)
    if file_text.encoding_of(start, options.encoding).startswith(("utf-16", "utf-32", "utf_")):
        # A newline is more than one byte there.
        text = decode(path, options.encoding)
        lines = enumerate((line.encode() for line in file_text.lines_of(text)), 1)
        yield from _json_lines(path, quarantine, "utf-8", lines)
        return
    if _is_pretty_printed(path, options.encoding):
        yield from _json_values(path, quarantine, options)
        return
    yield from _json_lines(path, quarantine, options.encoding, _lines(path, quarantine))


def _lines(path: Path, quarantine: list[dict]) -> Iterator[tuple[int, bytes]]:
    """Yield (number, line) of a file; where it is damaged, what comes before is yielded.

    Args:
        path: The file.
        quarantine: What cannot be read is added here.
    """
    number = 0
    try:
        with file_text.open_bytes(path) as file:
            while line := file.readline(MAX_LINE):
                number += 1
                yield number, line
    except (OSError, EOFError, pyarrow.ArrowException) as error:
        reason = f"the file is damaged behind line {number} ({error}): get it anew"
        quarantine.append({"where": path.name, "reason": reason, "row": ""})


def _json_lines(
    path: Path, quarantine: list[dict], encoding: str, lines: Iterator[tuple[int, bytes]]
) -> Rows:
    """Yield the values of lines of JSON.

    Args:
        path: The file.
        quarantine: What cannot be read is added here.
        encoding: Of the file.
        lines: (number, bytes).
    """
    for number, line in lines:
        if not line.strip():
            continue
        try:
            row = parse_json(line.decode(encoding))
        except ValueError as error:
            if isinstance(error, UnicodeDecodeError):
                name = file_text.encoding_name(encoding)
                reason = f"not {name}{file_text.hint(line)}"
            else:
                reason = f"not JSON: {getattr(error, 'msg', error)}"
            text = line[:2000].decode("utf-8", "replace").strip()
            quarantine.append({"where": f"{path.name}:{number}", "reason": reason, "row": text})
            continue
        yield number, row


def _is_pretty_printed(path: Path, encoding: str) -> bool:
    """Tell whether a file begins with a JSON object that runs over several lines.

    Args:
        path: The file.
        encoding: Of the file.
    """
    with file_text.open_bytes(path) as file:
        first = file.readline(MAX_LINE).decode(encoding, "replace").strip().lstrip("\ufeff")
    return first in ("{", "[{")


def _json_values(path: Path, quarantine: list[dict], options: Options) -> Rows:
    """Yield the values of a file in which JSON values follow each other, whatever their lines.

    Args:
        path: The file.
        quarantine: What cannot be read is added here.
        options: Of the card.
    """
    text = decode(path, options.encoding)
    decoder = json.JSONDecoder()
    place = 0
    while place < len(text):
        while place < len(text) and text[place].isspace():
            place += 1
        if place == len(text):
            return
        line = text.count("\n", 0, place) + 1
        try:
            value, place = decoder.raw_decode(text, place)
        except (ValueError, RecursionError) as error:
            reason = f"not JSON from here on: {getattr(error, 'msg', 'nested too deeply')}"
            row = text[place : place + 500]
            quarantine.append({"where": f"{path.name}:{line}", "reason": reason, "row": row})
            return
        yield line, value


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
        content = parse_json(text)
    except ValueError as error:
        lines = [line for line in file_text.lines_of(text) if line.strip()]
        if not text.lstrip().startswith("[") or (len(lines) > 1 and _is_json(lines[0])):
            yield from read_json_lines(path, quarantine, options)
            return
        raise ValueError(
            f"{path}: the JSON array is broken ({error}): mend the file, or write it as JSON lines"
        ) from None
    route = options.rows.split(".")
    if options.rows == "*" and isinstance(content, dict):
        content, route = _rows_of_object(path, content)
    for number, row in enumerate(_descend(content, route), 1):
        yield f"row {number}", row


def _is_json(text: str) -> bool:
    """Tell whether a text is JSON."""
    try:
        parse_json(text)
    except ValueError:
        return False
    return True


def _rows_of_object(path: Path, content: dict) -> tuple[Any, list[str]]:
    """Return what of a JSON object holds its rows, and the route from there to each.

    An object of objects holds a row under each key; one with a single list of objects holds them
    there; one of plain values is itself a row.

    Args:
        path: The file.
        content: The parsed object.

    Raises:
        ValueError: It has several lists, so it cannot be told which are the rows.
    """
    values = list(content.values())
    if values and all(isinstance(value, dict) for value in values):
        return content, ["*"]
    lists = []
    for key, value in content.items():
        if isinstance(value, list) and value and all(isinstance(each, dict) for each in value):
            lists.append(key)
    known = {"messages", "conversations", "history", "tools"}
    if not lists or known & set(content):
        return [content], ["*"]
    if len(lists) > 1:
        raise ValueError(
            f"{path}: the JSON object has lists under {', '.join(lists)}: "
            f"say in the card which are the rows, as in `rows: {lists[0]}.*`"
        )
    return content[lists[0]], ["*"]


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


def read_csv(path: Path, quarantine: list[dict], options: Options) -> Rows:
    """Read values separated by commas (or semicolons, or tabs) with a header.

    Args:
        path: The file.
        quarantine: What cannot be read is added here.
        options: Of the card.
    """
    yield from tables.read_delimited(path, options.encoding, ",", quarantine)


def read_tsv(path: Path, quarantine: list[dict], options: Options) -> Rows:
    """Read tab-separated values with a header.

    Args:
        path: The file.
        quarantine: What cannot be read is added here.
        options: Of the card.
    """
    yield from tables.read_delimited(path, options.encoding, "\t", quarantine)


def read_xlsx(path: Path, quarantine: list[dict], options: Options) -> Rows:
    """Read the first sheet of an Excel file.

    Args:
        path: The file.
        quarantine: What cannot be read is added here.
        options: Of the card.
    """
    yield from tables.read_excel(path, quarantine)


def read_arrow(path: Path, quarantine: list[dict], options: Options) -> Rows:
    """Read a folder that `datasets` has saved.

    Args:
        path: The file.
        quarantine: What cannot be read is added here.
        options: Of the card.
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
        quarantine: What cannot be read is added here.
        options: Of the card.
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
            f"{path}: it is no whole Parquet file (row {number + 1}: {reason}): "
            "get it anew, or correct `format:` in the card"
        ) from None


def read_text(path: Path, quarantine: list[dict], options: Options) -> Rows:
    """Read a text file, one document a line.

    Args:
        path: The file.
        quarantine: What cannot be read is added here.
        options: Of the card.
    """
    for number, line in enumerate(file_text.lines_of(decode(path, options.encoding)), 1):
        if line.strip():
            yield number, line


def read_markdown(path: Path, quarantine: list[dict], options: Options) -> Rows:
    """Read a Markdown file as one document.

    Args:
        path: The file.
        quarantine: What cannot be read is added here.
        options: Of the card.
    """
    yield 0, decode(path, options.encoding)


def read_html(path: Path, quarantine: list[dict], options: Options) -> Rows:
    """Read the main text of an HTML page as one document.

    Args:
        path: The file.
        quarantine: What cannot be read is added here.
        options: Of the card.
    """
    page = decode(path, options.encoding)
    yield from _read_document(path, quarantine, lambda: documents.from_html(page))


def read_pdf(path: Path, quarantine: list[dict], options: Options) -> Rows:
    """Read the text of a PDF as one document.

    Args:
        path: The file.
        quarantine: What cannot be read is added here.
        options: Of the card.
    """
    yield from _read_document(path, quarantine, lambda: documents.from_pdf(path))


def read_docx(path: Path, quarantine: list[dict], options: Options) -> Rows:
    """Read a Word file (.docx) as one document.

    Args:
        path: The file.
        quarantine: What cannot be read is added here.
        options: Of the card.
    """
    yield from _read_document(path, quarantine, lambda: documents.from_docx(path))


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
        path: The file.
        folder: Where its members go.

    Returns:
        The members, sorted.

    Raises:
        ValueError: It is damaged, or unpacks to a size beyond sense.
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
    except (zipfile.BadZipFile, OSError, RuntimeError, NotImplementedError) as error:
        raise ValueError(f"{path}: it cannot be unpacked ({error}): get it anew") from None
    hidden = ("__MACOSX", ".DS_Store")
    members = [member for member in folder.rglob("*") if member.is_file()]
    return sorted(member for member in members if not any(name in member.parts for name in hidden))
