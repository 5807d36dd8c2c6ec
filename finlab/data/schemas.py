"""Schemas of the rows of each kind of data: one function for each kind, in SCHEMAS.

A function takes the name of a card, its `finlab:` block, a row from a reader, and the row's file
and line. It returns the row in the schema of its kind, or raises a ValueError that says what is
wrong.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable
from typing import Any

from finlab import files
from finlab.data import boxes, dialogues, preferences, tables, turns

DOMAINS = ("finance", "general")
Spec = dict[str, Any]


def require_fields(row: Any, *names: str) -> dict:
    """Return a row after checking that it has named fields, and that `names` are among them.

    Raises:
        ValueError: The row is not a dict, or a field is missing. The error names what is there.
    """
    if not isinstance(row, dict):
        raise ValueError(f"the row is {type(row).__name__}, and one with named fields is wanted")
    for name in names:
        if name not in row:
            listed = ", ".join(str(each) for each in row) or "none"
            raise ValueError(f"no field '{name}'; its fields are {listed}")
    return row


def text_row(name: str, spec: Spec, row: Any, where: str) -> dict:
    """Return {id, text}.

    Args:
        name: Name of the card.
        spec: The card's `finlab:` block. Its `text` names the field with the text, or several
            fields, which are joined by blank lines.
        row: The row as read. A string is itself the text.
        where: File and line. They become the id if the row has no `id`.

    Raises:
        ValueError: The row holds no text.
    """
    field = spec.get("text", "text")
    identity = ""
    text = row
    if isinstance(row, dict) and isinstance(field, list):
        parts = [_at(row, name) for name in field]
        text = "\n\n".join(part for part in parts if isinstance(part, str) and part.strip())
        field = field[0]
        identity = row.get("id", "")
    elif isinstance(row, dict):
        text = _at(row, str(field))
        identity = row.get("id", "")
    elif isinstance(row, list):
        text = row[field] if isinstance(field, int) and -len(row) <= field < len(row) else None
    if not isinstance(text, str) or not text.strip():
        raise ValueError(f"no text in field '{field}'{_what_there_is(row, field)}")
    numbered = isinstance(identity, int) and not isinstance(identity, bool)
    name_in_source = str(identity).strip() if isinstance(identity, str) or numbered else ""
    return {"id": f"{name}/{name_in_source or where}", "text": text}


def _at(row: dict, field: str) -> Any:
    """Return the value of a field, or of a field inside others, such as doc.body.

    Args:
        row: The row as read.
        field: Name of the field, as in the card.

    Returns:
        The value; None if there is no such field.
    """
    if field in row:
        return row[field]
    value: Any = row
    for key in field.split("."):
        if not isinstance(value, dict) or key not in value:
            return None
        value = value[key]
    return value


def _what_there_is(row: Any, field: Any) -> str:
    """Return the end of an error: what a row holds instead of a text, and how to fix it.

    Args:
        row: The row as read.
        field: Name of the field, as in the card.
    """
    if isinstance(row, list):
        return f": the row is a list of {len(row)} values; name the place, as in `text: 1`"
    if not isinstance(row, dict):
        return f": the row is {type(row).__name__}"
    names = [str(name) for name in row]
    if field in row:
        value = row[field]
        found = "empty" if value is None or value == "" else type(value).__name__
        return "" if found in ("empty", "str") else f": it holds {found}, and not text"
    if tables.seems_headerless(names):
        return ": the file seems to have no header line; add one that names its columns"
    if not names:
        return ": the row is empty"
    listed = ", ".join(names[:12])
    return f"; its fields are {listed}: name the right one in the card, as in `text: {names[0]}`"


def free_id(wanted: str, taken: set[int], place: str = "") -> str:
    """Return an id that is not used yet, and mark it as used.

    Args:
        wanted: The id to use if it is free.
        taken: Hashes of the ids that are used. The hash of the returned id is added.
        place: Text to add to an id that is not free, such as the row's place. Some sources count
            ids from 0 in each file.
    """
    numbered = (f"{wanted}{place}#{number}" for number in itertools.count(2))
    for found in itertools.chain([wanted, f"{wanted}{place}"], numbered):
        own = files.hash64(found)
        if own not in taken:
            break
    taken.add(own)
    return found


def label_row(name: str, spec: Spec, row: Any, where: str) -> dict:
    """Return {id, text, bad}: a text, and whether it is bad text.

    Raises:
        ValueError: The row holds no text, or its `bad` is not true or false.
    """
    if not isinstance(require_fields(row).get("bad"), bool):
        raise ValueError("needs `bad: true` or `bad: false`")
    return {**text_row(name, spec, row, where), "bad": row["bad"]}


def dialogue_row(name: str, spec: Spec, row: Any, where: str) -> dict:
    """Return {id, messages, format, unanswered, domain}, see `dialogues.read_dialogue`.

    Raises:
        ValueError: The row is not a dialogue. The error says why.
    """
    require_fields(row)
    domain = row.get("domain", spec["domain"])
    if domain not in DOMAINS:
        raise ValueError(f"the domain is {domain!r}, neither finance nor general")
    dialogue = dialogues.read_dialogue(row, spec.get("dialogue", ""))
    return {"id": f"{name}/{where}", **dialogue, "domain": domain}


def preference_row(name: str, spec: Spec, row: Any, where: str) -> dict:
    """Return {id, prompt, chosen, rejected}; the last three are lists of messages.

    Raises:
        ValueError: The row is not a preference pair. The error says why.
    """
    require_fields(row, "chosen", "rejected")
    return {"id": f"{name}/{where}", **preferences.read_preference(row)}


def question_row(name: str, spec: Spec, row: Any, where: str) -> dict:
    """Return {id, question, domain, reference, from, gold, chain}.

    `from` says where the question comes from: our own questions, or a published list. `gold` is an
    answer that code can check, as JSON {kind, answer, ...}. `chain` is a completion that reaches
    this answer. `gold` and `chain` are empty if the row has none. A row {instruction, output}, as
    in DianJin-R1, is a question and its chain. If the card has `answers`, the gold is taken from
    the box after the chain's thinking.

    Raises:
        ValueError: The row has no question, or its gold is not valid.
    """
    row = require_fields(row)
    question = row.get("question", row.get("instruction"))
    if question is None:
        require_fields(row, "question")
    if "instruction" in row and row.get("input"):
        question = f"{question}\n{row['input']}"
    domain = row.get("domain", spec["domain"])
    if domain not in DOMAINS:
        raise ValueError(f"the domain is {domain!r}, neither finance nor general")
    chain = str(row.get("chain") or row.get("output") or "")
    gold = row.get("gold")
    if gold in (None, "") and spec.get("answers"):
        gold = _boxed_gold(chain, spec["answers"])
    return {
        "id": f"{name}/{where}",
        "question": turns.require_text(question, "the question"),
        "domain": domain,
        "reference": str(row.get("reference") or ""),
        "from": str(row.get("from") or ""),
        "gold": _gold_text(gold),
        "chain": chain,
    }


def _boxed_gold(chain: str, answers: dict[str, Any]) -> dict[str, Any]:
    """Return the gold answer from the box after a chain's thinking.

    Args:
        chain: A completion whose answer was checked by its authors.
        answers: The kind of the answer and its options, from the card.

    Raises:
        ValueError: There is no box after the thinking, or there are several different ones.
    """
    found = boxes.boxes(boxes.after_thinking(chain))
    if len(set(found)) != 1:
        listed = ", ".join(found) or "none"
        raise ValueError(
            f"behind its thinking the chain must hold one \\boxed{{}} as its gold; found {listed}"
        )
    return {**answers, "answer": found[0]}


def _gold_text(gold: Any) -> str:
    """Return a gold answer as JSON, or an empty string if there is none.

    Args:
        gold: {kind, answer} and options such as `unit`, see `finlab.train.reward.gold`; None or an
            empty string for no gold.
    """
    if gold in (None, ""):
        return ""
    if not isinstance(gold, dict) or not {"kind", "answer"} <= set(gold):
        raise ValueError('the gold needs a kind and an answer: {"kind": "number", "answer": "62"}')
    return json.dumps(gold, ensure_ascii=False, sort_keys=True)


def exam_row(name: str, spec: Spec, row: Any, where: str) -> dict:
    """Return an exam item unchanged; `exam_layouts` or `own_exams` has made it."""
    return row


SCHEMAS: dict[str, Callable[[str, Spec, Any, str], dict]] = {
    "text": text_row,
    "label": label_row,
    "dialogue": dialogue_row,
    "preference": preference_row,
    "question": question_row,
    "exam": exam_row,
}
