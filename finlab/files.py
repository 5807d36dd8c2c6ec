"""Files that survive a kill, and hashes that say whether two things are the same.

Every file that another step may read is written to a draft first and then renamed: a reader sees
the old file or the new one, never half of one.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, BinaryIO

BLOCK = 1 << 20  # bytes that are read at once


# --- hashes --------------------------------------------------------------------------------------
def digest(*values: Any) -> str:
    """Return the SHA-256 of values.

    Args:
        *values: Anything that JSON can hold; keys are sorted.

    Returns:
        64 hexadecimal digits.
    """
    text = json.dumps(values, sort_keys=True, ensure_ascii=False, default=str)
    return hashlib.sha256(text.encode()).hexdigest()


def hash64(text: str) -> int:
    """Return the first 64 bits of a text's SHA-256, as an unsigned integer."""
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big")


def sha256(paths: Iterable[Path]) -> str:
    """Return the SHA-256 of the contents of files, read one after another."""
    total = hashlib.sha256()
    for path in paths:
        with path.open("rb") as file:
            while block := file.read(BLOCK):
                total.update(block)
    return total.hexdigest()


def file_digest(path: Path) -> str:
    """Return the BLAKE2 hash of a file's content, read in pieces; 32 hexadecimal digits."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, lambda: hashlib.blake2b(digest_size=16)).hexdigest()


def flush_to_disk(path: Path) -> None:
    """Wait until a file that has been written is on the disk."""
    with open(path, "rb") as file:
        os.fsync(file.fileno())


def below(path: Path) -> Iterator[Path]:
    """Yield the files of a folder and of those in it; of a file, itself."""
    for candidate in [path] if path.is_file() else path.rglob("*"):
        if candidate.is_file():
            yield candidate


def size_of(path: Path) -> int:
    """Return the bytes of a file, or of all files below a folder."""
    return sum(file.stat().st_size for file in below(path))


def fingerprint(paths: Iterable[Path]) -> str:
    """Return a short hash of files by their names, sizes and modification times.

    It reads no content, so it is quick for large data. Of a folder, all files below it count.

    Args:
        paths: Files and folders.
    """
    listing = []
    for file in sorted(file for path in paths for file in below(path)):
        stat = file.stat()
        listing.append(f"{file.name} {stat.st_size} {stat.st_mtime_ns}")
    return hashlib.sha256("\n".join(listing).encode()).hexdigest()[:16]


def size_text(size: float) -> str:
    """Return a number of bytes as people write it, such as `1.2 GB`."""
    for unit, factor in (("TB", 1e12), ("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if size >= factor:
            return f"{size / factor:,.1f} {unit}"
    return f"{int(size)} bytes"


# --- writing and reading -------------------------------------------------------------------------
def write_text(path: Path, text: str, sync: bool = False) -> Path:
    """Write a text file by rename, so that it is there as a whole or not at all.

    Args:
        path: The file to write. Its folder must exist.
        text: The content, written as UTF-8.
        sync: Wait until the content is on the disk before the rename, as the manifest does.

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
        path: The file.
        value: NaN is refused, since it is not JSON.
        sync: Whether to wait until it is on disk.
    """
    text = json.dumps(value, ensure_ascii=False, indent=1, allow_nan=False)
    return write_text(path, text, sync)


def read_json(path: Path) -> Any:
    """Return the value of a JSON file."""
    return json.loads(Path(path).read_text(encoding="utf-8"))


def write_jsonl(path: Path, records: Iterable[Any]) -> Path:
    """Write records as JSON lines, one after another, by rename.

    Args:
        path: The file.
        records: What JSON can hold.
    """
    draft = path.with_name(f"{path.name}.draft")
    with open(draft, "w", encoding="utf-8") as file:
        for record in records:
            file.write(json.dumps(record, ensure_ascii=False) + "\n")
    return draft.rename(path)


def append_jsonl(path: Path, record: Any) -> None:
    """Add one record to the end of a JSON lines file.

    Args:
        path: The file.
        record: What JSON can hold.
    """
    line = json.dumps(record, ensure_ascii=False).encode() + b"\n"
    with open(path, "a+b") as file:
        _append(file, line)


def _append(file: BinaryIO, content: bytes) -> None:
    """Append lines to a file that is open for reading and appending.

    A last line without its end, as a kill or an editor leaves it, gets one, so that it spoils no
    line of ours.
    """
    if file.seek(0, os.SEEK_END):
        file.seek(-1, os.SEEK_END)
        if file.read(1) != b"\n":
            content = b"\n" + content
    file.write(content)


def read_jsonl(path: Path) -> list[Any]:
    """Return the records of a JSON lines file; a line that a kill or the disk broke is left out.

    Args:
        path: The file. One that does not exist has no records.
    """
    if not Path(path).exists():
        return []
    records = []
    # Only a newline ends a line: texts hold U+2028 and its like.
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
    """Values by key, kept in a file that is only ever appended to.

    Each line is `[key, value]`. Several processes may append at once. A line that a kill or a full
    disk cut short is passed over: its value is simply asked for again.

    Args:
        path: The file. None keeps the values in memory only.
    """

    def __init__(self, path: Path | None = None):
        self.path = path
        self.values: dict[str, Any] = {}
        if path and path.exists():
            for line in path.read_text(encoding="utf-8", errors="replace").split("\n"):
                self._read_line(line)

    def _read_line(self, line: str) -> None:
        """Add a line of the file to what is held in memory; a cut line counts for nothing."""
        try:
            key, value = json.loads(line)
        except ValueError:
            return
        self.values[key] = value

    def get(self, key: str) -> Any:
        """Return the value of a key, or None where there is none."""
        return self.values.get(key)

    def put(self, values: dict[str, Any]) -> None:
        """Keep values by key, and append them to the file.

        Args:
            values: {key: what JSON can hold}. The last value of a key stands.
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
