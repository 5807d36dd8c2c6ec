"""What became of dialogues and preference pairs: a ledger that closes, and shares by tokens."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from finlab import files
from finlab.data import dialogues
from finlab.data.selection import LEARNT, Row, of_status


def status_ledger(groups: dict[str, list[Row]]) -> list[dict]:
    """Return the account of every row and token: read, shortened, then each status.

    Args:
        groups: Rows by group.

    Returns:
        Lines {group, what, rows, tokens}.

    Raises:
        ValueError: A row has no status, so the account does not close.
    """
    lines = []
    for group, rows in groups.items():
        statuses = Counter(row["status"] for row in rows)
        if statuses[""]:
            raise ValueError(
                f"{statuses['']} rows of {group} have no status: the account does not close"
            )
        read = sum(row["read"] for row in rows)
        cut = [row["read"] - row["tokens"] for row in rows]
        lines.append({"group": group, "what": "read", "rows": len(rows), "tokens": read})
        line = {"group": group, "what": "shortened, and below", "tokens": sum(cut)}
        lines.append({**line, "rows": sum(map(bool, cut))})
        for status, count in statuses.most_common():
            tokens = sum(row["tokens"] for row in of_status(rows, status))
            lines.append({"group": group, "what": status, "rows": count, "tokens": tokens})
    return lines


def write_status(path: Path, groups: dict[str, list[Row]], fields: Sequence[str]) -> None:
    """Write what became of each row as JSON lines {group, fields...}."""
    records = []
    for group, rows in groups.items():
        for row in rows:
            records.append({"group": group, **{name: row[name] for name in fields}})
    files.write_jsonl(path, records)


def learnt_shares(rows: list[Row]) -> dict[str, dict[str, float]]:
    """Return what is learnt of each kind, and how much of it refuses.

    Args:
        rows: Dialogues with kind, messages, tokens and status.

    Returns:
        {kind: {dialogues, by dialogues, by tokens}} for general, finance and safety, the last two
        being shares; and `refusals` {dialogues, by dialogues}, told by their words in any kind.
    """
    learnt = of_status(rows, LEARNT)
    tokens = sum(row["tokens"] for row in learnt)
    shares = {}
    for kind in ("general", "finance", "safety"):
        sizes = [row["tokens"] for row in learnt if row["kind"] == kind]
        shares[kind] = {
            "dialogues": len(sizes),
            "by dialogues": len(sizes) / len(learnt),
            "by tokens": sum(sizes) / tokens,
        }
    refusing = sum(dialogues.refuses(row["messages"]) for row in learnt)
    shares["refusals"] = {"dialogues": refusing, "by dialogues": refusing / len(learnt)}
    return shares
