"""`finlab data`: list what a recipe reads and where it comes from, and fetch it."""

from __future__ import annotations

import argparse
import shutil
import sys
from pathlib import Path

from finlab import paths
from finlab.commands.checks import existing
from finlab.commands.run import add_recipe
from finlab.commands.tables import table
from finlab.data import catalogue
from finlab.data.catalogue import Entry
from finlab.files import size_text
from finlab.run import recipe

SHORTEST_PLACE = 20  # characters of the column `from`


def add(commands: argparse._SubParsersAction) -> None:
    """Add the subcommand of this module to the parser."""
    data = commands.add_parser("data", help="list what a recipe reads, and fetch what is missing")
    add_recipe(data)
    data.add_argument(
        "--fetch", action="store_true", help="get what is missing from the hub; goes on where cut"
    )
    data.set_defaults(function=_data)


def _data(arguments: argparse.Namespace) -> int:
    """Print the catalogue of a recipe; with --fetch, fetch what is missing first."""
    plan = recipe.load(arguments.recipe, arguments.overrides)
    entries = catalogue.of_recipe(plan)
    if arguments.fetch:
        catalogue.fetch(entries, lambda line: print(line, flush=True))
        entries = catalogue.of_recipe(plan)
    _estimate_models(entries)
    print(table(_fitted([catalogue.row(entry) for entry in entries])))
    _print_sums(entries)
    for line in catalogue.restrictions(entries):
        print(f"licence: {line}")
    lacking = [entry for entry in entries if entry.state != "there"]
    unset = []
    if paths.real_data() is None:
        unset = [entry.name for entry in lacking if entry.place == "FINLAB_DATA"]
    if unset:
        print(f"FINLAB_DATA is not set, below which {', '.join(unset)} lie: export it")
    for entry in lacking:
        if entry.why and entry.name not in unset:
            print(f"{entry.name}: {entry.why}")
    return int(arguments.fetch and bool(lacking))


def _fitted(rows: list[dict]) -> list[dict]:
    """Return rows whose places are cut so that the table fits the terminal, as far as it can.

    Args:
        rows: The rows, from `catalogue.row`. If the output is not a terminal, they stay
            as they are.
    """
    if not sys.stdout.isatty():
        return rows
    terminal = shutil.get_terminal_size().columns
    longest = max((len(row["from"]) for row in rows), default=0)
    width = max(map(len, table(rows).splitlines()), default=0)
    room = max(terminal - (width - longest), SHORTEST_PLACE)
    fitted = []
    for row in rows:
        place = row["from"]
        fitted.append(row | {"from": place if len(place) <= room else f"{place[: room - 3]}..."})
    return fitted


def _print_sums(entries: list[Entry]) -> None:
    """Print how much data must be fetched, and how much disk space is free.

    Args:
        entries: Catalogue entries of what the recipe reads.
    """
    to_come = [entry for entry in entries if entry.can_be_fetched]
    if not to_come:
        return
    size = sum(entry.bytes for entry in to_come if entry.state == "missing")
    unknown = sum(not entry.bytes for entry in to_come)
    more = f", and {unknown} of unknown size" if unknown else ""
    print(f"{len(to_come)} to fetch: {size_text(size)}{more}")
    _print_disk("data", paths.cache(), "FINLAB_CACHE")
    if any(entry.kind == "model" for entry in to_come):
        from huggingface_hub import constants

        _print_disk("models", Path(constants.HF_HUB_CACHE), "HF_HOME")


def _print_disk(what: str, folder: Path, variable: str) -> None:
    """Print where data is stored, and how much space is free on that disk.

    Args:
        what: Kind of the data, such as `models`.
        folder: Folder where it is stored.
        variable: Environment variable that names another folder.
    """
    free = size_text(shutil.disk_usage(existing(folder)).free)
    print(f"{what} go to {folder}, whose disk has {free} free ({variable} names another)")


def _estimate_models(entries: list[Entry]) -> None:
    """Set the size of models that have none to the size of their weights in 16 bits, if known.

    Args:
        entries: Catalogue entries of what the recipe reads; they are changed in place.
    """
    from finlab.train import shapes

    for entry in entries:
        if entry.kind != "model" or entry.bytes:
            continue
        shape = shapes.of_model(entry.name)
        if shape is not None:
            entry.bytes = 2 * shape.parameters
