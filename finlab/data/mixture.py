"""Mixtures: token targets on two axes, and the documents that meet them.

The axes are general to finance and Chinese to English, so there are four cells. Targets are set
phase by phase.

    phases = mixture.phases(tokens=300_000, general_shares=[0.9, 0.8], zh_shares=[0.75], ramp=4)
    order, realised = mixture.draw(documents, phases, seed=17)
"""

from __future__ import annotations

import random
from collections import Counter, defaultdict
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from finlab.data.supply import Supply, targets

if TYPE_CHECKING:
    from datasets import Dataset

Cell = tuple[str, str]  # (domain, language)
CELLS: list[Cell] = [
    ("general", "zh"),
    ("general", "en"),
    ("finance", "zh"),
    ("finance", "en"),
]
LOOK_AHEAD = 200  # documents among which the last one of a phase is chosen


def label(cell: Cell) -> str:
    """Return a cell's name, such as `zh_finance`."""
    domain, language = cell
    return f"{language}_{domain}"


# --- the plan ------------------------------------------------------------------------------------
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
        ramp: Above 0 the shares are the corners of a line, which is cut into so many phases.

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
    """Return the share of a phase; on a ramp, that of the phase's middle."""
    if len(shares) == 1 or not ramp:
        return shares[min(phase, len(shares) - 1)]
    place = (phase + 0.5) / count * (len(shares) - 1)
    left = min(int(place), len(shares) - 2)
    return shares[left] + (place - left) * (shares[left + 1] - shares[left])


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
    _require_known(weights, cells)
    total = sum(weights.values())
    shares = {label(cell): 0.0 for cell in CELLS}
    for source, weight in weights.items():
        shares[cells[source]] += weight / total
    return [{"tokens": tokens, "shares": shares}]


def _require_known(named: Iterable[str], sources: Iterable[str]) -> None:
    for source in sorted(set(named) - set(sources)):
        raise ValueError(
            f"the mixture names source '{source}', which is not in the corpus: "
            f"it holds {', '.join(sorted(sources))}"
        )


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
    """Return a plan in which one more cell has a share, and the others shrink in proportion."""
    phases = []
    for phase in plan:
        shares = {name: each * (1 - share) for name, each in phase["shares"].items()}
        phases.append({**phase, "shares": {**shares, label(cell): share}})
    return phases


# --- drawing -------------------------------------------------------------------------------------
def draw(
    documents: list[dict],
    plan: list[dict],
    seed: int,
    max_epochs: float = 0,
    weights: dict[str, float] | None = None,
    source_epochs: dict[str, float] | None = None,
    knowledge: Iterable[str] = (),
    tolerance: float = 0.005,
) -> tuple[list[list[int]], list[dict]]:
    """Draw documents for each phase of a plan.

    Each source is read in its own shuffled order. It goes on where the last phase stopped and is
    shuffled anew when it is used up, so the seed alone fixes the order.

    Args:
        documents: {source, domain, language, tokens}. About 200 bytes each in memory.
        plan: From `phases` or `by_weight`.
        seed: Fixes the order.
        max_epochs: How often a source may be read; 0 for no limit.
        weights: {source: weight} within its cell; by default a source weighs its tokens.
        source_epochs: {source: epochs} in place of max_epochs.
        knowledge: Sources to read before the others of their cell.
        tolerance: How far a cell may miss its share.

    Returns:
        Document numbers in order, by phase; and a record a phase, {tokens, requested, realised,
        epochs, sources}: shares of tokens by cell, and by source the tokens of the phase and how
        often the source has been read so far.

    Raises:
        ValueError: The supply is too small, or whole documents cannot meet a share.
    """
    drawer = _Drawer(documents, random.Random(seed))
    supply = drawer.supply(max_epochs, weights, source_epochs, knowledge)
    orders, records = [], []
    for number, (phase, target) in enumerate(zip(plan, targets(plan, supply), strict=True), 1):
        order, spent = drawer.draw_phase(target)
        record = _phase_record(phase, spent, drawer.used, supply)
        _check_shares(number, record, phase, documents, supply, tolerance)
        orders.append(order)
        records.append(record)
    return orders, records


class _Drawer:
    """Draws documents source by source, and remembers how far it has read each."""

    def __init__(self, documents: list[dict], rng: random.Random):
        self.documents = documents
        self.rng = rng
        self.numbers: dict[str, list[int]] = defaultdict(list)
        for number, document in enumerate(documents):
            self.numbers[document["source"]].append(number)
        self.queues: dict[str, list[int]] = defaultdict(list)
        self.used: Counter = Counter()  # tokens read of each source
        self.due: Counter = Counter()  # tokens wanted of each source so far

    def supply(
        self,
        max_epochs: float,
        weights: dict[str, float] | None,
        source_epochs: dict[str, float] | None,
        knowledge: Iterable[str],
    ) -> Supply:
        """Return what the documents hold, with the limits that a recipe sets."""
        tokens, cells = {}, {}
        for source, numbers in self.numbers.items():
            tokens[source] = sum(self.documents[number]["tokens"] for number in numbers)
            document = self.documents[numbers[-1]]
            cells[source] = label((document["domain"], document["language"]))
        # A knowledge source may have lost all its text, so it need not be there.
        _require_known([*(weights or ()), *(source_epochs or ())], tokens)
        shared, caps = {}, {}
        for source, size in tokens.items():
            shared[source] = (weights or tokens).get(source, 0.0)
            epochs = (source_epochs or {}).get(source, max_epochs)
            caps[source] = (epochs or float("inf")) * size
        return Supply(tokens, cells, shared, caps, set(knowledge))

    def draw_phase(self, target: Counter) -> tuple[list[int], Counter]:
        """Return the documents of one phase, shuffled, and the tokens of each source."""
        chosen: list[int] = []
        spent: Counter = Counter()
        for source in sorted(target):
            self.due[source] += target[source]
            taken = self._take(source, self.due[source] - self.used[source])
            amount = sum(self.documents[number]["tokens"] for number in taken)
            chosen += taken
            self.used[source] += amount
            spent[source] += amount
        self.rng.shuffle(chosen)
        return chosen, spent

    def _take(self, source: str, budget: float) -> list[int]:
        """Take documents of a source that come as near to a budget of tokens as they can."""
        queue, numbers = self.queues[source], self.numbers[source]
        taken: list[int] = []
        while budget > 0:
            if not queue:
                queue += self.rng.sample(numbers, len(numbers))
            if self.documents[queue[-1]]["tokens"] > budget and not self._bring_best(queue, budget):
                break
            number = queue.pop()
            taken.append(number)
            budget -= self.documents[number]["tokens"]
        return taken

    def _bring_best(self, queue: list[int], budget: float) -> bool:
        """Move the document that fits best among the next to the end of the queue.

        Returns False where even it would miss the budget by more than taking none does.
        """

        def miss(place: int) -> float:
            return abs(budget - self.documents[queue[place]]["tokens"])

        best = min(range(max(0, len(queue) - LOOK_AHEAD), len(queue)), key=miss)
        if miss(best) >= budget:
            return False
        queue.append(queue.pop(best))
        return True


def _phase_record(
    phase: dict[str, Any], spent: Counter, used: Counter, supply: Supply
) -> dict[str, Any]:
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
    documents: list[dict],
    supply: Supply,
    tolerance: float,
) -> None:
    requested, realised = record["requested"], record["realised"]
    worst = max(realised, key=lambda cell: abs(realised[cell] - requested[cell]))
    if abs(realised[worst] - requested[worst]) <= tolerance:
        return
    sizes = [each["tokens"] for each in documents if supply.cells[each["source"]] == worst]
    raise ValueError(
        f"phase {number} of {phase['tokens']:,} tokens cannot meet {requested[worst]:.1%} of "
        f"{worst}: whole documents make {realised[worst]:.1%} (the longest has {max(sizes):,} "
        "tokens); raise tokens or use fewer phases"
    )


def phase_table(realised: list[dict]) -> list[dict]:
    """Return the records of `draw` as rows, one for each phase and cell."""
    rows = []
    for number, phase in enumerate(realised, 1):
        for cell, share in phase["requested"].items():
            row = {
                "phase": number,
                "cell": cell,
                "requested": share,
                "realised": phase["realised"][cell],
                "epochs so far": phase["epochs"][cell],
            }
            rows.append(row)
    return rows


def account(documents: list[dict], orders: list[list[int]]) -> list[dict]:
    """Return the ledger of a mixture: `read`, less `not drawn`, plus `read again`, is `drawn`.

    Args:
        documents: {source, tokens}.
        orders: Document numbers by phase, from `draw`.

    Returns:
        Rows {source, reason, documents, tokens}; `read again` is negative.
    """
    times = Counter(number for order in orders for number in order)
    sums: dict[str, dict[str, Counter]] = defaultdict(lambda: defaultdict(Counter))
    for number, document in enumerate(documents):
        drawn = times[number]
        counts = {
            "read": 1,
            "not drawn": int(drawn == 0),
            "read again": min(0, 1 - drawn),
            "drawn": drawn,
        }
        for reason, count in counts.items():
            tokens = count * document["tokens"]
            sums[document["source"]][reason].update(documents=abs(count), tokens=tokens)
    rows = []
    for source, reasons in sorted(sums.items()):
        for reason, amounts in reasons.items():
            rows.append({"source": source, "reason": reason, **amounts})
    return rows
