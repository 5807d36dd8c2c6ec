"""Exact and near duplicates: MinHash-LSH over character n-grams, every pair verified.

XuanYuan's report de-duplicates within each source and then across sources; so does `duplicates`. It
costs one signature a document, then a join for each band, then an exact comparison for each
candidate pair. Its speed is in benchmarks/README.md.
"""

from __future__ import annotations

import functools
import re
from collections import defaultdict
from pathlib import Path

import daft
import numpy
import pyarrow
from daft import DataType, col

from finlab import files
from finlab.data import frames

# Words with a digit, such as 2023-05-01, 600519.SH or 3.5%.
CODES = re.compile(r"[0-9A-Za-z][0-9A-Za-z.,:/%-]*")
CHINESE_NUMERALS = re.compile(r"[〇○零一二三四五六七八九十百千万亿]+(?=[年月日号元股期届次条倍成])")
# Words that turn a sentence round.
DIRECTIONS = re.compile(
    r"[涨跌升降增减盈亏买卖]|[上下][调行]|流[入出]|[南北]向|[看做][多空]|[不未没]"
    r"|\b(?:not?|up|down|rise|fall|rose|fell|increase|decrease|buy|sell)\b"
)


# --- what two copies share -----------------------------------------------------------------------
def figures(text: str) -> list[str]:
    """Return the figures, dates and codes of a text, in order.

    These are words with a digit, then Chinese numerals before a unit.

    Args:
        text: Any text.
    """
    found = []
    for code in CODES.findall(text):
        if any(char.isdigit() for char in code):
            found.append(code.rstrip(".,:/-"))
    return found + CHINESE_NUMERALS.findall(text)


def facts(text: str) -> str:
    """Return what two texts must share to be one document: their figures and their directions.

    Two announcements may share every word and differ in one date. They are two documents.
    """
    return " ".join([*figures(text), *DIRECTIONS.findall(text.lower())])


def squeeze(text: str) -> str:
    """Return a text without white space, in lower case: what two copies of one document share."""
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
    keep_other_figures: bool,
    seed: int,
) -> daft.DataFrame:
    """Return the MinHash keys of the documents that are not out.

    There is one key for each band of the signature: texts that share a key are candidates.

    Args:
        frame: Documents {number, source, text, dropped}.
        ngram: In characters.
        bands: The number of keys.
        rows: Hash functions in a band.
        keep_other_figures: Whether texts with other figures have other keys.
        seed: Draws the hash functions.

    Returns:
        {number, source (its hash), length (characters), digest, keys}.
    """
    rng = numpy.random.default_rng(seed)
    weights = rng.integers(1, 2**63, (bands, rows), dtype=numpy.uint64) | numpy.uint64(1)
    fields = {
        "length": DataType.int64(),
        "digest": DataType.uint64(),
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
        if keep_other_figures:
            # Texts with other facts never share a key, so they are never compared.
            fact_hashes = [files.hash64(facts(each)) for each in texts]
            keys += numpy.array(fact_hashes, numpy.uint64)[:, None]
        keys ^= keys >> numpy.uint64(31)
        offsets = numpy.arange(0, keys.size + 1, bands)
        columns = [
            pyarrow.array(frames.characters(texts), pyarrow.int64()),
            pyarrow.array([files.hash64(each) for each in squeezed], pyarrow.uint64()),
            pyarrow.LargeListArray.from_arrays(offsets, keys.ravel()),
        ]
        return daft.Series.from_arrow(pyarrow.StructArray.from_arrays(columns, names=list(fields)))

    kept = frame.where(col("dropped") == "")
    return kept.select("number", col("source").hash().alias("source"), signed(col("text")))


def _pairs(signatures: daft.DataFrame, by: list[str], bands: int) -> numpy.ndarray:
    """Return candidate pairs of document numbers, int64 [pairs, 2], without repetition.

    In each bucket the first document pairs with every other one, and neighbours pair. A band is
    done at a time, so that memory holds one key a document.

    Args:
        signatures: From `_signatures`.
        by: Columns that the documents of a pair must share, such as ["source"].
        bands: The number of bands.
    """
    found = [numpy.empty((0, 2), numpy.int64)]
    for band in range(bands):
        keyed = signatures.select("number", col("keys").get(band).alias("key"), *by)
        buckets = keyed.groupby("key", *by).agg(col("number").list_agg().alias("members"))
        several = buckets.where(col("members").list_count() > 1).select("members")
        lists = several.to_arrow()["members"].combine_chunks()
        numbers = numpy.asarray(lists.flatten())
        sizes = numpy.asarray(lists.value_lengths())
        bucket = numpy.repeat(numpy.arange(len(sizes)), sizes)
        numbers = numbers[numpy.lexsort((numbers, bucket))]
        first = numpy.repeat(numbers[numpy.cumsum(sizes) - sizes], sizes)
        same = numpy.flatnonzero(bucket[1:] == bucket[:-1])
        with_first = numpy.stack([first, numbers], axis=1)
        neighbours = numpy.stack([numbers[same], numbers[same + 1]], axis=1)
        pairs = numpy.concatenate([with_first, neighbours])
        found.append(numpy.unique(pairs[pairs[:, 0] != pairs[:, 1]], axis=0))
    return numpy.unique(numpy.concatenate(found), axis=0)


# --- verification and clusters -------------------------------------------------------------------
def _verified(
    frame: daft.DataFrame,
    pairs: numpy.ndarray,
    threshold: float,
    ngram: int,
    chunk: int = 20_000,
) -> numpy.ndarray:
    """Return the pairs whose exact Jaccard similarity reaches the threshold.

    Args:
        frame: The documents.
        pairs: Their numbers, int64 [pairs, 2].
        threshold: From 0 to 1.
        ngram: In characters.
        chunk: Texts are fetched for so many pairs at a time.

    Returns:
        Those of `pairs` that reach it.
    """

    @daft.func.batch(return_dtype=DataType.bool(), batch_size=256, use_process=len(pairs) > 5000)
    def alike(left: daft.Series, right: daft.Series) -> daft.Series:
        cached_shingles = functools.lru_cache(512)(lambda text: shingles(text, ngram))
        answers = []
        for one, other in zip(left.to_pylist(), right.to_pylist(), strict=True):
            first, second = cached_shingles(one), cached_shingles(other)
            shared = len(first & second)
            union = len(first) + len(second) - shared
            answers.append(shared >= threshold * union)
        return daft.Series.from_pylist(answers)

    found: list[tuple[int, int]] = []
    for start in range(0, len(pairs), chunk):
        part = pairs[start : start + chunk]
        candidates = daft.from_pydict({"left": part[:, 0], "right": part[:, 1]})
        wanted = daft.from_pydict({"number": numpy.unique(part)})
        texts = frame.select("number", "text").join(wanted, on="number", how="semi").collect()
        for side in ("left", "right"):
            named = texts.select(col("number").alias(side), col("text").alias(f"text_{side}"))
            candidates = candidates.join(named, on=side)
        same = candidates.where(alike(col("text_left"), col("text_right")))
        kept = same.select("left", "right").to_pydict()
        found += zip(kept["left"], kept["right"], strict=True)
    return numpy.array(sorted(found), numpy.int64).reshape(-1, 2)


def _clusters(pairs: numpy.ndarray, lengths: dict[int, int]) -> list[list[int]]:
    """Return the connected components of pairs.

    Args:
        pairs: Documents' numbers, int64 [pairs, 2].
        lengths: {number: characters}.

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
    groups: dict[int, list[int]] = defaultdict(list)
    for number, label in zip(numbers.tolist(), labels, strict=True):
        groups[label].append(number)
    clusters = []
    for members in groups.values():
        clusters.append(sorted(members, key=lambda number: (-lengths[number], number)))
    return clusters


def duplicates(
    frame: daft.DataFrame,
    threshold: float = 0.85,
    ngram: int = 5,
    bands: int = 10,
    rows: int = 6,
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
        keep_other_figures: A pair whose figures, dates, codes or directions (inflow or outflow, 涨
            or 跌) differ is two documents.
        seed: Of the hash functions.
        workspace: A folder for the signatures; None keeps them in memory.

    Returns:
        {number: reason} of the documents to drop, and the clusters, the kept document first.
    """
    signatures = _signatures(frame, ngram, bands, rows, keep_other_figures, seed)
    signatures = frames.save(signatures, workspace) if workspace else signatures.collect()
    table = signatures.select("number", "length", "digest").sort("number").to_pandas()
    copies = table.number[table.digest.duplicated()].tolist()
    reasons = dict.fromkeys(copies, "exact duplicate")
    lengths = dict(zip(table.number.tolist(), table.length.tolist(), strict=True))
    clusters: list[list[int]] = []
    passes = (
        (["source"], "near duplicate in its source"),
        ([], "near duplicate across sources"),
    )
    for by, reason in passes:
        gone = daft.from_pydict({"number": numpy.fromiter(reasons, numpy.int64)})
        left = signatures.join(gone, on="number", how="anti")
        pairs = _pairs(left, by, bands)
        if threshold:
            pairs = _verified(frame, pairs, threshold, ngram)
        for members in _clusters(pairs, lengths):
            reasons |= dict.fromkeys(members[1:], reason)
            clusters.append(members)
    return reasons, clusters
