"""Folders of the repository, and conversion of the paths in recipes."""

from __future__ import annotations

import os
from pathlib import Path

# FINLAB_ROOT names another checkout for the package. The tests use it for small test projects.
ROOT = Path(os.environ.get("FINLAB_ROOT") or Path(__file__).resolve().parents[1])
NOTEBOOKS = ROOT / "notebooks"
DOCS = ROOT / "docs"
RECIPES = NOTEBOOKS / "recipes"
ACCELERATE_CONFIGS = NOTEBOOKS / "accelerate"

# The data of the smoke run. It is part of the package and does not depend on ROOT.
CLOSED_WORLD = Path(__file__).resolve().parent / "closed_world" / "files"


def data_cards() -> Path:
    """Return the folder of the data cards."""
    return ROOT / "data_cards"


def real_data() -> Path | None:
    """Return the folder that FINLAB_DATA names; None if the variable is not set."""
    folder = os.environ.get("FINLAB_DATA")
    return Path(folder) if folder else None


def cache() -> Path:
    """Return the folder where data from the hub is kept between runs.

    The variable FINLAB_CACHE can name another folder than ~/.cache/finlab, for example on a disk
    with enough space for the data.
    """
    folder = os.environ.get("FINLAB_CACHE") or "~/.cache/finlab"
    return Path(folder).expanduser()


def resolve(value: str) -> Path:
    """Return the full path for a path in a recipe.

    Args:
        value: A path. Variables such as `$FINLAB_DATA`, and `~` for the home folder, are expanded.
            A relative path is relative to the root of the repository, not to the working directory.

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
