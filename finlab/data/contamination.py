"""Exam items in the text: 13-grams of units that a document shares with an item.

A unit is a Chinese character or a word of letters and digits; punctuation and case do not count.
Units are hashed to 64 bits and n-grams are rolling hashes of them, so that a corpus is compared
with thousands of items at many megabytes a second.
"""

from __future__ import annotations

import functools
import re
from collections import Counter, defaultdict

import daft
import numpy
import pyarrow
from daft import DataType, col

from finlab.data import frames

GRAM = 13  # units
SHORT_GRAM = 7  # of items whose stem and options together are shorter than a gram
CONTAMINATED = 0.5  # share of an item's grams that makes its document contaminated
BATCH_CHARACTERS = 100_000
OVERLAP = DataType.list(
    DataType.struct(
        {
            "item": DataType.int64(),
            "covered": DataType.float64(),
            "passage": DataType.string(),
        }
    )
)

# --- hashing -------------------------------------------------------------------------------------
CHINESE, WORD = 1, 2  # kinds of characters; 0 is anything else
WORDS = re.compile(r"[^\W_]+")
FACTOR = numpy.uint64(0x9E3779B97F4A7C15)
PLACE_FACTOR = numpy.uint64(0xD6E8FEB86659FD93)
MIX_FACTOR = numpy.uint64(0xBF58476D1CE4E5B9)


@functools.cache
def _character_kinds() -> numpy.ndarray:
    """Return the kind of every code point, uint8 [0x110000]."""
    kinds = numpy.zeros(0x110000, numpy.uint8)
    for first, last in ((0, 0xD800), (0xE000, 0x110000)):  # surrogates are no characters
        characters = "".join(map(chr, range(first, last)))
        for match in WORDS.finditer(characters):
            kinds[first + match.start() : first + match.end()] = WORD
    kinds[0x3400:0x4DC0] = CHINESE
    kinds[0x4E00:0xA000] = CHINESE
    return kinds


def _mix(values: numpy.ndarray) -> numpy.ndarray:
    """Scramble 64-bit values, so that close ones are far apart.

    Args:
        values: uint64, of any shape; overflow is meant.
    """
    values = (values ^ (values >> numpy.uint64(30))) * MIX_FACTOR
    return values ^ (values >> numpy.uint64(27))


def _longer_grams(
    left: numpy.ndarray, left_size: int, right: numpy.ndarray, right_size: int
) -> numpy.ndarray:
    """Return the rolling hashes of longer n-grams from those of shorter ones.

    Args:
        left: The hashes of `left_size` units, from each unit on.
        left_size: In units.
        right: The hashes of `right_size` units, from each unit on.
        right_size: In units.

    Returns:
        The hashes of `left_size` + `right_size` units, from each unit on; uint64.
    """
    count = len(right) - left_size
    shift = numpy.uint64(pow(int(FACTOR), right_size, 2**64))
    return left[:count] * shift + right[left_size:]


class Units:
    """The units of some texts, each hashed to 64 bits.

    Attributes:
        joined: The texts in lower case, a newline between them.
        codes: The hash of each unit, uint64 [units].
        starts, lasts: The places in `joined` of each unit's first and last character.
        owner: The number of the text that each unit belongs to.
    """

    def __init__(self, texts: list[str]):
        lowered = [text.lower() for text in texts]
        self.joined = "\n".join(lowered)
        chars = numpy.frombuffer(self.joined.encode("utf-32-le", "replace"), numpy.uint32)
        kinds = _character_kinds()[chars]
        kind_before = numpy.concatenate([[0], kinds[:-1]])
        # A unit begins at each Chinese character, and where a word begins.
        begins = (kinds == CHINESE) | ((kinds == WORD) & (kind_before != WORD))
        inside = numpy.flatnonzero(kinds)
        unit_of = numpy.cumsum(begins[inside]) - 1
        first = numpy.flatnonzero(begins[inside])
        self.starts = inside[first]
        place = (inside - self.starts[unit_of]).astype(numpy.uint64)
        values = _mix(chars[inside].astype(numpy.uint64) * FACTOR + place * PLACE_FACTOR)
        self.codes = values
        self.lasts = inside
        if len(inside):
            self.codes = numpy.add.reduceat(values, first)
            self.lasts = inside[numpy.append(first[1:], len(inside)) - 1]
        text_ends = numpy.cumsum([len(text) + 1 for text in lowered])
        self.owner = numpy.searchsorted(text_ends, self.starts, "right")

    def grams(self, size: int) -> tuple[numpy.ndarray, numpy.ndarray]:
        """Return the n-grams that lie within one text.

        Args:
            size: Their length in units.

        Returns:
            (hashes, uint64 [n-grams]; the number of the unit that each begins at, int64 [n-grams]).
        """
        count = len(self.codes) - size + 1
        if count <= 0:
            return self.codes[:0], self.starts[:0]
        # Any length is a sum of powers of two, and each power's hashes come from the last one's.
        hashes, length = None, 0
        power, reach = self.codes, 1
        while reach <= size:
            if size & reach:
                if hashes is None:
                    hashes = power
                else:
                    hashes = _longer_grams(hashes, length, power, reach)
                length += reach
            if 2 * reach <= size:
                power = _longer_grams(power, reach, power, reach)
            reach *= 2
        within_one_text = self.owner[:count] == self.owner[size - 1 :]
        whole = numpy.flatnonzero(within_one_text)
        return _mix(hashes[whole]), whole

    def passage(self, unit: int, size: int) -> str:
        """Return the text of some units, with what stands between them.

        Args:
            unit: The first.
            size: How many.
        """
        return self.joined[self.starts[unit] : self.lasts[unit + size - 1] + 1]


# --- the index -----------------------------------------------------------------------------------
class _GramTable:
    """The n-grams of one size, each with the items that hold it.

    The first bits of a hash tell most strangers at once, before the sorted keys are searched.
    """

    def __init__(self, owners: dict[int, list[int]]):
        self.keys = numpy.array(sorted(owners), numpy.uint64)
        bits = max(16, (16 * len(self.keys)).bit_length())
        self.shift = numpy.uint64(64 - bits)
        self.known = numpy.zeros(2**bits, bool)
        self.known[self.keys >> self.shift] = True
        self.owners = [owners[key] for key in self.keys.tolist()]

    def find(self, hashes: numpy.ndarray) -> tuple[numpy.ndarray, numpy.ndarray]:
        """Look hashes up.

        Args:
            hashes: uint64, of a text's n-grams.

        Returns:
            (places in `hashes`, places in `keys`) of the hashes that are keys.
        """
        maybe = numpy.flatnonzero(self.known[hashes >> self.shift])
        place = numpy.searchsorted(self.keys, hashes[maybe])
        place = numpy.minimum(place, len(self.keys) - 1)
        true = self.keys[place] == hashes[maybe]
        return maybe[true], place[true]


class ExamIndex:
    """An index of the n-grams of exam items.

    They are those of an item's stem, or of stem and options where the stem is shorter than a gram.
    What is shorter still cannot be told.

    Args:
        items: {question, choices}.
    """

    def __init__(self, items: list[dict]):
        self.sizes: list[int] = []  # grams of each item
        self.short: list[bool] = []  # whether its stem is shorter than a gram
        owners: dict[int, dict[int, list[int]]] = defaultdict(lambda: defaultdict(list))
        for number, item in enumerate(items):
            units = Units([item["question"]])
            short = len(units.codes) < GRAM
            if short:
                units = Units([" ".join([item["question"], *item["choices"]])])
            size = GRAM if len(units.codes) >= GRAM else SHORT_GRAM
            hashes = set(units.grams(size)[0].tolist())
            self.short.append(short)
            self.sizes.append(len(hashes))
            for value in hashes:
                owners[size][value].append(number)
        self.tables = {size: _GramTable(table) for size, table in owners.items()}

    def hits(self, texts: list[str]) -> list[list[dict]]:
        """Return the overlaps of each text.

        Args:
            texts: Any texts.

        Returns:
            For each text a list of {item: its number, covered: share of the item's grams,
            passage: the first that is shared}.
        """
        units = Units(texts)
        counts: list[Counter] = [Counter() for _ in texts]
        passages: dict[tuple[int, int], str] = {}
        for size, table in self.tables.items():
            hashes, starts = units.grams(size)
            found, keys = table.find(hashes)
            seen = set()
            for key, unit in zip(keys.tolist(), starts[found].tolist(), strict=True):
                text = int(units.owner[unit])
                if (text, key) in seen:  # the same gram twice in one text
                    continue
                seen.add((text, key))
                for item in table.owners[key]:
                    counts[text][item] += 1
                    passages.setdefault((text, item), units.passage(unit, size))
        overlaps = []
        for text, matched in enumerate(counts):
            rows = []
            for item, count in sorted(matched.items()):
                covered = count / self.sizes[item]
                rows.append({"item": item, "covered": covered, "passage": passages[text, item]})
            overlaps.append(rows)
        return overlaps


# --- a corpus against exams ----------------------------------------------------------------------
def find_overlaps(frame: daft.DataFrame, items: list[dict]) -> list[dict]:
    """Compare every document that is not dropped with exam items.

    Any shared 13-gram makes an item `suspect`; half of its grams make it `contaminated`. An item
    with a stem shorter than 13 units counts only by its stem and options in full.

    Args:
        frame: The documents.
        items: {id, question, choices}.

    Returns:
        One record an overlap: {number, document, source, item, covered, passage, verdict}.

    Raises:
        ValueError: A source holds most of a benchmark: it is the benchmark, not a text.
    """
    index = ExamIndex(items)

    @daft.func.batch(return_dtype=OVERLAP, **frames.batch_settings(frame))
    def overlaps(text: daft.Series) -> daft.Series:
        found = []
        for batch in frames.batches(text.to_pylist(), BATCH_CHARACTERS):
            found += index.hits(batch)
        return daft.Series.from_arrow(pyarrow.array(found, OVERLAP.to_arrow_dtype()))

    kept = frame.where(col("dropped") == "")
    rows = kept.select("number", "id", "source", overlaps(col("text")).alias("hit"))
    rows = rows.explode("hit").where(col("hit").not_null()).sort("number")
    records = []
    for row in rows.to_pylist():
        hit = row["hit"]
        if index.short[hit["item"]] and hit["covered"] < 1:
            continue
        verdict = "contaminated" if hit["covered"] >= CONTAMINATED else "suspect"
        record = {
            "number": row["number"],
            "document": row["id"],
            "source": row["source"],
            "item": items[hit["item"]]["id"],
            "covered": hit["covered"],
            "passage": hit["passage"],
            "verdict": verdict,
        }
        records.append(record)
    _refuse_benchmarks(records, items)
    return records


def _card_of(item_id: str) -> str:
    """Return the card that an item's id begins with."""
    return item_id.split("/")[0]


def _refuse_benchmarks(records: list[dict], items: list[dict]) -> None:
    """Refuse a source that holds most items of an exam card.

    It is the exam under another name: taking single documents out would leave its format.

    Args:
        records: The overlaps found, {source, id, item, covered, passage, verdict}.
        items: All exam items.
    """
    sizes = Counter(_card_of(item["id"]) for item in items)
    held: dict[tuple[str, str], set[str]] = defaultdict(set)
    for record in records:
        if record["verdict"] == "contaminated":
            held[record["source"], _card_of(record["item"])].add(record["item"])
    for (source, exam), found in held.items():
        if sizes[exam] >= 20 and len(found) > 0.5 * sizes[exam]:
            raise ValueError(
                f"source {source} holds {len(found)} of the {sizes[exam]} items of exam card "
                f"{exam}: it is the benchmark itself; take {source} out of the text cards, "
                f"or {exam} out of the exams"
            )


def marked_items(items: list[dict], records: list[dict]) -> dict[str, str]:
    """Return the verdict on each item, so that scores can be told apart by it.

    Args:
        items: All exam items.
        records: The overlaps found.

    Returns:
        {item id: `clean`, `suspect` or `contaminated`}.
    """
    verdicts = dict.fromkeys((item["id"] for item in items), "clean")
    for verdict in ("suspect", "contaminated"):  # the worse one last, so that it stays
        for record in records:
            if record["verdict"] == verdict:
                verdicts[record["item"]] = verdict
    return verdicts


def verdict_counts(verdicts: dict[str, str]) -> dict[str, int]:
    """Return how many items are clean, suspect and contaminated."""
    counts = Counter(verdicts.values())
    return {verdict: counts[verdict] for verdict in ("clean", "suspect", "contaminated")}
