"""What is checked of a recipe before anything of it runs: data, tokens, memory."""

from __future__ import annotations

from finlab.commands.tables import table
from finlab.data import budget, catalogue
from finlab.data.catalogue import Entry
from finlab.run import recipe


def _corpus_steps(steps: list[recipe.Step]) -> list[recipe.Step]:
    return [step for step in steps if step.notebook == budget.CORPUS_NOTEBOOK]


def require_feasible(plan: recipe.Recipe, chosen: list[recipe.Step]) -> None:
    """Refuse steps that cannot end well: too few tokens, or too little memory.

    Args:
        plan: The recipe.
        chosen: The steps that will run.

    Raises:
        ValueError: Why, and what would do.
    """
    entries = catalogue.of_recipe(plan)
    for step in _corpus_steps(chosen):
        try:
            budget.check(step.parameters, entries)
        except ValueError as error:
            raise ValueError(
                f"step '{step.name}': {error} (--force runs it all the same)"
            ) from None


def print_all(plan: recipe.Recipe, chosen: list[recipe.Step]) -> int:
    """Print what the checks find; return 2 where a run would be refused, else 0.

    Args:
        plan: The recipe.
        chosen: The steps that would run.
    """
    entries = catalogue.of_recipe(plan)
    for step in _corpus_steps(chosen):
        print(f"\n{step.name}: tokens by cell (~ by bytes, before cleaning)")
        print(token_table(budget.cells(step.parameters, entries)))
    _print_missing(entries)
    refused = 0
    try:
        require_feasible(plan, chosen)
    except ValueError as error:
        print(f"\nwould be refused: {error}")
        refused = 2
    for entry in entries:
        if entry.state == "not public":
            print(f"\nwould be refused: {entry.name} is not public; {entry.why}")
            refused = 2
    return refused


def _print_missing(entries: list[Entry]) -> None:
    """Print which data are not here, and how to get them.

    Args:
        entries: What the recipe reads.
    """
    missing = [entry for entry in entries if entry.state in ("missing", "partly there")]
    if not missing:
        print("\ndata: everything is here")
        return
    names = ", ".join(entry.name for entry in missing)
    print(f"\ndata: {len(missing)} of {len(entries)} not here: {names}")
    print("  `finlab data RECIPE` says where from, `finlab data RECIPE --fetch` gets what it can")
    for why in sorted({entry.why for entry in missing if entry.why})[:1]:
        print(f"  {why}")


def token_table(rows: list[dict]) -> str:
    """Return the rows of `budget.cells` as a table, tokens in words."""
    shown = []
    for row in rows:
        numbers = {name: catalogue.number_text(row[name]) for name in ("there", "asked")}
        shown.append({"cell": row["cell"], **numbers, "epochs": row["epochs"], **_limits(row)})
    return table(shown, digits=2)


def _limits(row: dict) -> dict:
    return {"allowed": row["allowed"], "cards": row["cards"]}
