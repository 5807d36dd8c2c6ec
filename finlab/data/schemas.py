"""What a row of each kind of data looks like: one function a kind, in SCHEMAS.

A function takes a card's name and `finlab:` block, a row as a reader gave it, and where it stands.
It returns the row in the schema of its kind, or raises a ValueError that says what is wrong.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from finlab.data import dialogues

DOMAINS = ("finance", "general")
Spec = dict[str, Any]


def text_row(name: str, spec: Spec, row: Any, where: str) -> dict:
    """Return {id, text}.

    Args:
        name: The card's name.
        spec: Its `finlab:` block; `text` names the field. A row that is a string is the text.
        row: As read.
        where: File and line, which becomes the id.

    Raises:
        ValueError: It holds no text.
    """
    field = spec.get("text", "text")
    text, identity = row, where
    if isinstance(row, dict):
        text = row.get(field)
        if isinstance(row.get("id"), str):
            identity = row["id"]
    if not isinstance(text, str) or not text.strip():
        raise ValueError(f"no text in field '{field}'")
    return {"id": f"{name}/{identity}", "text": text}


def label_row(name: str, spec: Spec, row: Any, where: str) -> dict:
    """Return {id, text, bad}: a text, and whether it is bad text.

    Raises:
        ValueError: It is not labelled true or false.
    """
    if not isinstance(row.get("bad"), bool):
        raise ValueError("needs `bad: true` or `bad: false`")
    return {**text_row(name, spec, row, where), "bad": row["bad"]}


def dialogue_row(name: str, spec: Spec, row: Any, where: str) -> dict:
    """Return {id, messages, format, unanswered, domain}, as `dialogues.read_dialogue` does.

    Raises:
        ValueError: It is no dialogue. The error says why.
    """
    domain = row.get("domain", spec["domain"])
    if domain not in DOMAINS:
        raise ValueError(f"the domain is {domain!r}, neither finance nor general")
    dialogue = dialogues.read_dialogue(row, spec.get("dialogue", ""))
    return {"id": f"{name}/{where}", **dialogue, "domain": domain}


def preference_row(name: str, spec: Spec, row: Any, where: str) -> dict:
    """Return {id, prompt, chosen, rejected}, each a list of messages.

    Raises:
        ValueError: It is no preference pair. The error says why.
    """
    return {"id": f"{name}/{where}", **dialogues.read_preference(row)}


def question_row(name: str, spec: Spec, row: Any, where: str) -> dict:
    """Return {id, question, domain, reference, from}.

    `from` says where the question comes from: ours, or a published list.

    Raises:
        ValueError: It asks nothing.
    """
    return {
        "id": f"{name}/{where}",
        "question": row["question"],
        "domain": row.get("domain", spec["domain"]),
        "reference": row.get("reference", ""),
        "from": row.get("from", ""),
    }


def exam_row(name: str, spec: Spec, row: Any, where: str) -> dict:
    """Return an exam item as `exam_layouts.read_exam` made it."""
    return row


SCHEMAS: dict[str, Callable[[str, Spec, Any, str], dict]] = {
    "text": text_row,
    "label": label_row,
    "dialogue": dialogue_row,
    "preference": preference_row,
    "question": question_row,
    "exam": exam_row,
}
