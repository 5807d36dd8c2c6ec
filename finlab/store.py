"""A file of answers that survives a kill: JSON lines, each a key and a value, only ever appended."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path


def key(*parts: object) -> str:
    """Return the SHA-256 of parts that JSON can write."""
    return hashlib.sha256(json.dumps(parts, ensure_ascii=False).encode()).hexdigest()


class Store:
    """What has been answered already: `get` by key, `put` many at once; without a path it is kept in memory only.

    A line cut off by a kill is dropped and written anew, and every line before it stays.
    """

    def __init__(self, path: Path | None):
        self.path, self.found = path, {}
        if path and path.exists():
            content = path.read_bytes()
            whole = content[:content.rfind(b"\n") + 1]
            self.found = dict(json.loads(line) for line in whole.splitlines())
            if len(whole) < len(content):
                with open(path, "r+b") as file:
                    file.truncate(len(whole))

    def get(self, key: str) -> object:
        return self.found.get(key)

    def put(self, values: dict[str, object]) -> None:
        self.found |= values
        if self.path and values:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with open(self.path, "a", encoding="utf-8") as file:
                file.write("".join(json.dumps([key, value], ensure_ascii=False) + "\n" for key, value in values.items()))
