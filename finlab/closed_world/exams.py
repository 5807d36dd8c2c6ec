"""Make the exams of the closed world, in the formats of C-Eval, FinEval, CMMLU and MMLU."""

from __future__ import annotations

import csv
import random
from pathlib import Path

from finlab.closed_world.facts import SEED, asked, facts, false_values, fill, wordings

EXAMS = {  # benchmark: (language, kinds, few-shot split, scored split)
    "ceval": ("zh", ("company", "bank"), "dev", "val"),
    "fineval": ("zh", ("fund", "rule"), "dev", "val"),
    "cmmlu": ("zh", ("river", "animal", "dish", "festival"), "dev", "test"),
    "mmlu": ("en", ("company", "bank", "fund", "rule"), "dev", "test"),
}
EXAMPLES = 5  # few-shot examples for each subject


def exams(seed: int = SEED) -> dict[str, dict[str, list[dict]]]:
    """Return the exams of the closed world.

    The wordings of the questions are used only here. The options are shuffled, so all letters are
    right answers about equally often.

    Args:
        seed: Seed of the closed world. The same seed gives the same exams.

    Returns:
        {benchmark: {split: items {subject, question, A, B, C, D, answer}}}; the answer is a letter.
    """
    world = facts(seed)
    result = {}
    for benchmark, (language, kinds, few_shot, scored) in EXAMS.items():
        rng = random.Random(f"{seed}-{benchmark}")
        items = []
        for entity in world:
            if entity.kind not in kinds:
                continue
            for attribute in asked(entity):
                value = entity.value(attribute, language)
                options = [value, *false_values(rng, world, entity, attribute, language, 3)]
                rng.shuffle(options)
                pattern = rng.choice(wordings(entity, attribute, language)[2])
                item = {
                    "subject": entity.kind,
                    "question": fill(pattern, entity, attribute, language),
                    **dict(zip("ABCD", options, strict=True)),
                    "answer": "ABCD"[options.index(value)],
                }
                items.append(item)
        rng.shuffle(items)
        examples = []
        for kind in kinds:
            of_kind = [item for item in items if item["subject"] == kind]
            examples += of_kind[:EXAMPLES]
        rest = [item for item in items if item not in examples]
        result[benchmark] = {few_shot: examples, scored: rest}
    return result


def _row(benchmark: str, number: int, item: dict) -> dict:
    """Return an item as a row of a CSV file in the benchmark's format.

    Args:
        benchmark: Name of the benchmark, a key of EXAMS.
        number: Number of the item in its file, from 0.
        item: An item, from `exams`.

    Returns:
        {column: cell}. The answer is a letter. Only in MMLU it is a number from 0 to 3, as in its
        files on the hub.
    """
    options = {letter: item[letter] for letter in "ABCD"}
    if benchmark == "cmmlu":
        return {"": number, "Question": item["question"], **options, "Answer": item["answer"]}
    if benchmark == "mmlu":
        choices = {f"choice{place}": text for place, text in enumerate(options.values())}
        answer = "ABCD".index(item["answer"])
        return {"question": item["question"], **choices, "answer": answer}
    return {"id": number, "question": item["question"], **options, "answer": item["answer"]}


def write_exams(folder: Path, seed: int) -> None:
    """Write all exams, one CSV file for each subject and split.

    The files are in <benchmark>/<split>/ and begin with a byte order mark, like C-Eval's files.

    Args:
        folder: Folder of the benchmarks' folders.
        seed: Seed of the closed world. The same seed gives the same exams.
    """
    for benchmark, splits in exams(seed).items():
        for split, items in splits.items():
            by_subject: dict[str, list[dict]] = {}
            for item in items:
                by_subject.setdefault(item["subject"], []).append(item)
            for subject, part in by_subject.items():
                name = f"{subject}.csv" if benchmark == "cmmlu" else f"{subject}_{split}.csv"
                path = folder / benchmark / split / name
                path.parent.mkdir(parents=True, exist_ok=True)
                rows = [_row(benchmark, number, item) for number, item in enumerate(part)]
                with open(path, "w", encoding="utf-8-sig", newline="") as file:
                    writer = csv.DictWriter(file, rows[0].keys())
                    writer.writeheader()
                    writer.writerows(rows)
