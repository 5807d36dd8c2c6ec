"""Draw documents source by source; read a whole source before any document is repeated.

All work is done on arrays. The shuffled order of a source is an array of document numbers. The
running sum of their sizes tells how many documents fit into a budget of tokens.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable

import numpy

from finlab.data.columns import Documents
from finlab.data.supply import Supply

# A cell may miss its target by this share of the phase's tokens. A larger miss is corrected.
CELL_TOLERANCE = 0.0025
LOOK_AHEAD = 200  # the last document of a phase is chosen among this many documents
BLOCK = 4_000_000  # how many documents' sizes are summed at a time
NOTHING = numpy.empty(0, numpy.int32)


def require_known(named: Iterable[str], sources: Iterable[str]) -> None:
    """Raise ValueError if a recipe names a source that the corpus does not hold.

    Args:
        named: Names of the sources in the recipe.
        sources: Names of the sources in the corpus.
    """
    for source in sorted(set(named) - set(sources)):
        raise ValueError(
            f"the mixture names source '{source}', which is not in the corpus: "
            f"it holds {', '.join(sorted(sources))}"
        )


class Queue:
    """The documents of one source in a shuffled order, shuffled again when all are used.

    Args:
        numbers: Numbers of the source's documents, int32.
        tokens: Number of tokens of every document of the corpus, int32.
        rng: Draws the order.
    """

    def __init__(self, numbers: numpy.ndarray, tokens: numpy.ndarray, rng: numpy.random.Generator):
        self.numbers = numbers
        self.tokens = tokens
        self.rng = rng
        self.order = NOTHING
        self.place = 0  # index of the next document in `order`
        self.longest = int(tokens[numbers].max())

    def take(self, budget: float) -> numpy.ndarray:
        """Return the next documents, whose sizes sum to a budget as closely as possible.

        Args:
            budget: How many tokens to take.

        Returns:
            Numbers of the documents, int32.
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
        """Move the best fitting of the next LOOK_AHEAD documents to the front of the order.

        Args:
            budget: How many tokens are still to be taken.

        Returns:
            False if taking no document comes at least as close to the budget as taking this one.
        """
        ahead = self.order[self.place : self.place + LOOK_AHEAD]
        misses = numpy.abs(self.tokens[ahead] - budget)
        best = int(misses.argmin())
        if misses[best] >= budget:
            return False
        ahead[[0, best]] = ahead[[best, 0]]  # a view, so the order itself changes
        return True

    def give_back(self, taken: numpy.ndarray) -> None:
        """Put documents back at the front of the order.

        Args:
            taken: The documents that `take` returned last.
        """
        self.order = numpy.concatenate([taken, self.order[self.place :]])
        self.place = 0


class Drawer:
    """Draws documents source by source, and remembers how far each source was read.

    The whole source is read, in a random order, before any of its documents is repeated.

    Args:
        documents: All documents.
        rng: Draws the orders.
    """

    def __init__(self, documents: Documents, rng: numpy.random.Generator):
        self.documents = documents
        self.rng = rng
        self.queues: dict[str, Queue] = {}
        for code, source in enumerate(documents.sources):
            self.queues[source] = Queue(documents.numbers(code), documents.tokens, rng)
        self.used: Counter = Counter()  # tokens read so far from each source
        self.due: Counter = Counter()  # tokens wanted so far from each source

    def supply(
        self,
        max_epochs: float,
        weights: dict[str, float] | None,
        source_epochs: dict[str, float] | None,
        knowledge: Iterable[str],
    ) -> Supply:
        """Return the tokens of each source, with the limits that a recipe sets.

        Args:
            max_epochs: How many times each source may be read; 0 sets no limit.
            weights: {source: weight in its cell}; None weights sources by their tokens.
            source_epochs: {source: how many times it may be read}, instead of `max_epochs`.
            knowledge: Names of sources that are read before the others of their cell.
        """
        tokens = {source: self._tokens(queue.numbers) for source, queue in self.queues.items()}
        cells = dict(zip(self.documents.sources, self.documents.cells, strict=True))
        # Names in `knowledge` are not checked: cleaning may have removed all text of a source.
        require_known([*(weights or ()), *(source_epochs or ())], tokens)
        shared, caps = {}, {}
        for source, size in tokens.items():
            shared[source] = (weights or tokens).get(source, 0.0)
            epochs = (source_epochs or {}).get(source, max_epochs)
            caps[source] = (epochs or float("inf")) * size
        return Supply(tokens, cells, shared, caps, set(knowledge))

    def draw_phase(self, target: Counter, supply: Supply) -> tuple[numpy.ndarray, Counter]:
        """Return the documents of one phase, shuffled.

        If a source gets more or fewer tokens than wanted in one phase, the next phase corrects it.

        Args:
            target: {source: how many tokens are wanted}.
            supply: What the method `supply` returned.

        Returns:
            (numbers of the documents, int32; {source: how many tokens were drawn}).
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
        """Return the total number of tokens of documents."""
        return int(self.documents.tokens[numbers].sum(dtype=numpy.int64))

    def _make_up(self, taken: dict[str, numpy.ndarray], tolerance: float, supply: Supply) -> None:
        """Correct the tokens of a cell with its source that has the shortest documents.

        A source with long documents misses its target by half a document on average. If this is
        much compared with the phase, the source whose longest document is shortest draws again,
        so that the cell as a whole reaches its target.

        Args:
            taken: {source: its documents in this phase}; changed in place.
            tolerance: How many tokens a cell may miss without a correction.
            supply: The cells of the sources, and how much may be read from each.
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
