"""The token budget of a corpus step before it runs: available and wanted tokens by cell.

    rows = budget.cells(step.parameters, catalogue.of_recipe(plan))
    budget.check(step.parameters, entries)      # ValueError if the cards cannot meet it

Sizes are taken from the cards. Often they are estimated from bytes, and they are sizes before
cleaning. So a mixture is refused here only if the tokens are too few by more than a factor of
MARGIN. The draw itself is exact.
"""

from __future__ import annotations

from collections import Counter
from typing import Any

from finlab.data import cards, mixture, supply
from finlab.data.catalogue import Entry
from finlab.data.supply import Supply

CORPUS_NOTEBOOK = "01_corpus_stats"
MARGIN = 2.0  # an estimate of tokens may be wrong by this factor


def cells(parameters: dict[str, Any], entries: list[Entry]) -> list[dict[str, Any]]:
    """Return a row for each cell of the mixture: tokens available, tokens wanted, epochs.

    Args:
        parameters: Parameters of a corpus step.
        entries: The entries of all that the recipe reads, from `catalogue.of_recipe`.

    Returns:
        Rows {corner, cards, there, asked, epochs, allowed}: the cell, its cards, its tokens
        available and wanted, how many times they must be read, and how many times they may be read
        (None for no limit). `epochs` is None if the cell has no tokens. The list is empty if the
        size of no card is known.
    """
    texts = text_entries(parameters, entries)
    if not any(entry.tokens for entry in texts):
        return []
    asked = _asked(parameters, texts)
    there: Counter = Counter()
    names: dict[str, list[str]] = {}
    for entry in texts:
        there[_cell(entry)] += entry.tokens
        names.setdefault(_cell(entry), []).append(entry.name)
    rows = []
    for cell in (mixture.label(each) for each in mixture.CELLS):
        if not asked[cell] and not there[cell]:
            continue
        row = {
            "corner": cell,
            "cards": ", ".join(names.get(cell, [])) or "none",
            "there": there[cell],
            "asked": asked[cell],
            "epochs": asked[cell] / there[cell] if there[cell] else None,
            "allowed": parameters["max_epochs"] or None,
        }
        rows.append(row)
    return rows


def check(parameters: dict[str, Any], entries: list[Entry]) -> None:
    """Raise ValueError if the cards have far too few tokens for a mixture.

    Args:
        parameters: Parameters of a corpus step.
        entries: The entries of all that the recipe reads, from `catalogue.of_recipe`.

    Raises:
        ValueError: The supply is too small. The error says what would be possible.
    """
    texts = text_entries(parameters, entries)
    if any(not entry.tokens for entry in texts):
        return  # the size of a card is unknown, so nothing can be checked
    sizes, homes, caps = {}, {}, {}
    for entry in texts:
        epochs = parameters["source_epochs"].get(entry.name, parameters["max_epochs"])
        sizes[entry.name] = int(entry.tokens)
        homes[entry.name] = _cell(entry)
        caps[entry.name] = (epochs or float("inf")) * entry.tokens
    weights = parameters["source_weights"] or sizes
    shared = {name: weights.get(name, 0.0) for name in sizes}
    generous = {name: cap * MARGIN for name, cap in caps.items()}
    plan = _plan(parameters, texts)
    try:
        supply.targets(plan, Supply(sizes, homes, shared, generous))
    except ValueError:
        # Check again without the margin, so that the error has the real figures.
        supply.targets(plan, Supply(sizes, homes, shared, caps))
        raise


def text_entries(parameters: dict[str, Any], entries: list[Entry]) -> list[Entry]:
    """Return the entries of the text cards of a corpus step.

    Args:
        parameters: Parameters of the step.
        entries: The entries of all that the recipe reads, from `catalogue.of_recipe`.
    """
    found = []
    for name in parameters["text_cards"]:
        # Another step may read the same card with another `max_bytes`.
        limit = cards.limited(cards.read(name), parameters["source_bytes"]).spec.get("max_bytes")
        alike = [entry for entry in entries if entry.name == name]
        exact = [entry for entry in alike if entry.card.spec.get("max_bytes") == limit]
        found.append((exact or alike)[0])
    return found


def _cell(entry: Entry) -> str:
    return mixture.label((entry.card.domain, entry.card.language))


def _plan(parameters: dict[str, Any], texts: list[Entry]) -> list[dict]:
    """Return the phases of a corpus step, as its notebook plans them.

    Args:
        parameters: Parameters of the step.
        texts: The entries of its text cards.
    """
    return mixture.plan_phases(
        parameters["tokens"] or int(sum(entry.tokens for entry in texts)),
        parameters["general_shares"],
        parameters["zh_shares"],
        parameters["ramp_phases"],
        parameters["source_weights"] or {entry.name: entry.tokens for entry in texts},
        {entry.name: _cell(entry) for entry in texts},
    )


def _asked(parameters: dict[str, Any], texts: list[Entry]) -> Counter:
    """Return {cell: tokens wanted in all phases}.

    Args:
        parameters: Parameters of a corpus step.
        texts: The entries of its text cards.
    """
    asked: Counter = Counter()
    for phase in _plan(parameters, texts):
        for cell, share in phase["shares"].items():
            asked[cell] += share * phase["tokens"]
    return asked
