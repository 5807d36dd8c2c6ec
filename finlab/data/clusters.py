"""Clusters of near copies: which documents belong together, and which one is kept."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy

from finlab.data.contradiction import contradicts
from finlab.data.fetched import Texts

FRUITLESS = 40  # after this many refused pairs in large buckets, a document is skipped there


def pair_keys(pairs: numpy.ndarray) -> numpy.ndarray:
    """Return one unique number for each pair, which can be used to sort and compare pairs.

    Args:
        pairs: Numbers of the two documents of each pair, each below 2^31, int64 [pairs, 2].

    Returns:
        The keys, int64 [pairs].
    """
    return pairs[:, 0] << 32 | pairs[:, 1]


@dataclass(frozen=True)
class Signed:
    """The documents that have a signature.

    Attributes:
        numbers: Numbers of the documents, sorted.
        lengths: Length of each document in characters.
        sources: Hash of the source of each document.
    """

    numbers: numpy.ndarray
    lengths: numpy.ndarray
    sources: numpy.ndarray

    def lengths_of(self, numbers: numpy.ndarray) -> numpy.ndarray:
        """Return the lengths in characters of the documents with these numbers."""
        return self.lengths[numpy.searchsorted(self.numbers, numbers)]

    def across(self, pairs: numpy.ndarray) -> numpy.ndarray:
        """Return the pairs whose two documents are from different sources.

        Args:
            pairs: Numbers of the two documents of each pair, int64 [pairs, 2].
        """
        sources = self.sources[numpy.searchsorted(self.numbers, pairs)]
        return pairs[sources[:, 0] != sources[:, 1]]


class Components:
    """Keeps track of known copies while candidate pairs are judged group by group.

    Some pairs need not be judged. One case is a pair whose documents are already in one cluster.
    The other case is a pair in large buckets with a document that was refused there FRUITLESS
    times. The documents of such buckets probably follow one form, such as announcements, and are
    not copies.

    Args:
        numbers: Numbers of the documents, sorted.
    """

    def __init__(self, numbers: numpy.ndarray):
        self.numbers = numbers
        self.labels = numpy.arange(len(numbers), dtype=numpy.int32)
        self.refused = numpy.zeros(len(numbers), numpy.int32)  # refused pairs in large buckets
        self.edges = numpy.empty((0, 2), numpy.int32)  # pairs of copies, as indices into `numbers`

    def undecided(self, pairs: numpy.ndarray, of_a_form: bool = False) -> numpy.ndarray:
        """Return the pairs that still have to be judged.

        Args:
            pairs: Numbers of the two documents of each pair, int64 [pairs, 2].
            of_a_form: Whether the pairs are from large buckets.
        """
        places = numpy.searchsorted(self.numbers, pairs)
        worth = self.labels[places[:, 0]] != self.labels[places[:, 1]]
        if of_a_form:
            worth &= (self.refused[places] < FRUITLESS).all(axis=1)
        return pairs[worth]

    def decide(self, pairs: numpy.ndarray, alike: numpy.ndarray, of_a_form: bool = False) -> None:
        """Record which of the judged pairs are copies.

        Args:
            pairs: The pairs that were judged, int64 [pairs, 2].
            alike: The pairs among them that are copies, int64 [copies, 2].
            of_a_form: Whether the pairs are from large buckets.
        """
        if of_a_form:
            places = numpy.searchsorted(self.numbers, pairs).ravel()
            counts = numpy.bincount(places, minlength=len(self.numbers))
            self.refused += counts.astype(numpy.int32)
        if not len(alike):
            return
        edges = numpy.searchsorted(self.numbers, alike).astype(numpy.int32)
        # A document with a copy may have more copies, so its refusals are counted from 0 again.
        self.refused[edges.ravel()] = 0
        self.edges = numpy.concatenate([self.edges, edges])
        self.labels = _components(self.edges, len(self.numbers))

    def copies(self) -> numpy.ndarray:
        """Return the pairs that were judged to be copies, as document numbers [pairs, 2]."""
        return self.numbers[self.edges]

    def clusters(self, signed: Signed) -> list[list[int]]:
        """Return the clusters of copies.

        Args:
            signed: All documents.

        Returns:
            The numbers of the documents of each cluster, the longest document first; of equally
            long documents the one with the smallest number is first.
        """
        if not len(self.edges):
            return []
        places = numpy.unique(self.edges)
        numbers, labels = self.numbers[places], self.labels[places]
        order = numpy.lexsort((numbers, -signed.lengths_of(numbers), labels))
        bounds = numpy.flatnonzero(numpy.diff(labels[order])) + 1
        return [part.tolist() for part in numpy.split(numbers[order], bounds)]


def _components(edges: numpy.ndarray, count: int) -> numpy.ndarray:
    """Return the number of the connected component of each document, int32 [count].

    Args:
        edges: Pairs of documents that belong together, as indices below `count`, int32 [edges, 2].
        count: How many documents there are.
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
    """Split clusters so that no member contradicts the document that is kept.

    A component may hold documents that contradict each other: a short copy can agree with two
    documents that do not agree with each other.

    Args:
        clusters: Numbers of the documents of each cluster, the longest document first.
        copies: Pairs that are known to agree, int64 [pairs, 2].
        fetch: Returns the texts of the documents with the given numbers.
        agreeing: Returns the given pairs without those that contradict each other.

    Returns:
        The new clusters, each with the kept document first, sorted.
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
    """Split a cluster into clusters whose members agree with their first document.

    Args:
        members: Numbers of the cluster's documents, the longest document first.
        texts: The texts, by document number.

    Returns:
        The clusters with two or more members.
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
