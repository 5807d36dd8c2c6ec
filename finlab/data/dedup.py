"""Find exact and near duplicates: MinHash-LSH over character n-grams, every pair verified.

`duplicates` de-duplicates within each source and then across sources, as XuanYuan's report does. It
computes one signature for each document, sorts once for each band, and compares each candidate
pair exactly. Two documents that contradict each other are not copies (see `contradiction`). The
speed is reported in benchmarks/README.md, and the quality in docs/data.md.
"""

from __future__ import annotations

import functools
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import daft
import numpy
import psutil
from daft import DataType, col

from finlab import files
from finlab.data import fetched, frames
from finlab.data.candidates import FORMS, candidate_pairs, signatures, squeeze
from finlab.data.clusters import Components, Signed, pair_keys, without_contradictions
from finlab.data.contradiction import contradicts
from finlab.data.fetched import Texts

BANDS_AND_ROWS = (10, 6)  # bands of a signature, and rows of a band
# Bytes of this machine's memory for each candidate pair of a batch. To collect a pair takes 160
# bytes, so a batch takes about a sixth of the memory.
MEMORY_A_PAIR = 1000
FEW_PAIRS = 5000  # with fewer pairs, starting processes costs more time than it saves


# --- what two copies share -----------------------------------------------------------------------
def document_hash(text: str) -> int:
    """Return a 64-bit hash of a document that ignores white space and letter case."""
    return files.hash64(squeeze(text))


def is_held_out(text: str, share: float) -> bool:
    """Tell whether a document is held out, which depends only on the hash of its text.

    So the split stays the same when sources grow or change their order.

    Args:
        text: The document.
        share: The share of all documents to hold out, from 0 to 1.
    """
    return document_hash(text) < share * 2**64


def shingles(text: str, ngram: int) -> set[str]:
    """Return the set of character n-grams of a text, after `squeeze`.

    Args:
        text: The document.
        ngram: Length of an n-gram in characters. A shorter text is a single n-gram.
    """
    squeezed = squeeze(text)
    count = max(1, len(squeezed) - ngram + 1)
    return {squeezed[first : first + ngram] for first in range(count)}


# --- judging -------------------------------------------------------------------------------------
@dataclass(frozen=True)
class Judge:
    """Decides which pairs of documents are copies.

    Attributes:
        frame: The documents.
        threshold: The exact Jaccard similarity that a pair must reach, from 0 to 1; 0 accepts all
            pairs.
        ngram: Length of an n-gram in characters.
        keep_other_figures: Whether two documents that contradict each other are not copies.
        workspace: Folder for temporary texts; None uses the system's temporary folder.
    """

    frame: daft.DataFrame
    threshold: float
    ngram: int
    keep_other_figures: bool
    workspace: Path | None

    @property
    def takes_all(self) -> bool:
        """Return whether every candidate pair counts as copies, so that no text must be read."""
        return not (self.threshold or self.keep_other_figures)

    def texts(self, numbers: numpy.ndarray) -> Texts:
        """Return the texts of documents, which are kept on disk.

        Args:
            numbers: Numbers of the documents.
        """
        return Texts(self.frame, numbers, self.workspace)

    def copies(self, texts: Texts, pairs: numpy.ndarray) -> numpy.ndarray:
        """Return the pairs that are copies, sorted, int64 [copies, 2].

        Copies reach the threshold and, with `keep_other_figures`, do not contradict each other.

        Args:
            texts: Texts of the documents in these pairs.
            pairs: Numbers of the two documents of each pair, int64 [pairs, 2].
        """
        return _verified(texts, pairs, self.threshold, self.ngram, self.keep_other_figures)

    def agreeing(self, texts: Texts, pairs: numpy.ndarray) -> numpy.ndarray:
        """Return the pairs that do not contradict each other, whatever their similarity is."""
        return _verified(texts, pairs, 0, self.ngram, keep_other_figures=True)


def _verified(
    texts: Texts,
    pairs: numpy.ndarray,
    threshold: float,
    ngram: int,
    keep_other_figures: bool,
) -> numpy.ndarray:
    """Return the pairs whose exact Jaccard similarity reaches the threshold.

    Args:
        texts: Texts of the documents in these pairs.
        pairs: Numbers of the two documents of each pair, int64 [pairs, 2].
        threshold: Jaccard similarity from 0 to 1; 0 accepts all pairs.
        ngram: Length of an n-gram in characters.
        keep_other_figures: Whether to leave out pairs that contradict each other.

    Returns:
        The accepted pairs, sorted, int64 [accepted, 2].
    """

    @daft.func.batch(
        return_dtype=DataType.bool(), batch_size=256, use_process=len(pairs) > FEW_PAIRS
    )
    def alike(left: daft.Series, right: daft.Series) -> daft.Series:
        text_of = functools.lru_cache(512)(texts.__getitem__)
        shingles_of = functools.lru_cache(512)(lambda number: shingles(text_of(number), ngram))
        answers = []
        for one, other in zip(left.to_pylist(), right.to_pylist(), strict=True):
            same = not threshold or _overlap(shingles_of(one), shingles_of(other), threshold)
            if same and keep_other_figures:
                same = not contradicts(text_of(one), text_of(other))
            answers.append(same)
        return daft.Series.from_pylist(answers)

    # Sort the pairs so that pairs of one document are neighbours and its text is read once.
    ordered = pairs[numpy.argsort(pair_keys(pairs))]
    candidates = daft.from_pydict({"left": ordered[:, 0], "right": ordered[:, 1]})
    if daft.get_or_infer_runner_type() == "ray":  # on Ray, each partition goes to one node
        candidates = candidates.into_partitions(1 + len(pairs) // 2000)
    same = candidates.where(alike(col("left"), col("right"))).to_pandas()
    return same.sort_values(["left", "right"]).to_numpy(numpy.int64).reshape(-1, 2)


def _overlap(first: set[str], second: set[str], threshold: float) -> bool:
    """Tell whether the Jaccard similarity of two sets reaches a threshold."""
    # Two sets of very different sizes cannot reach the threshold.
    if min(len(first), len(second)) < threshold * max(len(first), len(second)):
        return False
    shared = len(first & second)
    return shared >= threshold * (len(first) + len(second) - shared)


def duplicates(
    frame: daft.DataFrame,
    threshold: float = 0.85,
    ngram: int = 5,
    bands: int = BANDS_AND_ROWS[0],
    rows: int = BANDS_AND_ROWS[1],
    keep_other_figures: bool = True,
    seed: int = 1,
    workspace: Path | None = None,
) -> tuple[dict[int, str], list[list[int]]]:
    """Find exact and near duplicates among the documents that are not dropped.

    Near duplicates are searched within each source, then across sources. In each connected
    component, the longest document is kept.

    Args:
        frame: The documents.
        threshold: The exact Jaccard similarity that a candidate pair must reach. 0 accepts every
            candidate, as datatrove does.
        ngram: Length of an n-gram in characters.
        bands, rows: Bands of a signature, and rows of a band. A pair of similarity s is found with
            probability 1 - (1 - s^rows)^bands: 0.99 at 0.85 for 10 bands of 6 rows.
        keep_other_figures: Whether to keep both documents of a pair that contradict each other,
            with another amount, date, code, direction or name at one place, see `contradiction`.
        seed: Seed of the hash functions.
        workspace: A folder for the signatures; None keeps them in memory.

    Returns:
        ({number: reason} of the documents to drop, the clusters as lists of document numbers with
        the kept document first).
    """
    if workspace:
        fetched.clear(workspace)
    signed_frame = signatures(frame, ngram, bands, rows, seed)
    signed_frame = frames.save(signed_frame, workspace) if workspace else signed_frame.collect()
    table = signed_frame.select("number", "source", "length", "digest").sort("number").to_pandas()
    copies = table.number[table.digest.duplicated()].tolist()
    reasons = dict.fromkeys(copies, "exact duplicate")
    signed = Signed(table.number.to_numpy(), table.length.to_numpy(), table.source.to_numpy())
    del table
    judge = Judge(frame, threshold, ngram, keep_other_figures, workspace)
    clusters: list[list[int]] = []
    passes = {True: "near duplicate in its source", False: "near duplicate across sources"}
    if (signed.sources == signed.sources[:1]).all():
        del passes[False]
    batch = psutil.virtual_memory().total // MEMORY_A_PAIR
    for within_source, reason in passes.items():
        gone = numpy.fromiter(reasons, numpy.int64)
        candidates = candidate_pairs(signed_frame, gone, within_source, bands, batch)
        for members in _near_copies(candidates, signed, within_source, judge):
            reasons |= dict.fromkeys(members[1:], reason)
            clusters.append(members)
    return reasons, clusters


def _near_copies(
    candidates: Iterable[dict[int, numpy.ndarray]],
    signed: Signed,
    within_source: bool,
    judge: Judge,
) -> list[list[int]]:
    """Return the clusters of near copies among candidate pairs, the kept document first.

    Args:
        candidates: The candidate pairs from `candidate_pairs`.
        signed: All documents.
        within_source: Whether the two documents of each pair are of one source. If False, pairs
            within one source are skipped, because they were judged before.
        judge: Decides which pairs are copies.
    """
    known = Components(signed.numbers)
    for groups in candidates:
        if not within_source:
            groups = {rank: signed.across(pairs) for rank, pairs in groups.items()}
        everything = numpy.concatenate(list(groups.values()))
        if not len(everything):
            continue
        if judge.takes_all:
            known.decide(everything, known.undecided(everything))
            continue
        texts = judge.texts(everything)
        # Judge group by group: copies that were found make some later pairs unnecessary.
        for rank, pairs in groups.items():
            of_a_form = rank >= FORMS
            worth = known.undecided(pairs, of_a_form)
            if len(worth):
                known.decide(worth, judge.copies(texts, worth), of_a_form)
    clusters = known.clusters(signed)
    if judge.keep_other_figures:
        clusters = without_contradictions(clusters, known.copies(), judge.texts, judge.agreeing)
    return clusters
