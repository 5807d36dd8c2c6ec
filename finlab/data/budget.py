"""The token budget of a corpus step before it runs: by cell, what is there and asked.

    rows = budget.cells(step.parameters, catalogue.of_recipe(plan))
    budget.check(step.parameters, entries)      # ValueError where the cards cannot meet it

Sizes are those of the cards, often estimated from bytes, and cleaning has not taken its part yet.
So only what misses by more than MARGIN is refused here; the draw itself is exact.
"""

from __future__ import annotations

from collections import Counter
from typing import Any

from finlab.data import cards, mixture, supply
from finlab.data.catalogue import Entry
from finlab.data.supply import Supply

CORPUS_NOTEBOOK = "01_corpus_stats"
MARGIN = 2.0  # how far an estimate of tokens may be off


def cells(parameters: dict[str, Any], entries: list[Entry]) -> list[dict[str, Any]]:
    """Return a row for each cell of the mixture: tokens there, tokens asked, epochs.

    Args:
        parameters: Of a corpus step.
        entries: What the recipe reads.

    Returns:
        Rows {corner, cards, there, asked, epochs, allowed}; epochs is None where nothing is there.
        No rows where nobody knows how much any card holds.
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
    """Refuse a mixture that the cards miss by far.

    Args:
        parameters: Of a corpus step.
        entries: What the recipe reads.

    Raises:
        ValueError: The supply is too small; the error says what would be feasible.
    """
    texts = text_entries(parameters, entries)
    if any(not entry.tokens for entry in texts):
        return  # nobody knows how much a card holds, so nothing can be said
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
        # The same again without the margin, for a sentence with the true figures.
        supply.targets(plan, Supply(sizes, homes, shared, caps))
        raise


def text_entries(parameters: dict[str, Any], entries: list[Entry]) -> list[Entry]:
    """Return the entries of a corpus step's texts.

    Args:
        parameters: Of the step.
        entries: What the recipe reads.
    """
    found = []
    for name in parameters["text_cards"]:
        # Another step may read the same card up to other bytes.
        limit = cards.limited(cards.read(name), parameters["source_bytes"]).spec.get("max_bytes")
        alike = [entry for entry in entries if entry.name == name]
        exact = [entry for entry in alike if entry.card.spec.get("max_bytes") == limit]
        found.append((exact or alike)[0])
    return found


def _cell(entry: Entry) -> str:
    return mixture.label((entry.card.domain, entry.card.language))


def _plan(parameters: dict[str, Any], texts: list[Entry]) -> list[dict]:
    """Return the phases of a corpus step, as its notebook makes them.

    Args:
        parameters: Of the step.
        texts: Its texts.
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
    """Return {cell: tokens asked}.

    Args:
        parameters: Of a corpus step.
        texts: Its texts.
    """
    asked: Counter = Counter()
    for phase in _plan(parameters, texts):
        for cell, share in phase["shares"].items():
            asked[cell] += share * phase["tokens"]
    return asked
