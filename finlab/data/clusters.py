"""Clusters of near copies: which documents belong together, and which one stays."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy

from finlab.data.contradiction import contradicts
from finlab.data.fetched import Texts

FRUITLESS = 40  # refusals in large buckets after which a document is left alone in them


def pair_keys(pairs: numpy.ndarray) -> numpy.ndarray:
    """Return one number for each pair, by which pairs are sorted and told apart.

    Args:
        pairs: Documents' numbers, each below 2^31, int64 [pairs, 2].
    """
    return pairs[:, 0] << 32 | pairs[:, 1]


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
    """Which documents are known to be copies, while candidate pairs are judged group by group.

    Pairs that need no judging are left out: two of one cluster, and in large buckets a document
    that was refused there so often that they are of a form, such as announcements, and no copy of
    it is in them.

    Args:
        numbers: The documents', sorted.
    """

    def __init__(self, numbers: numpy.ndarray):
        self.numbers = numbers
        self.labels = numpy.arange(len(numbers), dtype=numpy.int32)
        self.refused = numpy.zeros(len(numbers), numpy.int32)  # in large buckets
        self.edges = numpy.empty((0, 2), numpy.int32)  # places of confirmed copies

    def undecided(self, pairs: numpy.ndarray, of_a_form: bool = False) -> numpy.ndarray:
        """Return the pairs that are worth judging.

        Args:
            pairs: Documents' numbers, int64 [pairs, 2].
            of_a_form: They stand in large buckets.
        """
        places = numpy.searchsorted(self.numbers, pairs)
        worth = self.labels[places[:, 0]] != self.labels[places[:, 1]]
        if of_a_form:
            worth &= (self.refused[places] < FRUITLESS).all(axis=1)
        return pairs[worth]

    def decide(self, pairs: numpy.ndarray, alike: numpy.ndarray, of_a_form: bool = False) -> None:
        """Take down a judgement.

        Args:
            pairs: Those that were judged.
            alike: Those of them that are copies.
            of_a_form: They stand in large buckets.
        """
        if of_a_form:
            places = numpy.searchsorted(self.numbers, pairs).ravel()
            counts = numpy.bincount(places, minlength=len(self.numbers))
            self.refused += counts.astype(numpy.int32)
        if not len(alike):
            return
        edges = numpy.searchsorted(self.numbers, alike).astype(numpy.int32)
        # A document that has found a copy is worth looking at further.
        self.refused[edges.ravel()] = 0
        self.edges = numpy.concatenate([self.edges, edges])
        self.labels = _components(self.edges, len(self.numbers))

    def copies(self) -> numpy.ndarray:
        """Return the pairs that were judged to be copies, by number, int64 [pairs, 2]."""
        return self.numbers[self.edges]

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


def without_contradictions(
    clusters: list[list[int]],
    copies: numpy.ndarray,
    fetch: Callable[[numpy.ndarray], Texts],
    agreeing: Callable[[Texts, numpy.ndarray], numpy.ndarray],
) -> list[list[int]]:
    """Return clusters in which no member contradicts the one that stays.

    Where a short copy agrees with two documents that contradict each other, they are one component.

    Args:
        clusters: Numbers of documents, the longest of each first.
        copies: Pairs that are known to agree, int64 [pairs, 2].
        fetch: Returns the texts of some documents.
        agreeing: Returns those of some pairs that do not contradict each other.
    """
    pairs = []
    for kept, *others in clusters:
        pairs += [sorted((kept, each)) for each in others]
    unknown = numpy.array(pairs, numpy.int64).reshape(-1, 2)
    is_known = numpy.isin(pair_keys(unknown), pair_keys(copies))
    unknown = unknown[~is_known]
    if not len(unknown):
        return sorted(clusters)
    in_doubt = set(unknown.ravel().tolist())
    doubtful = [members for members in clusters if in_doubt.intersection(members)]
    texts = fetch(numpy.concatenate(doubtful))
    agree = numpy.isin(pair_keys(unknown), pair_keys(agreeing(texts, unknown)))
    against = unknown[~agree]
    contested = set(against.ravel().tolist())
    result = []
    for members in clusters:
        if contested.intersection(members):
            result += _agreeing(members, texts)
        else:
            result.append(members)
    return sorted(result)


def _agreeing(members: list[int], texts: Texts) -> list[list[int]]:
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
