"""Exams of one's own: a question, options and an answer under common names.

{"question": "1+1?", "A": "1", "B": "2", "C": "3", "answer": "B"}
{"题目": "1+1?", "选项A": "1", "选项B": "2", "答案": "B"}
{"question": "1+1?", "options": ["1", "2", "3"], "answer": 1}
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

LETTERS = "ABCDEFGHIJ"
QUESTIONS = ("question", "题目", "问题", "题干", "试题", "query", "prompt")
ANSWERS = ("answer", "答案", "正确答案", "label", "answer_key", "gold", "target")
LISTS = ("options", "choices", "选项")
SPLITS = ("dev", "val", "test", "train")
OPTION = re.compile(r"(?:选项|option[_ ]?|choice[_ ]?)?([A-Ja-j])(?:选项)?")


def read_items(
    path: Path, rows: Iterator[tuple[int | str, Any]], prefix: str, quarantine: list[dict]
) -> Iterator[dict]:
    """Yield the items of a file, in the schema of `exam_layouts.read_exam`.

    The subject is the file's name, the split its folder's where that is dev, val, test or train,
    and else val.

    Args:
        path: The file.
        rows: (place, row), from a reader.
        prefix: What the items' ids begin with: the card's name.
        quarantine: Rows that are no item are added here.
    """
    split = path.parent.name if path.parent.name in SPLITS else "val"
    subject = path.name.split(".")[0].removesuffix(f"_{split}")
    for number, (place, row) in enumerate(rows):
        try:
            item = read_item(row)
        except ValueError as error:
            where = f"{path.name}:{place}"
            quarantine.append({"where": where, "reason": str(error), "row": str(row)[:500]})
            continue
        yield {
            "id": f"{prefix}/{split}/{subject}/{number}",
            "subject": subject,
            "subject_name": subject,
            "split": split,
            **item,
        }


def read_item(row: Any) -> dict:
    """Return {question, choices, letters, answer} of a row.

    Raises:
        ValueError: It has no question, fewer than two or more than ten options, or no single answer
            among them.
    """
    if not isinstance(row, dict):
        raise ValueError("an exam's row needs named fields: a question, options and an answer")
    fields = {str(name).strip().lower(): value for name, value in row.items()}
    question = _first(fields, QUESTIONS)
    if not isinstance(question, str) or not question.strip():
        listed = ", ".join(map(str, row))
        raise ValueError(f"no question: name it question or 题目; the fields are {listed}")
    choices = _choices(fields)
    if not 2 <= len(choices) <= len(LETTERS):
        raise ValueError(f"has {len(choices)} options, and 2 to {len(LETTERS)} are wanted")
    return {
        "question": question.strip(),
        "choices": choices,
        "letters": list(LETTERS[: len(choices)]),
        "answer": _answer(_first(fields, ANSWERS), choices),
    }


def _first(fields: dict[str, Any], names: tuple[str, ...]) -> Any:
    """Return the value of the first of some names that a row has.

    Args:
        fields: The row, names in lower case.
        names: Names in the order of choice.
    """
    for name in names:
        if name in fields:
            return fields[name]
    return None


def _choices(fields: dict[str, Any]) -> list[str]:
    """Return the options of an item: from a list, a mapping of letters, or columns of their own."""
    listed = _first(fields, LISTS)
    if isinstance(listed, str) and listed.strip().startswith(("[", "{")):
        try:
            listed = ast.literal_eval(listed)  # a list or mapping written into a cell
        except (ValueError, SyntaxError):
            raise ValueError("its options are no list that can be read") from None
    if isinstance(listed, dict):
        fields = {str(name).lower(): value for name, value in listed.items()}
    elif isinstance(listed, list):
        return [_text(value) for value in listed]
    found = {}
    for name, value in fields.items():
        match = OPTION.fullmatch(name)
        if match and value is not None and _text(value):
            found[match[1].upper()] = _text(value)
    letters = sorted(found)
    if letters != list(LETTERS[: len(letters)]):
        raise ValueError(
            f"its options are {', '.join(letters) or 'missing'}: begin at A, skip none"
        )
    return [found[letter] for letter in letters]


def _text(value: Any) -> str:
    """Return an option as text."""
    return str(value).strip()


def _answer(given: Any, choices: list[str]) -> int:
    """Return the place of the right option, which is given as a letter, a number or its words.

    Args:
        given: As written.
        choices: The options.
    """
    letters = LETTERS[: len(choices)]
    if isinstance(given, list) and len(given) == 1:
        given = given[0]
    if isinstance(given, int) and not isinstance(given, bool) and 0 <= given < len(choices):
        return given
    text = str(given if given is not None else "").strip().strip("().。")
    if len(text) == 1 and text.upper() in letters:
        return letters.index(text.upper())
    if text in choices:
        return choices.index(text)
    if re.fullmatch(r"[A-J](?:[,，、 ]*[A-J])+", text.upper()) or isinstance(given, list):
        raise ValueError(f"has several right answers ({given}); items with one are scored")
    raise ValueError(f"the answer {given!r} is none of {', '.join(letters)}")
