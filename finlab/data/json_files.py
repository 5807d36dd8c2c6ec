"""Read JSON files and JSON lines, in the forms that people use."""

from __future__ import annotations

import codecs
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow

from finlab.data import file_text
from finlab.data.file_text import Options, Rows, decode

MAX_LINE = 64 << 20  # bytes; a longer line of JSON is set aside


def parse(text: str) -> Any:
    """Return the value of a JSON text.

    Raises:
        ValueError: The text is not JSON, or it is nested too deeply for Python.
    """
    try:
        return json.loads(text)
    except RecursionError:
        raise ValueError("the JSON is nested too deeply") from None


def read_lines(path: Path, quarantine: list[dict], options: Options) -> Rows:
    """Read JSON lines, with one JSON value on each line; values on several lines are read too.

    Args:
        path: The file.
        quarantine: Lines that are not JSON are added here, {where, reason, row}.
        options: The card's settings for reading; `encoding` is used.

    Yields:
        (line number, value).
    """
    start = file_text.first_bytes(path)
    encoding = file_text.encoding_of(start, options.encoding)
    if codecs.lookup(encoding).name.startswith(("utf-16", "utf-32")):
        # In these encodings a newline is more than one byte, so the file is decoded first.
        text = decode(path, options.encoding)
        lines = enumerate((line.encode() for line in file_text.lines_of(text)), 1)
        yield from _json_lines(path, quarantine, "utf-8", lines)
        return
    if _is_pretty_printed(path, encoding):
        yield from _json_values(path, quarantine, options)
        return
    yield from _json_lines(path, quarantine, encoding, _lines(path, quarantine))


def _lines(path: Path, quarantine: list[dict]) -> Iterator[tuple[int, bytes]]:
    """Yield (line number, line) of a file; of a damaged file, the lines before the damage.

    Args:
        path: The file.
        quarantine: A damaged file is added here, {where, reason, row}.
    """
    number = 0
    try:
        with file_text.open_bytes(path) as file:
            while line := file.readline(MAX_LINE):
                number += 1
                yield number, line
    except (OSError, EOFError, pyarrow.ArrowException) as error:
        reason = f"the file is damaged behind line {number} ({error}): get it again"
        quarantine.append({"where": path.name, "reason": reason, "row": ""})


def _json_lines(
    path: Path, quarantine: list[dict], encoding: str, lines: Iterator[tuple[int, bytes]]
) -> Rows:
    """Yield the values of lines of JSON.

    Args:
        path: The file, for the quarantine.
        quarantine: Lines that are not JSON are added here, {where, reason, row}.
        encoding: Encoding of the lines.
        lines: (line number, bytes) of each line.
    """
    for number, line in lines:
        if not line.strip():
            continue
        try:
            row = parse(line.decode(encoding))
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
    """Tell whether a file begins with a JSON object that is written over several lines.

    Args:
        path: The file.
        encoding: Encoding of the file.
    """
    with file_text.open_bytes(path) as file:
        first = file.readline(MAX_LINE).decode(encoding, "replace").strip().lstrip("\ufeff")
    return first in ("{", "[{")


def _json_values(path: Path, quarantine: list[dict], options: Options) -> Rows:
    """Yield (line number, value) of the JSON values in a file; a value may take several lines.

    Args:
        path: The file.
        quarantine: The rest of the file from an invalid value on is added here.
        options: The card's settings for reading; `encoding` is used.
    """
    text = decode(path, options.encoding)
    decoder = json.JSONDecoder()
    place = counted = 0
    line = 1
    while place < len(text):
        while place < len(text) and text[place].isspace():
            place += 1
        if place == len(text):
            return
        line += text.count("\n", counted, place)
        counted = place
        try:
            value, place = decoder.raw_decode(text, place)
        except (ValueError, RecursionError) as error:
            reason = f"not JSON from here on: {getattr(error, 'msg', 'nested too deeply')}"
            row = text[place : place + 500]
            quarantine.append({"where": f"{path.name}:{line}", "reason": reason, "row": row})
            return
        yield line, value


def read(path: Path, quarantine: list[dict], options: Options) -> Rows:
    """Read the rows of a JSON file, at the route `options.rows`.

    Many files named .json hold JSON lines; such a file is read with `read_lines`.

    Args:
        path: The file.
        quarantine: Lines of a file of JSON lines that are not JSON are added here.
        options: The card's settings for reading; `rows` is the route to the rows.

    Yields:
        (place, value); the place is text such as `row 3`, or the line number for JSON lines.

    Raises:
        ValueError: The JSON array is not valid, or there is nothing at the end of the route.
    """
    text = decode(path, options.encoding)
    try:
        content = parse(text)
    except ValueError as error:
        lines = [line for line in file_text.lines_of(text) if line.strip()]
        if not text.lstrip().startswith("[") or (len(lines) > 1 and _is_json(lines[0])):
            yield from read_lines(path, quarantine, options)
            return
        raise ValueError(
            f"{path}: the JSON array is broken ({error}): fix the file, or write it as JSON lines"
        ) from None
    route = options.rows.split(".")
    if options.rows == "*" and isinstance(content, dict):
        content, route = _rows_of_object(path, content)
    for number, row in enumerate(_descend(content, route), 1):
        yield f"row {number}", row


def _is_json(text: str) -> bool:
    """Tell whether a text is JSON."""
    try:
        parse(text)
    except ValueError:
        return False
    return True


def _rows_of_object(path: Path, content: dict) -> tuple[Any, list[str]]:
    """Find the rows in a JSON object, if the card gives no route to them.

    If all values are objects, each value is a row. If there is exactly one list of objects, its
    elements are the rows. If there is none, or the object is a dialogue, the object is a row.

    Args:
        path: The file, for the error.
        content: The parsed object.

    Returns:
        (the value that holds the rows, the route from it to each row).

    Raises:
        ValueError: The object has several lists of objects, so it is not clear where the rows are.
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
    """Yield the values at the end of a route such as ["data", "*", "context"].

    Args:
        value: The parsed JSON at which the route begins.
        route: Keys, indices of list elements, and `*` for every element of a list or mapping.

    Raises:
        ValueError: The JSON has no such route.
    """
    if not route:
        yield value
        return
    first, rest = route[0], route[1:]
    if first == "*":
        if not isinstance(value, list | dict):
            raise ValueError(
                f"the JSON holds {type(value).__name__} where the card's `rows` looks for rows"
            )
        items = value if isinstance(value, list) else value.values()
        for item in items:
            yield from _descend(item, rest)
        return
    try:
        inner = value[int(first) if first.isdigit() and isinstance(value, list) else first]
    except (KeyError, IndexError, TypeError):
        raise ValueError(
            f"the JSON has no '{first}' where the card's `rows` looks for it"
        ) from None
    yield from _descend(inner, rest)
