"""Many questions from a file, answered one by one, as Cornucopia's infer.sh does.

A line of the file is a question; or it is JSON with `question`, `prompt`, `instruction` (and
`input`), or `messages`. Each answer is written as it comes, and a run that was broken off goes on
behind the last one.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

from finlab import files
from finlab.data import json_files
from finlab.data.file_text import Options
from finlab.evaluate.chat.talk import Talk

FIELDS = ("question", "prompt", "instruction")
JSON = (".json", ".jsonl")


def read_questions(path: Path) -> list[str]:
    """Return the questions of a file.

    Args:
        path: Text, JSON lines, or a JSON array.

    Raises:
        ValueError: It is not there, holds none, or a row has none of the fields.
    """
    path = Path(path).expanduser()
    if not path.is_file():
        raise ValueError(f"no file of questions at {path}")
    if path.suffix not in JSON:
        lines = path.read_text(encoding="utf-8-sig", errors="replace").splitlines()
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
                f"{place}: a row needs {', '.join(FIELDS)} or messages, with the user's words"
            )
        yield question
    if quarantine:
        first = quarantine[0]
        raise ValueError(
            f"{len(quarantine)} lines of {path} are no JSON; the first: "
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
    for turn in reversed(row.get("messages") or []):
        if isinstance(turn, dict) and turn.get("role") == "user":
            return str(turn.get("content", "")).strip()
    return ""


def answer_file(talk: Talk, questions: list[str], out: Path) -> Iterator[dict]:
    """Answer questions one by one, each by itself, and write the answers as they come.

    Args:
        talk: Who answers; its history is cleared before each question.
        questions: The questions.
        out: JSON lines {question, answer, sources, error}. Answers that are there stay.

    Yields:
        What was written. A question that cannot be answered has an `error` and no answer.

    Raises:
        ValueError: The file holds answers to other questions.
    """
    out = Path(out).expanduser()
    done = files.read_jsonl(out) if out.exists() else []
    if [row.get("question") for row in done] != questions[: len(done)]:
        raise ValueError(f"{out} holds answers to other questions: name another file with --out")
    files.write_jsonl(out, done)  # without a line that a kill has broken
    for question in questions[len(done) :]:
        talk.clear()
        row = {"question": question, "answer": "", "sources": []}
        try:
            row["answer"] = talk.answer(question)
            row["sources"] = talk.sources()
        except ValueError as error:
            row["error"] = str(error)
        files.append_jsonl(out, row)
        yield row
