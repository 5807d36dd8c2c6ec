"""Drawing documents source by source, without repeating any before all have been read.

Everything is done on columns: a source's shuffled order is an array of numbers, and what a budget
of tokens buys is found in the running sum of their sizes.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable

import numpy

from finlab.data.columns import Documents
from finlab.data.supply import Supply

# A cell that misses its tokens by more than this share of the phase is made up for.
CELL_TOLERANCE = 0.0025
LOOK_AHEAD = 200  # documents among which the last one of a phase is chosen
BLOCK = 4_000_000  # documents whose sizes are summed up at once
NOTHING = numpy.empty(0, numpy.int32)


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


class Queue:
    """The documents of one source in a shuffled order, which begins anew when it is used up."""

    def __init__(self, numbers: numpy.ndarray, tokens: numpy.ndarray, rng: numpy.random.Generator):
        self.numbers = numbers
        self.tokens = tokens  # of all documents
        self.rng = rng
        self.order = NOTHING
        self.place = 0  # of the next document in the order
        self.longest = int(tokens[numbers].max())

    def take(self, budget: float) -> numpy.ndarray:
        """Return the next documents, which come as near to a budget as they can.

        Args:
            budget: In tokens.

        Returns:
            Their numbers, int32.
        """
        taken = []
        while budget > 0:
            if self.place == len(self.order):
                self.order, self.place = self.rng.permutation(self.numbers), 0
            block = self.order[self.place : self.place + BLOCK]
            sums = self.tokens[block].cumsum(dtype=numpy.int64)
            count = int(numpy.searchsorted(sums, budget, side="right"))
            if count == 0:
                if not self._bring_best(budget):
                    break
                count = 1
                sums = self.tokens[self.order[self.place : self.place + 1]].astype(numpy.int64)
            taken.append(self.order[self.place : self.place + count].copy())
            budget -= int(sums[count - 1])
            self.place += count
        return numpy.concatenate(taken) if taken else NOTHING

    def _bring_best(self, budget: float) -> bool:
        """Bring the document that fits best among the next to the head of the order.

        Args:
            budget: In tokens.

        Returns:
            False where even it would miss the budget by more than taking none does.
        """
        ahead = self.order[self.place : self.place + LOOK_AHEAD]
        misses = numpy.abs(self.tokens[ahead] - budget)
        best = int(misses.argmin())
        if misses[best] >= budget:
            return False
        ahead[[0, best]] = ahead[[best, 0]]  # a view, so the order itself changes
        return True

    def give_back(self, taken: numpy.ndarray) -> None:
        """Put documents back to where they were taken from.

        Args:
            taken: What `take` returned last.
        """
        self.order = numpy.concatenate([taken, self.order[self.place :]])
        self.place = 0


class Drawer:
    """Draws documents source by source, and remembers how far it has read each.

    A source is read whole, in an order drawn by seed, before any of its documents comes again.
    """

    def __init__(self, documents: Documents, rng: numpy.random.Generator):
        self.documents = documents
        self.rng = rng
        self.queues: dict[str, Queue] = {}
        for code, source in enumerate(documents.sources):
            self.queues[source] = Queue(documents.numbers(code), documents.tokens, rng)
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
        tokens = {source: self._tokens(queue.numbers) for source, queue in self.queues.items()}
        cells = dict(zip(self.documents.sources, self.documents.cells, strict=True))
        # A knowledge source may have lost all its text, so it need not be there.
        require_known([*(weights or ()), *(source_epochs or ())], tokens)
        shared, caps = {}, {}
        for source, size in tokens.items():
            shared[source] = (weights or tokens).get(source, 0.0)
            epochs = (source_epochs or {}).get(source, max_epochs)
            caps[source] = (epochs or float("inf")) * size
        return Supply(tokens, cells, shared, caps, set(knowledge))

    def draw_phase(self, target: Counter, supply: Supply) -> tuple[numpy.ndarray, Counter]:
        """Return the documents of one phase, shuffled.

        What a source missed its target by in one phase is made up in the next.

        Args:
            target: {source: tokens wanted}.
            supply: From `supply`.

        Returns:
            (numbers of documents int32, {source: tokens drawn}).
        """
        before = Counter(self.used)
        taken: dict[str, numpy.ndarray] = {}
        for source in sorted(target):
            self.due[source] += target[source]
            taken[source] = self.queues[source].take(self.due[source] - self.used[source])
            self.used[source] += self._tokens(taken[source])
        self._make_up(taken, CELL_TOLERANCE * sum(target.values()), supply)
        spent: Counter = Counter()
        for source in taken:
            spent[source] = self.used[source] - before[source]
        chosen = numpy.concatenate([NOTHING, *taken.values()])
        self.rng.shuffle(chosen)
        return chosen, spent

    def _tokens(self, numbers: numpy.ndarray) -> int:
        """Return the tokens of documents."""
        return int(self.documents.tokens[numbers].sum(dtype=numpy.int64))

    def _make_up(self, taken: dict[str, numpy.ndarray], tolerance: float, supply: Supply) -> None:
        """Let the source with the shortest documents of a cell make up for what the others missed.

        A source of long documents misses its tokens by half a document. Where that is much of a
        phase, the finest source of the cell draws again, for what the cell lacks as a whole.

        Args:
            taken: {source: its documents in this phase}, which is changed.
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
            finest = min(sources, key=lambda source: self.queues[source].longest)
            queue = self.queues[finest]
            self.used[finest] -= self._tokens(taken[finest])
            queue.give_back(taken[finest])
            wanted = sum(self.due[source] - self.used[source] for source in sources)
            taken[finest] = queue.take(min(wanted, supply.caps[finest] - self.used[finest]))
            self.used[finest] += self._tokens(taken[finest])
