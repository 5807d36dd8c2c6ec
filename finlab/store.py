"""A file of answers that survives a kill: JSON lines, each a key and a value, only ever appended."""

from __future__ import annotations

import fcntl
import hashlib
import json
from pathlib import Path


def key(*parts: object) -> str:
    """Return the SHA-256 of parts that JSON can write."""
    return hashlib.sha256(json.dumps(parts, ensure_ascii=False).encode()).hexdigest()


def _read(line: str) -> dict:
    try:
        made, value = json.loads(line)
    except ValueError:  # a kill, or a full disk, in the middle of a line: that answer is asked again
        return {}
    return {made: value}


class Store:
    """What has been answered already: `get` by key, `put` many at once; without a path it is kept in memory only.

    Several processes may append. A line that was cut off is passed over, and every other line stays.
    """

    def __init__(self, path: Path | None):
        self.path, self.found = path, {}
        if path and path.exists():
            for line in path.read_text(encoding="utf-8", errors="replace").split("\n"):
                self.found |= _read(line) if line else {}

    def get(self, key: str) -> object:
        return self.found.get(key)

    def put(self, values: dict[str, object]) -> None:
        self.found |= values
        if not self.path or not values:
            return
        self.path.parent.mkdir(parents=True, exist_ok=True)
        lines = "".join(json.dumps([key, value], ensure_ascii=False) + "\n" for key, value in values.items()).encode()
        with open(self.path, "a+b") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            if file.seek(0, 2):
                file.seek(-1, 2)
                lines = (b"" if file.read(1) == b"\n" else b"\n") + lines
            file.write(lines)
