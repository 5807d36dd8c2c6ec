"""Mixtures: targets in tokens on two axes, and the documents that are drawn to meet them.

The axes are general or finance, and Chinese or English, so there are four cells. Each phase has its
own targets.

    phases = mixture.phases(tokens=300_000, general_shares=[0.9, 0.8], zh_shares=[0.75], ramp=4)
    order, realised = mixture.draw(documents, phases, seed=17)
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

import numpy

from finlab.data.columns import Documents
from finlab.data.drawer import Drawer, require_known
from finlab.data.supply import Cell, Supply, label, targets

if TYPE_CHECKING:
    from datasets import Dataset

CELLS: list[Cell] = [
    ("general", "zh"),
    ("general", "en"),
    ("finance", "zh"),
    ("finance", "en"),
]


# --- the plan ------------------------------------------------------------------------------------
def plan_phases(
    tokens: int,
    general_shares: list[float],
    zh_shares: list[float],
    ramp: int,
    weights: dict[str, float],
    cells: dict[str, str],
) -> list[dict]:
    """Return the phases of a mixture, by shares if they are given, else by source weights.

    Args:
        tokens: Number of tokens of the whole mixture.
        general_shares, zh_shares, ramp: As for `phases`. If `general_shares` is empty, the weights
            are used.
        weights, cells: As for `by_weight`.

    Returns:
        {tokens, shares: {cell name: share}} for each phase.
    """
    if general_shares:
        return phases(tokens, general_shares, zh_shares, ramp)
    return by_weight(tokens, weights, cells)


def phases(
    tokens: int, general_shares: list[float], zh_shares: list[float], ramp: int = 0
) -> list[dict]:
    """Return equal phases of a mixture.

    XuanYuan-70B changes the ratio of general to finance from 9:1 to 4:1, with 3:1 for Chinese to
    English: general_shares 0.9 to 0.8, zh_shares 0.75. ZhiLu-13B uses 2/3 and 2/3 throughout.

    Args:
        tokens: Number of tokens of the whole mixture.
        general_shares: Share of general text in each phase; the rest is finance. A single value is
            used for all phases.
        zh_shares: Share of Chinese text in each phase; the rest is English. A single value is used
            for all phases.
        ramp: If above 0, the number of phases; their shares change linearly from one listed share
            to the next. If 0, each listed share is one phase.

    Returns:
        {tokens, shares: {cell name: share}} for each phase.

    Raises:
        ValueError: A share is outside 0 to 1, or the axes have different lengths.
    """
    for share in [*general_shares, *zh_shares]:
        if not 0 <= share <= 1:
            raise ValueError(f"a share must lie between 0 and 1, not {share}")
    count = ramp or max(len(general_shares), len(zh_shares))
    if not ramp and {len(general_shares), len(zh_shares)} - {1, count}:
        raise ValueError(
            f"there are {len(general_shares)} general shares and {len(zh_shares)} Chinese shares: "
            "give one per phase, or one for all"
        )
    plan = []
    for number in range(count):
        general = _share_at(general_shares, number, count, bool(ramp))
        zh = _share_at(zh_shares, number, count, bool(ramp))
        of = {"general": general, "finance": 1 - general, "zh": zh, "en": 1 - zh}
        shares = {}
        for domain, language in CELLS:
            shares[label((domain, language))] = of[domain] * of[language]
        plan.append({"tokens": tokens // count, "shares": shares})
    return plan


def _share_at(shares: list[float], phase: int, count: int, ramp: bool) -> float:
    """Return the share of a phase.

    Args:
        shares: The shares that a recipe lists.
        phase: Number of the phase, from 0.
        count: Number of phases.
        ramp: Whether shares change linearly from one to the next; the share at the middle of the
            phase is returned.
    """
    if len(shares) == 1 or not ramp:
        return shares[min(phase, len(shares) - 1)]
    place = (phase + 0.5) / count * (len(shares) - 1)
    left = min(int(place), len(shares) - 2)
    return shares[left] + (place - left) * (shares[left + 1] - shares[left])


def sizes(documents: Documents) -> dict[str, float]:
    """Return {source: number of tokens} of documents."""
    held = numpy.bincount(documents.codes, documents.tokens, len(documents.sources))
    return dict(zip(documents.sources, held.tolist(), strict=True))


def by_weight(tokens: int, weights: dict[str, float], cells: dict[str, str]) -> list[dict]:
    """Return one phase whose cell shares are the sums of the weights of their sources.

    Golden-GPT publishes such weights: a table of 27 sources, in billions of tokens.

    Args:
        tokens: Number of tokens of the phase.
        weights: {source: weight}; the weights need not sum to one.
        cells: {source: name of its cell}.

    Returns:
        A list with one phase {tokens, shares: {cell name: share}}.

    Raises:
        ValueError: A weighted source is not in the corpus.
    """
    require_known(weights, cells)
    total = sum(weights.values())
    shares = {label(cell): 0.0 for cell in CELLS}
    for source, weight in weights.items():
        shares[cells[source]] += weight / total
    return [{"tokens": tokens, "shares": shares}]


# --- replay against forgetting -------------------------------------------------------------------
def add_source(tokens: Dataset, source: str, cell: Cell, documents: list[list[int]]) -> Dataset:
    """Return encoded documents with the documents of one more source after them.

    Args:
        tokens: Documents {source, domain, language, tokens, input_ids}.
        source: Name of the new source.
        cell: Its (domain, language), which may be a new cell.
        documents: Token ids of each new document.
    """
    from datasets import Dataset, concatenate_datasets

    domain, language = cell
    rows = []
    for ids in documents:
        row = {"source": source, "domain": domain, "language": language}
        rows.append({**row, "tokens": len(ids), "input_ids": ids})
    more = Dataset.from_list(rows, features=tokens.features)
    return concatenate_datasets([tokens, more])


def make_room(plan: list[dict], cell: Cell, share: float) -> list[dict]:
    """Return a plan with one more cell; the shares of the other cells shrink in proportion.

    Args:
        plan: The phases from `phases`.
        cell: The new cell, (domain, language).
        share: Share of the new cell in every phase, from 0 to 1.
    """
    phases = []
    for phase in plan:
        shares = {name: each * (1 - share) for name, each in phase["shares"].items()}
        phases.append({**phase, "shares": {**shares, label(cell): share}})
    return phases


# --- drawing -------------------------------------------------------------------------------------
def draw(
    documents: Documents,
    plan: list[dict],
    seed: int,
    max_epochs: float = 0,
    weights: dict[str, float] | None = None,
    source_epochs: dict[str, float] | None = None,
    knowledge: Iterable[str] = (),
    tolerance: float = 0.005,
) -> tuple[list[numpy.ndarray], list[dict]]:
    """Draw documents for each phase of a plan.

    Each source is read in its own shuffled order. A phase continues where the last phase stopped.
    When all documents of a source are used, it is shuffled again. Only the seed decides the order.

    Args:
        documents: Sizes and sources of all documents, see `columns`.
        plan: The phases from `phases` or `by_weight`.
        seed: Seed of the shuffling.
        max_epochs: How many times a source may be read; 0 for no limit.
        weights: {source: weight in its cell}; None weights sources by their tokens.
        source_epochs: {source: how many times it may be read}, instead of `max_epochs`.
        knowledge: Names of sources to read before the others of their cell.
        tolerance: By how much the share of a cell may differ from its target.

    Returns:
        (document numbers of each phase in order, int32; a record {tokens, requested, realised,
        epochs, sources} of each phase). `requested` and `realised` are shares of tokens by cell.
        `epochs` says how many times each cell was read so far. `sources` has for each source the
        tokens of the phase, and how many times the source was read so far.

    Raises:
        ValueError: The supply is too small, or a share cannot be met with whole documents.
    """
    drawer = Drawer(documents, numpy.random.default_rng(seed))
    supply = drawer.supply(max_epochs, weights, source_epochs, knowledge)
    orders, records = [], []
    for number, (phase, target) in enumerate(zip(plan, targets(plan, supply), strict=True), 1):
        order, spent = drawer.draw_phase(target, supply)
        record = _phase_record(phase, spent, drawer.used, supply)
        _check_shares(number, record, phase, documents, supply, tolerance)
        orders.append(order)
        records.append(record)
    return orders, records


def _phase_record(
    phase: dict[str, Any], spent: Counter, used: Counter, supply: Supply
) -> dict[str, Any]:
    """Return the record of a phase for `draw`: what was requested and what was drawn.

    Args:
        phase: The phase of the plan.
        spent: {source: tokens drawn in this phase}.
        used: {source: tokens drawn so far}.
        supply: The sources and their limits.
    """
    total = sum(spent.values()) or 1
    drawn, read = supply.by_cell(spent), supply.by_cell(used)
    held = supply.by_cell(supply.tokens)
    sources = {}
    for source in sorted(supply.tokens):
        epochs = used[source] / max(supply.tokens[source], 1)
        sources[source] = {"tokens": spent[source], "epochs": epochs}
    return {
        "tokens": total,
        "requested": phase["shares"],
        "realised": {cell: drawn[cell] / total for cell in phase["shares"]},
        "epochs": {cell: read[cell] / max(held[cell], 1) for cell in phase["shares"]},
        "sources": sources,
    }


def _check_shares(
    number: int,
    record: dict[str, Any],
    phase: dict[str, Any],
    documents: Documents,
    supply: Supply,
    tolerance: float,
) -> None:
    """Raise ValueError if a cell of a phase misses its share by more than the tolerance.

    The error says how long the longest document of the cell is.

    Args:
        number: Number of the phase, from 1.
        record: The record from `_phase_record`.
        phase: The phase of the plan.
        documents: All documents.
        supply: The sources and their limits.
        tolerance: By how much a share may differ from its target.
    """
    requested, realised = record["requested"], record["realised"]
    worst = max(realised, key=lambda cell: abs(realised[cell] - requested[cell]))
    if abs(realised[worst] - requested[worst]) <= tolerance:
        return
    codes = [code for code, cell in enumerate(documents.cells) if cell == worst]
    longest = documents.tokens[numpy.isin(documents.codes, codes)].max(initial=0)
    raise ValueError(
        f"phase {number} of {phase['tokens']:,} tokens cannot meet {requested[worst]:.1%} of "
        f"{worst}: whole documents make {realised[worst]:.1%} (the longest has {longest:,} "
        "tokens); raise tokens or use fewer phases"
    )


def phase_table(realised: list[dict]) -> list[dict]:
    """Return the records of `draw` as rows of a table.

    Args:
        realised: The records from `draw`.

    Returns:
        One row for each phase and cell: the requested and realised share, and how many times the
        cell was read so far.
    """
    rows = []
    for number, phase in enumerate(realised, 1):
        for cell, share in phase["requested"].items():
            row = {
                "phase": number,
                "corner": cell,
                "requested": share,
                "realised": phase["realised"][cell],
                "epochs so far": phase["epochs"][cell],
            }
            rows.append(row)
    return rows


def account(documents: Documents, orders: list[numpy.ndarray]) -> list[dict]:
    """Return the ledger of a mixture, with the tokens that were read, not drawn and drawn.

    The tokens of `read again` are negative, as a loss that is negative in other ledgers. For each
    source, the tokens of `drawn` are `read` less `not drawn` less `read again`.

    Args:
        documents: Sizes and sources of all documents, see `columns`.
        orders: Document numbers of each phase, from `draw`.

    Returns:
        Rows {source, reason, documents, tokens}.
    """
    times = numpy.zeros(len(documents), numpy.int32)
    for order in orders:
        times += numpy.bincount(order, minlength=len(documents)).astype(numpy.int32)
    rows = []
    for code, source in enumerate(documents.sources):
        numbers = documents.numbers(code)
        drawn, tokens = times[numbers], documents.tokens[numbers]
        counts = {
            "read": numpy.ones_like(drawn),
            "not drawn": (drawn == 0).astype(numpy.int32),
            "read again": numpy.minimum(0, 1 - drawn),
            "drawn": drawn,
        }
        for reason, count in counts.items():
            amounts = {
                "documents": int(numpy.abs(count).sum(dtype=numpy.int64)),
                "tokens": int((count.astype(numpy.int64) * tokens).sum()),
            }
            rows.append({"source": source, "reason": reason, **amounts})
    return rows
