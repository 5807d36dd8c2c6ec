"""Open questions, which are asked without options, answered in writing and then judged."""

from __future__ import annotations

from typing import Any

from finlab.data.cards import Source
from finlab.evaluate.exams import Exam

Question = dict[str, Any]  # {id, question, domain, reference, from}
Answer = tuple[str | None, bool]  # (text, or None if no answer came; whether it ended by itself)


def from_exams(prepared: dict[str, Exam], sources: dict[str, Source], count: int) -> list[Question]:
    """Return Chinese exam items as open questions, spread evenly over the exams.

    The right option is the reference. An option of one character could occur in any answer, so
    such items are left out.

    Args:
        prepared: {name: Exam}, from `exams.prepare`.
        sources: {name: card with its rows} of the same exams.
        count: Maximum number of questions to return.
    """
    pool = []
    for name, exam in prepared.items():
        card = sources[name].card
        if card.language != "zh":
            continue
        for item in exam.items:
            reference = item["choices"][item["answer"]]
            if len(reference) > 1:
                question = {"id": item["id"], "question": item["question"]}
                question |= {"domain": card.domain, "from": "", "reference": reference}
                pool.append(question)
    step = max(1, len(pool) // max(count, 1))
    return pool[::step][:count]


def side_by_side(
    questions: list[Question], answers: dict[str, list[Answer]]
) -> list[dict[str, Any]]:
    """Return the questions of cards with each model's answer, for `show.comparison`.

    Args:
        questions: The questions.
        answers: {model: an answer to each question}.

    Returns:
        A row for each question; `…` marks an answer that ran into the limit.
    """
    rows = []
    for number, question in enumerate(questions):
        if not question["from"]:
            continue
        row = {
            "question": f"{question['question']} ({question['from']})",
            "reference": question["reference"] or None,
        }
        for name, of_model in answers.items():
            text, ended = of_model[number]
            if text is None:
                row[name] = "no answer came"
            else:
                row[name] = text if ended else f"{text} …"
        rows.append(row)
    return rows


def count_right(
    questions: list[Question], answers: dict[str, list[Answer]]
) -> dict[str, dict[str, float]]:
    """Count for each model how many answers ended, and how many hold the reference.

    Returns:
        {model: {ended: share of the answers that ended by themselves, with reference: number of
        answered questions that have a reference, hold the reference: number of answers that
        contain it}}.
    """
    counts = {}
    for name, of_model in answers.items():
        ended = sum(answer_ended for _, answer_ended in of_model)
        asked = held = 0
        for question, (text, _) in zip(questions, of_model, strict=True):
            if question["reference"] and text is not None:
                asked += 1
                held += question["reference"].lower() in text.lower()
        counts[name] = {
            "ended": ended / max(len(of_model), 1),
            "with reference": asked,
            "hold the reference": held,
        }
    return counts


def pairs(
    questions: list[Question], first: list[Answer], second: list[Answer]
) -> list[dict[str, Any]]:
    """Return the questions that both models answered.

    Args:
        questions: The questions.
        first: The answers of one model.
        second: The answers of the other model.

    Returns:
        Rows {id, question, reference, first, second}.
    """
    rows = []
    for question, (one, _), (other, _) in zip(questions, first, second, strict=True):
        if one is not None and other is not None:
            row = {name: question[name] for name in ("id", "question", "reference")}
            rows.append({**row, "first": one, "second": other})
    return rows
