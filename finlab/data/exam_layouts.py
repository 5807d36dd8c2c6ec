"""How each benchmark is distributed: columns, options, splits, and its size as published.

There is one entry a benchmark in `exam_layouts.yaml`. To add a benchmark, write an entry there and
its prompt in `finlab/evaluate/tasks/official_<name>.yaml`.
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
NOT_PUBLISHED = -1  # the answer of an item whose answer is not public


@dataclass(frozen=True)
class ExamLayout:
    """One benchmark.

    Attributes:
        question: The column of the question.
        options: The columns of its options, in order.
        answer: The column of the answer: a letter, or the number of the option from 0.
        context: A column whose text stands before the question, where a file has it.
        split: The split of all its files. Empty: a file's folder is named by its split.
        headerless: Whether files may come without a header line.
        fewest_options: How many options a question must have.
        words: The options of a question that is published without any, answered by the word.
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
    """Return all benchmarks by name."""
    text = (Path(__file__).parent / "exam_layouts.yaml").read_text(encoding="utf-8")
    return {name: ExamLayout(**entry) for name, entry in yaml.safe_load(text).items()}


def published_subjects(benchmark: str) -> dict[str, dict]:
    """Return the subjects of a benchmark as published.

    Args:
        benchmark: Its name; empty where a card names none.

    Returns:
        {subject: {split: items}}.
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
        path: The file. Its name is the subject, with the split behind it or not.
        layout_name: The layout of the file, a name of `layouts`.
        benchmark: The benchmark that names the subjects; empty for none.
        prefix: What the items' ids begin with: the card's name.
        encoding: The file's encoding.
        quarantine: Where rows go that cannot be read.

    Yields:
        Items {id, subject, subject_name, split, question, choices, letters, answer}. The answer is
        an index into choices, or -1 where it is not published. `letters` are the answers as they
        are written: A, B, ... or the words of the layout.

    Raises:
        ValueError: The file lacks a column of the layout.
    """
    layout = layouts()[layout_name]
    split = layout.split or path.parent.name
    if split not in SPLITS:
        split = "val"  # a file of one's own, in a folder of its own
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
        path: The file. MMLU's have no header and are given one.
        layout_name: The benchmark.
        split: Of the file; the answers of a test are often not published.
        encoding: As the card says.
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


# How people name the columns of a benchmark in Chinese.
CHINESE_NAMES = {"题目": "question", "问题": "question", "题干": "question", "答案": "answer"}


def _layout_name(name: str, layout: ExamLayout) -> str:
    """Return the name that a layout has for a column of a header: 选项A is A.

    Args:
        name: A column's name in the file.
        layout: The benchmark's.
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
    """Return the name of an option beyond those of a layout, or an empty string.

    Args:
        row: {column: cell}.
        layout: The benchmark's.
    """
    if layout.options[0] not in LETTERS:
        return ""
    for letter in LETTERS[len(layout.options) :]:
        if row.get(letter):
            return letter
    return ""


def _choices(row: dict[str, str], layout: ExamLayout) -> list[str]:
    """Return the options of an item, from columns of their own or from one list.

    Args:
        row: {column: cell}.
        layout: The benchmark's.
    """
    choices = [row.get(option, "") for option in layout.options]
    while len(choices) > layout.fewest_options and not choices[-1]:
        choices.pop()
    if layout.words and not any(choices):
        return list(layout.words)
    return choices


def _letters(layout: ExamLayout, choices: list[str]) -> list[str]:
    """Return how an answer names each option: by a letter, or by the option's own word.

    Args:
        layout: The benchmark's.
        choices: The options.
    """
    if choices == layout.words:
        return choices
    return list(LETTERS[: len(choices)])


def _answer_names(row: dict[str, str], layout: ExamLayout, choices: list[str]) -> dict[str, int]:
    """Return every way in which an answer may be written.

    Args:
        row: {column: cell}.
        layout: The benchmark's.
        choices: The options.

    Returns:
        {answer as written: its index}.
    """
    if row.get(layout.answer, "").isdigit():
        names = [str(number) for number in range(4)]
    else:
        names = _letters(layout, choices)
    return dict(zip(names, range(len(choices))))


def _reason(choices: list[str], layout: ExamLayout, given: str) -> str:
    """Return why an item was set aside: what it would need.

    Args:
        choices: The options.
        layout: The benchmark's.
        given: The answer as written.
    """
    if re.fullmatch(r"[A-J](?:[,，、 ]*[A-J])+", given):
        return f"has several right answers ({given}); items with one are scored"
    if choices == layout.words:
        answer = " or ".join(choices)
    else:
        answer = f"A-{LETTERS[len(choices) - 1]}"
    return f"needs a question, {len(choices)} options and an answer {answer}"
