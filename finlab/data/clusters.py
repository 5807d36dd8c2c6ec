"""Clusters of near copies: which documents belong together, and which one stays."""

from __future__ import annotations

from dataclasses import dataclass

import daft
import numpy

from finlab.data import frames
from finlab.data.contradiction import contradicts


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


def clusters_of(pairs: numpy.ndarray, signed: Signed) -> list[list[int]]:
    """Return the connected components of pairs.

    Args:
        pairs: Documents' numbers, int64 [pairs, 2].
        signed: All documents.

    Returns:
        Numbers, the longest document of each cluster first, the earliest among equally long ones.
    """
    from scipy.sparse import coo_matrix
    from scipy.sparse.csgraph import connected_components

    if not len(pairs):
        return []
    numbers, places = numpy.unique(pairs, return_inverse=True)
    left, right = places.reshape(-1, 2).T
    edges = (numpy.ones(len(pairs)), (left, right))
    graph = coo_matrix(edges, shape=(len(numbers), len(numbers)))
    _, labels = connected_components(graph, directed=False)
    # By component, the longest document first, the earliest among equally long ones.
    order = numpy.lexsort((numbers, -signed.lengths_of(numbers), labels))
    bounds = numpy.flatnonzero(numpy.diff(labels[order])) + 1
    return [part.tolist() for part in numpy.split(numbers[order], bounds)]


def without_contradictions(frame: daft.DataFrame, clusters: list[list[int]]) -> list[list[int]]:
    """Return clusters in which no member contradicts the one that stays.

    Where a short copy agrees with two documents that contradict each other, they are one component.

    Args:
        frame: The documents.
        clusters: Their numbers, the longest document of each first.
    """
    large = [members for members in clusters if len(members) > 2]
    wanted = [number for members in large for number in members]
    if not wanted:
        return clusters
    texts = dict(zip(*frames.pick(frame, wanted, "text").values(), strict=True))
    result = [members for members in clusters if len(members) <= 2]
    for members in large:
        rest = members
        while len(rest) > 1:
            kept, others = rest[0], rest[1:]
            against = [each for each in others if contradicts(texts[kept], texts[each])]
            agreeing = [each for each in others if each not in set(against)]
            if agreeing:
                result.append([kept, *agreeing])
            rest = against
    return sorted(result)
