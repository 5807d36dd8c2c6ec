"""Run exams under lm-evaluation-harness: tasks from local files, and the answers to them.

    prepared = exams.prepare(cards.load_all(["cmmlu"], "exam"), folder, prompt="official", shots=5)
    scorer = prefix_lm.PrefixLM(model, tokenizer, exams.all_tasks(prepared))
    answers = exams.answer_exams(scorer, prepared)        # one record for each item

The folder holds what the harness's own command line reads, on any of its backends:
`lm_eval --model vllm --model_args pretrained=MODEL --include_path FOLDER --tasks cmmlu_official`.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lm_eval.api.model import LM

from finlab.data.cards import Source
from finlab.evaluate import answers, exam_tasks, prefix_lm
from finlab.evaluate.exam_tasks import GENERATED, Item

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


@dataclass
class Exam:
    """An exam that is ready to be asked.

    Attributes:
        name: Name of the card.
        prompt: Name and version of the prompt, such as `cmmlu/official@1`.
        shots: Number of few-shot examples before each question.
        items: The scored items.
        tasks: {name: task object of the harness}.
        coverage: Figures to report with a score: those of `exam_coverage.coverage`, the number of
            `scored` items, and the `sha256` of all that is asked.
        generated: Whether the model writes its answers.
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
        ValueError: The text is not a setting.
    """
    prompt, *rest = text.split(":")
    shots = rest[0] if rest else ""
    policy = rest[1] if len(rest) > 1 else "joint"
    known = prompt in PROMPTS and shots.isdigit() and policy in prefix_lm.POLICIES
    if not known or len(rest) > 2:
        raise ValueError(
            f"'{text}' is not a setting of an exam: write prompt:shots or prompt:shots:policy, "
            f"such as official:5:sum; prompts are {', '.join(PROMPTS)}, "
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

    The labelled items of `val` and `test` are scored; if a card has none, those of `dev` are. A
    card without examples is asked without examples, and its Exam then has 0 shots.

    Args:
        sources: Loaded exam cards by name.
        folder: Where the tasks are written, in a subfolder for each card.
        prompt: One of PROMPTS.
        shots: Number of few-shot examples before each question.
        max_items: Maximum number of items of each exam, spread evenly over it; 0 for all.

    Returns:
        {card: Exam}.

    Raises:
        ValueError: The prompt is unknown, there are fewer examples than shots, or an exam is not
            complete.
    """
    from lm_eval.tasks import TaskManager

    if prompt not in PROMPTS:
        raise ValueError(f"there is no prompt '{prompt}': write one of {', '.join(PROMPTS)}")
    folder.mkdir(parents=True, exist_ok=True)
    written = {}
    for name, source in sources.items():
        written[name] = exam_tasks.write_exam(source, folder / name, prompt, shots, max_items)
    # The harness warns when shots differ from a task's default; here they do on purpose.
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


# --- answers -------------------------------------------------------------------------------------
def answer_exams(scorer: LM, prepared: dict[str, Exam]) -> list[dict[str, Any]]:
    """Let a scorer answer exams.

    Args:
        scorer: PrefixLM, AskLM or any LM of the harness.
        prepared: From `prepare`.

    Returns:
        One record for each item: {benchmark, prompt, id, subject, shots, examples, answer, chosen,
        right, tie, fault}, with `scores` (log-probabilities, nats) or `text`. `examples` is the
        number of shots that fitted. `fault` is "", `too long` (for the context), `unparsed` (the
        text names no option), `failed` (no answer came) or `options alike` (two options have the
        text of the right one). A record with a fault is never right. `chosen` is -1 where nothing
        was chosen.
    """
    from lm_eval.evaluator import evaluate

    chat = getattr(scorer, "chat", False)
    fits = getattr(scorer, "fits", {})
    policy = getattr(scorer, "policy", "joint")
    # A score under another policy, or in chat, is a different score, so the prompt's name says it.
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
    """Return one answered item as a record.

    Args:
        exam: The exam it belongs to.
        item: The item.
        responses: The responses of the model: one for each option, or one text.
        fit: {shots, too_long}: how many examples its prompt had, and whether it was too long.
    """
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
    """Return the result of a written answer: the option read from it, and the text."""
    chosen = answers.letter_of(text, item["letters"])
    fault = ""
    if text is None:
        fault = "failed"
    elif chosen is None:
        fault = "unparsed"
    return {"text": text, "tie": False, "chosen": chosen, "fault": fault}


def _scored_result(responses: list[Any]) -> dict[str, Any]:
    """Return the result of scored options: the likeliest one, or the first one of a tie."""
    scores = [float(response[0]) for response in responses]
    best = max(scores)
    tie = scores.count(best) > 1
    return {"scores": scores, "tie": tie, "chosen": scores.index(best), "fault": ""}
