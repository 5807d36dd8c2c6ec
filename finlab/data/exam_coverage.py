"""Check that an exam is the benchmark as published, with all subjects and all items."""

from __future__ import annotations

from collections import Counter
from typing import Any

from finlab.data import exam_layouts
from finlab.data.cards import Source

Cell = tuple[str, str]  # (subject, split)


def coverage(source: Source) -> dict[str, Any]:
    """Check that an exam card is complete, and return what it covers.

    Each subject must have as many items as published. Items that could not be read do not count.

    Args:
        source: The exam card, loaded.

    Returns:
        A dict with these keys:
        split: The scored splits, such as `val` or `test+val`.
        subjects, subjects_published: How many subjects the files have, and how many were published
            (None if the card names no benchmark).
        items, unlabelled, set_aside: How many items are scored, how many of them have no answer,
            and how many rows could not be read.
        repeated, in_examples: How many items repeat an earlier item, and how many are also among
            the few-shot examples. Items are equal if question and options are equal.

    Raises:
        ValueError: A subject has another number of items than published, or a subject is missing
            and the card has no `partial: true`.
    """
    rows = list(source.rows)
    scored_splits = {row["split"] for row in rows} - {"dev"} or {"dev"}
    benchmark = source.card.spec.get("benchmark", "")
    _check_sizes(source, rows, scored_splits, exam_layouts.published_subjects(benchmark))
    scored = [row for row in rows if row["split"] in scored_splits]
    asked = [_asked(row) for row in scored]
    examples = set()
    if scored_splits != {"dev"}:
        examples = {_asked(row) for row in rows if row["split"] == "dev"}
    return {
        "split": "+".join(sorted(scored_splits)),
        "subjects": len({row["subject"] for row in scored}),
        "subjects_published": len(exam_layouts.published_subjects(benchmark)) or None,
        "items": len(scored),
        "unlabelled": sum(row["answer"] < 0 for row in scored),
        "set_aside": len(source.quarantined),
        "repeated": len(asked) - len(set(asked)),
        "in_examples": sum(question in examples for question in asked),
    }


def _asked(row: dict) -> tuple[str, ...]:
    """Return the question and the sorted options of an item, to find equal items."""
    return (row["question"], *sorted(row["choices"]))


def _check_sizes(
    source: Source, rows: list[dict], scored_splits: set[str], subjects: dict[str, dict]
) -> None:
    """Raise ValueError if an exam is not complete.

    Args:
        source: The exam card, loaded.
        rows: The items of the exam.
        scored_splits: The splits that are scored. The few-shot examples in `dev` are checked too.
        subjects: {subject: {split: number of items}} as published; empty if the card names no
            benchmark.
    """
    held = Counter((row["subject"], row["split"]) for row in rows)
    published: dict[Cell, int] = {}
    for subject, sizes in subjects.items():
        for split, count in sizes.items():
            if split in scored_splits | {"dev"}:
                published[subject, split] = count
    _refuse_other_sizes(source, held, published, subjects)
    missing = [f"{subject} ({split})" for subject, split in published if not held[subject, split]]
    if scored_splits == {"dev"}:
        for split in ("val", "test"):
            if any(split in sizes for sizes in subjects.values()):
                missing.append(f"{split} of every subject")
    if missing and not source.card.spec.get("partial"):
        raise ValueError(
            f"card {source.card.name} lacks {len(missing)} parts of "
            f"{source.card.spec['benchmark']}, such as {', '.join(missing[:3])}: add them, or "
            "write `partial: true` in the card, and no score is shown as the benchmark's"
        )


def _refuse_other_sizes(
    source: Source, held: Counter, published: dict[Cell, int], subjects: dict[str, dict]
) -> None:
    """Raise ValueError if a subject is unknown or its number of items is not as published.

    Args:
        source: The exam card, for the error.
        held: {(subject, split): number of items in the files}.
        published: {(subject, split): number of items published}, for the splits in use.
        subjects: All published subjects.
    """
    wrong = []
    for (subject, split), count in published.items():
        if held[subject, split] not in (0, count):
            wrong.append(f"{subject} ({split}) has {held[subject, split]} of {count}")
    wrong = wrong[:5]
    if published:
        strange = sorted({subject for subject, _ in held} - set(subjects))
        wrong += [f"{subject} is none of its subjects" for subject in strange[:5]]
    if not wrong:
        return
    first = ""
    if source.quarantined:
        row = source.quarantined[0]
        first = f"; set aside: {row['where']}: {row['reason']}"
    raise ValueError(
        f"card {source.card.name} is not {source.card.spec['benchmark']} as published: "
        f"{'; '.join(wrong)}{first}: fix the files, or drop `benchmark`"
    )
