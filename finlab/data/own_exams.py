"""Read the user's own exams: a question, options and an answer under common names.

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

    The subject is the one that the row names, or else the name of the file. The split is the name
    of the folder, or the first word of the file's name (test-00000.parquet), if this is dev, val,
    test or train; else it is val.

    Args:
        path: The file.
        rows: (place, row) of each row, from a reader.
        prefix: First part of the items' ids: the card's name.
        quarantine: Rows that are not valid items are added here, {where, reason, row}.
        published: Whether the file belongs to a published benchmark. Then an answer that is a
            number is the option's index, from 0. In other files, a number that could mean two
            options is refused.
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
    """Return the split that a file's folder or name gives; val if neither gives one."""
    first_word = path.name.split("-")[0]
    for word in (path.parent.name, first_word):
        if word == "validation":
            return "val"
        if word in SPLITS:
            return word
    return "val"


def _subject(row: Any) -> str:
    """Return the subject of a row as a valid file name; empty if the row names none."""
    named = _first(_fields(row), SUBJECTS)
    return re.sub(r"[^\w-]+", "_", named.strip()) if isinstance(named, str) else ""


def _first_number(rows: list[Any]) -> int | None:
    """Return whether the answer numbers of a file start at 0 or 1; None if this is not clear.

    An answer 0 shows that they start at 0. An answer equal to the number of options shows that
    they start at 1.
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
    """Return an answer as a whole number; None if it is not one."""
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
        ValueError: The row has no named fields.
    """
    if not isinstance(row, dict):
        raise ValueError("an exam's row needs named fields: a question, options and an answer")
    return {str(name).strip().lower(): value for name, value in row.items()}


def read_item(row: Any, first: int | None = None, published: bool = False) -> dict:
    """Return {question, choices, letters, answer} of a row.

    Args:
        row: The row as read.
        first: Whether the answer numbers of the file start at 0 or 1; None if not known.
        published: Whether a number is always the option's index, from 0.

    Raises:
        ValueError: The row has no question, fewer than two or more than ten options, or not
            exactly one right option.
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
    """Return the value of the first of `names` that a row has; None if it has none of them.

    Args:
        fields: The row, with names in lower case.
        names: Names of fields, in order of preference.
    """
    for name in names:
        if name in fields:
            return fields[name]
    return None


def _choices(fields: dict[str, Any]) -> list[str]:
    """Return the options of an item, from a list, a mapping of letters, or separate columns."""
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
        ValueError: An option does not hold one letter and one text.
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
        ValueError: The option is None, a list or a dict.
    """
    if value is None or isinstance(value, list | dict):
        raise ValueError(f"one of its options is {value!r}, and a text is wanted")
    return str(value).strip()


def _place(given: Any, choices: list[str], first: int | None, published: bool) -> int:
    """Return the index of the right option.

    Args:
        given: The answer as written.
        choices: The options.
        first: Whether answer numbers start at 0 or 1; None if not known.
        published: Whether a number is always the option's index, from 0.
    """
    number = _number(given)
    if published and number is not None and 0 <= number < len(choices):
        return number
    return _answer(given, choices, first)


def _answer(given: Any, choices: list[str], first: int | None) -> int:
    """Return the index of the right option, given as a letter, a number or the option's text.

    Args:
        given: The answer as written.
        choices: The options.
        first: Whether answer numbers start at 0 or 1; None if not known.
    """
    letters = LETTERS[: len(choices)]
    if isinstance(given, list) and len(given) == 1:
        given = given[0]
    text = str(given if given is not None else "").strip().strip("().。")
    if len(text) == 1 and text.upper() in letters:
        return letters.index(text.upper())
    number = _number(given)
    # A number may also be an option's text, such as 2 with the options 1, 2, 3: see `_numbered`.
    if text in choices and number is None:
        return choices.index(text)
    if number is not None:
        return _numbered(number, choices, first)
    if re.fullmatch(r"[A-J](?:[,，、 ]*[A-J])+", text.upper()) or isinstance(given, list):
        raise ValueError(f"has several right answers ({given}); items with one are scored")
    raise ValueError(f"the answer {given!r} is none of {', '.join(letters)}")


def _numbered(number: int, choices: list[str], first: int | None) -> int:
    """Return the index of the option that a number means.

    Args:
        number: The answer.
        choices: The options.
        first: Whether answer numbers start at 0 or 1; None if not known.

    Raises:
        ValueError: The number is not one of the options, or could mean two of them.
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
