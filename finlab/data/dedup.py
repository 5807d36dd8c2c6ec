"""Exact and near duplicates: MinHash-LSH over character n-grams, every pair verified.

XuanYuan's report de-duplicates within each source and then across sources; so does `duplicates`. It
costs one signature a document, then a join for each band, then an exact comparison for each
candidate pair; a pair that contradicts itself is two documents (`contradiction`). Its speed is in
benchmarks/README.md, and how well it tells copies in docs/data.md.
"""

from __future__ import annotations

import functools
import re
import zlib
from collections.abc import Iterator
from pathlib import Path

import daft
import numpy
import pyarrow
from daft import DataType, col

from finlab import files
from finlab.data import frames
from finlab.data.clusters import Components, Signed, without_contradictions
from finlab.data.contradiction import contradicts

WHITE_SPACE = re.compile(r"\s+")
BETWEEN_DIGITS = re.compile(r"(?<=\d)\s+(?=\d)")
NUMBERS = re.compile(r"\d[\d,]*")
WINDOW = 15  # documents of a bucket that each is compared with: all of them in buckets up to 16
# The texts of candidate pairs that are compared at once: so many bytes of memory for a character.
# Each time is a pass over the corpus, so more memory, such as a cluster's, needs fewer passes.
MEMORY_A_CHARACTER = 480
MIN_PAIR_CHARACTERS = 50_000_000
FACT_WINDOW = 4  # in larger ones, also these neighbours in an order by figures


# --- what two copies share -----------------------------------------------------------------------
def squeeze(text: str) -> str:
    """Return a text without white space, in lower case: what two copies of one document share.

    Between two figures a space stays: `12 3` is not `1 23`.
    """
    if BETWEEN_DIGITS.search(text):
        text = BETWEEN_DIGITS.sub("\x00", text)
        return WHITE_SPACE.sub("", text).replace("\x00", " ").lower()
    return "".join(text.split()).lower()


def document_hash(text: str) -> int:
    """Return a document's own hash, 64 bits: equal but for white space and letter case."""
    return files.hash64(squeeze(text))


def is_held_out(text: str, share: float) -> bool:
    """Tell whether a document is held out, by its own hash.

    So a split stays the same when sources grow or change their order.

    Args:
        text: The document.
        share: The share of all documents to hold out.
    """
    return document_hash(text) < share * 2**64


def shingles(text: str, ngram: int) -> set[str]:
    """Return the character n-grams of a squeezed text.

    Args:
        text: From `squeeze`.
        ngram: In characters. A shorter text is one n-gram.
    """
    squeezed = squeeze(text)
    count = max(1, len(squeezed) - ngram + 1)
    return {squeezed[first : first + ngram] for first in range(count)}


BANDS_AND_ROWS = (10, 6)  # of a signature


# --- signatures ----------------------------------------------------------------------------------
def _spaced(text: str) -> str:
    """Return a text with a space after each character.

    Daft's n-grams of words become n-grams of characters by it.
    """
    chars = numpy.frombuffer((text or " ").encode("utf-32-le", "replace"), numpy.uint32)
    spaces = numpy.full_like(chars, ord(" "))
    return numpy.stack([chars, spaces], axis=1).tobytes().decode("utf-32-le")


def _signatures(
    frame: daft.DataFrame,
    ngram: int,
    bands: int,
    rows: int,
    seed: int,
) -> daft.DataFrame:
    """Return the MinHash keys of the documents that are not out.

    There is one key for each band of the signature: texts that share a key are candidates.

    Args:
        frame: Documents {number, source, text, dropped}.
        ngram: In characters.
        bands: The number of keys.
        rows: Hash functions in a band.
        seed: Draws the hash functions.

    Returns:
        {number, source (its hash), length (characters), digest, figures (two MinHashes of the
        numbers in it), keys}.
    """
    rng = numpy.random.default_rng(seed)
    weights = rng.integers(1, 2**63, (bands, rows), dtype=numpy.uint64) | numpy.uint64(1)
    fields = {
        "length": DataType.int64(),
        "digest": DataType.uint64(),
        "figures": DataType.list(DataType.uint64()),
        "keys": DataType.list(DataType.uint64()),
    }
    settings = frames.batch_settings(frame)

    @daft.func.batch(return_dtype=DataType.struct(fields), unnest=True, **settings)
    def signed(text: daft.Series) -> daft.Series:
        texts = text.to_pylist()
        squeezed = [squeeze(each) for each in texts]
        spaced = daft.Series.from_pylist([_spaced(each) for each in squeezed])
        hashes = spaced.minhash(bands * rows, ngram, seed).to_arrow()
        parts = numpy.asarray(hashes.flatten(), numpy.uint64).reshape(len(texts), bands, rows)
        keys = (parts * weights).sum(axis=2)
        keys ^= keys >> numpy.uint64(31)
        figures = numpy.array([_figure_hashes(each) for each in squeezed], numpy.uint64)
        columns = [
            pyarrow.array(frames.characters(texts), pyarrow.int64()),
            pyarrow.array([files.hash64(each) for each in squeezed], pyarrow.uint64()),
            _lists(figures),
            _lists(keys),
        ]
        return daft.Series.from_arrow(pyarrow.StructArray.from_arrays(columns, names=list(fields)))

    kept = frame.where(col("dropped") == "")
    return kept.select("number", col("source").hash().alias("source"), signed(col("text")))


def _figure_hashes(text: str) -> tuple[int, int]:
    """Return two MinHashes of the numbers in a text: equal for most texts with the same numbers."""
    numbers = [number.encode() for number in set(NUMBERS.findall(text))] or [b""]
    return min(map(zlib.crc32, numbers)), min(zlib.crc32(number, 7) for number in numbers)


def _lists(values: numpy.ndarray) -> pyarrow.LargeListArray:
    """Return the rows of a matrix as Arrow lists."""
    offsets = numpy.arange(0, values.size + 1, values.shape[1])
    return pyarrow.LargeListArray.from_arrays(offsets, values.ravel())


def _candidates(
    signatures: daft.DataFrame, by: list[str], bands: int, batch: int
) -> Iterator[numpy.ndarray]:
    """Yield candidate pairs of document numbers, int64 [pairs, 2], some at a time.

    In a bucket each document pairs with those next to it: with all of them where they are few.
    Where a bucket is large, as with announcements of one form, copies are found beside each other
    in two more orders, by their figures. A band is done at a time, so that memory holds one key a
    document. No pair comes twice in a batch; another band may find it again.

    Args:
        signatures: From `_signatures`.
        by: Columns that the documents of a pair must share, such as ["source"].
        bands: The number of bands.
        batch: About so many pairs at a time.
    """
    waiting = [numpy.empty((0, 2), numpy.int64)]
    for pairs in _of_bands(signatures, by, bands):
        waiting.append(pairs)
        if sum(map(len, waiting)) >= 2 * batch:
            waiting = [numpy.unique(numpy.concatenate(waiting), axis=0)]
            if len(waiting[0]) >= batch:
                yield waiting.pop()
    yield numpy.unique(numpy.concatenate(waiting), axis=0)


def _of_bands(signatures: daft.DataFrame, by: list[str], bands: int) -> Iterator[numpy.ndarray]:
    """Yield the pairs of each band, and of each distance in its buckets; for `_candidates`."""
    columns = ["number", *by]
    figures = [col("figures").get(place).alias(f"figures_{place}") for place in range(2)]
    for band in range(bands):
        keyed = signatures.select(*columns, *figures, col("keys").get(band).alias("key"))
        counts = keyed.groupby("key", *by).agg(col("number").count().alias("size"))
        several = counts.where(col("size") > 1)
        # Columns of Arrow: a list of Python's numbers takes five times as much.
        table = keyed.join(several, on=["key", *by]).to_arrow()
        numbers = table["number"].to_numpy().astype(numpy.int64)
        if not len(numbers):
            continue
        bucket = _group_numbers([table[name].to_numpy() for name in ("key", *by)])
        large = table["size"].to_numpy() > WINDOW + 1
        # Copies share their figures, so in a large bucket they are found first.
        for place in range(2):
            order = table[f"figures_{place}"].to_numpy()
            yield from _neighbours(bucket[large], order[large], numbers[large], FACT_WINDOW)
        yield from _neighbours(bucket, numbers, numbers, WINDOW)


def _group_numbers(columns: list[numpy.ndarray]) -> numpy.ndarray:
    """Return a number for each distinct row of columns, int64 [rows]."""
    matrix = numpy.stack([column.astype(numpy.uint64) for column in columns], 1)
    return numpy.unique(matrix, axis=0, return_inverse=True)[1].ravel()


def _neighbours(
    bucket: numpy.ndarray, order: numpy.ndarray, numbers: numpy.ndarray, window: int
) -> Iterator[numpy.ndarray]:
    """Yield pairs of documents that stand close together in a bucket, int64 [pairs, 2].

    Args:
        bucket: The bucket of each document.
        order: What a bucket is sorted by.
        numbers: The documents' numbers.
        window: A document pairs with so many that follow it.
    """
    places = numpy.lexsort((numbers, order, bucket))
    bucket, numbers = bucket[places], numbers[places]
    for step in range(1, window + 1):
        same = numpy.flatnonzero(bucket[step:] == bucket[:-step])
        if not len(same):
            return
        pairs = numpy.stack([numbers[same], numbers[same + step]], axis=1)
        yield numpy.sort(pairs, axis=1)


# --- verification --------------------------------------------------------------------------------
def _verified(
    frame: daft.DataFrame,
    pairs: numpy.ndarray,
    threshold: float,
    ngram: int,
    keep_other_figures: bool = True,
) -> numpy.ndarray:
    """Return the pairs whose exact Jaccard similarity reaches the threshold, and that agree.

    It is one pass over the frame, in which the texts of the pairs are fetched.

    Args:
        frame: The documents.
        pairs: Their numbers, int64 [pairs, 2].
        threshold: From 0 to 1.
        ngram: In characters.
        keep_other_figures: Leave out pairs that contradict each other.

    Returns:
        Those of `pairs` that reach it.
    """

    @daft.func.batch(return_dtype=DataType.bool(), batch_size=256, use_process=len(pairs) > 5000)
    def alike(left: daft.Series, right: daft.Series) -> daft.Series:
        cached_shingles = functools.lru_cache(512)(lambda text: shingles(text, ngram))
        answers = []
        for one, other in zip(left.to_pylist(), right.to_pylist(), strict=True):
            first, second = cached_shingles(one), cached_shingles(other)
            # Sets of too different sizes cannot be alike.
            if min(len(first), len(second)) < threshold * max(len(first), len(second)):
                answers.append(False)
                continue
            shared = len(first & second)
            union = len(first) + len(second) - shared
            same = shared >= threshold * union
            answers.append(same and not (keep_other_figures and contradicts(one, other)))
        return daft.Series.from_pylist(answers)

    candidates = daft.from_pydict({"left": pairs[:, 0], "right": pairs[:, 1]})
    wanted = daft.from_pydict({"number": numpy.unique(pairs)})
    texts = frame.select("number", "text").join(wanted, on="number", how="semi").collect()
    for side in ("left", "right"):
        named = texts.select(col("number").alias(side), col("text").alias(f"text_{side}"))
        candidates = candidates.join(named, on=side)
    same = candidates.where(alike(col("text_left"), col("text_right")))
    kept = same.select("left", "right").to_pandas()
    return kept.sort_values(["left", "right"]).to_numpy(numpy.int64).reshape(-1, 2)


def _pairs_at_once(lengths: numpy.ndarray) -> int:
    """Return how many pairs memory can hold the texts of.

    Args:
        lengths: The characters of each document.
    """
    if not len(lengths):
        return 1
    characters = max(MIN_PAIR_CHARACTERS, frames.memory() // MEMORY_A_CHARACTER)
    return max(1, int(characters / max(lengths.mean(), 1)))


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

    Near duplicates are looked for within each source, then across sources. Of a connected
    component the longest document stays.

    Args:
        frame: The frame.
        threshold: The exact Jaccard similarity that a candidate pair must reach. 0 takes every
            candidate, as datatrove does.
        ngram: Characters in an n-gram.
        bands, rows: A pair of similarity s is found with probability 1 - (1 - s^rows)^bands: 0.99
            at 0.85 for 10 bands of 6 rows.
        keep_other_figures: A pair that contradicts itself is two documents: another amount, date,
            code, direction or name at one place, see `contradiction`.
        seed: Of the hash functions.
        workspace: A folder for the signatures; None keeps them in memory.

    Returns:
        {number: reason} of the documents to drop, and the clusters, the kept document first.
    """
    signatures = _signatures(frame, ngram, bands, rows, seed)
    signatures = frames.save(signatures, workspace) if workspace else signatures.collect()
    table = signatures.select("number", "source", "length", "digest").sort("number").to_pandas()
    copies = table.number[table.digest.duplicated()].tolist()
    reasons = dict.fromkeys(copies, "exact duplicate")
    signed = Signed(table.number.to_numpy(), table.length.to_numpy(), table.source.to_numpy())
    del table
    batch = _pairs_at_once(signed.lengths)
    clusters: list[list[int]] = []
    passes = (
        (["source"], "near duplicate in its source"),
        ([], "near duplicate across sources"),
    )
    for by, reason in passes:
        if not by and (signed.sources == signed.sources[:1]).all():
            continue  # one source
        gone = daft.from_pydict({"number": numpy.fromiter(reasons, numpy.int64)})
        left = signatures.join(gone, on="number", how="anti")
        known = Components(signed.numbers)
        for pairs in _candidates(left, by, bands, batch):
            if not by:
                pairs = signed.across(pairs)  # those of one source have been judged
            pairs = known.undecided(pairs)
            alike = pairs
            if len(pairs) and (threshold or keep_other_figures):
                alike = _verified(frame, pairs, threshold, ngram, keep_other_figures)
            known.decide(pairs, alike)
        clusters_found = known.clusters(signed)
        if keep_other_figures:
            clusters_found = without_contradictions(frame, clusters_found)
        for members in clusters_found:
            reasons |= dict.fromkeys(members[1:], reason)
            clusters.append(members)
    return reasons, clusters
