"""Mixtures: token targets on two axes, and the documents that meet them.

The axes are general to finance and Chinese to English, so there are four cells. Targets are set
phase by phase.

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
    """Return the phases of a mixture, by shares if they are given, else by weights of sources.

    Args:
        tokens: Of the whole mixture.
        general_shares, zh_shares, ramp: As for `phases`; no general share leaves it to the weights.
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

    XuanYuan-70B goes from 9:1 to 4:1 general to finance at 3:1 Chinese to English: general_shares
    0.9 to 0.8, zh_shares 0.75. ZhiLu-13B stays at 2/3 and 2/3.

    Args:
        tokens: Of the whole mixture.
        general_shares: The general share in each phase; the rest is finance.
        zh_shares: The Chinese share in each phase; the rest is English. One share holds for all.
        ramp: Above 0, straight lines join the shares, and are cut into this many phases.

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
        phase: The phase's number, from 0 on.
        count: The number of phases.
        ramp: Whether shares change evenly from one to the next, read at each phase's middle.
    """
    if len(shares) == 1 or not ramp:
        return shares[min(phase, len(shares) - 1)]
    place = (phase + 0.5) / count * (len(shares) - 1)
    left = min(int(place), len(shares) - 2)
    return shares[left] + (place - left) * (shares[left + 1] - shares[left])


def sizes(documents: Documents) -> dict[str, float]:
    """Return {source: tokens} of documents."""
    held = numpy.bincount(documents.codes, documents.tokens, len(documents.sources))
    return dict(zip(documents.sources, held.tolist(), strict=True))


def by_weight(tokens: int, weights: dict[str, float], cells: dict[str, str]) -> list[dict]:
    """Return one phase whose cells follow from the weights of sources.

    Golden-GPT gives such a table, of 27 sources in billions of tokens.

    Args:
        tokens: Of the phase.
        weights: {source: weight}.
        cells: {source: name of the cell where it belongs}.

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
    """Return encoded documents with those of one more source behind them.

    Args:
        tokens: Documents {source, domain, language, tokens, input_ids}.
        source: The new source's name.
        cell: Its (domain, language); it may be a cell of its own.
        documents: Its token ids.
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
    """Return a plan in which one more cell has a share, and the others shrink in proportion.

    Args:
        plan: From `phases`.
        cell: The new cell, (domain, language).
        share: Its share of every phase.
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

    Each source is read in its own shuffled order. It goes on where the last phase stopped and is
    shuffled anew when it is used up, so the seed alone fixes the order.

    Args:
        documents: From `columns`.
        plan: From `phases` or `by_weight`.
        seed: Fixes the order.
        max_epochs: How often a source may be read; 0 for no limit.
        weights: {source: weight} within its cell; by default a source weighs its tokens.
        source_epochs: {source: epochs} in place of max_epochs.
        knowledge: Sources to read before the others of their cell.
        tolerance: How far a cell may miss its share.

    Returns:
        Document numbers in order, int32, by phase; and a record a phase, {tokens, requested,
        realised, epochs, sources}: shares of tokens by cell, and by source the tokens of the phase
        and how often the source has been read so far.

    Raises:
        ValueError: The supply is too small, or whole documents cannot meet a share.
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
    """Return what a phase came to, beside what was asked.

    Args:
        phase: Of the plan.
        spent: {source: tokens drawn in this phase}.
        used: {source: tokens drawn so far}.
        supply: What the sources can give.
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
    """Refuse a phase whose shares are off, and say which documents are too large for it.

    Args:
        number: The phase's number, from 1.
        record: From `_phase_record`.
        phase: Of the plan.
        documents: All documents.
        supply: What the sources can give.
        tolerance: How far a share may be off.
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
    """Return the records of `draw` as rows.

    Args:
        realised: From `draw`.

    Returns:
        One row for each phase and cell: the requested and realised share, and the epochs so far.
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
    """Return the ledger of a mixture: `read`, less `not drawn`, plus `read again`, is `drawn`.

    Args:
        documents: From `columns`.
        orders: Document numbers by phase, from `draw`.

    Returns:
        Rows {source, reason, documents, tokens}; `read again` is negative.
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
