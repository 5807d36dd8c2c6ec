"""Find exam items in texts: 13-grams of units that a document shares with an item.

A unit is a Chinese character, or a word of letters and digits. Punctuation and case are ignored.
Units are hashed to 64 bits, and n-grams are rolling hashes of units. So a corpus is compared with
thousands of items at many megabytes a second.
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

GRAM = 13  # units in an n-gram
SHORT_GRAM = 7  # units, for items whose stem and options together are shorter than GRAM
CONTAMINATED = 0.5  # a document with at least this share of an item's n-grams is contaminated
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
    for first, last in ((0, 0xD800), (0xE000, 0x110000)):  # surrogates are not characters
        characters = "".join(map(chr, range(first, last)))
        for match in WORDS.finditer(characters):
            kinds[first + match.start() : first + match.end()] = WORD
    kinds[0x3400:0x4DC0] = CHINESE
    kinds[0x4E00:0xA000] = CHINESE
    return kinds


def _mix(values: numpy.ndarray) -> numpy.ndarray:
    """Scramble 64-bit values, so that values that are close become far apart.

    Args:
        values: The values, uint64 of any shape. Multiplication overflows on purpose.
    """
    values = (values ^ (values >> numpy.uint64(30))) * MIX_FACTOR
    return values ^ (values >> numpy.uint64(27))


def _longer_grams(
    left: numpy.ndarray, left_size: int, right: numpy.ndarray, right_size: int
) -> numpy.ndarray:
    """Return the rolling hashes of longer n-grams, from the hashes of two shorter lengths.

    Args:
        left: Hash of the n-gram of length `left_size` that begins at each unit, uint64.
        left_size: Length of the left n-grams, in units.
        right: Hash of the n-gram of length `right_size` that begins at each unit, uint64.
        right_size: Length of the right n-grams, in units.

    Returns:
        Hash of the n-gram of length `left_size` + `right_size` that begins at each unit, uint64.
    """
    count = len(right) - left_size
    shift = numpy.uint64(pow(int(FACTOR), right_size, 2**64))
    return left[:count] * shift + right[left_size:]


class Units:
    """The units of some texts, each hashed to 64 bits.

    Attributes:
        joined: The texts in lower case, with a newline between them.
        codes: Hash of each unit, uint64 [units].
        starts, lasts: Index in `joined` of each unit's first and last character, int64 [units].
        owner: Index of the text that each unit belongs to, int64 [units].
    """

    def __init__(self, texts: list[str]):
        lowered = [text.lower() for text in texts]
        self.joined = "\n".join(lowered)
        chars = numpy.frombuffer(self.joined.encode("utf-32-le", "replace"), numpy.uint32)
        kinds = _character_kinds()[chars]
        kind_before = numpy.concatenate([[0], kinds[:-1]])
        # A unit begins at each Chinese character, and at the first character of each word.
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
        """Return the n-grams that do not cross from one text to the next.

        Args:
            size: Length of the n-grams in units.

        Returns:
            (hash of each n-gram, uint64 [n-grams]; index of its first unit, int64 [n-grams]).
        """
        count = len(self.codes) - size + 1
        if count <= 0:
            return self.codes[:0], self.starts[:0]
        # Each length is a sum of powers of two. The hashes of a power of two are computed from the
        # hashes of the next smaller power.
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
        """Return the text of consecutive units, with the characters between them.

        Args:
            unit: Index of the first unit.
            size: How many units.
        """
        return self.joined[self.starts[unit] : self.lasts[unit + size - 1] + 1]


# --- the index -----------------------------------------------------------------------------------
class _GramTable:
    """The n-grams of one size, each with the items that contain it.

    A table of the first bits of all keys rules out most other hashes quickly, so that few have to
    be searched in the sorted keys.

    Args:
        owners: {hash of an n-gram: numbers of the items that contain it}.
    """

    def __init__(self, owners: dict[int, list[int]]):
        self.keys = numpy.array(sorted(owners), numpy.uint64)
        bits = max(16, (16 * len(self.keys)).bit_length())
        self.shift = numpy.uint64(64 - bits)
        self.known = numpy.zeros(2**bits, bool)
        self.known[self.keys >> self.shift] = True
        self.owners = [owners[key] for key in self.keys.tolist()]

    def find(self, hashes: numpy.ndarray) -> tuple[numpy.ndarray, numpy.ndarray]:
        """Find the hashes that are keys of this table.

        Args:
            hashes: Hashes of n-grams of texts, uint64.

        Returns:
            (indices in `hashes`, indices in `keys`) of the hashes that are keys.
        """
        maybe = numpy.flatnonzero(self.known[hashes >> self.shift])
        place = numpy.searchsorted(self.keys, hashes[maybe])
        place = numpy.minimum(place, len(self.keys) - 1)
        true = self.keys[place] == hashes[maybe]
        return maybe[true], place[true]


class ExamIndex:
    """An index of the n-grams of exam items.

    An item is indexed by its stem (the question), or by stem and options together if the stem is
    shorter than GRAM. If stem and options are shorter than GRAM, n-grams of SHORT_GRAM units are
    used. An item with fewer units cannot be found.

    Args:
        items: The exam items {question, choices}.
    """

    def __init__(self, items: list[dict]):
        self.sizes: list[int] = []  # number of n-grams of each item
        self.short: list[bool] = []  # whether the item's stem is shorter than GRAM
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
            For each text a list of {item, covered, passage}: the number of the item, the share of
            the item's n-grams that the text has, and the text of one shared n-gram.
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
                if (text, key) in seen:  # the text has this n-gram twice
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


# --- comparing a corpus with exams ---------------------------------------------------------------
def find_overlaps(frame: daft.DataFrame, items: list[dict]) -> list[dict]:
    """Compare every document that is not dropped with exam items.

    One shared 13-gram makes an item `suspect`. Half of its n-grams make it `contaminated`. An item
    with a stem shorter than 13 units counts only if the document has all of its n-grams.

    Args:
        frame: The documents.
        items: The exam items {id, question, choices}.

    Returns:
        A record {number, document, source, item, covered, passage, verdict} for each overlap.
        `number` and `document` are the number and id of the document, and `item` is an item's id.

    Raises:
        ValueError: A source holds most items of an exam card, so it is the benchmark itself.
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
    """Return the name of the exam card, with which an item's id begins."""
    return item_id.split("/")[0]


def _refuse_benchmarks(records: list[dict], items: list[dict]) -> None:
    """Raise ValueError if a source holds most items of an exam card.

    Such a source is the exam under another name. If only the contaminated documents were removed,
    the others would still teach the exam's format.

    Args:
        records: The overlaps from `find_overlaps`.
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
    """Return the verdict on each item, so that scores can be reported by verdict.

    Args:
        items: All exam items.
        records: The overlaps from `find_overlaps`.

    Returns:
        {item id: `clean`, `suspect` or `contaminated`}.
    """
    verdicts = dict.fromkeys((item["id"] for item in items), "clean")
    for verdict in ("suspect", "contaminated"):  # the worse verdict comes last and overwrites
        for record in records:
            if record["verdict"] == verdict:
                verdicts[record["item"]] = verdict
    return verdicts


def verdict_counts(verdicts: dict[str, str]) -> dict[str, int]:
    """Return how many items are clean, suspect and contaminated."""
    counts = Counter(verdicts.values())
    return {verdict: counts[verdict] for verdict in ("clean", "suspect", "contaminated")}
