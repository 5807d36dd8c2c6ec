"""Scores of many models in many settings: as lines, as tables, and compared with each other.

A record is one answered item, from `exams.answer_exams`. A line is the score of one model on one
benchmark in one setting.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from finlab.evaluate import statistics

Record = dict[str, Any]
Answers = dict[str, dict[str, list[Record]]]  # {model: {setting: records}}


def score_lines(answers: Answers) -> list[Record]:
    """Return the score of every model on every benchmark in every setting.

    Args:
        answers: {model: {setting: records}}.

    Returns:
        The lines of `statistics.scores`, each with its `setting`.
    """
    lines = []
    for model, of_model in answers.items():
        for setting, records in of_model.items():
            for line in statistics.scores(model, records):
                lines.append({**line, "setting": setting})
    return lines


def answer_rows(answers: Answers) -> list[Record]:
    """Return every record with its model and setting.

    Args:
        answers: {model: {setting: records}}.
    """
    rows = []
    for model, of_model in answers.items():
        for setting, records in of_model.items():
            for record in records:
                rows.append({"model": model, "setting": setting, **record})
    return rows


def select(lines: list[Record], setting: str, chat: bool = False) -> list[Record]:
    """Return the lines of one setting.

    Args:
        lines: From `score_lines`.
        setting: The setting, such as `official:5`.
        chat: True for lines that were asked in chat, False for lines asked as plain text.
    """
    chosen = []
    for line in lines:
        in_chat = line["prompt"].endswith("+chat")
        if line["setting"] == setting and in_chat == chat:
            chosen.append(line)
    return chosen


def caption(lines: list[Record]) -> str:
    """Return in words how the items of lines were asked.

    Args:
        lines: From `score_lines`.
    """
    asked = [f"{line['prompt']} with {line['shots']} shots" for line in lines]
    return ", ".join(dict.fromkeys(asked))


def score_table(lines: list[Record]) -> list[dict[str, str]]:
    """Return lines as a table: a row for each model, a column for each benchmark.

    A cell holds the accuracy with its interval, the macro accuracy, and how many items got no
    answer.

    Args:
        lines: From `score_lines`, of one setting.
    """
    rows: dict[str, dict[str, str]] = {}
    for line in lines:
        row = rows.setdefault(line["model"], {"model": line["model"]})
        interval = f"[{line['ci_low']:.2f}, {line['ci_high']:.2f}]"
        cell = f"{line['accuracy']:.3f} {interval}\nmacro {line['macro']:.3f}"
        lost = line["unparsed"] + line["too_long"] + line["failed"] + line["alike"]
        if lost:
            cell += f", {lost} no answer"
        row[f"{line['benchmark']}, n {line['n']}"] = cell
    return list(rows.values())


def of_benchmarks(records: list[Record], benchmarks: Sequence[str]) -> list[Record]:
    """Return the records of some benchmarks.

    Args:
        records: Answered items.
        benchmarks: Names of the benchmarks.
    """
    return [record for record in records if record["benchmark"] in benchmarks]


def paired_by_benchmark(
    first: list[Record], other: list[Record], benchmarks: Sequence[str]
) -> list[Record]:
    """Compare a model with the first one on each of several benchmarks.

    Returns:
        A row for each benchmark: {exam, what `statistics.paired` returns, p_holm}. p_holm is p
        adjusted for the number of benchmarks.
    """
    rows = []
    for name in benchmarks:
        result = statistics.paired(of_benchmarks(first, [name]), of_benchmarks(other, [name]))
        rows.append({"exam": name, **result})
    adjusted = statistics.holm([row["p"] for row in rows])
    return [{**row, "p_holm": p} for row, p in zip(rows, adjusted, strict=True)]


def by_domain(
    answers: dict[str, list[Record]], domains: dict[str, str]
) -> tuple[dict[str, dict], dict[str, dict]]:
    """Compare models by domain.

    Args:
        answers: {model: records}; the other models are compared with the first one.
        domains: {benchmark: domain}.

    Returns:
        {domain: {model: what `statistics.accuracy` returns}}, and {model: {domain: what
        `statistics.paired` returns}} for the other models.
    """
    first, *others = answers
    scores: dict[str, dict] = {}
    differences: dict[str, dict] = {name: {} for name in others}
    for domain in dict.fromkeys(domains.values()):
        benchmarks = [name for name, each in domains.items() if each == domain]
        of_first = of_benchmarks(answers[first], benchmarks)
        scores[domain] = {first: statistics.accuracy(of_first)}
        for name in others:
            of_other = of_benchmarks(answers[name], benchmarks)
            scores[domain][name] = statistics.accuracy(of_other)
            differences[name][domain] = statistics.paired(of_first, of_other)
    return scores, differences


def wrong_answers(records: list[Record], items: list[dict]) -> list[dict[str, str]]:
    """Return the items that were answered wrong or not at all.

    Args:
        records: Answered items.
        items: The items of the exam.

    Returns:
        Rows {question, right (the text of the right option), chosen (the text of the chosen option,
        or the fault)}.
    """
    item_of = {item["id"]: item for item in items}
    rows = []
    for record in records:
        if record["right"]:
            continue
        item = item_of[record["id"]]
        choices = item["choices"]
        row = {
            "question": item["question"],
            "right": choices[item["answer"]],
            "chosen": record["fault"] or choices[record["chosen"]],
        }
        rows.append(row)
    return rows


def beside_published(
    published: list[Record], ours: dict[str, Record], exams: dict[str, Any], label: str
) -> list[Record]:
    """Return rows with the published scores and our scores.

    Args:
        published: From `published.published_scores`.
        ours: {card: line of its score}.
        exams: {benchmark: its Exam}.
        label: The name of the column with our scores.
    """
    rows = []
    for line in published:
        exam = exams[line["benchmark"]]
        score, coverage = ours[exam.name], exam.coverage
        row = {
            **line,
            label: 100 * score["accuracy"],
            "n": score["n"],
            "of": coverage["items"],
            "subjects": f"{coverage['subjects']} of {coverage['subjects_published']}",
        }
        rows.append(row)
    return rows
