"""Clusters of near copies: which documents belong together, and which one stays."""

from __future__ import annotations

from dataclasses import dataclass

import daft
import numpy

from finlab.data import frames
from finlab.data.contradiction import contradicts

FRUITLESS = 40  # refusals after which a document that found no copy is left alone
AT_ONCE = 100_000  # documents of clusters whose texts are in memory together


@dataclass(frozen=True)
class Signed:
    """The documents that have a signature.

    Attributes:
        numbers: Theirs, sorted.
        lengths: The characters of each.
        sources: The hash of each one's source.
    """

    numbers: numpy.ndarray
    lengths: numpy.ndarray
    sources: numpy.ndarray

    def lengths_of(self, numbers: numpy.ndarray) -> numpy.ndarray:
        """Return the characters of some documents."""
        return self.lengths[numpy.searchsorted(self.numbers, numbers)]

    def across(self, pairs: numpy.ndarray) -> numpy.ndarray:
        """Return the pairs of different sources.

        Args:
            pairs: Documents' numbers, int64 [pairs, 2].
        """
        sources = self.sources[numpy.searchsorted(self.numbers, pairs)]
        return pairs[sources[:, 0] != sources[:, 1]]


class Components:
    """Which documents are known to be copies, while candidate pairs are judged batch by batch.

    Pairs that need no judging are left out: two of one cluster, and a document that was refused so
    often that its bucket is one of a form, such as announcements, and no copy is in it.

    Args:
        numbers: The documents', sorted.
    """

    def __init__(self, numbers: numpy.ndarray):
        self.numbers = numbers
        self.labels = numpy.arange(len(numbers), dtype=numpy.int32)
        self.refused = numpy.zeros(len(numbers), numpy.int32)
        self.edges = numpy.empty((0, 2), numpy.int32)  # places of confirmed copies

    def undecided(self, pairs: numpy.ndarray) -> numpy.ndarray:
        """Return the pairs that are worth judging.

        Args:
            pairs: Documents' numbers, int64 [pairs, 2].
        """
        places = numpy.searchsorted(self.numbers, pairs)
        apart = self.labels[places[:, 0]] != self.labels[places[:, 1]]
        promising = (self.refused[places] < FRUITLESS).all(axis=1)
        return pairs[apart & promising]

    def decide(self, pairs: numpy.ndarray, alike: numpy.ndarray) -> None:
        """Take down a judgement.

        Args:
            pairs: Those that were judged.
            alike: Those of them that are copies.
        """
        places = numpy.searchsorted(self.numbers, pairs).ravel()
        self.refused += numpy.bincount(places, minlength=len(self.numbers)).astype(numpy.int32)
        if not len(alike):
            return
        edges = numpy.searchsorted(self.numbers, alike).astype(numpy.int32)
        # A document that has found a copy is worth looking at further.
        self.refused[edges.ravel()] = 0
        self.edges = numpy.concatenate([self.edges, edges])
        self.labels = _components(self.edges, len(self.numbers))

    def clusters(self, signed: Signed) -> list[list[int]]:
        """Return the clusters of copies.

        Args:
            signed: All documents.

        Returns:
            Numbers, the longest document of each cluster first, the earliest among equally long
            ones.
        """
        if not len(self.edges):
            return []
        places = numpy.unique(self.edges)
        numbers, labels = self.numbers[places], self.labels[places]
        order = numpy.lexsort((numbers, -signed.lengths_of(numbers), labels))
        bounds = numpy.flatnonzero(numpy.diff(labels[order])) + 1
        return [part.tolist() for part in numpy.split(numbers[order], bounds)]


def _components(edges: numpy.ndarray, count: int) -> numpy.ndarray:
    """Return the number of the connected component of each place, int32.

    Args:
        edges: Places that belong together, int32 [edges, 2].
        count: The number of places.
    """
    from scipy.sparse import coo_matrix
    from scipy.sparse.csgraph import connected_components

    left, right = edges.T
    graph = coo_matrix((numpy.ones(len(edges), bool), (left, right)), shape=(count, count))
    return connected_components(graph, directed=False)[1]


def without_contradictions(frame: daft.DataFrame, clusters: list[list[int]]) -> list[list[int]]:
    """Return clusters in which no member contradicts the one that stays.

    Where a short copy agrees with two documents that contradict each other, they are one component.

    Args:
        frame: The documents.
        clusters: Their numbers, the longest document of each first.
    """
    result = [members for members in clusters if len(members) <= 2]
    large = [members for members in clusters if len(members) > 2]
    # Some clusters at a time, since their texts are held in memory.
    for group in frames.batches(large, AT_ONCE, max_rows=AT_ONCE):
        wanted = [number for members in group for number in members]
        texts = dict(zip(*frames.pick(frame, wanted, "text").values(), strict=True))
        for members in group:
            result += _agreeing(members, texts)
    return sorted(result)


def _agreeing(members: list[int], texts: dict[int, str]) -> list[list[int]]:
    """Return a cluster as clusters whose members agree with the one that stays.

    Args:
        members: Numbers, the longest document first.
        texts: The text of each.
    """
    found = []
    rest = members
    while len(rest) > 1:
        kept, others = rest[0], rest[1:]
        agreeing, against = [kept], []
        for each in others:
            opposed = contradicts(texts[kept], texts[each])
            (against if opposed else agreeing).append(each)
        if len(agreeing) > 1:
            found.append(agreeing)
        rest = against
    return found
