"""Write files safely, and compute hashes that show whether two things are the same.

Every file that another step may read is first written to a draft, and the draft is then renamed.
So a reader sees the old file or the new file, but never a part of a file.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, BinaryIO

BLOCK = 1 << 20  # bytes to read at a time


# --- hashes --------------------------------------------------------------------------------------
def digest(*values: Any) -> str:
    """Return the SHA-256 of values.

    Args:
        *values: JSON values. The order of keys in mappings does not matter. Values that JSON does
            not support are converted to text.

    Returns:
        64 hexadecimal digits.
    """
    text = json.dumps(values, sort_keys=True, ensure_ascii=False, default=str)
    return hashlib.sha256(text.encode()).hexdigest()


def hash64(text: str) -> int:
    """Return the first 64 bits of a text's SHA-256, as an unsigned integer."""
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big")


def sha256(paths: Iterable[Path]) -> str:
    """Return the SHA-256 of the contents of several files, joined in the given order."""
    total = hashlib.sha256()
    for path in paths:
        with path.open("rb") as file:
            while block := file.read(BLOCK):
                total.update(block)
    return total.hexdigest()


def file_digest(path: Path) -> str:
    """Return the BLAKE2 hash of a file's content, as 32 hexadecimal digits."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, lambda: hashlib.blake2b(digest_size=16)).hexdigest()


def flush_to_disk(path: Path) -> None:
    """Wait until the content of a written file is on the disk (fsync)."""
    with open(path, "rb") as file:
        os.fsync(file.fileno())


def below(path: Path) -> Iterator[Path]:
    """Yield all files in a folder and its subfolders; for a file, yield the file itself."""
    for candidate in [path] if path.is_file() else path.rglob("*"):
        if candidate.is_file():
            yield candidate


def size_of(path: Path) -> int:
    """Return the size in bytes of a file, or of all files in a folder and its subfolders."""
    return sum(file.stat().st_size for file in below(path))


def fingerprint(paths: Iterable[Path]) -> str:
    """Return a short hash of the names, sizes and modification times of files.

    File contents are not read, so this is fast for large data.

    Args:
        paths: Files and folders. For a folder, all files in it and its subfolders count.

    Returns:
        16 hexadecimal digits.
    """
    listing = []
    for file in sorted(file for path in paths for file in below(path)):
        stat = file.stat()
        listing.append(f"{file.name} {stat.st_size} {stat.st_mtime_ns}")
    return hashlib.sha256("\n".join(listing).encode()).hexdigest()[:16]


def size_text(size: float) -> str:
    """Return a number of bytes as readable text, such as `1.2 GB`."""
    for unit, factor in (("TB", 1e12), ("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if size >= factor:
            return f"{size / factor:,.1f} {unit}"
    return f"{int(size)} bytes"


# --- writing and reading -------------------------------------------------------------------------
def write_text(path: Path, text: str, sync: bool = False) -> Path:
    """Write a text file by rename, so that it exists completely or not at all.

    Args:
        path: The file to write. Its folder must exist.
        text: The content, written as UTF-8.
        sync: Before the rename, wait until the content is on the disk. Manifests use this.

    Returns:
        The path.
    """
    draft = path.with_name(f"{path.name}.draft")
    with open(draft, "w", encoding="utf-8") as file:
        file.write(text)
        if sync:
            file.flush()
            os.fsync(file.fileno())
    return draft.rename(path)


def write_json(path: Path, value: Any, sync: bool = False) -> Path:
    """Write a value as a JSON file, by rename.

    Args:
        path: The file to write. Its folder must exist.
        value: A JSON value. NaN raises a ValueError, because it is not JSON.
        sync: Before the rename, wait until the content is on the disk.

    Returns:
        The path.
    """
    text = json.dumps(value, ensure_ascii=False, indent=1, allow_nan=False)
    return write_text(path, text, sync)


def read_json(path: Path) -> Any:
    """Return the value of a JSON file."""
    return json.loads(Path(path).read_text(encoding="utf-8"))


def write_jsonl(path: Path, records: Iterable[Any]) -> Path:
    """Write records as a file of JSON lines, by rename.

    Args:
        path: The file to write. Its folder must exist.
        records: JSON values, one for each line.

    Returns:
        The path.
    """
    draft = path.with_name(f"{path.name}.draft")
    with open(draft, "w", encoding="utf-8") as file:
        for record in records:
            file.write(json.dumps(record, ensure_ascii=False) + "\n")
    return draft.rename(path)


def append_jsonl(path: Path, record: Any) -> None:
    """Add one record to the end of a JSON lines file.

    Args:
        path: The file; it is created if it does not exist.
        record: A JSON value.
    """
    line = json.dumps(record, ensure_ascii=False).encode() + b"\n"
    with open(path, "a+b") as file:
        _append(file, line)


def _append(file: BinaryIO, content: bytes) -> None:
    """Append lines to a file that is open for reading and appending.

    If the last line of the file has no newline, a newline is added first. This happens after a
    kill, or with some editors.

    Args:
        file: The open file.
        content: The lines to append, each with its newline.
    """
    if file.seek(0, os.SEEK_END):
        file.seek(-1, os.SEEK_END)
        if file.read(1) != b"\n":
            content = b"\n" + content
    file.write(content)


def read_jsonl(path: Path) -> list[Any]:
    """Return the records of a file of JSON lines; broken lines are left out.

    Args:
        path: The file. A file that does not exist has no records.
    """
    if not Path(path).exists():
        return []
    records = []
    # Split only at newlines, because texts may have other line separators such as U+2028.
    for line in Path(path).read_text(encoding="utf-8", errors="replace").split("\n"):
        if not line:
            continue
        try:
            records.append(json.loads(line))
        except json.JSONDecodeError:
            continue
    return records


# --- answers by key ------------------------------------------------------------------------------
class JsonlStore:
    """A store of values by key, in a file to which lines are only appended.

    Each line is `[key, value]`. Several processes may append at the same time. A line that is
    incomplete because of a kill or a full disk is ignored, so its key has no value.

    Args:
        path: The file. None keeps the values only in memory.
    """

    def __init__(self, path: Path | None = None):
        self.path = path
        self.values: dict[str, Any] = {}
        if path and path.exists():
            for line in path.read_text(encoding="utf-8", errors="replace").split("\n"):
                self._read_line(line)

    def _read_line(self, line: str) -> None:
        """Add the value in a line of the file to the values in memory; ignore a broken line."""
        try:
            key, value = json.loads(line)
        except ValueError:
            return
        self.values[key] = value

    def get(self, key: str) -> Any:
        """Return the value of a key; None if there is none."""
        return self.values.get(key)

    def put(self, values: dict[str, Any]) -> None:
        """Store values by key, and append them to the file.

        Args:
            values: {key: JSON value}. A new value replaces an older value of the same key.
        """
        self.values.update(values)
        if not self.path or not values:
            return
        self.path.parent.mkdir(parents=True, exist_ok=True)
        lines = [json.dumps([key, value], ensure_ascii=False) for key, value in values.items()]
        content = "".join(f"{line}\n" for line in lines).encode()
        with open(self.path, "a+b") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            _append(file, content)
