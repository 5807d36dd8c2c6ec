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
SUBJECTS = ("subject", "科目", "学科")
LISTS = ("options", "choices", "选项")
SPLITS = ("dev", "val", "test", "train")
OPTION = re.compile(r"(?:选项|option[_ ]?|choice[_ ]?)?([A-Ja-j])(?:选项)?")


def read_items(
    path: Path,
    rows: Iterator[tuple[int | str, Any]],
    prefix: str,
    quarantine: list[dict],
    published: bool = False,
) -> Iterator[dict]:
    """Yield the items of a file, in the schema of `exam_layouts.read_exam`.

    The subject is that of the row, or else the file's name. The split is that of the folder, or of
    the file's first word (test-00000.parquet), where that is dev, val, test or train; else val.

    Args:
        path: The file.
        rows: (place, row), from a reader.
        prefix: What the items' ids begin with: the card's name.
        quarantine: Rows that are no item are added here.
        published: It is a benchmark's own file, where the number of an answer is its place from 0
            on; elsewhere a number that is also an option's text is refused.
    """
    split = _split(path)
    file_subject = path.name.split(".")[0].removesuffix(f"_{split}")
    listed = list(rows)
    first = _first_number([row for _, row in listed])
    for number, (place, row) in enumerate(listed):
        try:
            item = read_item(row, first, published)
            subject = _subject(row) or file_subject
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


def _split(path: Path) -> str:
    """Return the split that a file's folder or name tells, val where neither does."""
    first_word = path.name.split("-")[0]
    for word in (path.parent.name, first_word):
        if word == "validation":
            return "val"
        if word in SPLITS:
            return word
    return "val"


def _subject(row: Any) -> str:
    """Return the subject that a row names, as the name of a file; empty where it names none."""
    named = _first(_fields(row), SUBJECTS)
    return re.sub(r"[^\w-]+", "_", named.strip()) if isinstance(named, str) else ""


def _first_number(rows: list[Any]) -> int | None:
    """Return what the numbers of answers count from in a file: 0 or 1; None where none tells.

    A 0 tells it, and so does a number that is as large as there are options.
    """
    first = None
    for row in rows:
        try:
            item = _fields(row)
            given, count = _number(_first(item, ANSWERS)), len(_choices(item))
        except ValueError:
            continue
        if given == 0:
            return 0
        if given is not None and given == count:
            first = 1
    return first


def _number(given: Any) -> int | None:
    """Return an answer that is a number, or None."""
    if isinstance(given, bool):
        return None
    if isinstance(given, float) and given.is_integer():
        return int(given)
    if isinstance(given, int):
        return given
    return (
        int(given) if isinstance(given, str) and re.fullmatch(r"\d{1,2}", given.strip()) else None
    )


def _fields(row: Any) -> dict[str, Any]:
    """Return a row's fields with their names in lower case.

    Raises:
        ValueError: It has no named fields.
    """
    if not isinstance(row, dict):
        raise ValueError("an exam's row needs named fields: a question, options and an answer")
    return {str(name).strip().lower(): value for name, value in row.items()}


def read_item(row: Any, first: int | None = None, published: bool = False) -> dict:
    """Return {question, choices, letters, answer} of a row.

    Args:
        row: As read.
        first: What numbers of answers count from in its file; None where that is not known.
        published: A number is a place from 0 on, whatever else it might be.

    Raises:
        ValueError: It has no question, fewer than two or more than ten options, or no single answer
            among them.
    """
    fields = _fields(row)
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
        "answer": _place(_first(fields, ANSWERS), choices, first, published),
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
            raise ValueError("its options are not a list that can be read") from None
    if isinstance(listed, dict):
        fields = {str(name).lower(): value for name, value in listed.items()}
    elif isinstance(listed, list) and listed and all(isinstance(each, dict) for each in listed):
        fields = _lettered(listed)
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


def _lettered(options: list[dict]) -> dict[str, Any]:
    """Return {letter: text} of options such as {"key": "A", "value": "国债"}.

    Raises:
        ValueError: They do not each hold a letter and a text.
    """
    found = {}
    for option in options:
        letters = [value for value in option.values() if str(value).upper() in LETTERS]
        texts = [value for value in option.values() if str(value).upper() not in LETTERS]
        if len(letters) != 1 or len(texts) != 1:
            raise ValueError("its options are objects that do not hold a letter and a text each")
        found[str(letters[0]).lower()] = texts[0]
    return found


def _text(value: Any) -> str:
    """Return an option as text.

    Raises:
        ValueError: It is missing, or a list or an object.
    """
    if value is None or isinstance(value, list | dict):
        raise ValueError(f"one of its options is {value!r}, and a text is wanted")
    return str(value).strip()


def _place(given: Any, choices: list[str], first: int | None, published: bool) -> int:
    """Return the place of the right option.

    Args:
        given: The answer, as written.
        choices: The options.
        first: What numbers count from.
        published: A number is a place from 0 on.
    """
    number = _number(given)
    if published and number is not None and 0 <= number < len(choices):
        return number
    return _answer(given, choices, first)


def _answer(given: Any, choices: list[str], first: int | None) -> int:
    """Return the place of the right option, which is given as a letter, a number or its words.

    Args:
        given: As written.
        choices: The options.
        first: What numbers count from.
    """
    letters = LETTERS[: len(choices)]
    if isinstance(given, list) and len(given) == 1:
        given = given[0]
    text = str(given if given is not None else "").strip().strip("().。")
    if len(text) == 1 and text.upper() in letters:
        return letters.index(text.upper())
    number = _number(given)
    # A number that is an option's text as well: 2 of the options 1, 2, 3.
    if text in choices and number is None:
        return choices.index(text)
    if number is not None:
        return _numbered(number, choices, first)
    if re.fullmatch(r"[A-J](?:[,，、 ]*[A-J])+", text.upper()) or isinstance(given, list):
        raise ValueError(f"has several right answers ({given}); items with one are scored")
    raise ValueError(f"the answer {given!r} is none of {', '.join(letters)}")


def _numbered(number: int, choices: list[str], first: int | None) -> int:
    """Return the place that a number stands for.

    Args:
        number: The answer.
        choices: The options.
        first: What numbers count from.

    Raises:
        ValueError: It is none of them, or could be read in two ways.
    """
    said = str(number)
    place = None if first is None else number - first
    if said in choices and choices.index(said) != place:
        raise ValueError(
            f"the answer {number} may be the option's place or its text: write its letter"
        )
    if place is None:
        raise ValueError(
            f"the answer {number} may count from 0 or from 1, and nothing in the file tells: "
            "write letters"
        )
    if not 0 <= place < len(choices):
        raise ValueError(f"the answer {number} is none of the {len(choices)} options")
    return place
