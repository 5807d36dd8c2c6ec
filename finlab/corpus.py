"""Corpus: clean, de-identify, deduplicate, decontaminate, split and count, with a ledger that closes to zero.

A document is a dict {id, text, source, domain, language, tokens}. Each function returns what it kept and tells the ledger what
it dropped and why, in tokens of one tokenizer, so that tokens in = tokens out + tokens dropped, by source.
"""

from __future__ import annotations

import hashlib
import re
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable

NAVIGATION = re.compile(r"^(上一页|下一页|返回首页|返回顶部|首页|尾页|打印本页|关闭窗口|点击查看更多|责任编辑|[\s|>»·-])+$")
CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u200b-\u200f\u2028\u2029\ufeff]")
MOJIBAKE = re.compile(r"锟斤拷|烫烫烫|\ufffd|Ã.|â€")
REPEATED = re.compile(r"([。，！？、~\-=*#_.·])\1{4,}")
WIDE_LETTERS = {code: code - 0xFEE0 for code in [*range(0xFF21, 0xFF3B), *range(0xFF41, 0xFF5B)]} | {0x3000: 0x20}


class Ledger:
    """Token accounts by source: what came in, what each reason took, what went out."""

    def __init__(self) -> None:
        self.tokens_in, self.tokens_out = Counter(), Counter()
        self.documents_in, self.documents_out = Counter(), Counter()
        self.dropped: dict[str, Counter] = defaultdict(Counter)

    def read(self, documents: list[dict]) -> None:
        for document in documents:
            self.tokens_in[document["source"]] += document["tokens"]
            self.documents_in[document["source"]] += 1

    def drop(self, document: dict, reason: str, tokens: int | None = None) -> None:
        """Book tokens lost by a document: all of them, or `tokens` (negative where a change made the text longer)."""
        self.dropped[document["source"]][reason] += document["tokens"] if tokens is None else tokens

    def close(self, documents: list[dict]) -> None:
        for document in documents:
            self.tokens_out[document["source"]] += document["tokens"]
            self.documents_out[document["source"]] += 1

    def residual(self) -> int:
        """Return tokens in, less tokens dropped, less tokens out: 0 when every token is accounted for."""
        return sum(self.tokens_in.values()) - sum(sum(reasons.values()) for reasons in self.dropped.values()) - sum(self.tokens_out.values())

    def table(self) -> list[dict]:
        """Return one row per source, with a column per reason, and a row of totals."""
        reasons = sorted({reason for counts in self.dropped.values() for reason in counts})
        rows = [{"source": source, "documents in": self.documents_in[source], "tokens in": self.tokens_in[source],
                 **{reason: self.dropped[source][reason] for reason in reasons}, "tokens out": self.tokens_out[source],
                 "documents out": self.documents_out[source]} for source in sorted(self.tokens_in)]
        totals = {key: sum(row[key] for row in rows) for key in rows[0] if key != "source"} if rows else {}
        return [*rows, {"source": "all", **totals}]


def clean_text(text: str) -> tuple[str, list[str]]:
    """Return the cleaned text and the names of the rules that changed it. Digits, units and codes are never touched."""
    applied = []

    def step(name: str, changed: str) -> None:
        nonlocal text
        if changed != text:
            applied.append(name)
            text = changed

    step("unicode NFC", unicodedata.normalize("NFC", text))
    step("control characters", CONTROL.sub("", text.replace("\r\n", "\n").replace("\r", "\n")))
    step("wide letters", text.translate(WIDE_LETTERS))
    step("repeated symbols", REPEATED.sub(r"\1\1\1", text))
    lines = text.split("\n")
    step("navigation lines", "\n".join(line for line in lines if not line.strip() or not NAVIGATION.match(line.strip())))
    step("mojibake lines", "\n".join(line for line in text.split("\n") if not MOJIBAKE.search(line)))
    step("blank space", re.sub(r"\n{3,}", "\n\n", "\n".join(line.rstrip() for line in text.split("\n"))).strip())
    return text, applied


def drop_reason(text: str, min_chars: int, language: str) -> str:
    """Return why a cleaned document is dropped as a whole, or an empty string."""
    if not text:
        return "empty after cleaning"
    if len(text) < min_chars:
        return "too short"
    letters = sum("\u4e00" <= char <= "\u9fff" for char in text) if language == "zh" else sum(char.isascii() and char.isalpha() for char in text)
    return "too few letters" if letters / len(text) < 0.2 else ""


def clean(documents: list[dict], ledger: Ledger, count: Callable[[list[str]], list[int]], min_chars: int) -> tuple[list[dict], Counter, list[dict]]:
    """Clean documents; return (kept, rule counts, up to three before/after samples per rule)."""
    rules, samples, kept = Counter(), [], []
    cleaned = [clean_text(document["text"]) for document in documents]
    for document, (text, applied), tokens in zip(documents, cleaned, count([text for text, _ in cleaned]), strict=True):
        for rule in applied:
            rules[rule] += 1
            if rules[rule] <= 3:
                samples.append({"rule": rule, "source": document["source"], "before": document["text"][:80], "after": text[:80]})
        reason = drop_reason(text, min_chars, document["language"])
        if reason:
            rules[reason] += 1
            ledger.drop(document, reason)
            continue
        ledger.drop(document, "cleaning", document["tokens"] - tokens)
        kept.append(document | {"text": text, "tokens": tokens})
    return kept, rules, samples


# --- de-identification ----------------------------------------------------------------------------------------------
ID_WEIGHTS = (7, 9, 10, 5, 8, 4, 2, 1, 6, 3, 7, 9, 10, 5, 8, 4, 2)
ID = re.compile(r"(?<![0-9A-Za-z])([1-9]\d{5}(?:19|20)\d{2}(?:0[1-9]|1[0-2])(?:0[1-9]|[12]\d|3[01])\d{3}[\dXx])(?![0-9A-Za-z])")
MOBILE = re.compile(r"(?<![0-9.,￥¥$])(1[3-9]\d{9})(?![0-9.,]?\d|\s*(?:[元股份万亿吨户人]|美元|港元|%))")
CARD = re.compile(r"(?<![0-9.])([3-6]\d{15,18})(?![0-9.])")
EMAIL = re.compile(r"[A-Za-z0-9._%+-]+@[A-Za-z0-9-]+\.[A-Za-z0-9.-]*[A-Za-z]")


def resident_id_valid(number: str) -> bool:
    """Check the last digit of a resident identity number (GB 11643)."""
    return "10X98765432"[sum(int(digit) * weight for digit, weight in zip(number[:17], ID_WEIGHTS, strict=True)) % 11] == number[17].upper()


def luhn_valid(number: str) -> bool:
    """Check a bank card number by the Luhn rule (ISO/IEC 7812)."""
    digits = [int(digit) for digit in reversed(number)]
    return sum(digits[0::2]) % 10 == (-sum(sum(divmod(2 * digit, 10)) for digit in digits[1::2])) % 10


def deidentify_text(text: str) -> tuple[str, Counter]:
    """Replace personal data by typed placeholders; return the text and counts by kind.

    Numbers must pass their check digit (resident id, bank card), so amounts, stock codes and dates stay.
    """
    counts = Counter()

    def replace(pattern: re.Pattern, kind: str, valid: Callable[[str], bool] = lambda number: True) -> None:
        nonlocal text

        def placeholder(match: re.Match) -> str:
            if not valid(match[0]):
                return match[0]
            counts[kind] += 1
            return f"[{kind}]"

        text = pattern.sub(placeholder, text)

    replace(ID, "身份证号", resident_id_valid)
    replace(CARD, "银行卡号", luhn_valid)
    replace(MOBILE, "手机号")
    replace(EMAIL, "电子邮箱")
    return text, counts


def deidentify(documents: list[dict], ledger: Ledger, count: Callable[[list[str]], list[int]]) -> tuple[list[dict], Counter]:
    """De-identify documents; return (documents, counts by kind)."""
    replaced = [deidentify_text(document["text"]) for document in documents]
    changed = {number: text for number, (text, kinds) in enumerate(replaced) if kinds}
    tokens = dict(zip(changed, count(list(changed.values())), strict=True))
    result = list(documents)
    for number, text in changed.items():
        ledger.drop(documents[number], "de-identification", documents[number]["tokens"] - tokens[number])
        result[number] = documents[number] | {"text": text, "tokens": tokens[number]}
    return result, sum((kinds for _, kinds in replaced), Counter())


def deidentify_messages(messages: list[dict], counts: Counter) -> list[dict]:
    """De-identify the turns of a dialogue, adding to `counts` by kind."""
    result = []
    for message in messages:
        text, kinds = deidentify_text(message["content"])
        counts.update(kinds)
        result.append(message | {"content": text})
    return result


# --- deduplication --------------------------------------------------------------------------------------------------
def _squeeze(text: str) -> str:
    return re.sub(r"\s+", "", text).lower()


def _figures(text: str) -> tuple[str, ...]:
    return tuple(re.findall(r"\d+(?:\.\d+)?", text))


def exact_duplicates(documents: list[dict], ledger: Ledger) -> list[dict]:
    """Keep the first of documents that are equal but for white space and letter case."""
    seen, kept = set(), []
    for document in documents:
        digest = hashlib.sha256(_squeeze(document["text"]).encode()).digest()
        if digest in seen:
            ledger.drop(document, "exact duplicate")
            continue
        seen.add(digest)
        kept.append(document)
    return kept


def signatures(texts: list[str], hashes: int, ngram: int, seed: int = 1) -> numpy.ndarray:  # noqa: F821
    """Return MinHash signatures over character n-grams, shape (texts, hashes), uint32, computed by Daft."""
    import daft
    import numpy

    spaced = [" ".join(_squeeze(text)) or " " for text in texts]
    frame = daft.from_pydict({"text": spaced})
    column = frame.select(daft.col("text").minhash(num_hashes=hashes, ngram_size=ngram, seed=seed).alias("m")).to_arrow()["m"]
    return numpy.array(column.to_pylist(), dtype=numpy.uint32).reshape(len(texts), hashes)


def _shingles(text: str, ngram: int) -> set[str]:
    squeezed = _squeeze(text)
    return {squeezed[start:start + ngram] for start in range(max(1, len(squeezed) - ngram + 1))}


def near_duplicates(documents: list[dict], ledger: Ledger, threshold: float = 0.8, ngram: int = 5, bands: int = 16, rows: int = 8,
                    keep_other_figures: bool = True) -> tuple[list[dict], list[list[str]]]:
    """Drop near duplicates found by MinHash-LSH over character n-grams; return (kept, clusters of ids, longest kept first).

    Candidate pairs are verified: their exact Jaccard similarity must reach the threshold, and with `keep_other_figures` a pair
    whose numbers differ (another amount, date or code) is two documents, not one. The longest of a cluster is kept.
    """
    import numpy
    from scipy.sparse import coo_matrix
    from scipy.sparse.csgraph import connected_components

    if len(documents) < 2:
        return documents, []
    texts = [document["text"] for document in documents]
    matrix = signatures(texts, bands * rows, ngram)
    figures = [_figures(text) if keep_other_figures else () for text in texts]
    pairs = set()
    for band in range(bands):
        buckets = defaultdict(list)
        for number, part in enumerate(matrix[:, band * rows:(band + 1) * rows]):
            buckets[part.tobytes(), figures[number]].append(number)
        for members in buckets.values():
            pairs |= {(members[0], other) for other in members[1:]} | set(zip(members, members[1:]))
    shingles = {number: _shingles(texts[number], ngram) for pair in pairs for number in pair}
    same = [(a, b) for a, b in sorted(pairs) if len(shingles[a] & shingles[b]) >= threshold * len(shingles[a] | shingles[b])]
    if not same:
        return documents, []
    left, right = numpy.array(same).T
    _, labels = connected_components(coo_matrix((numpy.ones(len(same)), (left, right)), shape=(len(texts), len(texts))), directed=False)
    groups = defaultdict(list)
    for number, label in enumerate(labels):
        groups[label].append(number)
    clusters = [sorted(members, key=lambda number: (-len(texts[number]), number)) for members in groups.values() if len(members) > 1]
    dropped = {number for members in clusters for number in members[1:]}
    for number in sorted(dropped):
        ledger.drop(documents[number], "near duplicate")
    kept = [document for number, document in enumerate(documents) if number not in dropped]
    return kept, [[documents[number]["id"] for number in members] for members in clusters]


# --- decontamination ------------------------------------------------------------------------------------------------
UNIT = re.compile(r"[\u4e00-\u9fff]|[^\W_\u4e00-\u9fff]+")
GRAM = 13  # units: a Chinese character, or a word of letters and digits


def units(text: str) -> list[str]:
    """Return what n-grams are made of: each Chinese character, each word of letters or digits, in lower case."""
    return UNIT.findall(text.lower())


def _grams(parts: list[str], size: int) -> list[str]:
    return [" ".join(parts[start:start + size]) for start in range(len(parts) - size + 1)]


def exam_grams(items: Iterable[dict]) -> dict[int, dict[str, list[str]]]:
    """Return {size: {gram: item ids}} for the stems of exam items; a stem shorter than a gram is taken with its options."""
    grams: dict[int, dict[str, list[str]]] = defaultdict(lambda: defaultdict(list))
    for item in items:
        parts = units(item["question"])
        if len(parts) < GRAM:
            parts = units(item["question"] + " " + " ".join(item["choices"]))
        size = min(GRAM, len(parts))
        for gram in _grams(parts, size):
            grams[size][gram].append(item["id"])
    return grams


def decontaminate(documents: list[dict], items: list[dict], ledger: Ledger) -> tuple[list[dict], list[dict]]:
    """Drop documents that hold at least half of an exam item's stem; return (kept, one record per hit).

    A record is {document, item, covered (share of the stem's grams), passage, dropped}; a smaller overlap is reported and kept.
    """
    grams = exam_grams(items)
    sizes = Counter(item for table in grams.values() for ids in table.values() for item in ids)
    kept, hits = [], []
    for document in documents:
        parts, found, first = units(document["text"]), Counter(), {}
        for size, table in grams.items():
            for gram in set(_grams(parts, size)) & table.keys():
                for item in table[gram]:
                    found[item] += 1
                    first.setdefault(item, gram)
        records = [{"document": document["id"], "item": item, "covered": matched / sizes[item], "passage": first[item],
                    "dropped": matched / sizes[item] >= 0.5} for item, matched in found.items()]
        hits += records
        if any(record["dropped"] for record in records):
            ledger.drop(document, "contaminated by an exam")
        else:
            kept.append(document)
    return kept, hits


# --- split and count ------------------------------------------------------------------------------------------------
def held_out(text: str, share: float) -> bool:
    """Tell by the document's own hash whether it is held out: stable when sources grow or change order."""
    return int(hashlib.sha256(_squeeze(text).encode()).hexdigest()[:8], 16) < share * 0xFFFFFFFF


def split(documents: list[dict], ledger: Ledger, share: float) -> tuple[list[dict], list[dict]]:
    """Return (training documents, held-out documents); held-out tokens are booked as such."""
    training, kept_out = [], []
    for document in documents:
        if held_out(document["text"], share):
            ledger.drop(document, "held out")
            kept_out.append(document)
        else:
            training.append(document)
    return training, kept_out


def statistics(documents: list[dict]) -> list[dict]:
    """Return documents, characters, tokens, median length and characters per token, by source."""
    groups = defaultdict(list)
    for document in documents:
        groups[document["source"]].append(document)
    rows = []
    for source, members in sorted(groups.items()):
        lengths = sorted(len(member["text"]) for member in members)
        chars, tokens = sum(lengths), sum(member["tokens"] for member in members)
        rows.append({"source": source, "domain": members[0]["domain"], "language": members[0]["language"], "documents": len(members),
                     "characters": chars, "tokens": tokens, "median characters": lengths[len(lengths) // 2], "chars per token": chars / max(tokens, 1)})
    return rows
