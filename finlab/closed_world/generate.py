"""Write the files of the closed world into `finlab/closed_world/files`.

    python -m finlab.closed_world.generate finlab/closed_world/files

The files are in the git repository. A test writes them again and compares the bytes.
"""

from __future__ import annotations

import csv
import json
import sys
from pathlib import Path

from finlab import files
from finlab.closed_world import arithmetic, exams, notes, talks, texts
from finlab.closed_world.facts import SEED

# Two lines that no reader can parse. The corpus step must put them into quarantine.
BROKEN_LINES = ('{"id": "cut-off", "text": "这一行在传输中被截', "<html>not JSON</html>")


def _write_array(path: Path, rows: list[dict]) -> None:
    """Write rows as one JSON array, the format of Alpaca's files."""
    path.write_text(json.dumps(rows, ensure_ascii=False, indent=1), encoding="utf-8")


def _write_table(path: Path, rows: list[dict]) -> None:
    """Write rows as CSV, with the columns in the order of the first row."""
    with open(path, "w", encoding="utf-8", newline="") as file:
        table = csv.DictWriter(file, list(rows[0]), lineterminator="\n")
        table.writeheader()
        table.writerows(rows)


def write(folder: Path, seed: int = SEED) -> None:
    """Write all sources of the closed world into a folder, in the formats of real sources.

    Text and labels are JSON lines, dialogues and preferences are JSON or JSON lines, and exams are
    CSV.

    Args:
        folder: The folder. Existing files are overwritten.
        seed: Seed of the closed world. The same seed gives the same bytes.
    """
    for name in ("text", "dialogues"):
        (folder / name).mkdir(parents=True, exist_ok=True)
    for source, rows in texts.documents(seed).items():
        files.write_jsonl(folder / "text" / f"{source}.jsonl", rows)
    _break_lines(folder / "text" / "cw_news.jsonl")
    files.write_jsonl(folder / "labels.jsonl", texts.labels(seed))
    dialogues = talks.dialogues(seed)
    _write_array(folder / "dialogues" / "alpaca.json", dialogues["alpaca"])
    for name in ("sharegpt", "checked", "safety"):
        files.write_jsonl(folder / "dialogues" / f"{name}.jsonl", dialogues[name])
    _write_array(folder / "preferences.json", talks.preferences(seed))
    exams.write_exams(folder / "exams", seed)
    (folder / "reasoning").mkdir(exist_ok=True)
    files.write_jsonl(folder / "reasoning" / "arithmetic.jsonl", arithmetic.questions(seed))
    files.write_jsonl(folder / "reasoning" / "ratings.jsonl", arithmetic.ratings(seed))
    files.write_jsonl(folder / "reasoning" / "tools.jsonl", arithmetic.tool_talks(seed))
    (folder / "knowledge").mkdir(exist_ok=True)
    files.write_jsonl(folder / "knowledge" / "notes.jsonl", notes.notes(seed))
    files.write_jsonl(folder / "knowledge" / "questions.jsonl", notes.questions(seed))
    files.write_jsonl(folder / "knowledge" / "desk.jsonl", notes.desk_talks(seed))
    _write_table(folder / "knowledge" / "names.csv", notes.names(seed))
    for name, text in notes.rules().items():
        (folder / "knowledge" / name).write_text(text, encoding="utf-8")


def _break_lines(path: Path) -> None:
    """Add broken lines to a JSON lines file, which its reader must put aside."""
    lines = path.read_text(encoding="utf-8").splitlines()
    for number, line in enumerate(BROKEN_LINES):
        lines.insert(7 + 11 * number, line)
    path.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")


if __name__ == "__main__":
    write(Path(sys.argv[1]))
