"""Read files as text: unpack and decode them, and refuse files that unpack to a huge size."""

from __future__ import annotations

import codecs
import io
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import pyarrow

COMPRESSION = {".gz": "gzip", ".zst": "zstd", ".bz2": "bz2", ".lz4": "lz4"}
MAX_RATIO = 200  # unpacked size over packed size; the ratio of text is 3 to 20
MAX_UNPACKED = 100_000_000  # bytes; below this size the ratio is not checked
CHUNK = 1 << 20
BYTE_ORDER_MARKS = (
    (codecs.BOM_UTF8, "utf-8-sig"),
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)
# Files that are not text: their first bytes, what they are, and the format to write in the card.
MAGIC = (
    (b"PK\x03\x04", "an Excel, Word or zip file", "xlsx, docx, or leave the name ending in .zip"),
    (b"%PDF", "a PDF", "pdf"),
    (b"PAR1", "a Parquet file", "parquet"),
    (b"\xd0\xcf\x11\xe0", "an old Excel or Word file (.xls, .doc)", "xlsx after saving it so"),
    (b"\x1f\x8b", "a gzip file", "the same, with a name ending in .gz"),
)

# A reader yields (place, row). The place is a line number, or text such as `row 3` for an array.
Place = int | str
Rows = Iterator[tuple[Place, Any]]


@dataclass(frozen=True)
class Options:
    """The settings of a data card that say how to read its files.

    Attributes:
        encoding: Encoding of the files, a name that Python knows.
        rows: Route to the rows in a JSON file, such as `data.*.context`; `*` means each item.
    """

    encoding: str = "utf-8-sig"
    rows: str = "*"


def open_bytes(path: Path) -> BinaryIO:
    """Open a file to read its bytes; unpack it if its name ends in .gz, .zst, .bz2 or .lz4."""
    compression = COMPRESSION.get(path.suffix)
    if compression is None:
        return open(path, "rb")
    return io.BufferedReader(pyarrow.input_stream(str(path), compression=compression))


def read_bytes(path: Path) -> bytes:
    """Return the content of a file, unpacked.

    Raises:
        ValueError: The path is a folder, or the file is damaged, or it unpacks to more than
            MAX_RATIO times its size.
    """
    if path.is_dir():
        raise ValueError(f"{path} is a folder, and a file is wanted: name its files, as in */*.csv")
    allowed = max(MAX_UNPACKED, MAX_RATIO * path.stat().st_size)
    parts = []
    size = 0
    try:
        with open_bytes(path) as file:
            while chunk := file.read(CHUNK):
                size += len(chunk)
                if path.suffix in COMPRESSION and size > allowed:
                    raise ValueError(
                        f"{path}: it unpacks to more than {MAX_RATIO} times its size: "
                        "check where it comes from, or unpack it yourself"
                    )
                parts.append(chunk)
    except (OSError, EOFError, pyarrow.ArrowException) as error:
        raise ValueError(f"{path}: it cannot be unpacked ({error}): get the file again") from None
    return b"".join(parts)


def first_bytes(path: Path) -> bytes:
    """Return the first four bytes of a file, unpacked.

    Raises:
        ValueError: The path is a folder, or the file cannot be unpacked.
    """
    if path.is_dir():
        raise ValueError(f"{path} is a folder, and a file is wanted: name its files, as in */*.csv")
    try:
        with open_bytes(path) as file:
            return file.read(4)
    except (OSError, EOFError, pyarrow.ArrowException) as error:
        raise ValueError(f"{path}: it cannot be unpacked ({error}): get the file again") from None


def encoding_of(content: bytes, encoding: str) -> str:
    """Return the encoding to read with: from the byte order mark if there is one.

    Args:
        content: The file's content, or at least its first bytes.
        encoding: The encoding in the card, used if there is no byte order mark.
    """
    for mark, name in BYTE_ORDER_MARKS:
        if content.startswith(mark):
            return name
    return encoding


def decode(path: Path, encoding: str) -> str:
    """Return the text of a file.

    Args:
        path: The file.
        encoding: The encoding in the card. A byte order mark in the file overrides it.

    Raises:
        ValueError: The file has another encoding, or is not text. The error says what the file
            seems to be.
    """
    content = read_bytes(path)
    used = encoding_of(content, encoding)
    try:
        return content.decode(used)
    except UnicodeDecodeError as error:
        name = encoding_name(used)
        raise ValueError(f"{path}: not {name} at byte {error.start}{hint(content)}") from None


def encoding_name(encoding: str) -> str:
    """Return the name of an encoding for an error: in capitals, without Python's `-SIG`."""
    return encoding.upper().removesuffix("-SIG")


def hint(content: bytes) -> str:
    """Return what a file seems to be and what to write in the card, for an error message."""
    for mark, name, remedy in MAGIC:
        if content.startswith(mark):
            return f": it is {name}; write `format: {remedy}` in the card"
    try:
        content.decode("gb18030")
    except UnicodeDecodeError:
        return ": write its encoding in the card, as in `encoding: utf-16`"
    return ": it reads as GB18030; write `encoding: gb18030` in the card"


def lines_of(text: str) -> list[str]:
    """Return the lines of a text, split at LF, CRLF or CR, not at U+2028, NEL or form feed."""
    return text.replace("\r\n", "\n").replace("\r", "\n").split("\n")
