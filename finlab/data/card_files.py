"""Find the files that a data card names; they must lie below the card's root folder."""

from __future__ import annotations

import glob
from pathlib import Path

from finlab import paths
from finlab.data.card_schema import Card


def found(card: Card) -> list[Path]:
    """Return the paths of a card's files, sorted.

    Raises:
        ValueError: No file matches, or FINLAB_DATA is not set.
    """
    folder = root(card)
    matching: set[Path] = set()
    for pattern in card.spec["files"]:
        # The root may contain brackets, which have a special meaning in a glob pattern.
        full = f"{glob.escape(str(folder))}/{pattern}"
        matching.update(map(Path, glob.glob(full, recursive=True)))
    for path in matching:
        _check_below(path, folder, card.name)
    if not matching:
        raise ValueError(
            f"card {card.name}: no file matches {', '.join(card.spec['files'])} below {folder}: "
            "correct the card or FINLAB_DATA"
        )
    return sorted(matching)


def root(card: Card) -> Path:
    """Return the folder that a card's glob patterns are relative to."""
    if card.spec.get("root") == "closed_world":
        return paths.CLOSED_WORLD
    if card.spec.get("root") == "data_cards":
        return paths.data_cards()
    folder = paths.real_data()
    if folder is None:
        raise ValueError(
            f"card {card.name} reads files below FINLAB_DATA, which is not set: "
            "export FINLAB_DATA=/folder/with/the/data"
        )
    return folder


def _check_below(path: Path, root: Path, name: str) -> None:
    """Raise ValueError if a file lies outside a card's root, by `..` or by a symbolic link.

    Args:
        path: The file.
        root: The folder that holds the data.
        name: Name of the card, for the error.
    """
    inside = path.resolve().is_relative_to(root.resolve())
    if not inside:
        raise ValueError(
            f"card {name}: {path} lies outside {root}: "
            "put the file below it; a card reads nothing else"
        )
