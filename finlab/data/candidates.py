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
    def signature(text: daft.Series) -> daft.Series:
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
    return kept.select("number", col("source").hash().alias("source"), signature(col("text")))


def _figure_hashes(text: str) -> tuple[int, int]:
    """Return two MinHashes of the numbers in a text: equal for most texts with the same numbers."""
    numbers = [number.encode() for number in set(NUMBERS.findall(text))] or [b""]
    return min(map(zlib.crc32, numbers)), min(zlib.crc32(number, 7) for number in numbers)


def _lists(values: numpy.ndarray) -> pyarrow.LargeListArray:
    """Return the rows of a matrix as Arrow lists."""
    offsets = numpy.arange(0, values.size + 1, values.shape[1])
    return pyarrow.LargeListArray.from_arrays(offsets, values.ravel())


def candidate_pairs(
    signed: daft.DataFrame, by: list[str], bands: int, batch: int
) -> Iterator[numpy.ndarray]:
    """Yield candidate pairs of document numbers, int64 [pairs, 2], some at a time.

    In a bucket each document pairs with those next to it: with all of them where they are few.
    Where a bucket is large, as with announcements of one form, copies are found beside each other
    in two more orders, by their figures; these pairs come first. A band is done at a time, so that
    memory holds one key a document. No pair comes twice in a batch; another may find it again.

    Args:
        signed: From `signatures`.
        by: Columns that the documents of a pair must share, such as ["source"].
        bands: The number of bands.
        batch: About so many pairs at a time.
    """
    waiting: list[numpy.ndarray] = []
    for found in _of_bands(signed, by, bands):
        waiting.append(found)
        if sum(map(len, waiting)) >= 2 * batch:
            waiting = [_each_once(waiting)]
            if len(waiting[0]) >= batch:
                yield waiting.pop()
    if waiting:
        yield _each_once(waiting)


def _each_once(found: list[numpy.ndarray]) -> numpy.ndarray:
    """Return pairs without those that come again, in the order in which they were found."""
    pairs = numpy.concatenate(found)
    firsts = numpy.unique(pair_keys(pairs), return_index=True)[1]
    return pairs[numpy.sort(firsts)]


def _of_bands(signed: daft.DataFrame, by: list[str], bands: int) -> Iterator[numpy.ndarray]:
    """Yield the pairs of each band, and of each distance in its buckets; for `candidate_pairs`."""
    columns = ["number", *by]
    figures = [col("figures").get(place).alias(f"figures_{place}") for place in range(2)]
    for band in range(bands):
        keyed = signed.select(*columns, *figures, col("keys").get(band).alias("key"))
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
