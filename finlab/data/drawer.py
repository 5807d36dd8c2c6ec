"""Drawing documents source by source, without repeating any before all have been read."""

from __future__ import annotations

import random
from collections import Counter, defaultdict
from collections.abc import Iterable

from finlab.data.supply import Supply, label

# A cell that misses its tokens by more than this share of the phase is made up for.
CELL_TOLERANCE = 0.0025
LOOK_AHEAD = 200  # documents among which the last one of a phase is chosen


def require_known(named: Iterable[str], sources: Iterable[str]) -> None:
    """Refuse settings for sources that the corpus does not hold.

    Args:
        named: The sources that a recipe names.
        sources: Those of the corpus.
    """
    for source in sorted(set(named) - set(sources)):
        raise ValueError(
            f"the mixture names source '{source}', which is not in the corpus: "
            f"it holds {', '.join(sorted(sources))}"
        )


class Drawer:
    """Draws documents source by source, and remembers how far it has read each.

    A source is read whole, in an order drawn by seed, before any of its documents comes again.
    """

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
        """Return what the documents hold, with the limits that a recipe sets.

        Args:
            max_epochs: How often any source may be read; 0 sets no limit.
            weights: {source: weight in its cell}; without it, the tokens of the sources.
            source_epochs: {source: how often it may be read}, for single ones.
            knowledge: Sources that are read before the others of their cell.
        """
        tokens, cells = {}, {}
        for source, numbers in self.numbers.items():
            tokens[source] = sum(self.documents[number]["tokens"] for number in numbers)
            document = self.documents[numbers[-1]]
            cells[source] = label((document["domain"], document["language"]))
        # A knowledge source may have lost all its text, so it need not be there.
        require_known([*(weights or ()), *(source_epochs or ())], tokens)
        shared, caps = {}, {}
        for source, size in tokens.items():
            shared[source] = (weights or tokens).get(source, 0.0)
            epochs = (source_epochs or {}).get(source, max_epochs)
            caps[source] = (epochs or float("inf")) * size
        return Supply(tokens, cells, shared, caps, set(knowledge))

    def draw_phase(self, target: Counter, supply: Supply) -> tuple[list[int], Counter]:
        """Return the documents of one phase, shuffled.

        What a source missed its target by in one phase is made up in the next.

        Args:
            target: {source: tokens wanted}.
            supply: From `supply`.

        Returns:
            (places of documents, {source: tokens drawn}).
        """
        before = Counter(self.used)
        taken: dict[str, list[int]] = {}
        for source in sorted(target):
            self.due[source] += target[source]
            taken[source] = self._take(source, self.due[source] - self.used[source])
            self.used[source] += self._tokens(taken[source])
        self._make_up(taken, CELL_TOLERANCE * sum(target.values()), supply)
        chosen: list[int] = []
        spent: Counter = Counter()
        for source, numbers in taken.items():
            chosen += numbers
            spent[source] = self.used[source] - before[source]
        self.rng.shuffle(chosen)
        return chosen, spent

    def _tokens(self, numbers: list[int]) -> int:
        """Return the tokens of documents."""
        return sum(self.documents[number]["tokens"] for number in numbers)

    def _make_up(self, taken: dict[str, list[int]], tolerance: float, supply: Supply) -> None:
        """Let the source with the shortest documents of a cell make up for what the others missed.

        A source of long documents misses its tokens by half a document. Where that is much of a
        phase, the finest source of the cell draws again, for what the cell lacks as a whole.

        Args:
            taken: {source: places of its documents in this phase}, which is changed.
            tolerance: Tokens that a cell may miss without it.
            supply: The cells of the sources, and what may be read of each.
        """
        members = defaultdict(list)
        for source in taken:
            members[supply.cells[source]].append(source)
        for sources in members.values():
            missed = sum(self.due[source] - self.used[source] for source in sources)
            if abs(missed) <= tolerance or len(sources) == 1:
                continue
            finest = min(sources, key=self._longest)
            self.used[finest] -= self._tokens(taken[finest])
            # Its documents go back to where they were taken from.
            self.queues[finest] += reversed(taken[finest])
            wanted = sum(self.due[source] - self.used[source] for source in sources)
            allowed = supply.caps[finest] - self.used[finest]
            taken[finest] = self._take(finest, min(wanted, allowed))
            self.used[finest] += self._tokens(taken[finest])

    def _longest(self, source: str) -> int:
        """Return the tokens of a source's longest document."""
        return max(self.documents[number]["tokens"] for number in self.numbers[source])

    def _take(self, source: str, budget: float) -> list[int]:
        """Take documents of a source that come as near to a budget as they can.

        Args:
            source: Its name.
            budget: In tokens.

        Returns:
            Their places.
        """
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

        Args:
            queue: Places of documents, the next at the end.
            budget: In tokens.

        Returns:
            False where even it would miss the budget by more than taking none does.
        """

        def miss(place: int) -> float:
            return abs(budget - self.documents[queue[place]]["tokens"])

        best = min(range(max(0, len(queue) - LOOK_AHEAD), len(queue)), key=miss)
        if miss(best) >= budget:
            return False
        queue.append(queue.pop(best))
        return True
