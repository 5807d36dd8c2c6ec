"""Readers of JSON and of JSON lines, in the forms in which people have them."""

from __future__ import annotations

import codecs
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow

from finlab.data import file_text
from finlab.data.file_text import Options, Rows, decode

MAX_LINE = 64 << 20  # bytes: a longer line of JSON is set aside


def parse(text: str) -> Any:
    """Return the value of JSON text.

    Raises:
        ValueError: It is no JSON, or nested deeper than Python can follow.
    """
    try:
        return json.loads(text)
    except RecursionError:
        raise ValueError("the JSON is nested too deeply") from None


def read_lines(path: Path, quarantine: list[dict], options: Options) -> Rows:
    """Read one JSON value a line; values that run over several lines are read too.

    Args:
        path: The file.
        quarantine: Lines that are no JSON are added here, with their place and reason.
        options: Of the card.

    Yields:
        (place, value).
    """
    start = file_text.first_bytes(path)
    encoding = file_text.encoding_of(start, options.encoding)
    if codecs.lookup(encoding).name.startswith(("utf-16", "utf-32")):
        # A newline is more than one byte there.
        text = decode(path, options.encoding)
        lines = enumerate((line.encode() for line in file_text.lines_of(text)), 1)
        yield from _json_lines(path, quarantine, "utf-8", lines)
        return
    if _is_pretty_printed(path, encoding):
        yield from _json_values(path, quarantine, options)
        return
    yield from _json_lines(path, quarantine, encoding, _lines(path, quarantine))


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
        reason = f"the file is damaged behind line {number} ({error}): get it again"
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
