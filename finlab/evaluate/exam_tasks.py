"""Write exams as task files for lm-evaluation-harness, with items from local files."""

from __future__ import annotations

import glob
import hashlib
import json
from collections import defaultdict
from pathlib import Path
from typing import Any

import yaml

from finlab import files
from finlab.data import exam_coverage, exam_layouts
from finlab.data.card_schema import Card
from finlab.data.cards import Source

GENERATED = ("generate", "reason")  # prompts where the model writes its answer
TASKS = Path(__file__).parent / "tasks"
Item = dict[str, Any]  # {id, subject, subject_name, split, question, choices, letters, answer}


def write_exam(
    source: Source, folder: Path, prompt: str, shots: int, max_items: int
) -> dict[str, Any]:
    """Write the tasks of one card; return the fields of its Exam and the names of the tasks."""
    card, rows = source.card, list(source.rows)
    coverage = exam_coverage.coverage(source)
    scored, examples = _scored_and_examples(card, rows)
    if 0 < max_items < len(scored):
        scored = [scored[place * len(scored) // max_items] for place in range(max_items)]
    shots = _check_shots(card, scored, examples, shots)
    # Each subject has its own examples, and in the harness its own instruction. Where neither is
    # used, one task holds all subjects.
    parts: dict[str, list[Item]] = defaultdict(list)
    for item in scored:
        by_subject = shots or prompt == "harness"
        parts[item["subject"] if by_subject else card.name].append(item)
    folder.mkdir(exist_ok=True)
    names, version = [], ""
    for number, (subject, items) in enumerate(parts.items()):
        name = f"{card.name}_{prompt}_{number:02d}"
        include = _included_task(card, subject, prompt)
        version = _version(include)
        paths = _write_items(folder, name, card, items, examples[subject])
        task = {
            "include": str(include),
            "task": name,
            "task_alias": subject,
            "tag": None,
            "dataset_path": "json",
            "dataset_name": None,
            "dataset_kwargs": {"data_files": paths},
            "validation_split": None,
            "test_split": "test",
            "fewshot_split": "dev" if shots else None,
            "num_fewshot": shots,
            "doc_to_target": "letter" if prompt in GENERATED else "answer",
        }
        _write_yaml(folder / f"{name}.yaml", task)
        names.append(name)
    metric = "exact_match" if prompt in GENERATED else "acc"
    group = {
        "group": f"{card.name}_{prompt}",
        "task": names,
        "aggregate_metric_list": [{"metric": metric, "weight_by_size": True}],
    }
    _write_yaml(folder / "group.yaml", group)
    asked = scored + [item for part in examples.values() for item in part]
    coverage |= {"scored": len(scored), "sha256": content_hash(asked)}
    return {
        "prompt": f"{_benchmark(card)}/{prompt}@{version}",
        "shots": shots,
        "items": scored,
        "names": names,
        "coverage": coverage,
    }


def _scored_and_examples(card: Card, rows: list[Item]) -> tuple[list[Item], dict[str, list[Item]]]:
    """Return the items to score, and the few-shot examples of each subject.

    Args:
        card: The exam card.
        rows: All items of the card.

    Returns:
        (items, {subject: examples}). If only `dev` has labelled items, they are scored, and there
        are no examples.
    """
    labelled = [row for row in rows if row["answer"] >= 0]
    scored = [row for row in labelled if row["split"] != "dev"] or labelled
    if not scored:
        raise ValueError(
            f"card {card.name}: none of its {len(rows)} items has an answer, "
            "so nothing can be scored"
        )
    examples: dict[str, list[Item]] = defaultdict(list)
    if scored[0]["split"] != "dev":
        for row in rows:
            if row["split"] == "dev":
                examples[row["subject"]].append(row)
    return scored, examples


def _check_shots(
    card: Card, scored: list[Item], examples: dict[str, list[Item]], shots: int
) -> int:
    """Return how many shots to use; 0 where the card has no examples at all.

    Args:
        card: The exam card, named in the error message.
        scored: The items to score.
        examples: {subject: examples}.
        shots: How many shots are wanted.

    Raises:
        ValueError: The card has examples, but a subject has fewer than `shots`.
    """
    available = {item["subject"]: len(examples[item["subject"]]) for item in scored}
    fewest = min(available.values(), default=0)
    if shots > fewest and any(examples.values()):
        subject = min(available, key=available.__getitem__)
        raise ValueError(
            f"card {card.name}: {shots} shots asked, subject {subject} has {fewest} examples in "
            f"its `dev` split: ask for at most {fewest}"
        )
    return min(shots, fewest)


def _write_items(
    folder: Path, name: str, card: Card, items: list[Item], examples: list[Item]
) -> dict[str, str]:
    """Write a task's items and examples as JSON lines.

    Args:
        folder: Folder of the files.
        name: Name of the task.
        card: The exam card.
        items: The items to score.
        examples: The few-shot examples.

    Returns:
        {split: file}; a split without rows is left out.
    """
    paths = {}
    for split, rows in (("test", items), ("dev", examples)):
        path = folder / f"{name}.{split}.jsonl"
        files.write_jsonl(path, [_line(row, card) for row in rows])
        if rows:
            paths[split] = glob.escape(str(path))  # `datasets` reads brackets as a pattern
    return paths


def _line(row: Item, card: Card) -> dict[str, Any]:
    """Return an item as a row of a task file, with the field names of the harness's tasks too."""
    return {
        **row,
        "letter": row["letters"][row["answer"]],
        "source": card.name,
        "licence": card.licence,
        **dict(zip(exam_layouts.LETTERS, row["choices"])),
        "Question": row["question"],
    }


def _write_yaml(path: Path, content: dict[str, Any]) -> None:
    """Write a task's YAML file."""
    path.write_text(yaml.safe_dump(content, allow_unicode=True), encoding="utf-8")


def content_hash(items: list[Item]) -> str:
    """Return the SHA-256 of the questions and answers; it does not depend on their file.

    Args:
        items: Exam items.
    """
    asked = []
    for item in items:
        names = ("subject", "split", "question", "choices", "answer")
        asked.append(json.dumps([item[name] for name in names], ensure_ascii=False))
    return hashlib.sha256("\n".join(sorted(asked)).encode()).hexdigest()


def _benchmark(card: Card) -> str:
    """Return the benchmark that an exam card names, or its format where it names none."""
    return card.spec.get("benchmark", card.spec["format"])


def _included_task(card: Card, subject: str, prompt: str) -> Path:
    """Return the YAML file that the task of a subject includes.

    It is one of our files, or for the prompt `harness` the harness's own file for the subject.
    Where the harness has no file for the subject, it is the harness's file for the benchmark.

    Args:
        card: The exam card.
        subject: The subject.
        prompt: One of `exams.PROMPTS`.
    """
    import lm_eval.tasks

    if prompt == "text" or prompt in GENERATED:
        return TASKS / f"{prompt}_{card.language}.yaml"
    benchmark = _benchmark(card)
    layouts = exam_layouts.layouts()
    if benchmark not in layouts:
        raise ValueError(
            f"card {card.name}: an exam of one's own has no {prompt} prompt: "
            'ask it with text or generate, as in `settings: ["text:0"]`'
        )
    if prompt != "harness":
        return TASKS / f"official_{benchmark}.yaml"
    harness = layouts[benchmark].harness
    if not harness:
        known = [name for name, layout in layouts.items() if layout.harness]
        raise ValueError(
            f"card {card.name}: the harness has no tasks for {benchmark}; it has "
            f"{', '.join(known)}: take prompt official"
        )
    folder = Path(lm_eval.tasks.__file__).parent / harness["folder"]
    own = folder / harness["subject"].format(subject=subject)
    return own if own.exists() else folder / harness["default"]


def _version(include: Path) -> str:
    """Return the version that a task's YAML file states."""
    from lm_eval.tasks._yaml_loader import load_yaml

    return str(load_yaml(include)["metadata"]["version"])
