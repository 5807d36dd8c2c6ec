"""The corpus: changes that account for every token, the ledger and the split.

frame = frames.read([(card, cards.stream(card, quarantined)), ...], folder / "read", count)
changed = frames.transform(frame, corpus.cleaner(count), corpus.deidentifier(count))
frame = frames.save(changed, folder / "cleaned")
reasons, clusters = dedup.duplicates(frame)
frame = corpus.mark(frame, reasons)
corpus.residual(corpus.ledger(frame))    # 0: every token is accounted for
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable

import daft
import numpy
import pandas
from daft import DataType, col

from finlab.data import cleaning, dedup, frames, personal
from finlab.data.frames import Change, Columns, Count

# The order of the ledger's lines after the cleaning rules and what drops a document.
LATE_REASONS = (
    "de-identification",
    "exact duplicate",
    "near duplicate in its source",
    "near duplicate across sources",
    "perplexity",
    "contaminated by an exam",
    "held out",
    "kept",
)


# --- changes, for frames.transform ---------------------------------------------------------------
def _book(columns: Columns, row: int, tokens: int, losses: list[tuple[str, int]]) -> None:
    """Write a document's new size and what took the rest into its account."""
    if not losses:
        return
    columns["tokens"][row] = tokens
    account = list(columns["losses"][row] or [])
    account += [{"reason": reason, "tokens": lost} for reason, lost in losses]
    columns["losses"][row] = account


def _drop(columns: Columns, row: int, reason: str) -> None:
    _book(columns, row, 0, [(reason, columns["tokens"][row])])
    columns["dropped"][row] = reason


def cleaner(count: Count, settings: dict[str, dict] | None = None) -> Change:
    """Return the change that cleans every document by the rules of its source.

    What a rule took is booked under its name, in tokens counted before and after it.

    Args:
        count: Counts the tokens of texts.
        settings: {source: its card's `rules:` block}, see `cleaning.rules`.
    """
    settings = settings or {}

    def change(columns: Columns) -> None:
        texts, sources = columns["text"], columns["source"]
        rules = {source: cleaning.rules(settings.get(source)) for source in set(sources)}
        steps = []
        for text, source in zip(texts, sources, strict=True):
            steps.append(cleaning.clean_text(text, rules[source]))
        # All versions of all texts are counted at once, which is quicker.
        versions = [text for document in steps for _, text in document]
        sizes = iter(count(versions))
        for row, document in enumerate(steps):
            tokens, losses = columns["tokens"][row], []
            for rule, text in document:
                after = next(sizes)
                losses.append((rule, tokens - after))
                texts[row], tokens = text, after
            _book(columns, row, tokens, losses)
            language, own = columns["language"][row], settings.get(sources[row])
            reason = cleaning.drop_reason(texts[row], language, own)
            if reason:
                _drop(columns, row, reason)

    return change


def deidentifier(count: Count) -> Change:
    """Return the change that replaces personal data by typed placeholders.

    Tokens are booked under `de-identification`.

    Args:
        count: Counts the tokens of texts.
    """

    def change(columns: Columns) -> None:
        replaced = {}
        for row, text in enumerate(columns["text"]):
            changed, kinds = personal.deidentify_text(text)
            if kinds and not columns["dropped"][row]:
                replaced[row] = changed, kinds
        sizes = count([text for text, _ in replaced.values()])
        for (row, (text, kinds)), after in zip(replaced.items(), sizes, strict=True):
            lost = columns["tokens"][row] - after
            columns["text"][row] = text
            columns["personal"][row] = sorted(kinds.elements())
            _book(columns, row, after, [("de-identification", lost)])

    return change


def scorer(score: Callable[[list[str]], list[float]], max_score: float, reason: str) -> Change:
    """Return the change that drops documents with a high score.

    Args:
        score: Scores texts, such as a classifier's probability of bad text.
        max_score: A document above it is dropped.
        reason: The name of the loss in the ledger.
    """

    def change(columns: Columns) -> None:
        rows = [row for row, dropped in enumerate(columns["dropped"]) if not dropped]
        if not rows:
            return
        scores = score([columns["text"][row] for row in rows])
        for row, value in zip(rows, scores, strict=True):
            if value > max_score:
                _drop(columns, row, reason)

    return change


# --- what the changes did ------------------------------------------------------------------------
def samples(
    original: daft.DataFrame,
    frame: daft.DataFrame,
    settings: dict[str, dict] | None = None,
    per_rule: int = 3,
    width: int = 60,
) -> list[dict]:
    """Return some documents for each rule, cut to the place of the change.

    Args:
        original: The frame as read.
        frame: The frame after cleaning.
        settings: {source: its card's `rules:` block}.
        per_rule: Documents for each rule.
        width: Characters that are shown.

    Returns:
        Rows {rule, source, before, after}.
    """
    settings = settings or {}
    losses = frame.select("number", "source", "losses").explode("losses")
    losses = losses.where(col("losses").not_null()).sort("number")
    named = losses.select("number", "source", col("losses").get("reason").alias("rule"))
    chosen = named.to_pandas().groupby("rule").head(per_rule)
    texts = dict(zip(*frames.pick(original, chosen.number, "text").values(), strict=True))
    rows = []
    for rule, part in chosen.groupby("rule", sort=False):
        for number, source in zip(part.number, part.source, strict=True):
            for before, after in _changes(texts[number], rule, settings.get(source), width):
                before, after = before.replace("\n", "⏎\n"), after.replace("\n", "⏎\n")
                rows.append({"rule": rule, "source": source, "before": before, "after": after})
    return rows


def _changes(text: str, rule: str, settings: dict | None, width: int) -> list[tuple[str, str]]:
    """Return (before, after) of what a rule did to a text, cut to `width` characters."""
    found = []
    before = text
    for name, after in cleaning.clean_text(text, cleaning.rules(settings)):
        if name == rule:
            start = max(0, _first_difference(before, after) - width // 3)
            found.append((before[start : start + width], after[start : start + width]))
        before = after
    if rule == "de-identification":
        found.append((before[:width], personal.deidentify_text(before)[0][:width]))
    elif not found:
        found.append((text[:width], "(the document is dropped)"))
    return found


def _first_difference(one: str, other: str) -> int:
    for place, (a, b) in enumerate(zip(one, other)):
        if a != b:
            return place
    return min(len(one), len(other))


def personal_counts(frame: daft.DataFrame) -> list[dict]:
    """Return what personal data was replaced, rows {source, personal (its kind), count}."""
    kind = col("personal")
    found = frame.select("source", "personal").explode("personal").where(kind.not_null())
    counts = found.groupby("source", "personal").agg(kind.count().alias("count"))
    return counts.sort(["source", "personal"]).to_pylist()


def cluster_samples(
    frame: daft.DataFrame, clusters: list[list[int]], count: int = 4, width: int = 90
) -> list[dict]:
    """Return the ends of two texts of some clusters, the kept one and one that is dropped.

    Args:
        frame: The documents.
        clusters: From `dedup.duplicates`, the kept document first.
        count: How many clusters.
        width: Characters that are shown.
    """
    pairs = [members[:2] for members in clusters[:count]]
    numbers = [number for pair in pairs for number in pair]
    picked = frames.pick(frame, numbers, "id", "text")
    identity = dict(zip(picked["number"], picked["id"], strict=True))
    text = dict(zip(picked["number"], picked["text"], strict=True))
    rows = []
    for kept, copy in pairs:
        row = {
            "kept": identity[kept],
            "its text": text[kept][-width:],
            "dropped": identity[copy],
            "the other text": text[copy][-width:],
        }
        rows.append(row)
    return rows


# --- marks ---------------------------------------------------------------------------------------
def mark(
    frame: daft.DataFrame, reasons: dict[int, str], held_out_share: float = 0.0
) -> daft.DataFrame:
    """Mark documents as dropped, and those that their own hash holds out as `held out`.

    Args:
        frame: The frame.
        reasons: {number: reason} of the documents to drop; an earlier reason stays.
        held_out_share: The share of the rest to hold out.
    """
    names = sorted(set(reasons.values()))
    numbers = numpy.array(sorted(reasons), numpy.int64)
    codes = [names.index(reasons[number]) for number in numbers.tolist()]

    @daft.func.batch(return_dtype=DataType.string(), batch_size=4096)
    def marked(number: daft.Series, dropped: daft.Series, text: daft.Series) -> daft.Series:
        marks = dropped.to_pylist()
        asked = numpy.asarray(number.to_arrow())
        place = numpy.searchsorted(numbers, asked)
        known = (place < len(numbers)) & (numpy.append(numbers, -1)[place] == asked)
        for row in numpy.flatnonzero(known):
            marks[row] = marks[row] or names[codes[place[row]]]
        if held_out_share:
            for row, content in enumerate(text.to_pylist()):
                if not marks[row] and dedup.is_held_out(content, held_out_share):
                    marks[row] = "held out"
        return daft.Series.from_pylist(marks)

    return frame.with_column("dropped", marked(col("number"), col("dropped"), col("text")))


# --- the ledger ----------------------------------------------------------------------------------
def ledger(frame: daft.DataFrame) -> list[dict]:
    """Return the account of every token, by source and reason.

    The lines are `read`, then each loss, then `kept`, in the order of the work. A loss is negative
    where a change made a text longer. Of each source, read = kept + losses; see `residual`.

    Returns:
        Rows {source, reason, documents, tokens}.
    """
    frame = frame.select("source", "tokens_read", "tokens", "losses", "dropped")
    tokens = col("tokens")
    read = frame.groupby("source").agg(
        col("tokens_read").count().alias("documents"), col("tokens_read").sum().alias("tokens")
    )
    loss = col("losses")
    losses = frame.explode("losses").where(loss.not_null())
    losses = losses.select(
        "source", loss.get("reason").alias("reason"), loss.get("tokens").alias("tokens")
    )
    losses = losses.groupby("source", "reason").agg(tokens.count().alias("documents"), tokens.sum())
    ends = frame.groupby("source", "dropped").agg(tokens.count().alias("documents"), tokens.sum())
    rows = []
    for row in read.sort("source").to_pylist():
        rows.append({"source": row["source"], "reason": "read", **_amounts(row)})
    rows += losses.sort(["source", "reason"]).to_pylist()
    for row in ends.sort(["source", "dropped"]).to_pylist():
        # What cleaning dropped holds no tokens any more; they are booked as a loss already.
        if row["tokens"] or not row["dropped"]:
            reason = row["dropped"] or "kept"
            rows.append({"source": row["source"], "reason": reason, **_amounts(row)})
    return sorted(rows, key=lambda row: _place_in_ledger(row["reason"]))


def _amounts(row: dict) -> dict:
    return {"documents": row["documents"], "tokens": row["tokens"]}


def _place_in_ledger(reason: str) -> int:
    """Return where a reason stands: first the cleaning rules, then what drops, then the rest."""
    every_rule = cleaning.rules({"simplify": True, "drop_text": [""], "drop_lines": [""]})
    early = ["read", *every_rule]
    if reason in early:
        return early.index(reason) - len(early)
    if reason in LATE_REASONS:
        return LATE_REASONS.index(reason) + 1
    return 0


def residual(rows: list[dict]) -> int:
    """Return the tokens of a ledger that are unaccounted for: 0 when it closes.

    By source, these are the tokens read, less every loss, less the tokens kept; their sizes are
    summed.
    """
    sums: Counter = Counter()
    for row in rows:
        sign = 1 if row["reason"] == "read" else -1
        sums[row["source"]] += sign * row["tokens"]
    return sum(abs(amount) for amount in sums.values())


def ledger_table(rows: list[dict], column: str = "tokens") -> pandas.DataFrame:
    """Return a ledger as a table: reasons in its rows, sources in its columns, and `all`.

    Args:
        rows: From `ledger`.
        column: `tokens` or `documents`.
    """
    frame = pandas.DataFrame(rows)
    order = list(dict.fromkeys(frame.reason))
    table = frame.pivot_table(
        index="reason", columns="source", values=column, aggfunc="sum", fill_value=0, sort=False
    )
    table["all"] = table.sum(axis=1)
    return table.reindex(order)


def losses_by_rule(rows: list[dict]) -> pandas.DataFrame:
    """Return what each reason of a ledger took, the largest loss first: documents and tokens."""
    frame = pandas.DataFrame(rows)
    losses = frame[~frame.reason.isin(["read", "kept"])]
    sums = losses.groupby("reason")[["documents", "tokens"]].sum()
    return sums.sort_values("tokens", ascending=False, kind="stable")


def ledger_metrics(rows: list[dict]) -> dict[str, dict]:
    """Return a ledger as a corpus step reports it.

    Returns:
        documents_in, documents_out, tokens_in and tokens_out by source; and dropped, {source:
        {reason: tokens}}.
    """
    metrics: dict[str, dict] = {
        "documents_in": {},
        "documents_out": {},
        "tokens_in": {},
        "tokens_out": {},
        "dropped": {},
    }
    for row in rows:
        source, reason = row["source"], row["reason"]
        losses = metrics["dropped"].setdefault(source, {})
        metrics["tokens_out"].setdefault(source, 0)
        if reason == "read":
            metrics["documents_in"][source] = row["documents"]
            metrics["tokens_in"][source] = row["tokens"]
        elif reason == "kept":
            metrics["documents_out"][source] = row["documents"]
            metrics["tokens_out"][source] = row["tokens"]
        else:
            losses[reason] = row["tokens"]
    return metrics
