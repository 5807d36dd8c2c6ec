"""Corpus: documents as Daft frames, from reading to the split, with a ledger that closes to zero.

    frame = corpus.read([(card, cards.stream(card, quarantined)), ...], folder / "read", count)
    frame = corpus.save(corpus.transform(frame, corpus.cleaner(count), corpus.deidentifier(count)), folder / "cleaned")
    reasons, clusters = corpus.duplicates(frame)
    frame = corpus.mark(frame, reasons)

A frame has a row per document: number (its place in the reading order), id, source, domain, language, text, tokens_read, tokens,
`losses` (what each rule took, in tokens), `personal` (kinds replaced) and `dropped` (why the document is out, or ""). Rows are marked,
never removed, and for each of them tokens_read = tokens + sum of losses. The same calls run in this process or on a Ray cluster.
"""

from __future__ import annotations

import functools
import hashlib
import re
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import daft
import numpy
import pyarrow
import pyarrow.parquet
from daft import DataType, col

from finlab import cleaning

LOSS = DataType.list(DataType.struct({"reason": DataType.string(), "tokens": DataType.int64()}))
CHANGED = {"text": DataType.string(), "tokens": DataType.int64(), "losses": LOSS, "personal": DataType.list(DataType.string()), "dropped": DataType.string()}
HIT = DataType.list(DataType.struct({"item": DataType.int64(), "covered": DataType.float64(), "passage": DataType.string()}))
Count = Callable[[list[str]], list[int]]


def start(runner: str = "native", address: str | None = None) -> None:
    """Choose where frames are computed: `native` in this process, `ray` on the cluster at `address` (RAY_ADDRESS, or a local one).

    Raises ValueError for another name, and when this process has already begun with the other one.
    """
    if runner not in ("native", "ray"):
        raise ValueError(f"the runner is 'native' or 'ray', not '{runner}'")
    try:
        daft.set_runner_ray(address, noop_if_initialized=True) if runner == "ray" else daft.set_runner_native()
    except Exception as error:
        raise ValueError(f"frames cannot be computed on '{runner}': {error}; restart the kernel where it was begun with another") from None


def characters(texts: list[str]) -> list[int]:
    """Count characters: the unit of account where no tokenizer is at hand."""
    return [len(text) for text in texts]


def read(sources: Iterable[tuple[object, Iterator[dict]]], folder: Path, count: Count) -> daft.DataFrame:
    """Write each source's rows {id, text} to `folder`/<source>.parquet, a batch at a time, and return them as one frame.

    `sources` are pairs (card, rows); a card has a name, a domain and a language.
    """
    folder.mkdir(parents=True, exist_ok=True)
    number = 0
    for card, stream in sources:
        writer = None
        for documents in _batches(stream, 2_000_000, lambda document: len(document["text"])):
            texts, size = [document["text"] for document in documents], len(documents)
            table = pyarrow.table({
                "number": pyarrow.array(range(number, number + size), pyarrow.int64()), "id": [document["id"] for document in documents],
                "source": [card.name] * size, "domain": [card.domain] * size, "language": [card.language] * size, "text": texts,
                "tokens_read": pyarrow.array(count(texts), pyarrow.int64())})
            writer = writer or pyarrow.parquet.ParquetWriter(folder / f"{card.name}.parquet", table.schema, compression="zstd")
            writer.write_table(table)
            number += size
        if writer is None:
            raise ValueError(f"source {card.name} is empty: none of its rows could be read; see the quarantined rows, or take it out of the cards")
        writer.close()
    frame = daft.read_parquet(str(folder / "*.parquet"))
    empty = {"losses": daft.lit(None).cast(LOSS), "personal": daft.lit(None).cast(CHANGED["personal"])}
    return frame.with_columns({"tokens": col("tokens_read"), "dropped": daft.lit(""), **empty})


def _batches(rows: Iterable, letters: int, length: Callable[[object], int] = len, most: int = 2000) -> Iterator[list]:
    """Yield lists of at most `most` rows, each ended by the row that brings it above so many letters."""
    batch, size = [], 0
    for row in rows:
        batch.append(row)
        size += length(row)
        if len(batch) == most or size > letters:
            yield batch
            batch, size = [], 0
    if batch:
        yield batch


def save(frame: daft.DataFrame, folder: Path, by_source: bool = False) -> daft.DataFrame:
    """Compute a frame into Parquet files in `folder` (with `by_source` a folder for each) and return it as read from there."""
    frame.write_parquet(str(folder), compression="zstd", write_mode="overwrite", partition_cols=["source"] if by_source else None)
    return daft.read_parquet(f"{folder}/**/*.parquet", hive_partitioning=by_source)


def _work(frame: daft.DataFrame, tokens: int = 20_000_000, letters: int = 1_000_000) -> dict:
    """Return how Python functions shall work through a frame: in batches of about `letters` tokens, so that long documents fit into
    memory too, and in processes of their own where there is enough to do: starting them costs most of a second."""
    found = frame.agg(col("tokens_read").sum().alias("tokens"), col("tokens_read").count().alias("rows")).to_pylist()[0]
    each = (found["tokens"] or 0) / max(found["rows"], 1)
    return {"batch_size": int(min(1024, max(8, letters / max(each, 1)))), "use_process": (found["tokens"] or 0) > tokens}


# --- clean and de-identify ------------------------------------------------------------------------------------------
def transform(frame: daft.DataFrame, *changes: Callable[[dict[str, list]], None]) -> daft.DataFrame:
    """Put documents through changes, `cleaner`, `deidentifier` or `scorer`, one after another in a single pass over the text."""
    @daft.func.batch(return_dtype=DataType.struct(CHANGED), unnest=True, **_work(frame, tokens=8_000_000))
    def changed(*series: daft.Series) -> daft.Series:
        columns = {name: values.to_pylist() for name, values in zip([*CHANGED, "source", "language"], series, strict=True)}
        for change in changes:
            change(columns)
        arrays = [pyarrow.array(columns[name], kind.to_arrow_dtype()) for name, kind in CHANGED.items()]
        return daft.Series.from_arrow(pyarrow.StructArray.from_arrays(arrays, names=list(CHANGED)))

    rest = [name for name in frame.column_names if name not in CHANGED]
    return frame.select(*rest, changed(*[col(name) for name in [*CHANGED, "source", "language"]]))


def _book(columns: dict[str, list], number: int, tokens: int, losses: list[tuple[str, int]]) -> None:
    if losses:
        columns["tokens"][number] = tokens
        columns["losses"][number] = [*(columns["losses"][number] or []), *({"reason": reason, "tokens": lost} for reason, lost in losses)]


def _drop(columns: dict[str, list], number: int, reason: str) -> None:
    _book(columns, number, 0, [(reason, columns["tokens"][number])])
    columns["dropped"][number] = reason


def cleaner(count: Count, settings: dict[str, dict] | None = None) -> Callable[[dict[str, list]], None]:
    """Return the change that cleans every document by the rules of its source.

    `settings` {source: {threshold or rule setting: value}} are the cards' `rules:`, see `cleaning.rules`. What a rule took is booked
    under its name, in tokens counted before and after it.
    """
    def change(columns: dict[str, list]) -> None:
        texts, sources = columns["text"], columns["source"]
        own = {source: (settings or {}).get(source) for source in set(sources)}
        named = {source: cleaning.rules(found) for source, found in own.items()}
        steps = [cleaning.clean_text(text, named[source]) for text, source in zip(texts, sources, strict=True)]
        sizes = iter(count([text for versions in steps for _, text in versions]))
        for number, versions in enumerate(steps):
            tokens, losses = columns["tokens"][number], []
            for rule, text in versions:
                after = next(sizes)
                losses.append((rule, tokens - after))
                texts[number], tokens = text, after
            _book(columns, number, tokens, losses)
            if reason := cleaning.drop_reason(texts[number], columns["language"][number], own[sources[number]]):
                _drop(columns, number, reason)

    return change


def deidentifier(count: Count) -> Callable[[dict[str, list]], None]:
    """Return the change that replaces personal data by typed placeholders; tokens are booked under `de-identification`."""
    def change(columns: dict[str, list]) -> None:
        found = [cleaning.deidentify_text(text) for text in columns["text"]]
        changed = [number for number, (_, kinds) in enumerate(found) if kinds and not columns["dropped"][number]]
        for number, after in zip(changed, count([found[number][0] for number in changed]), strict=True):
            columns["text"][number], kinds = found[number]
            columns["personal"][number] = sorted(kinds.elements())
            _book(columns, number, after, [("de-identification", columns["tokens"][number] - after)])

    return change


def scorer(score: Callable[[list[str]], list[float]], most: float, reason: str) -> Callable[[dict[str, list]], None]:
    """Return the change that drops documents whose score is above `most`: a classifier's probability of bad text, or a model's bits
    per character."""
    def change(columns: dict[str, list]) -> None:
        there = [number for number, dropped in enumerate(columns["dropped"]) if not dropped]
        for number, value in zip(there, score([columns["text"][number] for number in there]) if there else [], strict=True):
            if value > most:
                _drop(columns, number, reason)

    return change


def samples(original: daft.DataFrame, frame: daft.DataFrame, settings: dict[str, dict] | None = None, per_rule: int = 3, width: int = 60) -> list[dict]:
    """Return up to three documents per rule, {rule, source, before, after}, cut to the place of the change."""
    losses = frame.select("number", "source", "losses").explode("losses").where(col("losses").not_null())
    named = losses.select("number", "source", col("losses").get("reason").alias("rule")).sort("number").to_pandas().groupby("rule").head(per_rule)
    texts = dict(zip(*pick(original, named.number, "text").values(), strict=True))
    shown = []
    for rule, rows in named.groupby("rule", sort=False):
        for number, source in zip(rows.number, rows.source, strict=True):
            before, steps = texts[number], cleaning.clean_text(texts[number], cleaning.rules((settings or {}).get(source)))
            for name, after in steps:
                if name == rule:
                    same = next((place for place, (a, b) in enumerate(zip(before, after)) if a != b), min(len(before), len(after)))
                    first = max(0, same - width // 3)
                    shown.append({"rule": rule, "source": source, "before": before[first:first + width], "after": after[first:first + width]})
                before = after
            if rule == "de-identification":
                shown.append({"rule": rule, "source": source, "before": before[:width], "after": cleaning.deidentify_text(before)[0][:width]})
            elif rule not in dict(steps):
                shown.append({"rule": rule, "source": source, "before": texts[number][:width], "after": "(the document is dropped)"})
    return [row | {side: row[side].replace("\n", "⏎\n") for side in ("before", "after")} for row in shown]


def pick(frame: daft.DataFrame, numbers: Iterable[int], *columns: str) -> dict[str, list]:
    """Return {number, columns…} of a few documents, in the order of their numbers."""
    wanted = daft.from_pydict({"number": numpy.unique(numpy.fromiter(numbers, numpy.int64))})
    return frame.select("number", *columns).join(wanted, on="number", how="semi").sort("number").to_pydict()


# --- duplicates -----------------------------------------------------------------------------------------------------
SIGNS = re.compile(r"[0-9A-Za-z][0-9A-Za-z.,:/%-]*")
NUMERALS = re.compile(r"[〇○零一二三四五六七八九十百千万亿]+(?=[年月日号元股期届次条倍成])")


DIRECTIONS = re.compile(r"[涨跌升降增减盈亏买卖]|[上下][调行]|流[入出]|[南北]向|[看做][多空]|[不未没]|"
                        r"\b(?:not?|up|down|rise|fall|rose|fell|increase|decrease|buy|sell)\b")


def figures(text: str) -> list[str]:
    """Return the figures, dates and codes of a text, in order: words with a digit, then Chinese numerals before a unit."""
    return [sign.rstrip(".,:/-") for sign in SIGNS.findall(text) if any(char.isdigit() for char in sign)] + NUMERALS.findall(text)


def facts(text: str) -> str:
    """Return what two texts must share to be one document: their figures, and the words that turn a sentence round (涨 or 跌, 不)."""
    return " ".join([*figures(text), *DIRECTIONS.findall(text.lower())])


def squeeze(text: str) -> str:
    """Return a text without white space, in lower case: what two copies of one document share."""
    return "".join(text.split()).lower()


def digest(text: str) -> int:
    """Return a document's own hash, 64 bits, the same for texts that are equal but for white space and letter case."""
    return _hash(squeeze(text))


def _hash(text: str) -> int:
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big")


def held_out(text: str, share: float) -> bool:
    """Tell by the document's own hash whether it is held out: stable when sources grow or change order."""
    return digest(text) < share * 2**64


def _spaced(text: str) -> str:
    """Return a text with a space after each character, so that Daft's n-grams of words are n-grams of characters."""
    chars = numpy.frombuffer((text or " ").encode("utf-32-le", "replace"), numpy.uint32)
    return numpy.stack([chars, numpy.full_like(chars, 32)], 1).tobytes().decode("utf-32-le")


def _signs(frame: daft.DataFrame, ngram: int, bands: int, rows: int, keep_other_figures: bool, seed: int) -> daft.DataFrame:
    """Return {number, source (its hash), length, digest, keys}: a key for each band of the MinHash signature over character n-grams."""
    weights = numpy.random.default_rng(seed).integers(1, 2**63, (bands, rows), dtype=numpy.uint64) | numpy.uint64(1)
    kind = DataType.struct({"length": DataType.int64(), "digest": DataType.uint64(), "keys": DataType.list(DataType.uint64())})

    @daft.func.batch(return_dtype=kind, unnest=True, **_work(frame))
    def signed(text: daft.Series) -> daft.Series:
        texts = text.to_pylist()
        squeezed = [squeeze(text) for text in texts]
        hashes = daft.Series.from_pylist([_spaced(text) for text in squeezed]).minhash(bands * rows, ngram, seed).to_arrow()
        parts = numpy.asarray(hashes.flatten(), numpy.uint64).reshape(len(texts), bands, rows)
        keys = (parts * weights).sum(2)
        if keep_other_figures:
            keys += numpy.array([_hash(facts(text)) for text in texts], numpy.uint64)[:, None]
        keys ^= keys >> numpy.uint64(31)
        lists = pyarrow.LargeListArray.from_arrays(numpy.arange(0, keys.size + 1, bands), keys.ravel())
        digests = [_hash(text) for text in squeezed]
        return daft.Series.from_arrow(pyarrow.StructArray.from_arrays(
            [pyarrow.array(characters(texts), pyarrow.int64()), pyarrow.array(digests, pyarrow.uint64()), lists], names=["length", "digest", "keys"]))

    return frame.where(col("dropped") == "").select("number", col("source").hash().alias("source"), signed(col("text")))


def _pairs(signs: daft.DataFrame, by: list[str], bands: int) -> numpy.ndarray:
    """Return candidate pairs (n, 2) of document numbers: in each bucket the first with each other one, and neighbours.

    A band at a time, so that memory holds one key per document.
    """
    found = [numpy.empty((0, 2), numpy.int64)]
    for band in range(bands):
        buckets = signs.select("number", col("keys").get(band).alias("key"), *by).groupby("key", *by).agg(col("number").list_agg().alias("members"))
        lists = buckets.where(col("members").list_count() > 1).select("members").to_arrow()["members"].combine_chunks()
        numbers, sizes = numpy.asarray(lists.flatten()), numpy.asarray(lists.value_lengths())
        bucket = numpy.repeat(numpy.arange(len(sizes)), sizes)
        numbers = numbers[numpy.lexsort((numbers, bucket))]
        first = numpy.repeat(numbers[numpy.cumsum(sizes) - sizes], sizes)
        same = numpy.flatnonzero(bucket[1:] == bucket[:-1])
        pairs = numpy.concatenate([numpy.stack([first, numbers], 1), numpy.stack([numbers[same], numbers[same + 1]], 1)])
        found.append(numpy.unique(pairs[pairs[:, 0] != pairs[:, 1]], axis=0))
    return numpy.unique(numpy.concatenate(found), axis=0)


def shingles(text: str, ngram: int) -> set[str]:
    """Return the character n-grams of a squeezed text."""
    squeezed = squeeze(text)
    return {squeezed[first:first + ngram] for first in range(max(1, len(squeezed) - ngram + 1))}


def _verified(frame: daft.DataFrame, pairs: numpy.ndarray, threshold: float, ngram: int, chunk: int = 20_000) -> numpy.ndarray:
    """Return the pairs whose exact Jaccard similarity of character n-grams reaches the threshold."""
    @daft.func.batch(return_dtype=DataType.bool(), batch_size=256, use_process=len(pairs) > 5000)
    def alike(left: daft.Series, right: daft.Series) -> daft.Series:
        said, known = [], functools.lru_cache(512)(lambda text: shingles(text, ngram))
        for a, b in zip(left.to_pylist(), right.to_pylist(), strict=True):
            a, b = known(a), known(b)
            shared = len(a & b)
            said.append(shared >= threshold * (len(a) + len(b) - shared))
        return daft.Series.from_pylist(said)

    found = []
    for first in range(0, len(pairs), chunk):
        part = daft.from_pydict({"left": pairs[first:first + chunk, 0], "right": pairs[first:first + chunk, 1]})
        wanted = daft.from_pydict({"number": numpy.unique(pairs[first:first + chunk])})
        texts = frame.select("number", "text").join(wanted, on="number", how="semi").collect()
        for side in ("left", "right"):
            part = part.join(texts.select(col("number").alias(side), col("text").alias(f"text_{side}")), on=side)
        kept = part.where(alike(col("text_left"), col("text_right"))).select("left", "right").to_pydict()
        found += zip(kept["left"], kept["right"], strict=True)
    return numpy.array(sorted(found), numpy.int64).reshape(-1, 2)


def _clusters(pairs: numpy.ndarray, length: dict[int, int]) -> list[list[int]]:
    """Return connected components of pairs, the longest document of each first (the earliest among equals)."""
    from scipy.sparse import coo_matrix
    from scipy.sparse.csgraph import connected_components

    if not len(pairs):
        return []
    numbers, places = numpy.unique(pairs, return_inverse=True)
    left, right = places.reshape(-1, 2).T
    _, labels = connected_components(coo_matrix((numpy.ones(len(pairs)), (left, right)), shape=(len(numbers), len(numbers))), directed=False)
    groups = defaultdict(list)
    for number, label in zip(numbers.tolist(), labels, strict=True):
        groups[label].append(number)
    return [sorted(members, key=lambda number: (-length[number], number)) for members in groups.values()]


def duplicates(frame: daft.DataFrame, threshold: float = 0.85, ngram: int = 5, bands: int = 10, rows: int = 6, keep_other_figures: bool = True,
               seed: int = 1, workspace: Path | None = None) -> tuple[dict[int, str], list[list[int]]]:
    """Find exact and near duplicates among the documents that are not dropped; return ({number: reason}, clusters, the kept one first).

    MinHash-LSH over character n-grams, first within each source, then across sources (as XuanYuan's report: local, then global);
    the longest of a connected component stays. Candidate pairs are verified: their exact Jaccard similarity must reach the
    threshold (0 takes every candidate, as datatrove does), and with `keep_other_figures` a pair whose figures, dates, codes or
    directions (inflow or outflow, 涨 or 跌) differ is two documents, not one. A pair of similarity s is found with probability
    1 - (1 - s^rows)^bands: 0.99 at 0.85.
    """
    signs = _signs(frame, ngram, bands, rows, keep_other_figures, seed)
    signs = save(signs, workspace) if workspace else signs.collect()
    documents = signs.select("number", "length", "digest").sort("number").to_pandas()
    copies = documents.number[documents.digest.duplicated()]
    reasons, clusters = {number: "exact duplicate" for number in copies.tolist()}, []
    lengths = dict(zip(documents.number.tolist(), documents.length.tolist(), strict=True))
    for by, reason in ((["source"], "near duplicate in its source"), ([], "near duplicate across sources")):
        gone = daft.from_pydict({"number": numpy.fromiter(reasons, numpy.int64)})
        pairs = _pairs(signs.join(gone, on="number", how="anti"), by, bands)
        for members in _clusters(_verified(frame, pairs, threshold, ngram) if threshold else pairs, lengths):
            reasons |= dict.fromkeys(members[1:], reason)
            clusters.append(members)
    return reasons, clusters


# --- exams in the text ----------------------------------------------------------------------------------------------
GRAM = 13  # units: a Chinese character, or a word of letters and digits
SHORT_GRAM = 7  # for items whose stem and options together are shorter than a gram; what is shorter still cannot be told
WORD = re.compile(r"[^\W_]+")
FACTOR = numpy.uint64(0x9E3779B97F4A7C15)


@functools.cache
def _kinds() -> numpy.ndarray:
    """Return the kind of every code point: 1 a Chinese character, 2 a letter or digit, 0 anything else."""
    kinds = numpy.zeros(0x110000, numpy.uint8)
    for first, last in ((0, 0xD800), (0xE000, 0x110000)):
        for match in WORD.finditer("".join(map(chr, range(first, last)))):
            kinds[first + match.start():first + match.end()] = 2
    kinds[0x3400:0x4DC0] = kinds[0x4E00:0xA000] = 1
    return kinds


def _mix(values: numpy.ndarray) -> numpy.ndarray:
    values = (values ^ (values >> numpy.uint64(30))) * numpy.uint64(0xBF58476D1CE4E5B9)
    return values ^ (values >> numpy.uint64(27))


def _joined(left: numpy.ndarray, size: int, right: numpy.ndarray, more: int) -> numpy.ndarray:
    """Return the rolling hashes of `size` + `more` units from those of `size` and of `more` units."""
    count = len(right) - size
    return left[:count] * numpy.uint64(pow(int(FACTOR), more, 2**64)) + right[size:]


class Units:
    """The units of some texts, each hashed to 64 bits: Chinese characters and words in lower case, punctuation left out."""

    def __init__(self, texts: list[str]):
        lowered = [text.lower() for text in texts]
        self.joined = "\n".join(lowered)
        chars = numpy.frombuffer(self.joined.encode("utf-32-le", "replace"), numpy.uint32)
        kinds = _kinds()[chars]
        first = (kinds == 1) | ((kinds == 2) & (numpy.concatenate([[0], kinds[:-1]]) != 2))
        inside = numpy.flatnonzero(kinds)
        unit = numpy.cumsum(first[inside]) - 1
        begins = numpy.flatnonzero(first[inside])
        self.starts = inside[begins]
        place = (inside - self.starts[unit]).astype(numpy.uint64)
        values = _mix(chars[inside].astype(numpy.uint64) * FACTOR + place * numpy.uint64(0xD6E8FEB86659FD93))
        self.codes = numpy.add.reduceat(values, begins) if len(inside) else values
        self.lasts = inside[numpy.append(begins[1:], len(inside)) - 1] if len(inside) else inside
        ends = numpy.cumsum([len(text) + 1 for text in lowered])
        self.owner = numpy.searchsorted(ends, self.starts, "right")

    def grams(self, size: int) -> tuple[numpy.ndarray, numpy.ndarray]:
        """Return (hashes of the n-grams that lie within one text, the unit at which each begins)."""
        count = len(self.codes) - size + 1
        if count <= 0:
            return self.codes[:0], self.starts[:0]
        hashes, length, power, reach = None, 0, self.codes, 1  # the hash of any length from those of 1, 2, 4, … units
        while reach <= size:
            if size & reach:
                hashes, length = (power if hashes is None else _joined(hashes, length, power, reach)), length + reach
            power, reach = _joined(power, reach, power, reach) if 2 * reach <= size else power, 2 * reach
        whole = numpy.flatnonzero(self.owner[:count] == self.owner[size - 1:])
        return _mix(hashes[whole]), whole

    def passage(self, unit: int, size: int) -> str:
        return self.joined[self.starts[unit]:self.lasts[unit + size - 1] + 1]


class Exams:
    """An index of the n-grams of exam items: of the stem, or of stem and options where the stem is shorter than a gram."""

    def __init__(self, items: list[dict]):
        self.sizes, self.short = [], []
        tables: dict[int, dict[int, list[int]]] = defaultdict(lambda: defaultdict(list))
        for number, item in enumerate(items):
            units = Units([item["question"]])
            self.short.append(len(units.codes) < GRAM)
            if self.short[-1]:
                units = Units([" ".join([item["question"], *item["choices"]])])
            size = GRAM if len(units.codes) >= GRAM else SHORT_GRAM
            hashes = set(units.grams(size)[0].tolist())
            self.sizes.append(len(hashes))
            for value in hashes:
                tables[size][value].append(number)
        self.tables = {}
        for size, table in tables.items():
            keys = numpy.array(sorted(table), numpy.uint64)
            shift = numpy.uint64(64 - max(16, (16 * len(keys)).bit_length()))  # the first bits of a hash tell most strangers at once
            marked = numpy.zeros(2 ** (64 - int(shift)), bool)
            marked[keys >> shift] = True
            self.tables[size] = keys, shift, marked, [table[value] for value in keys.tolist()]

    def hits(self, texts: list[str]) -> list[list[dict]]:
        """Return for each text its overlaps, {item (its number), covered (share of the item's grams), passage}."""
        units, found, passages = Units(texts), [Counter() for _ in texts], {}
        for size, (keys, shift, marked, owners) in self.tables.items():
            hashes, starts = units.grams(size)
            maybe = numpy.flatnonzero(marked[hashes >> shift])
            place = numpy.minimum(numpy.searchsorted(keys, hashes[maybe]), len(keys) - 1)
            true = keys[place] == hashes[maybe]
            seen = set()
            for key, unit in zip(place[true].tolist(), starts[maybe[true]].tolist(), strict=True):
                text = int(units.owner[unit])
                if (text, key) in seen:
                    continue
                seen.add((text, key))
                for item in owners[key]:
                    found[text][item] += 1
                    passages.setdefault((text, item), units.passage(unit, size))
        return [[{"item": item, "covered": matched / self.sizes[item], "passage": passages[text, item]} for item, matched in sorted(counts.items())]
                for text, counts in enumerate(found)]


def contamination(frame: daft.DataFrame, items: list[dict], letters: int = 100_000) -> list[dict]:
    """Compare every document that is not dropped with exam items {id, question, choices}; return one record per overlap.

    A record is {number, document, source, item, covered, passage, verdict}: any shared 13-gram makes an item `suspect`, half of its
    grams `contaminated`; an item with a stem shorter than 13 units only by stem and options in full.
    Raises ValueError when a source holds most of a benchmark: it is the benchmark, not a text.
    """
    exams = Exams(items)

    @daft.func.batch(return_dtype=HIT, **_work(frame))
    def hits(text: daft.Series) -> daft.Series:
        found = [hit for batch in _batches(text.to_pylist(), letters) for hit in exams.hits(batch)]
        return daft.Series.from_arrow(pyarrow.array(found, HIT.to_arrow_dtype()))

    rows = frame.where(col("dropped") == "").select("number", "id", "source", hits(col("text")).alias("hit")).explode("hit").where(col("hit").not_null())
    records = []
    for row in rows.sort("number").to_pylist():
        hit = row["hit"]
        short = exams.short[hit["item"]]
        if not short or hit["covered"] == 1:
            records.append({"number": row["number"], "document": row["id"], "source": row["source"], "item": items[hit["item"]]["id"],
                            "covered": hit["covered"], "passage": hit["passage"], "verdict": "contaminated" if hit["covered"] >= 0.5 else "suspect"})
    _refuse_benchmarks(records, items)
    return records


def _refuse_benchmarks(records: list[dict], items: list[dict]) -> None:
    held, sizes = defaultdict(set), Counter(item["id"].split("/")[0] for item in items)
    for record in records:
        if record["verdict"] == "contaminated":
            held[record["source"], record["item"].split("/")[0]].add(record["item"])
    for (source, benchmark), found in held.items():
        if sizes[benchmark] >= 20 and len(found) > 0.5 * sizes[benchmark]:
            raise ValueError(f"source {source} holds {len(found)} of the {sizes[benchmark]} items of exam card {benchmark}: "
                             f"it is the benchmark itself; take {source} out of the text cards, or {benchmark} out of the exams")


def marked_items(items: list[dict], records: list[dict]) -> dict[str, str]:
    """Return {item id: clean, suspect or contaminated}, so that scores can be told apart by it."""
    verdicts = dict.fromkeys((item["id"] for item in items), "clean")
    for record in sorted(records, key=lambda record: record["verdict"], reverse=True):
        verdicts[record["item"]] = record["verdict"]
    return verdicts


def fates(groups: dict[str, list[dict]]) -> list[dict]:
    """Return the account of every row and token of groups, lines {group, what, rows, tokens}: read, shortened, then each fate.

    Rows are {fate, read, tokens}: what became of a row, its tokens as read and after it was shortened. Raises ValueError when a row has no fate,
    since then the account would not close.
    """
    lines = []
    for group, rows in groups.items():
        cut, read = [row["read"] - row["tokens"] for row in rows], sum(row["read"] for row in rows)
        ends = Counter(row["fate"] for row in rows)
        if not all(ends):
            raise ValueError(f"{ends['']} rows of {group} have no fate: the account does not close")
        lines += [{"group": group, "what": "read", "rows": len(rows), "tokens": read},
                  {"group": group, "what": "shortened, and below", "rows": sum(map(bool, cut)), "tokens": sum(cut)}]
        lines += [{"group": group, "what": fate, "rows": count, "tokens": sum(row["tokens"] for row in rows if row["fate"] == fate)}
                  for fate, count in ends.most_common()]
    return lines


def sample(folder: Path, tokens: float, seed: int) -> list[str]:
    """Return texts of a corpus step's `train` folder in an order drawn by seed, as many as hold so many tokens (as the step counted them)."""
    import pyarrow.dataset

    found = pyarrow.dataset.dataset(str(folder), partitioning="hive")
    listed = found.to_table(columns=["number", "tokens"])
    rank = numpy.argsort(listed["number"].to_numpy())  # files have random names, so their order tells nothing
    sizes = listed["tokens"].to_numpy()
    order = rank[numpy.random.default_rng(seed).permutation(len(sizes))]
    chosen = order[:int(numpy.searchsorted(sizes[order].cumsum(), tokens)) + 1] if tokens > 0 else order[:0]
    texts = found.take(pyarrow.array(numpy.sort(chosen), pyarrow.int64()), columns=["text"])["text"].to_pylist()
    return [texts[place] for place in numpy.argsort(numpy.argsort(chosen))]


# --- dialogues and pairs --------------------------------------------------------------------------------------------
def screen(groups: dict[str, list[str]], items: list[dict], threshold: float = 0.85) -> tuple[dict[str, dict[int, str]], list[dict]]:
    """Look through short texts (dialogues, pairs) for copies, near copies and exam items; return ({group: {place: reason}}, overlaps with exams).

    Of copies in several groups the one in the last group stays, since a checked stage comes after a broad one; within a group the longest.
    `threshold` is that of `duplicates` (0: exact copies only), `items` and the overlaps are those of `contamination`. A text is told to be near
    another only when their figures and directions agree, so the same question about two years is two.
    """
    places = [(group, place) for group in reversed(groups) for place in range(len(groups[group]))]
    frame = daft.from_pydict({"number": list(range(len(places))), "id": [f"{group}/{place}" for group, place in places],
                              "source": [group for group, _ in places], "text": [groups[group][place] for group, place in places],
                              "dropped": [""] * len(places)})
    frame = frame.with_column("tokens_read", col("text").length().cast(DataType.int64()))
    order = {group: number for number, group in enumerate(reversed(groups))}
    if threshold:
        reasons, clusters = duplicates(frame, threshold)
    else:
        first: dict[int, int] = {}
        digests = [digest(groups[group][place]) for group, place in places]
        reasons, clusters = {number: "exact duplicate" for number, value in enumerate(digests) if first.setdefault(value, number) != number}, []
    for members in clusters:
        kept = min(members, key=lambda number: (order[places[number][0]], members.index(number)))
        if kept != members[0]:
            reasons[members[0]] = reasons.pop(kept)
    overlaps = contamination(mark(frame, reasons), items) if items else []
    reasons |= {record["number"]: "contaminated by an exam" for record in overlaps if record["verdict"] == "contaminated"}
    found: dict[str, dict[int, str]] = {group: {} for group in groups}
    for number, reason in reasons.items():
        group, place = places[number]
        found[group][place] = reason
    return found, overlaps


# --- marks, the ledger, statistics ----------------------------------------------------------------------------------
def mark(frame: daft.DataFrame, reasons: dict[int, str], held_out_share: float = 0.0) -> daft.DataFrame:
    """Mark documents as dropped, {number: reason}, and those that their own hash holds out as `held out`; the rest stay as they are."""
    names = sorted(set(reasons.values()))
    numbers = numpy.array(sorted(reasons), numpy.int64)
    codes = numpy.array([names.index(reasons[number]) for number in numbers.tolist()], numpy.int16)

    @daft.func.batch(return_dtype=DataType.string(), batch_size=4096)
    def marked(number: daft.Series, dropped: daft.Series, text: daft.Series) -> daft.Series:
        said, asked = dropped.to_pylist(), numpy.asarray(number.to_arrow())
        place = numpy.searchsorted(numbers, asked)
        for row in numpy.flatnonzero((place < len(numbers)) & (numpy.append(numbers, -1)[place] == asked)):
            said[row] = said[row] or names[codes[place[row]]]
        if held_out_share:
            said = [old or ("held out" if held_out(text, held_out_share) else "") for old, text in zip(said, text.to_pylist(), strict=True)]
        return daft.Series.from_pylist(said)

    return frame.with_column("dropped", marked(col("number"), col("dropped"), col("text")))


def ledger(frame: daft.DataFrame) -> list[dict]:
    """Return the account of every token, rows {source, reason, documents, tokens}: `read`, then each loss, then `kept`.

    Rows stand in the order of the work. A loss is negative where a change made a text longer. By source, read = kept + losses; see
    `residual`.
    """
    frame = frame.select("source", "tokens_read", "tokens", "losses", "dropped")
    read = frame.groupby("source").agg(col("tokens_read").count().alias("documents"), col("tokens_read").sum().alias("tokens"))
    losses = frame.explode("losses").where(col("losses").not_null())
    losses = losses.select("source", col("losses").get("reason").alias("reason"), col("losses").get("tokens").alias("tokens"))
    losses = losses.groupby("source", "reason").agg(col("tokens").count().alias("documents"), col("tokens").sum())
    ends = frame.groupby("source", "dropped").agg(col("tokens").count().alias("documents"), col("tokens").sum())
    rows = [{"source": row["source"], "reason": "read", "documents": row["documents"], "tokens": row["tokens"]} for row in read.sort("source").to_pylist()]
    rows += losses.sort(["source", "reason"]).to_pylist()
    rows += [{"source": row["source"], "reason": row["dropped"] or "kept", "documents": row["documents"], "tokens": row["tokens"]}
             for row in ends.sort(["source", "dropped"]).to_pylist() if row["tokens"] or not row["dropped"]]
    early = ["read", *cleaning.rules({"simplify": True, "drop_text": [""], "drop_lines": [""]})]
    place = {reason: number - len(early) for number, reason in enumerate(early)} | {reason: number + 1 for number, reason in enumerate(LATE)}
    return sorted(rows, key=lambda row: place.get(row["reason"], 0))


LATE = ("de-identification", "exact duplicate", "near duplicate in its source", "near duplicate across sources", "perplexity",
        "contaminated by an exam", "held out", "kept")


def residual(rows: list[dict]) -> int:
    """Return tokens read, less every loss, less tokens kept, summed by size over the sources: 0 when every token is accounted for."""
    sums = Counter()
    for row in rows:
        sums[row["source"]] += row["tokens"] if row["reason"] == "read" else -row["tokens"]
    return sum(map(abs, sums.values()))


def statistics(frame: daft.DataFrame) -> list[dict]:
    """Return, by source, documents, characters, tokens, lengths (10th, 50th and 90th percentile), characters per token, the share of
    letters that are Chinese, the share of documents that name a year, and the middle half of the years named."""
    text = col("text")
    year = text.regexp_extract(r"((?:19|20)\d\d)\s?[年./-]", 1)
    facts = frame.select("source", "domain", "language", "tokens", text.length().alias("characters"), text.regexp_count(r"[\u4e00-\u9fff]").alias("han"),
                         text.regexp_count(r"[A-Za-z]").alias("latin"), year.alias("year")).to_pandas()
    rows = []
    for source, part in facts.groupby("source"):
        years = part.year[part.year != ""].dropna().astype(int)
        low, middle, high = part.characters.quantile([0.1, 0.5, 0.9])
        rows.append({"source": source, "cell": f"{part.language.iloc[0]}_{part.domain.iloc[0]}", "documents": len(part),
                     "characters": int(part.characters.sum()), "tokens": int(part.tokens.sum()), "length p10": int(low), "length p50": int(middle),
                     "length p90": int(high), "chars per token": float(part.characters.sum() / max(part.tokens.sum(), 1)),
                     "chinese letters": float(part.han.sum() / max(part.han.sum() + part.latin.sum(), 1)), "with a year": len(years) / len(part),
                     "years": f"{int(years.quantile(0.25))}–{int(years.quantile(0.75))}" if len(years) else "–"})
    return rows
