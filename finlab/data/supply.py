"""The tokens that each source of a corpus can supply, and how many a mixture wants."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

Cell = tuple[str, str]  # (domain, language)


def label(cell: Cell) -> str:
    """Return a cell's name, such as `zh_finance`."""
    domain, language = cell
    return f"{language}_{domain}"


@dataclass
class Supply:
    """The sources of a corpus, and how they may be used.

    Attributes:
        tokens: {source: how many tokens it holds}.
        cells: {source: name of its cell}.
        weights: {source: its weight among the sources of its cell}.
        caps: {source: how many tokens may be read from it, repetitions included}.
        first: Names of sources that are read before the others of their cell.
    """

    tokens: dict[str, int]
    cells: dict[str, str]
    weights: dict[str, float]
    caps: dict[str, float]
    first: set[str] = field(default_factory=set)

    def members(self, cell: str) -> list[str]:
        """Return the sources of a cell whose weight is not 0."""
        return [name for name in self.tokens if self.cells[name] == cell and self.weights[name]]

    def by_cell(self, amounts: dict[str, float]) -> Counter:
        """Return amounts of sources, summed for each cell.

        Args:
            amounts: {source: amount}.
        """
        sums: Counter = Counter()
        for source, amount in amounts.items():
            sums[self.cells[source]] += amount
        return sums


def targets(plan: list[dict], supply: Supply) -> list[Counter]:
    """Return how many tokens are wanted from each source in each phase.

    Args:
        plan: The phases {tokens, shares: {cell: share}}, from `mixture.phases`.
        supply: The sources and their limits.

    Returns:
        {source: tokens} for each phase.

    Raises:
        ValueError: The supply is too small. The error says what would be possible.
    """
    wanted: Counter = Counter()
    for phase in plan:
        for cell, share in phase["shares"].items():
            wanted[cell] += share * phase["tokens"]
    members = {cell: supply.members(cell) for cell in wanted}
    _check_supply(plan, wanted, members, supply)
    whole: Counter = Counter()  # tokens of each source over all phases
    for cell, amount in wanted.items():
        whole.update(_share_out(amount, members[cell], supply))
    found, used = [], Counter()
    for phase in plan:
        target: Counter = Counter()
        for cell, share in phase["shares"].items():
            room = share * phase["tokens"]
            for group in _reading_order(members[cell], supply.first):
                rest = {source: whole[source] - used[source] for source in group}
                total = sum(rest.values())
                part = min(room, total)
                for source, amount in rest.items():
                    target[source] += part * amount / (total or 1)
                room -= part
        used += target
        found.append(target)
    return found


def _share_out(amount: float, members: list[str], supply: Supply) -> dict[str, float]:
    """Divide the tokens of a cell among its sources by weight.

    If a source reaches its cap, the other sources get the rest.

    Args:
        amount: How many tokens to divide.
        members: The sources of the cell.
        supply: The sources' weights and caps.

    Returns:
        {source: tokens}.
    """
    given: dict[str, float] = {}
    left, free = amount, members
    while free:
        total = sum(supply.weights[source] for source in free)
        parts = {source: left * supply.weights[source] / total for source in free}
        full = [source for source in free if parts[source] > supply.caps[source]]
        if not full:
            return given | parts
        for source in full:
            given[source] = supply.caps[source]
        left -= sum(supply.caps[source] for source in full)
        free = [source for source in free if source not in full]
    return given


def _reading_order(members: list[str], first: set[str]) -> list[list[str]]:
    """Return the sources of a cell in groups: the sources in `first`, then the others."""
    early = [source for source in members if source in first]
    if not early:
        return [members]
    return [early, [source for source in members if source not in early]]


def _check_supply(
    plan: list[dict], wanted: Counter, members: dict[str, list[str]], supply: Supply
) -> None:
    """Raise ValueError if the supply is too small for a plan, and say what would be possible.

    Args:
        plan: The phases.
        wanted: {cell: tokens wanted in all phases}.
        members: {cell: its sources with a weight}.
        supply: The sources and their limits.
    """
    held = supply.by_cell(supply.tokens)
    most = {}
    for cell, sources in members.items():
        most[cell] = sum(supply.caps[source] for source in sources)
    for cell, amount in wanted.items():
        there = held[cell]
        if amount and not there:
            raise ValueError(
                f"the mixture asks for {amount:,.0f} tokens of {cell}, but no source holds any: "
                "add a card or set its share to 0"
            )
        if amount > most[cell] * (1 + 1e-9):
            total = sum(phase["tokens"] for phase in plan)
            scale = min(most[name] / part for name, part in wanted.items() if part)
            raise ValueError(
                f"the mixture asks for {amount:,.0f} tokens of {cell}; {there:,} are there, "
                f"{most[cell]:,.0f} within the epochs allowed: lower tokens to "
                f"{total * scale:,.0f}, allow {amount / there:.1f} epochs, "
                f"or add {amount - most[cell]:,.0f} tokens of {cell}"
            )
