"""The file layout of each benchmark: columns, options, splits, and its published size.

Each benchmark has one entry in `exam_layouts.yaml`. To add a benchmark, write an entry there, and
write its prompt in `finlab/evaluate/tasks/official_<name>.yaml`.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import yaml

from finlab.data import file_text, tables

LETTERS = "ABCDEFGHIJ"
SPLITS = ("dev", "val", "test", "train", "auxiliary_train")
NOT_PUBLISHED = -1  # stands for the answer if it is not public


@dataclass(frozen=True)
class ExamLayout:
    """The file layout of one benchmark.

    Attributes:
        question: Name of the column with the question.
        options: Names of the columns with the options, in order.
        answer: Name of the column with the answer: a letter, or the option's number from 0.
        context: Name of a column with text to put before the question; empty for none.
        split: The split of all files. Empty if the name of a file's folder is its split.
        headerless: Whether files may have no header line.
        fewest_options: The smallest number of options that a question may have.
        words: The options of questions that are published without options; the answer is then one
            of these words. Empty if every question has its own options.
        harness: Where lm-evaluation-harness keeps its own tasks: {folder, default, subject}.
        subjects: {subject: {name, and the number of items of each split}}, as published.
    """

    question: str
    options: list[str]
    answer: str
    context: str = ""
    split: str = ""
    headerless: bool = False
    fewest_options: int = 4
    words: list[str] = field(default_factory=list)
    harness: dict[str, str] = field(default_factory=dict)
    subjects: dict[str, dict] = field(default_factory=dict)


@functools.cache
def layouts() -> dict[str, ExamLayout]:
    """Return the layouts of all benchmarks, {name: layout}."""
    text = (Path(__file__).parent / "exam_layouts.yaml").read_text(encoding="utf-8")
    return {name: ExamLayout(**entry) for name, entry in yaml.safe_load(text).items()}


def published_subjects(benchmark: str) -> dict[str, dict]:
    """Return the subjects of a benchmark as published.

    Args:
        benchmark: Name of the benchmark; an unknown or empty name has no subjects.

    Returns:
        {subject: {name, and the number of items of each split}}.
    """
    layout = layouts().get(benchmark)
    return layout.subjects if layout else {}


# --- reading -------------------------------------------------------------------------------------
def read_exam(
    path: Path,
    layout_name: str,
    benchmark: str,
    prefix: str,
    encoding: str,
    quarantine: list[dict],
) -> Iterator[dict]:
    """Read one official CSV file of an exam.

    Args:
        path: The file. Its name is the subject, which `_` and the split may follow.
        layout_name: Name of the file's layout, a key of `layouts`.
        benchmark: Name of the benchmark that gives the subjects their full names; empty for none.
        prefix: First part of the items' ids: the card's name.
        encoding: Encoding of the file.
        quarantine: Rows that cannot be read are added here, {where, reason, row}.

    Yields:
        Items {id, subject, subject_name, split, question, choices, letters, answer}. The answer is
        an index into `choices`, or -1 if it is not published. `letters` are the possible answers
        as they are written: A, B, ... or the words of the layout.

    Raises:
        ValueError: The file lacks a column of the layout.
    """
    layout = layouts()[layout_name]
    split = layout.split or path.parent.name
    if split not in SPLITS:
        split = "val"  # the user's own file, in a folder with another name
    subject = path.stem.removesuffix(f"_{split}")
    published = published_subjects(benchmark).get(subject, {})
    table = _read_table(path, layout_name, split, encoding, quarantine)
    for number, cells in enumerate(table[1:]):
        if not any(cells):
            continue
        row = {name: cell.strip() for name, cell in zip(table[0], cells)}
        choices = _choices(row, layout)
        answers = _answer_names(row, layout, choices)
        given = row.get(layout.answer, "")
        if given.upper() in LETTERS:
            given = given.upper()
        whole = len(cells) == len(table[0]) and row.get(layout.question) and all(choices)
        unpublished = not given and split == "test"
        more = _further_option(row, layout)
        reason = ""
        if more:
            reason = f"has an option {more}, where {layout_name} has {len(layout.options)}"
        elif not whole or (given not in answers and not unpublished):
            reason = _reason(choices, layout, given)
        if reason:
            where = f"{path.name}:row {number}"
            quarantine.append({"where": where, "reason": reason, "row": str(row)[:200]})
            continue
        context = row.get(layout.context, "") if layout.context else ""
        question = row[layout.question]
        yield {
            "id": f"{prefix}/{split}/{subject}/{number}",
            "subject": subject,
            "subject_name": published.get("name", subject),
            "split": split,
            "question": f"{context}\n{question}" if context else question,
            "choices": choices,
            "letters": _letters(layout, choices),
            "answer": answers.get(given, NOT_PUBLISHED),
        }


def _read_table(
    path: Path, layout_name: str, split: str, encoding: str, quarantine: list[dict]
) -> list[list[str]]:
    """Return the cells of a CSV file, the header first.

    Args:
        path: The file. Files of MMLU have no header, so one is added.
        layout_name: Name of the file's layout, a key of `layouts`.
        split: The split of the file. A test file may lack the answers.
        encoding: Encoding of the file, as in the card.
        quarantine: Lines that cannot be read are added here.

    Raises:
        ValueError: A column of the layout is missing.
    """
    layout = layouts()[layout_name]
    text = file_text.decode(path, encoding)
    delimiter = tables.find_delimiter(text, ",")
    table = [cells for _, cells in tables.records(text, delimiter, path.name, quarantine)]
    if table:
        table[0] = [_layout_name(name.strip(), layout) for name in table[0]]
    if layout.headerless and table and layout.question not in table[0]:
        table.insert(0, [layout.question, *layout.options, layout.answer])
    needed = {layout.question}
    if not layout.words:  # with words, a question may come without options
        needed.update(layout.options)
    if split != "test":  # the answers of a test are often not published
        needed.add(layout.answer)
    missing = needed - set(table[0] if table else [])
    if missing:
        raise ValueError(
            f"{path}: no column {', '.join(sorted(missing))}, which the layout {layout_name} has: "
            "correct the card's format or the file"
        )
    return table


# Chinese names that people give to the columns of a benchmark.
CHINESE_NAMES = {"题目": "question", "问题": "question", "题干": "question", "答案": "answer"}


def _layout_name(name: str, layout: ExamLayout) -> str:
    """Return the layout's name for a column of a file: for 选项A it is A.

    Args:
        name: Name of the column in the file.
        layout: Layout of the benchmark.
    """
    known = {layout.question, layout.answer, *layout.options}
    if name in known:
        return name
    kind = CHINESE_NAMES.get(name, name.lower())
    letter = name.removeprefix("选项").upper()
    if kind in ("question", "answer"):
        return layout.question if kind == "question" else layout.answer
    if letter in LETTERS and letter in layout.options:
        return letter
    return name


def _further_option(row: dict[str, str], layout: ExamLayout) -> str:
    """Return the letter of an option that the layout does not have, or an empty string.

    Args:
        row: {column: cell}.
        layout: Layout of the benchmark.
    """
    if layout.options[0] not in LETTERS:
        return ""
    for letter in LETTERS[len(layout.options) :]:
        if row.get(letter):
            return letter
    return ""


def _choices(row: dict[str, str], layout: ExamLayout) -> list[str]:
    """Return the options of an item, from its columns or else from the layout's `words`.

    Args:
        row: {column: cell}.
        layout: Layout of the benchmark.
    """
    choices = [row.get(option, "") for option in layout.options]
    while len(choices) > layout.fewest_options and not choices[-1]:
        choices.pop()
    if layout.words and not any(choices):
        return list(layout.words)
    return choices


def _letters(layout: ExamLayout, choices: list[str]) -> list[str]:
    """Return how an answer names each option: by its letter, or by its word.

    Args:
        layout: Layout of the benchmark.
        choices: The options.
    """
    if choices == layout.words:
        return choices
    return list(LETTERS[: len(choices)])


def _answer_names(row: dict[str, str], layout: ExamLayout, choices: list[str]) -> dict[str, int]:
    """Return the valid answers of an item, in the form that its own answer has.

    Args:
        row: {column: cell}.
        layout: Layout of the benchmark.
        choices: The options.

    Returns:
        {answer as written: index of the option}. The keys are numbers if the row's answer is a
        number, else letters or words.
    """
    if row.get(layout.answer, "").isdigit():
        names = [str(number) for number in range(len(choices))]
    else:
        names = _letters(layout, choices)
    return dict(zip(names, range(len(choices))))


def _reason(choices: list[str], layout: ExamLayout, given: str) -> str:
    """Return why an item was set aside, or what it needs.

    Args:
        choices: The options.
        layout: Layout of the benchmark.
        given: The answer as written.
    """
    if re.fullmatch(r"[A-J](?:[,，、 ]*[A-J])+", given):
        return f"has several right answers ({given}); items with one are scored"
    if choices == layout.words:
        answer = " or ".join(choices)
    else:
        answer = f"A-{LETTERS[len(choices) - 1]}"
    return f"needs a question, {len(choices)} options and an answer {answer}"
