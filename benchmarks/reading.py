"""Write documents for a reading by people.

50 removed (with the reason, and for duplicates the document kept) and 50 kept, on the real texts.

    python -m benchmarks.reading /tmp/reading.md [seed]

Every other place goes to each reason in turn, so that rare reasons are read too. Nothing of the
texts is kept in the repository.
"""

import random
import sys
import tempfile
from pathlib import Path

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
EXAMS = ["ceval", "cmmlu", "fineval", "financeiq", "mmlu"]


def cleaned(folder: Path):
    """Return (the frame as read, the frame with every mark, clusters) of the real texts.

    With the settings of recipes/real-tiny.yaml.
    """
    found, quarantined = [cards.read(name) for name in SOURCES], []
    original = frames.read(
        [(card, cards.stream(card, quarantined)) for card in found],
        folder / "read",
        frames.characters,
    )
    settings = {card.name: {"min_chars": 12} | card.spec.get("rules", {}) for card in found}
    frame = frames.save(
        frames.transform(
            original,
            corpus.cleaner(frames.characters, settings),
            corpus.deidentifier(frames.characters),
        ),
        folder / "cleaned",
    )
    reasons, clusters = dedup.duplicates(frame, 0.8, workspace=folder / "signs")
    items = [row for name in EXAMS for row in cards.load(name).rows]
    hits = contamination.find_overlaps(corpus.mark(frame, reasons), items)
    reasons |= {
        hit["number"]: "contaminated by an exam" for hit in hits if hit["verdict"] == "contaminated"
    }
    return original, frames.save(corpus.mark(frame, reasons), folder / "marked"), clusters


def main() -> None:
    rng = random.Random(int(sys.argv[2]) if len(sys.argv) > 2 else 1)
    with tempfile.TemporaryDirectory() as folder:
        original, frame, clusters = cleaned(Path(folder))
        partner = {number: members[0] for members in clusters for number in members[1:]}
        rows = frame.select("number", "source", "dropped").sort("number").to_pylist()
        by_reason = {}
        for row in rows:
            by_reason.setdefault(row["dropped"], []).append(row["number"])
        kept = by_reason.pop("")
        lists, removed = [rng.sample(found, len(found)) for found in by_reason.values()], []
        while len(removed) < 50 and any(lists):
            removed += [found.pop() for found in lists if found][: 50 - len(removed)]
        kept = rng.sample(kept, 50)
        texts = {
            row["number"]: row
            for row in original.where(
                col("number").is_in(
                    [*removed, *kept, *(partner[number] for number in removed if number in partner)]
                )
            )
            .select("number", "source", "text")
            .to_pylist()
        }
        reason = {number: name for name, found in by_reason.items() for number in found}
        lines = [f"removed: {[(name, len(found)) for name, found in by_reason.items()]}\n"]
        for title, numbers in (("REMOVED", removed), ("KEPT", kept)):
            for place, number in enumerate(numbers, 1):
                lines.append(
                    f"## {title} {place} · {texts[number]['source']} · {len(texts[number]['text'])} characters · {reason.get(number, '')}\n\n{texts[number]['text'][:900]}\n"
                )
                if number in partner:
                    lines.append(
                        f"### kept instead ({len(texts[partner[number]]['text'])} characters)\n\n{texts[partner[number]]['text'][:900]}\n"
                    )
        Path(sys.argv[1]).write_text("\n".join(lines), encoding="utf-8")


if __name__ == "__main__":
    main()
