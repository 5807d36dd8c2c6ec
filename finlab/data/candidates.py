"""Find pairs of documents that may be copies: they share a band of their MinHash signatures."""

from __future__ import annotations

import re
import zlib
from collections.abc import Iterator

import daft
import numpy
import pyarrow
from daft import DataType, col

from finlab import files
from finlab.data import frames
from finlab.data.clusters import pair_keys

WHITE_SPACE = re.compile(r"\s+")
BETWEEN_DIGITS = re.compile(r"(?<=\d)\s+(?=\d)")
NUMBERS = re.compile(r"\d[\d,]*")
# A document is compared with this many documents of its bucket. In buckets of up to 16 documents,
# these are all others.
WINDOW = 15
FACT_WINDOW = 4  # in larger buckets, also with this many neighbours when sorted by figures
FIGURES = ("figures_0", "figures_1")
# Ranks of pairs: neighbours in a small bucket, other pairs in a small bucket, pairs in a large
# bucket of band 0. Pairs in large buckets of band n have rank FORMS + n.
NEXT, FURTHER, FORMS = range(3)
SPREAD = numpy.uint64(0x9E3779B97F4A7C15)  # an odd factor that gives each source its own keys


def squeeze(text: str) -> str:
    """Return a text in lower case without white space, which is equal for exact copies.

    A space between two digits is kept: `12 3` is not `1 23`.
    """
    if BETWEEN_DIGITS.search(text):
        text = BETWEEN_DIGITS.sub("\x00", text)
        return WHITE_SPACE.sub("", text).replace("\x00", " ").lower()
    return "".join(text.split()).lower()


# --- signatures ----------------------------------------------------------------------------------
def _spaced(text: str) -> str:
    """Return a text with a space after each character.

    Daft makes n-grams of words, so these become n-grams of characters.
    """
    chars = numpy.frombuffer((text or " ").encode("utf-32-le", "replace"), numpy.uint32)
    spaces = numpy.full_like(chars, ord(" "))
    return numpy.stack([chars, spaces], axis=1).tobytes().decode("utf-32-le")


def signatures(
    frame: daft.DataFrame,
    ngram: int,
    bands: int,
    rows: int,
    seed: int,
) -> daft.DataFrame:
    """Return the MinHash keys of the documents that are not dropped.

    There is one key for each band of the signature. Texts that share a key are candidates.

    Args:
        frame: Documents {number, source, text, dropped}.
        ngram: Length of an n-gram in characters.
        bands: Number of bands, so also of keys.
        rows: Number of hash functions in a band.
        seed: Seed of the hash functions.

    Returns:
        {number, source (hash of the source's name), length (characters), digest (hash of the
        squeezed text), figures_0 and figures_1 (MinHashes of the numbers in the text), key_0,
        key_1, ...}. Each key has its own column, so that a band reads only its own key.
    """
    rng = numpy.random.default_rng(seed)
    weights = rng.integers(1, 2**63, (bands, rows), dtype=numpy.uint64) | numpy.uint64(1)
    hashed = ["digest", *FIGURES, *(f"key_{band}" for band in range(bands))]
    fields = {"length": DataType.int64()} | dict.fromkeys(hashed, DataType.uint64())
    settings = frames.batch_settings(frame)

    @daft.func.batch(return_dtype=DataType.struct(fields), unnest=True, **settings)
    def signature(text: daft.Series) -> daft.Series:
        texts = text.to_pylist()
        squeezed = [squeeze(each) for each in texts]
        spaced = daft.Series.from_pylist([_spaced(each) for each in squeezed])
        hashes = spaced.minhash(bands * rows, ngram, seed).to_arrow()
        parts = numpy.asarray(hashes.flatten(), numpy.uint64).reshape(len(texts), bands, rows)
        keys = (parts * weights).sum(axis=2)
        keys ^= keys >> numpy.uint64(31)
        digests = numpy.array([files.hash64(each) for each in squeezed], numpy.uint64)
        figures = numpy.array([_figure_hashes(each) for each in squeezed], numpy.uint64)
        columns = [pyarrow.array(frames.characters(texts), pyarrow.int64())]
        columns += map(pyarrow.array, [digests, *figures.T, *keys.T])
        return daft.Series.from_arrow(pyarrow.StructArray.from_arrays(columns, names=list(fields)))

    kept = frame.where(col("dropped") == "")
    return kept.select("number", col("source").hash().alias("source"), signature(col("text")))


def _figure_hashes(text: str) -> tuple[int, int]:
    """Return two MinHashes of the numbers in a text, which are equal for the same numbers."""
    numbers = [number.encode() for number in set(NUMBERS.findall(text))] or [b""]
    return min(map(zlib.crc32, numbers)), min(zlib.crc32(number, 7) for number in numbers)


def candidate_pairs(
    signed: daft.DataFrame,
    gone: numpy.ndarray,
    within_source: bool,
    bands: int,
    batch: int,
) -> Iterator[dict[int, numpy.ndarray]]:
    """Yield candidate pairs of documents in batches.

    In a bucket, each document pairs with its neighbours; in a small bucket these are all others.
    A large bucket arises, for example, from announcements of one form. It is also sorted in two
    more ways, by figures, so that copies become neighbours. Bands are processed one after another,
    so that memory holds only one key for each document. A pair occurs only once in a batch, but
    another batch may have it too.

    Args:
        signed: The table from `signatures`.
        gone: Numbers of the documents to leave out.
        within_source: Whether to pair only documents of the same source.
        bands: Number of bands.
        batch: About how many pairs a batch has.

    Yields:
        {rank: pairs of document numbers, int64 [pairs, 2]}, in the order in which they should be
        judged. NEXT and FURTHER are pairs in small buckets. FORMS and higher ranks are pairs in
        large buckets, one rank for each band.
    """
    waiting: dict[int, list[numpy.ndarray]] = {}
    size = 0
    for band in range(bands):
        for rank, found in _of_band(signed, gone, within_source, band):
            waiting.setdefault(rank, []).append(found)
            size += len(found)
            if size < 2 * batch:
                continue
            groups = _each_once(waiting)
            size = sum(map(len, groups.values()))
            waiting = {rank: [pairs] for rank, pairs in groups.items()}
            if size >= batch:
                yield groups
                waiting, size = {}, 0
    if waiting:
        yield _each_once(waiting)


def _each_once(waiting: dict[int, list[numpy.ndarray]]) -> dict[int, numpy.ndarray]:
    """Return {rank: pairs} without repeated pairs; a pair keeps its lowest rank."""
    ranks = sorted(waiting)
    parts = [numpy.concatenate(waiting[rank]) for rank in ranks]
    pairs = numpy.concatenate(parts)
    firsts = numpy.sort(numpy.unique(pair_keys(pairs), return_index=True)[1])
    ends = numpy.cumsum([len(part) for part in parts])
    groups = numpy.split(pairs[firsts], numpy.searchsorted(firsts, ends[:-1]))
    return dict(zip(ranks, groups, strict=True))


def _of_band(
    signed: daft.DataFrame, gone: numpy.ndarray, within_source: bool, band: int
) -> Iterator[tuple[int, numpy.ndarray]]:
    """Yield (rank, pairs) of one band, for `candidate_pairs`.

    Args:
        signed: The table from `signatures`.
        gone: Numbers of the documents to leave out.
        within_source: Whether to pair only documents of the same source.
        band: Number of the band, from 0.
    """
    # Arrow columns are used because a list of Python numbers takes five times the memory.
    table = signed.select("number", "source", *FIGURES, f"key_{band}").to_arrow()
    numbers = table["number"].to_numpy().astype(numpy.int64)
    keys = table[f"key_{band}"].to_numpy()
    if within_source:
        keys = keys ^ (table["source"].to_numpy() * SPREAD)
    left = numpy.flatnonzero(~numpy.isin(numbers, gone))
    shared, bucket, sizes = _buckets(keys[left])
    places = left[shared]
    numbers = numbers[places]
    large = sizes > WINDOW + 1
    steps = _neighbours(bucket[~large], numbers[~large], numbers[~large], WINDOW)
    for step, pairs in enumerate(steps):
        yield FURTHER if step else NEXT, pairs
    # Copies have the same figures, so in a large bucket these orders find them first.
    for name in FIGURES:
        order = table[name].to_numpy()[places]
        for pairs in _neighbours(bucket[large], order[large], numbers[large], FACT_WINDOW):
            yield FORMS + band, pairs
    for pairs in _neighbours(bucket[large], numbers[large], numbers[large], WINDOW):
        yield FORMS + band, pairs


def _buckets(keys: numpy.ndarray) -> tuple[numpy.ndarray, numpy.ndarray, numpy.ndarray]:
    """Find the documents that share their key with another document.

    Args:
        keys: Key of each document.

    Returns:
        (indices of these documents, number of each one's bucket, size of each one's bucket).
    """
    order = numpy.argsort(keys)
    ordered = keys[order]
    begins = numpy.ones(len(keys), bool)
    begins[1:] = ordered[1:] != ordered[:-1]
    bucket = numpy.cumsum(begins) - 1
    sizes = numpy.bincount(bucket)[bucket]
    several = sizes > 1
    return order[several], bucket[several], sizes[several]


def _neighbours(
    bucket: numpy.ndarray, order: numpy.ndarray, numbers: numpy.ndarray, window: int
) -> Iterator[numpy.ndarray]:
    """Yield pairs of documents that are neighbours in a sorted bucket, int64 [pairs, 2].

    Args:
        bucket: Number of each document's bucket.
        order: Values by which the documents of a bucket are sorted.
        numbers: Numbers of the documents.
        window: With how many of the documents after it each document is paired.
    """
    places = numpy.lexsort((numbers, order, bucket))
    bucket, numbers = bucket[places], numbers[places]
    for step in range(1, window + 1):
        same = numpy.flatnonzero(bucket[step:] == bucket[:-step])
        if not len(same):
            return
        pairs = numpy.stack([numbers[same], numbers[same + step]], axis=1)
        yield numpy.sort(pairs, axis=1)
