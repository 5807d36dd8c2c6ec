"""The folders of the repository, and paths as recipes write them."""

from __future__ import annotations

import os
from pathlib import Path

# FINLAB_ROOT points the package at another checkout; the tests use it for small made-up projects.
ROOT = Path(os.environ.get("FINLAB_ROOT") or Path(__file__).resolve().parents[1])
NOTEBOOKS = ROOT / "notebooks"
DOCS = ROOT / "docs"
RECIPES = NOTEBOOKS / "recipes"
ACCELERATE_CONFIGS = NOTEBOOKS / "accelerate"

# The smoke-size data. It is part of the package, wherever ROOT points.
CLOSED_WORLD = Path(__file__).resolve().parent / "closed_world" / "files"


def data_cards() -> Path:
    """Return the folder of the data cards."""
    return ROOT / "data_cards"


def real_data() -> Path | None:
    """Return the folder that FINLAB_DATA names, or None where the variable is not set."""
    folder = os.environ.get("FINLAB_DATA")
    return Path(folder) if folder else None


def cache() -> Path:
    """Return the folder where data from the hub is kept between runs.

    FINLAB_CACHE names it: put it on a disk with room for the data.
    """
    folder = os.environ.get("FINLAB_CACHE") or "~/.cache/finlab"
    return Path(folder).expanduser()


def resolve(value: str) -> Path:
    """Turn a path as a recipe writes it into a full path.

    Args:
        value: A path. Variables such as `$FINLAB_DATA`, and `~` for the home folder, are expanded.
            A relative path starts at the root of the repository, never at the working directory.

    Raises:
        ValueError: A variable in the path is not set.
    """
    expanded = os.path.expanduser(os.path.expandvars(value))
    if "$" in expanded:
        raise ValueError(
            f"the path '{value}' uses a variable that is not set: "
            "export FINLAB_DATA=/folder/with/the/data and run again"
        )
    if os.path.isabs(expanded):
        return Path(expanded)
    return ROOT / expanded
