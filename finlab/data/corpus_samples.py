"""Samples of what the corpus step changed, for people to read: rules, copies, personal data."""

from __future__ import annotations

import daft
from daft import col

from finlab.data import cleaning, frames, personal


# --- what the changes did ------------------------------------------------------------------------
def samples(
    original: daft.DataFrame,
    frame: daft.DataFrame,
    settings: dict[str, dict] | None = None,
    per_rule: int = 3,
    width: int = 60,
) -> list[dict]:
    """Return passages that each rule changed, before and after, with personal data masked.

    Args:
        original: The documents as read.
        frame: The documents after cleaning.
        settings: {source: `rules:` block of its card}; None for no settings.
        per_rule: How many documents to show for each rule.
        width: How many characters of a passage to show.

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
                before = personal.masked(before).replace("\n", "⏎\n")
                after = personal.masked(after).replace("\n", "⏎\n")
                rows.append({"rule": rule, "source": source, "before": before, "after": after})
    return rows


def _changes(text: str, rule: str, settings: dict | None, width: int) -> list[tuple[str, str]]:
    """Return the passages of a text where a rule's changes begin, before and after the rule.

    Args:
        text: The text as read.
        rule: Name of the rule, or another reason in the ledger.
        settings: The `rules:` block of the source's card; None for no settings.
        width: How many characters of a passage to return.

    Returns:
        (before, after) from the first difference on, for each time that the rule changed the text.
    """
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
    """Return the index of the first character at which two texts differ."""
    for place, (a, b) in enumerate(zip(one, other)):
        if a != b:
            return place
    return min(len(one), len(other))


def personal_counts(frame: daft.DataFrame) -> list[dict]:
    """Count the personal data that was replaced, by source and kind.

    Args:
        frame: Documents after de-identification.

    Returns:
        Rows {source, personal (kind of personal data), count}.
    """
    kind = col("personal")
    found = frame.select("source", "personal").explode("personal").where(kind.not_null())
    counts = found.groupby("source", "personal").agg(kind.count().alias("count"))
    return counts.sort(["source", "personal"]).to_pylist()


# Placeholders are in Chinese; tables show the kind in English too.
KINDS = {
    "姓名": "name",
    "地址": "address",
    "手机号": "mobile number",
    "固定电话": "telephone number",
    "电子邮箱": "mail address",
    "身份证号": "identity number",
    "统一社会信用代码": "credit code",
    "银行卡号": "card number",
    "账号": "account number",
    "QQ号": "QQ number",
    "微信号": "WeChat id",
    "车牌号": "number plate",
    "护照号": "passport number",
}


def named_kinds(counts: list[dict]) -> list[dict]:
    """Return the rows of `personal_counts` with the English name before each kind.

    Args:
        counts: Rows {source, personal, count}.
    """
    rows = []
    for row in counts:
        kind = row["personal"]
        english = KINDS.get(kind)
        rows.append({**row, "personal": f"{english} {kind}" if english else kind})
    return rows


def cluster_samples(
    frame: daft.DataFrame, clusters: list[list[int]], count: int = 4, width: int = 90
) -> list[dict]:
    """Return the ends of two texts of each cluster: the kept text and one that is dropped.

    Args:
        frame: The documents.
        clusters: Clusters from `dedup.duplicates`, the kept document first.
        count: How many clusters to show.
        width: How many characters of a text to show.

    Returns:
        Rows {kept, its text, dropped, the other text}; `kept` and `dropped` are document ids.
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
