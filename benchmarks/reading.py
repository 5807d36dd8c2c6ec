"""Write documents for people to read.

50 removed documents (with the reason, and for duplicates the kept document) and 50 kept documents,
from the real texts.

    python -m benchmarks.reading /tmp/reading.md [seed]

Each reason gets places in turn, so that rare reasons are read too. No part of the texts is kept in
the repository.
"""

import random
import sys
import tempfile
from pathlib import Path

import daft
from daft import col

from finlab.data import cards, contamination, corpus, dedup, frames

SOURCES = [
    "laws_zh",
    "cfbenchmark_zh",
    "fincuge_finese_zh",
    "fincuge_finnl_zh",
    "cmrc2018_zh",
    "finterms_en",
    "tatqa_en",
    "wiki_en",
    "c4_en",
]
DRAWN = 50  # removed documents, and as many kept documents
SHOWN = 900  # characters of each
EXAMS = ["ceval", "cmmlu", "fineval", "financeiq", "mmlu"]


def cleaned(folder: Path) -> tuple[daft.DataFrame, daft.DataFrame, list[list[int]]]:
    """Run the corpus step on the real texts with the settings of recipes/real-tiny.yaml.

    Returns:
        The frame as read, the frame with every mark, and the clusters of duplicates.
    """
    quarantined: list[dict] = []
    streams, settings = [], {}
    for name in SOURCES:
        card = cards.read(name)
        streams.append((card, cards.stream(card, quarantined)))
        settings[name] = {"min_chars": 12, **card.spec.get("rules", {})}
    original = frames.read(streams, folder / "read", frames.characters)
    cleaner = corpus.cleaner(frames.characters, settings)
    changed = frames.transform(original, cleaner, corpus.deidentifier(frames.characters))
    frame = frames.save(changed, folder / "cleaned")

    reasons, clusters = dedup.duplicates(frame, 0.8, workspace=folder / "signs")
    items = []
    for name in EXAMS:
        items += cards.load(name).rows
    for hit in contamination.find_overlaps(corpus.mark(frame, reasons), items):
        if hit["verdict"] == "contaminated":
            reasons[hit["number"]] = "contaminated by an exam"
    marked = frames.save(corpus.mark(frame, reasons), folder / "marked")
    return original, marked, clusters


def draw(by_reason: dict[str, list[int]], count: int, rng: random.Random) -> list[int]:
    """Draw documents, one of each reason in turn.

    Args:
        by_reason: {reason: documents}.
        count: The number to draw, if there are enough.
        rng: Draws among the documents of a reason.
    """
    waiting = [rng.sample(numbers, len(numbers)) for numbers in by_reason.values()]
    drawn: list[int] = []
    while len(drawn) < count and any(waiting):
        for numbers in waiting:
            if numbers and len(drawn) < count:
                drawn.append(numbers.pop())
    return drawn


def main() -> None:
    """Write the documents to the file that the command line names."""
    rng = random.Random(int(sys.argv[2]) if len(sys.argv) > 2 else 1)
    with tempfile.TemporaryDirectory() as folder:
        original, frame, clusters = cleaned(Path(folder))
        by_reason: dict[str, list[int]] = {}
        reason_of = {}
        for row in frame.select("number", "dropped").sort("number").to_pylist():
            by_reason.setdefault(row["dropped"], []).append(row["number"])
            reason_of[row["number"]] = row["dropped"]
        kept = rng.sample(by_reason.pop(""), DRAWN)
        removed = draw(by_reason, DRAWN, rng)
        # Beside a duplicate, show the document that was kept in its place.
        kept_instead = {}
        for first, *others in clusters:
            kept_instead.update(dict.fromkeys(others, first))
        wanted = {*removed, *kept, *(kept_instead.get(number, number) for number in removed)}
        found = original.where(col("number").is_in(sorted(wanted)))
        rows = {row["number"]: row for row in found.select("number", "source", "text").to_pylist()}

    counts = {reason: len(numbers) for reason, numbers in by_reason.items()}
    lines = [f"removed: {counts}\n"]
    for title, numbers in (("REMOVED", removed), ("KEPT", kept)):
        for place, number in enumerate(numbers, 1):
            row = rows[number]
            size = f"{len(row['text'])} characters"
            head = f"## {title} {place} · {row['source']} · {size} · {reason_of[number]}"
            lines.append(f"{head}\n\n{row['text'][:SHOWN]}\n")
            if number in kept_instead:
                text = rows[kept_instead[number]]["text"]
                lines.append(f"### kept instead ({len(text)} characters)\n\n{text[:SHOWN]}\n")
    Path(sys.argv[1]).write_text("\n".join(lines), encoding="utf-8")


if __name__ == "__main__":
    main()
