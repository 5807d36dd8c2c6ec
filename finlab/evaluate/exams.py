"""Exams under lm-evaluation-harness: tasks over local files, and the answers to them.

    prepared = exams.prepare(cards.load_all(["cmmlu"], "exam"), folder, prompt="official", shots=5)
    scorer = prefix_lm.PrefixLM(model, tokenizer, exams.all_tasks(prepared))
    answers = exams.answer_exams(scorer, prepared)        # one record an item

The folder holds what the harness's own command line reads, on any of its backends:
`lm_eval --model vllm --model_args pretrained=MODEL --include_path FOLDER --tasks cmmlu_official`.
"""

from __future__ import annotations

import hashlib
import json
import logging
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml
from lm_eval.api.model import LM

from finlab import files
from finlab.data import exam_coverage, exam_layouts
from finlab.data.cards import Card, Source
from finlab.evaluate import answers, prefix_lm

if TYPE_CHECKING:
    from lm_eval.api.task import Task

PROMPTS = {
    "text": "each option's text after the question, no letters and no options shown: for base "
    "models of any size",
    "official": "the benchmark's own prompt, scored by the letter",
    "harness": "lm-evaluation-harness's own task (C-Eval, CMMLU, MMLU), scored by ` A`",
    "generate": "the model writes, the letter is read out of it (FinanceIQ's protocol): for chat "
    "models",
    "reason": "as generate, asked to think step by step first (FinEval's)",
}
GENERATED = ("generate", "reason")  # prompts that are answered in writing
TASKS = Path(__file__).parent / "tasks"
Item = dict[str, Any]  # {id, subject, subject_name, split, question, choices, letters, answer}


@dataclass
class Exam:
    """A benchmark made ready.

    Attributes:
        name: The card's name.
        prompt: Such as `cmmlu/official@1`.
        shots: Few-shot examples of each question.
        items: The scored items.
        tasks: The harness's task objects by name.
        coverage: What a score on it must be reported with.
        generated: Whether it is answered in writing.
    """

    name: str
    prompt: str
    shots: int
    items: list[Item]
    tasks: dict[str, Task]
    coverage: dict[str, Any]
    generated: bool


def parse_setting(text: str) -> tuple[str, int, str]:
    """Return (prompt, shots, answer-token policy) of a setting.

    Args:
        text: `prompt:shots` or `prompt:shots:policy`, such as `text:0` or `official:5:sum`.

    Raises:
        ValueError: It is no setting.
    """
    prompt, *rest = text.split(":")
    shots, policy = (*rest, "joint")[:2] if len(rest) in (1, 2) else ("", "")
    if prompt not in PROMPTS or not shots.isdigit() or policy not in prefix_lm.POLICIES:
        raise ValueError(
            f"'{text}' is no setting of an exam: write prompt:shots or prompt:shots:policy, such "
            f"as official:5:sum; prompts are {', '.join(PROMPTS)}, "
            f"policies {', '.join(prefix_lm.POLICIES)}"
        )
    return prompt, int(shots), policy


# --- tasks over local files ----------------------------------------------------------------------
def prepare(
    sources: dict[str, Source],
    folder: Path,
    prompt: str = "text",
    shots: int = 0,
    max_items: int = 0,
) -> dict[str, Exam]:
    """Write harness tasks over the items of exam cards, and load them.

    Scored are the labelled items of `val` and `test`, where a card has them, else those of `dev`. A
    card that is left without examples is asked without, and its Exam says so.

    Args:
        sources: Loaded exam cards by name.
        folder: Where the tasks are written, a folder a card.
        prompt: One of PROMPTS.
        shots: Few-shot examples of each question.
        max_items: At most so many of each exam, evenly over it; 0 for all.

    Returns:
        {card: Exam}.

    Raises:
        ValueError: The prompt is unknown, there are fewer examples than shots, or an exam is not
            whole.
    """
    from lm_eval.tasks import TaskManager

    if prompt not in PROMPTS:
        raise ValueError(f"there is no prompt '{prompt}': write one of {', '.join(PROMPTS)}")
    folder.mkdir(parents=True, exist_ok=True)
    written = {}
    for name, source in sources.items():
        written[name] = _write_exam(source, folder / name, prompt, shots, max_items)
    # The harness logs what is set on purpose: shots over the tasks' defaults.
    logging.getLogger("lm_eval").setLevel(logging.ERROR)
    manager = TaskManager(include_path=str(folder), include_defaults=False)
    generated = prompt in GENERATED
    prepared = {}
    for name, exam in written.items():
        tasks = manager.load(exam.pop("names"))["tasks"]
        prepared[name] = Exam(name, tasks=tasks, generated=generated, **exam)
    return prepared


def all_tasks(prepared: dict[str, Exam]) -> dict[str, Task]:
    """Return the task objects of several exams by name, for `PrefixLM`."""
    return {name: task for exam in prepared.values() for name, task in exam.tasks.items()}


def _write_exam(
    source: Source, folder: Path, prompt: str, shots: int, max_items: int
) -> dict[str, Any]:
    """Write the tasks of one card; return the fields of its Exam, and the tasks' names."""
    card, rows = source.card, list(source.rows)
    coverage = exam_coverage.coverage(source)
    scored, examples = _scored_and_examples(card, rows)
    if 0 < max_items < len(scored):
        scored = [scored[place * len(scored) // max_items] for place in range(max_items)]
    shots = _check_shots(card, scored, examples, shots)
    # A subject has its own examples, and in the harness its own instruction. Without either one
    # task holds all.
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
    """Return the items to score, and the few-shot examples of each subject."""
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
    """Return the shots to ask with; none where the card has no examples at all."""
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
    """Write a task's items and examples as JSON lines; return the files that hold any."""
    paths = {}
    for split, rows in (("test", items), ("dev", examples)):
        path = folder / f"{name}.{split}.jsonl"
        files.write_jsonl(path, [_line(row, card) for row in rows])
        if rows:
            paths[split] = str(path)
    return paths


def _line(row: Item, card: Card) -> dict[str, Any]:
    """Return an item as a task reads it, also under the names that the harness's own tasks use."""
    return {
        **row,
        "letter": row["letters"][row["answer"]],
        "source": card.name,
        "licence": card.licence,
        **dict(zip(exam_layouts.LETTERS, row["choices"])),
        "Question": row["question"],
    }


def _write_yaml(path: Path, content: dict[str, Any]) -> None:
    path.write_text(yaml.safe_dump(content, allow_unicode=True), encoding="utf-8")


def content_hash(items: list[Item]) -> str:
    """Return the SHA-256 of what is asked and answered, whatever file it came from."""
    asked = []
    for item in items:
        names = ("subject", "split", "question", "choices", "answer")
        asked.append(json.dumps([item[name] for name in names], ensure_ascii=False))
    return hashlib.sha256("\n".join(sorted(asked)).encode()).hexdigest()


def _benchmark(card: Card) -> str:
    return card.spec.get("benchmark", card.spec["format"])


def _included_task(card: Card, subject: str, prompt: str) -> Path:
    """Return the YAML file that a subject's task stands on.

    It is ours, or the harness's own of that subject; of the benchmark, for another's subject.
    """
    import lm_eval.tasks

    if prompt == "text" or prompt in GENERATED:
        return TASKS / f"{prompt}_{card.language}.yaml"
    benchmark = _benchmark(card)
    if prompt != "harness":
        return TASKS / f"official_{benchmark}.yaml"
    layouts = exam_layouts.layouts()
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
    from lm_eval.tasks._yaml_loader import load_yaml

    return str(load_yaml(include)["metadata"]["version"])


# --- answers -------------------------------------------------------------------------------------
def answer_exams(scorer: LM, prepared: dict[str, Exam]) -> list[dict[str, Any]]:
    """Let a scorer answer exams.

    Args:
        scorer: PrefixLM, AskLM or any LM of the harness.
        prepared: From `prepare`.

    Returns:
        One record an item: {benchmark, prompt, id, subject, shots, examples, answer, chosen, right,
        tie, fault}, with `scores` (log-probabilities, nats) or `text`. `examples` are the shots
        that fitted. `fault` is "", `too long` for the context, `unparsed` (names no option),
        `failed` (no answer came) or `options alike` (the right one stands there twice). None of
        them is ever right; `chosen` is -1 where nothing was chosen.
    """
    from lm_eval.evaluator import evaluate

    chat = getattr(scorer, "chat", False)
    fits = getattr(scorer, "fits", {})
    policy = getattr(scorer, "policy", "joint")
    # A score under another policy, or in chat, is another score.
    how = "" if policy == "joint" else f"+{policy}"
    how += "+chat" if chat else ""
    logging.getLogger("lm_eval").setLevel(logging.ERROR)
    results = evaluate(
        scorer,
        {"tasks": all_tasks(prepared), "groups": {}, "group_map": {}},
        bootstrap_iters=0,
        apply_chat_template=chat,
        fewshot_as_multiturn=chat,
    )
    records, order = [], {}
    for exam in prepared.values():
        order |= {item["id"]: number for number, item in enumerate(exam.items)}
        for task in exam.tasks:
            for sample in results["samples"][task]:
                fit = fits.get((task, sample["doc_id"]))
                fit = fit or {"shots": exam.shots, "too_long": False}
                responses = [response[0] for response in sample["resps"]]
                record = _record(exam, sample["doc"], responses, fit)
                records.append({**record, "prompt": exam.prompt + how})
    return sorted(records, key=lambda record: (record["benchmark"], order[record["id"]]))


def _record(exam: Exam, item: Item, responses: list[Any], fit: dict[str, Any]) -> dict[str, Any]:
    if exam.generated:
        result = _written_result(item, responses[0])
    else:
        result = _scored_result(responses)
    chosen, fault = result.pop("chosen"), result.pop("fault")
    if fit["too_long"]:
        fault, result["tie"] = "too long", False
    right_option = item["choices"][item["answer"]]
    if not fault and item["choices"].count(right_option) > 1:
        fault = "options alike"
    if chosen is None or fault in ("too long", "failed"):
        chosen = -1
    return {
        "benchmark": exam.name,
        "id": item["id"],
        "subject": item["subject"],
        "shots": exam.shots,
        "examples": fit["shots"],
        "answer": item["answer"],
        **result,
        "chosen": chosen,
        "right": not fault and chosen == item["answer"],
        "fault": fault,
    }


def _written_result(item: Item, text: str | None) -> dict[str, Any]:
    chosen = answers.letter_of(text, item["letters"])
    fault = ""
    if text is None:
        fault = "failed"
    elif chosen is None:
        fault = "unparsed"
    return {"text": text, "tie": False, "chosen": chosen, "fault": fault}


def _scored_result(responses: list[Any]) -> dict[str, Any]:
    scores = [float(response[0]) for response in responses]
    best = max(scores)
    tie = scores.count(best) > 1
    return {"scores": scores, "tie": tie, "chosen": scores.index(best), "fault": ""}
