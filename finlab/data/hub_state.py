"""What is here of a hub card: the index of its folder in the cache.

The index is written by rename behind each part and each file, so it never names what is not whole:

    revision      the commit that the card's revision named when the folder was begun
    parts         of streamed rows: [{file, digest, rows, bytes}]
    state         the place in the stream behind the last part
    files         of fetched files: {path: {bytes, digest, changed: the file's time}}
    wanted_bytes  the size of all files that are wanted
    complete      whether nothing is missing
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from finlab import files, paths
from finlab.data.card_schema import Card

# What decides which bytes a card reads; other keys decide how they are read.
ADDRESS = ("hub", "config", "split", "revision", "data_files", "where", "max_bytes", "text", "kind")


def folder(card: Card) -> Path:
    """Return the folder of a hub card in the cache; it follows the card's address."""
    address = {key: card.spec[key] for key in ADDRESS if key in card.spec}
    owner_and_name = card.spec["hub"].replace("/", "--")
    return paths.cache() / "hub" / f"{owner_and_name}-{files.digest(address)[:12]}"


def read_index(place: Path) -> dict[str, Any]:
    """Return the index of a folder; that of an empty one where there is none."""
    empty = {"revision": "", "parts": [], "state": None, "files": {}, "complete": False}
    try:
        return empty | files.read_json(place / "index.json")
    except (OSError, ValueError):
        return empty


def write_index(place: Path, index: dict[str, Any]) -> None:
    """Write the index of a folder, by rename."""
    files.write_json(place / "index.json", index, sync=True)


def lost_files(place: Path, index: dict[str, Any]) -> list[str]:
    """Return which fetched files of a folder are missing, or have another size than they had."""
    lost = []
    for name, record in index["files"].items():
        path = place / "files" / name
        if not path.exists() or path.stat().st_size != record["bytes"]:
            lost.append(name)
    return lost


def progress(card: Card) -> tuple[int, int, int]:
    """Return what grows while a card is fetched: parts, files, and bytes of a cut download."""
    place = folder(card)
    index = read_index(place)
    cut_bytes = 0
    for path in place.rglob("*.incomplete"):
        cut_bytes += path.stat().st_size
    return len(index["parts"]), len(index["files"]), cut_bytes


@dataclass(frozen=True)
class Held:
    """What this machine has of a card.

    Attributes:
        state: there, partly there, or missing.
        bytes: What is here, in bytes of text (streamed rows) or of files.
        wanted: What there will be in all, 0 where nobody knows yet.
        revision: The commit, empty where the hub was not asked yet.
    """

    state: str
    bytes: int
    wanted: int
    revision: str = ""


def held(card: Card) -> Held:
    """Return what is here of a hub card.

    Args:
        card: The card.
    """
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
