"""The corpus: changes that record every lost token, the ledger and the held-out split.

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

from finlab.data import cleaning, dedup, personal
from finlab.data.frames import Change, Columns, Count

# Order of the lines in a ledger: these reasons, then reasons of cleaning to drop a document, then
# LATE_REASONS.
EARLY_REASONS = ("read", *cleaning.rules({"simplify": True, "drop_text": [""], "drop_lines": [""]}))
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
    """Write the new size of a document, and add its losses.

    Args:
        columns: The columns of a batch; `tokens` and `losses` are changed.
        row: Index of the document in the columns.
        tokens: Number of tokens of the document now.
        losses: (reason, number of tokens lost) of each change, in order.
    """
    if not losses:
        return
    columns["tokens"][row] = tokens
    account = list(columns["losses"][row] or [])
    account += [{"reason": reason, "tokens": lost} for reason, lost in losses]
    columns["losses"][row] = account


def _drop(columns: Columns, row: int, reason: str) -> None:
    """Mark a document as dropped, and record all its remaining tokens as lost to the reason.

    Args:
        columns: The columns of a batch; `tokens`, `losses` and `dropped` are changed.
        row: Index of the document in the columns.
        reason: Why the document is dropped.
    """
    _book(columns, row, 0, [(reason, columns["tokens"][row])])
    columns["dropped"][row] = reason


def cleaner(count: Count, settings: dict[str, dict] | None = None) -> Change:
    """Return a change for `frames.transform` that cleans documents by the rules of their source.

    The loss of a rule is the number of tokens before it less the number after it. It is recorded
    under the rule's name.

    Args:
        count: Returns how many tokens each text has.
        settings: {source: `rules:` block of its card}, see `cleaning.rules`; None for no settings.
    """
    settings = settings or {}

    def change(columns: Columns) -> None:
        texts, sources = columns["text"], columns["source"]
        rules = {source: cleaning.rules(settings.get(source)) for source in set(sources)}
        steps = []
        for text, source in zip(texts, sources, strict=True):
            steps.append(cleaning.clean_text(text, rules[source]))
        # The tokens of all versions of all texts are counted in one call, which is faster.
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
    """Return a change for `frames.transform` that replaces personal data by placeholders.

    Lost tokens are recorded under `de-identification`.

    Args:
        count: Returns how many tokens each text has.
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
    """Return a change for `frames.transform` that drops documents with a high score.

    Args:
        score: Returns the score of each text, such as a classifier's probability of bad text.
        max_score: A document with a higher score is dropped.
        reason: Name of the loss in the ledger.
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


# --- marks ---------------------------------------------------------------------------------------
def mark(
    frame: daft.DataFrame, reasons: dict[int, str], held_out_share: float = 0.0
) -> daft.DataFrame:
    """Mark documents as dropped, and mark a share of the others as `held out`.

    The hash of a document's text decides whether it is held out, see `dedup.is_held_out`.

    Args:
        frame: The documents.
        reasons: {number: reason} of the documents to drop. A document that already has a reason
            keeps it.
        held_out_share: The share of the other documents to hold out, from 0 to 1.
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
    """Return a ledger that accounts for every token, by source and reason.

    The lines are `read`, then each loss in the order of the processing, then `kept`. A loss is
    negative if a change made texts longer. For each source, read = kept + losses; see `residual`.

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
        # A document that cleaning dropped has 0 tokens now. They are recorded as a loss already.
        if row["tokens"] or not row["dropped"]:
            reason = row["dropped"] or "kept"
            rows.append({"source": row["source"], "reason": reason, **_amounts(row)})
    return sorted(rows, key=lambda row: _place_in_ledger(row["reason"]))


def _amounts(row: dict) -> dict:
    """Return the amounts {documents, tokens} of a row."""
    return {"documents": row["documents"], "tokens": row["tokens"]}


def _place_in_ledger(reason: str) -> int:
    """Return a number by which the reasons of a ledger are sorted.

    `read` and the cleaning rules come first, then the reasons of cleaning to drop documents, then
    LATE_REASONS.
    """
    if reason in EARLY_REASONS:
        return EARLY_REASONS.index(reason) - len(EARLY_REASONS)
    if reason in LATE_REASONS:
        return LATE_REASONS.index(reason) + 1
    return 0


def residual(rows: list[dict]) -> int:
    """Return how many tokens a ledger does not account for; 0 if it closes.

    For each source, this is the number of tokens read, less all losses, less the tokens kept. The
    absolute values of all sources are summed.

    Args:
        rows: The rows from `ledger`.
    """
    sums: Counter = Counter()
    for row in rows:
        sign = 1 if row["reason"] == "read" else -1
        sums[row["source"]] += sign * row["tokens"]
    return sum(abs(amount) for amount in sums.values())


def ledger_table(rows: list[dict], column: str = "tokens") -> pandas.DataFrame:
    """Return a ledger as a table: a row for each reason, a column for each source, and `all`.

    Args:
        rows: The rows from `ledger`.
        column: The amount to show, `tokens` or `documents`.
    """
    frame = pandas.DataFrame(rows)
    order = list(dict.fromkeys(frame.reason))
    table = frame.pivot_table(
        index="reason", columns="source", values=column, aggfunc="sum", fill_value=0, sort=False
    )
    table["all"] = table.sum(axis=1)
    return table.reindex(order)


def losses_by_rule(rows: list[dict]) -> pandas.DataFrame:
    """Return the total loss of each reason of a ledger, the largest loss first.

    Args:
        rows: The rows from `ledger`.

    Returns:
        A table with a row for each reason, and the columns documents and tokens.
    """
    frame = pandas.DataFrame(rows)
    losses = frame[~frame.reason.isin(["read", "kept"])]
    sums = losses.groupby("reason")[["documents", "tokens"]].sum()
    return sums.sort_values("tokens", ascending=False, kind="stable")


def ledger_metrics(rows: list[dict]) -> dict[str, dict]:
    """Return a ledger as the metrics of a corpus step.

    Args:
        rows: The rows from `ledger`.

    Returns:
        {documents_in, documents_out, tokens_in, tokens_out, dropped}. The first four are {source:
        amount}, and `dropped` is {source: {reason: tokens}}.
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
