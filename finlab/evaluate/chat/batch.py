"""Answer many questions from a file one by one, as Cornucopia's infer.sh does.

A line of the file is a question, or JSON with `question`, `prompt`, `instruction` (and `input`), or
`messages`. Each answer is written as soon as it comes. A run that was interrupted continues after
the last answer.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

from finlab import files
from finlab.data import json_files
from finlab.data.file_text import Options, decode
from finlab.evaluate.chat.talk import Talk, clean

FIELDS = ("question", "prompt", "instruction")
JSON = (".json", ".jsonl")


def read_questions(path: Path) -> list[str]:
    """Return the questions of a file.

    Args:
        path: A text file, JSON lines, or a JSON array.

    Raises:
        ValueError: The file is missing, has no question, or has a row with none of the fields.
    """
    path = Path(path).expanduser()
    if not path.is_file():
        raise ValueError(f"no file of questions at {path}")
    if path.suffix not in JSON:
        lines = decode(path, "utf-8-sig").splitlines()
        questions = [line.strip() for line in lines if line.strip()]
    else:
        questions = list(_of_json(path))
    if not questions:
        raise ValueError(f"{path} holds no question")
    return questions


def _of_json(path: Path) -> Iterator[str]:
    """Yield the question of each row of a JSON file."""
    quarantine: list[dict] = []
    for place, row in json_files.read(path, quarantine, Options()):
        question = _question(row)
        if not question:
            raise ValueError(
                f"{path}, {place}: a row needs {', '.join(FIELDS)}, or messages with one question"
            )
        yield clean(question)
    if quarantine:
        first = quarantine[0]
        raise ValueError(
            f"{len(quarantine)} lines of {path} are not JSON; the first: "
            f"{json.dumps(first, ensure_ascii=False, default=str)[:200]}"
        )


def _question(row: object) -> str:
    """Return the question of a row; empty where it has none."""
    if not isinstance(row, dict):
        return ""
    for name in FIELDS:
        if isinstance(row.get(name), str) and row[name].strip():
            more = row.get("input")
            return f"{row[name]}\n{more}".strip() if isinstance(more, str) else row[name].strip()
    turns = row.get("messages")
    turns = turns if isinstance(turns, list) else []
    asked = [turn for turn in turns if isinstance(turn, dict) and turn.get("role") == "user"]
    others = [turn for turn in turns if turn not in asked]
    # Earlier turns would not be asked, so a dialogue of several turns is refused.
    if len(asked) != 1 or any(turn.get("role") == "system" for turn in others if turn):
        return ""
    return str(asked[0].get("content", "")).strip()


def answer_file(talk: Talk, questions: list[str], out: Path) -> Iterator[dict]:
    """Answer questions one by one without history, and write each answer as it comes.

    Args:
        talk: The chat that answers; its history is cleared before each question.
        questions: The questions.
        out: File of JSON lines {question, answer, sources, error}. Answers in it stay.

    Yields:
        The rows that are written now. A question that cannot be answered has an `error` and an
        empty answer.

    Raises:
        ValueError: The file holds answers to other questions.
    """
    out = Path(out).expanduser()
    rows = _answered(out)
    if [row["question"] for row in rows] != questions[: len(rows)]:
        raise ValueError(f"{out} holds answers to other questions: name another file with --out")
    files.write_jsonl(out, rows)  # drops a last line that a kill cut off
    for number, question in enumerate(questions):
        if number < len(rows) and "error" not in rows[number]:
            continue
        row = _ask(talk, question)
        if number < len(rows):  # it got no answer the last time
            rows[number] = row
            files.write_jsonl(out, rows)
        else:
            rows.append(row)
            files.append_jsonl(out, row)
        yield row


def _ask(talk: Talk, question: str) -> dict:
    """Return the row of a question, which is asked without history."""
    talk.clear()
    row = {"question": question, "answer": "", "sources": []}
    try:
        row["answer"] = talk.answer(question)
        row["sources"] = talk.sources()
    except ValueError as error:
        row["error"] = str(error)
    return row


def _answered(out: Path) -> list[dict]:
    """Return the answers that a file holds; a last line that a kill cut off is left out.

    Args:
        out: The file; it may be missing.

    Raises:
        ValueError: The file holds something other than answers; it is not changed.
    """
    if not out.exists():
        return []
    *lines, last = decode(out, "utf-8").split("\n")
    rows = []
    for number, line in enumerate(lines, 1):
        try:
            row = json.loads(line)
        except ValueError:
            row = None
        if not isinstance(row, dict) or not {"question", "answer"} <= set(row):
            raise ValueError(
                f"{out} holds something else than answers (line {number}): name another file "
                "with --out"
            )
        rows.append(row)
    if last and not last.startswith('{"question"'):
        raise ValueError(f"{out} holds something else than answers: name another file with --out")
    return rows
