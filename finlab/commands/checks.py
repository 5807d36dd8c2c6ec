"""Check a recipe before it runs: data, tokens, memory and disk."""

from __future__ import annotations

import shutil
from pathlib import Path

import psutil

from finlab import paths
from finlab.commands.tables import table
from finlab.data import budget, catalogue
from finlab.data.catalogue import Entry
from finlab.files import size_text
from finlab.run import recipe


def _corpus_steps(steps: list[recipe.Step]) -> list[recipe.Step]:
    return [step for step in steps if step.notebook == budget.CORPUS_NOTEBOOK]


def require_feasible(
    plan: recipe.Recipe,
    chosen: list[recipe.Step],
    run_dir: Path,
    entries: list[Entry] | None = None,
) -> None:
    """Raise an error if there are too few tokens, or too little memory or disk space.

    Args:
        plan: The recipe.
        chosen: The steps that will run.
        run_dir: The run's folder.
        entries: Catalogue entries of what the recipe reads; None looks them up.

    Raises:
        ValueError: Something does not suffice. The message says what to change.
    """
    entries = catalogue.of_recipe(plan) if entries is None else entries
    for step in _corpus_steps(chosen):
        try:
            budget.check(step.parameters, entries)
        except ValueError as error:
            raise ValueError(
                f"step '{step.name}': {error} (--force runs it all the same)"
            ) from None
    _require_machine(plan, chosen, entries, run_dir)


def _require_machine(
    plan: recipe.Recipe, chosen: list[recipe.Step], entries: list[Entry], run_dir: Path
) -> None:
    """Raise an error if this machine has too little memory or disk space for a recipe.

    Args:
        plan: The recipe.
        chosen: The steps that will run.
        entries: Catalogue entries of what the recipe reads.
        run_dir: The run's folder.

    Raises:
        ValueError: The base does not fit the memory, a step does not fit the GPUs, or the disk is
            too full.
    """
    from finlab.train import advice, planning, shapes

    try:
        shape, _ = planning.base_shape(plan)
    except ValueError:
        return  # the tiny base, or a base that is not downloaded, so its sizes are not known
    here = shapes.of_this_machine()
    if here is None:
        weights, memory = 2 * shape.parameters, psutil.virtual_memory().total
        if chosen and weights > memory:
            raise ValueError(
                f"the base has {size_text(weights)} of weights, and this machine has no GPU and "
                f"{size_text(memory)} of memory: take a machine that holds it, see "
                f"`finlab plan {plan.name}` (--force runs it all the same)"
            )
        return
    gpu, count = here
    found = planning.of_recipe(plan, gpu, count, entries=entries)
    names = {step.name for step in chosen}
    for name, sentence in advice.misfits(found).items():
        if name in names:
            raise ValueError(f"{sentence} (--force runs it all the same)")
    made = sum(size for what, size in found.disk.items() if what != "data and base")
    free = shutil.disk_usage(existing(run_dir)).free
    if chosen and made > free:
        raise ValueError(
            f"the run will take about {size_text(made)}, and the disk of {run_dir} has "
            f"{size_text(free)} free: choose another by --run-dir (--force runs it all the same)"
        )


def existing(folder: Path) -> Path:
    """Return a folder if it exists, else its nearest parent folder that exists."""
    while not folder.exists():
        folder = folder.parent
    return folder


def print_all(plan: recipe.Recipe, chosen: list[recipe.Step], run_dir: Path) -> int:
    """Print the results of all checks; return 2 if a run would stop with an error, else 0.

    Args:
        plan: The recipe.
        chosen: The steps that would run.
        run_dir: The run's folder.
    """
    entries = catalogue.of_recipe(plan)
    for step in _corpus_steps(chosen):
        rows = budget.cells(step.parameters, entries)
        if rows:
            print(f"\n{step.name}: tokens by cell (~ by bytes, before cleaning)")
            print(token_table(rows))
        else:
            print(f"\n{step.name}: nobody knows how many tokens its cards hold")
    shipped = plan.path.parent == paths.RECIPES
    _print_missing(plan.name if shipped else str(plan.path), entries)
    refused = 0
    try:
        require_feasible(plan, chosen, run_dir, entries)
    except ValueError as error:
        print(f"\nwould be refused: {error}")
        refused = 2
    names = {step.name for step in chosen}
    for entry in entries:
        if not names.intersection(entry.steps):
            continue
        if entry.state == "not public":
            print(f"\nwould be refused: {entry.name} is not public; {entry.why}")
            refused = 2
        elif entry.state == "missing" and not entry.can_be_fetched:
            print(f"\nwould be refused: {entry.why}")
            refused = 2
    return refused


def _print_missing(name: str, entries: list[Entry]) -> None:
    """Print which data are missing on this machine, and how to fetch them.

    Args:
        name: Name of the recipe, or its file.
        entries: Catalogue entries of what the recipe reads.
    """
    missing = [entry for entry in entries if entry.state in ("missing", "partly there")]
    if not missing:
        print("\ndata: everything is here")
        return
    names = ", ".join(entry.name for entry in missing)
    print(f"\ndata: {len(missing)} of {len(entries)} not here: {names}")
    print(f"  `finlab data {name}` says where from, `finlab data {name} --fetch` gets what it can")


def token_table(rows: list[dict]) -> str:
    """Return the rows of `budget.cells` as a text table, with token counts in short form."""
    shown = []
    for row in rows:
        numbers = {name: catalogue.number_text(row[name]) for name in ("there", "asked")}
        limits = {name: row[name] for name in ("epochs", "allowed", "cards")}
        shown.append({"corner": row["corner"], **numbers, **limits})
    return table(shown, digits=2)
