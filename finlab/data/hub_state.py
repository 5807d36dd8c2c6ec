"""The index of a hub card's folder in the cache: what has been fetched so far.

The index is written by rename after each part and each file, so it lists only complete parts and
files:

    revision      the commit that the card's revision named when the folder was created
    parts         the parts of streamed rows: [{file, digest, rows, bytes}]
    state         the position in the stream after the last part
    files         the fetched files: {path: {bytes, digest, changed: the file's time}}
    wanted_bytes  the total size of the files that are wanted
    complete      whether everything is here
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from finlab import files, paths
from finlab.data.card_schema import Card

# The keys that decide which bytes a card reads. The other keys decide how to read them.
ADDRESS = ("hub", "config", "split", "revision", "data_files", "where", "max_bytes", "text", "kind")


def folder(card: Card) -> Path:
    """Return the folder of a hub card in the cache; its name depends on the keys in ADDRESS."""
    address = {key: card.spec[key] for key in ADDRESS if key in card.spec}
    owner_and_name = card.spec["hub"].replace("/", "--")
    return paths.cache() / "hub" / f"{owner_and_name}-{files.digest(address)[:12]}"


def read_index(place: Path) -> dict[str, Any]:
    """Return the index of a folder; an empty index if there is no index that can be read."""
    empty = {"revision": "", "parts": [], "state": None, "files": {}, "complete": False}
    try:
        return empty | files.read_json(place / "index.json")
    except (OSError, ValueError):
        return empty


def write_index(place: Path, index: dict[str, Any]) -> None:
    """Write the index of a folder, by rename."""
    files.write_json(place / "index.json", index, sync=True)


def lost_files(place: Path, index: dict[str, Any]) -> list[str]:
    """Return the names of fetched files that are missing or whose size has changed."""
    lost = []
    for name, record in index["files"].items():
        path = place / "files" / name
        if not path.exists() or path.stat().st_size != record["bytes"]:
            lost.append(name)
    return lost


def progress(card: Card) -> tuple[int, int, int]:
    """Return how far fetching a card has come.

    Returns:
        (number of parts, number of files, bytes of downloads that are not finished).
    """
    place = folder(card)
    index = read_index(place)
    cut_bytes = 0
    for path in place.rglob("*.incomplete"):
        cut_bytes += path.stat().st_size
    return len(index["parts"]), len(index["files"]), cut_bytes


@dataclass(frozen=True)
class Held:
    """How much of a hub card's data is on this machine.

    Attributes:
        state: `there`, `partly there` or `missing`.
        bytes: Size of what is here, in bytes of text (streamed rows) or of files.
        wanted: Size of all that the card needs, in bytes; 0 if not known yet.
        revision: The commit; empty if the hub was not asked yet.
    """

    state: str
    bytes: int
    wanted: int
    revision: str = ""


def held(card: Card) -> Held:
    """Return how much of a hub card's data is on this machine."""
    index = read_index(folder(card))
    size = sum(part["bytes"] for part in index["parts"])
    size += sum(file["bytes"] for file in index["files"].values())
    stated = card.spec.get("bytes", 0)
    limit = card.spec.get("max_bytes") or stated
    wanted = int(index.get("wanted_bytes") or min(limit, stated or limit))
    if index["complete"] and not lost_files(folder(card), index):
        return Held("there", size, size, index["revision"])
    state = "partly there" if size or progress(card)[2] else "missing"
    return Held(state, size, wanted, index["revision"])
