"""Pairs of documents that may be copies: MinHash signatures, and who shares a part of one."""

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
WINDOW = 15  # documents of a bucket that each is compared with: all of them in buckets up to 16
FACT_WINDOW = 4  # in larger ones, also these neighbours in an order by figures
FIGURES = ("figures_0", "figures_1")
# Ranks of pairs: neighbours in a small bucket, others in it, those in the large ones of band 0.
NEXT, FURTHER, FORMS = range(3)
SPREAD = numpy.uint64(0x9E3779B97F4A7C15)  # an odd factor, by which sources share no key


def squeeze(text: str) -> str:
    """Return a text without white space, in lower case: what two copies of one document share.

    Between two figures a space stays: `12 3` is not `1 23`.
    """
    if BETWEEN_DIGITS.search(text):
        text = BETWEEN_DIGITS.sub("\x00", text)
        return WHITE_SPACE.sub("", text).replace("\x00", " ").lower()
    return "".join(text.split()).lower()


# --- signatures ----------------------------------------------------------------------------------
def _spaced(text: str) -> str:
    """Return a text with a space after each character.

    Daft's n-grams of words become n-grams of characters by it.
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
    """Return the MinHash keys of the documents that are not out.

    There is one key for each band of the signature: texts that share a key are candidates.

    Args:
        frame: Documents {number, source, text, dropped}.
        ngram: In characters.
        bands: The number of keys.
        rows: Hash functions in a band.
        seed: Draws the hash functions.

    Returns:
        {number, source (its hash), length (characters), digest, figures_0 and figures_1 (MinHashes
        of the numbers in it), key_0, key_1, ...}: a column each, since a band reads its own alone.
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
    """Return two MinHashes of the numbers in a text: equal for most texts with the same numbers."""
    numbers = [number.encode() for number in set(NUMBERS.findall(text))] or [b""]
    return min(map(zlib.crc32, numbers)), min(zlib.crc32(number, 7) for number in numbers)


def candidate_pairs(
    signed: daft.DataFrame,
    gone: numpy.ndarray,
    within_source: bool,
    bands: int,
    batch: int,
) -> Iterator[dict[int, numpy.ndarray]]:
    """Yield candidate pairs of document numbers, int64 [pairs, 2], some at a time.

    In a bucket each document pairs with those next to it: with all of them where they are few.
    Where a bucket is large, as with announcements of one form, copies are found beside each other
    in two more orders, by their figures. A band is done at a time, so that memory holds one key a
    document. No pair comes twice in a batch; another batch may find it again.

    Args:
        signed: From `signatures`.
        gone: Numbers of documents to leave out.
        within_source: The documents of a pair are of one source.
        bands: The number of bands.
        batch: About so many pairs at a time.

    Yields:
        Pairs by rank, in the order in which they are to be judged: NEXT and FURTHER in small
        buckets, then FORMS and above those in the large buckets of one band after another.
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
    """Return pairs by rank, each where it comes first."""
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
    """Yield the pairs of a band with their ranks; for `candidate_pairs`."""
    # Columns of Arrow: a list of Python's numbers takes five times as much.
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
    # Copies share their figures, so in a large bucket they are found first.
    for name in FIGURES:
        order = table[name].to_numpy()[places]
        for pairs in _neighbours(bucket[large], order[large], numbers[large], FACT_WINDOW):
            yield FORMS + band, pairs
    for pairs in _neighbours(bucket[large], numbers[large], numbers[large], WINDOW):
        yield FORMS + band, pairs


def _buckets(keys: numpy.ndarray) -> tuple[numpy.ndarray, numpy.ndarray, numpy.ndarray]:
    """Return who shares a key with another: their places, the bucket of each, and its size.

    Args:
        keys: One for each document.
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
