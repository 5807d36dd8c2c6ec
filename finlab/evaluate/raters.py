"""Let people judge answers: write blind sheets, read them back, and measure agreement."""

from __future__ import annotations

import random
import re
from collections import Counter, defaultdict
from pathlib import Path
from typing import Any

from finlab import files
from finlab.evaluate import statistics

Table = list[tuple]  # rows of cells
Judgement = dict[str, Any]  # {id, rater, verdict, points, rewrite, note}

COLUMNS = ["编号", "问题", "回答甲", "回答乙", "哪个更好", "甲分", "乙分", "更好的写法", "备注"]
WIDTHS = dict(zip("ABCDEFGHI", (12, 36, 48, 48, 10, 7, 7, 40, 24)))
BETTER = ("甲", "一样", "乙")
NUMBER = re.compile(r"\d+(\.\d+)?")
MAX_EMPTY_ROWS = 100
MAX_CELL = 32_000  # characters; a cell holds 32,767
# The value of a majority verdict for the second answer.
WORTH = {"second": 1.0, "same": 0.5, "first": 0.0}


# --- sheets out ----------------------------------------------------------------------------------
def write_sheets(rows: list[dict], folder: Path, raters: int = 3, seed: int = 0) -> list[Path]:
    """Write one blind spreadsheet for each rater, each with its own order and sides.

    The sheets go to a subfolder of `folder` whose name is a hash of the rows. It also holds
    `key.json`, which the raters must not see. Existing sheets are never overwritten, so what people
    filled in stays. Raters fill in 哪个更好 (甲, 一样 or 乙), 甲分 and 乙分 (0 to 10, optional),
    更好的写法 (a better answer, optional) and 备注. Text that begins like a formula stays text.

    Args:
        rows: Rows {id, question, first, second}.
        folder: The folder of all sheets.
        raters: The number of raters.
        seed: Seed for drawing the orders and sides.

    Returns:
        The paths of the sheets; empty without rows.
    """
    if not rows:
        return []
    folder = folder / files.digest(rows, raters, seed)[:10]
    paths = [folder / f"rater{rater}.xlsx" for rater in range(1, raters + 1)]
    if (folder / "key.json").exists():
        return paths
    folder.mkdir(parents=True, exist_ok=True)
    key: dict[str, dict] = {}
    for rater, path in enumerate(paths, 1):
        _write_sheet(path, rows, rater, seed, key)
    files.write_json(folder / "key.json", key)
    return paths


def _write_sheet(path: Path, rows: list[dict], rater: int, seed: int, key: dict[str, dict]) -> None:
    """Write the sheet of one rater, and add to the key what its row numbers mean.

    Args:
        path: The .xlsx file to write.
        rows: Rows {id, question, first, second}.
        rater: The rater's number, from 1.
        seed: Seed for drawing the order and the sides.
        key: {number on a sheet: {id, turned, rater}}; the rows of this sheet are added to it.
    """
    from openpyxl import Workbook
    from openpyxl.styles import Alignment, Font

    rng = random.Random(f"{seed}-{rater}")
    book = Workbook()
    sheet = book.active
    sheet.title, sheet.freeze_panes = "评审", "A2"
    sheet.append(COLUMNS)
    for number, row in enumerate(rng.sample(rows, len(rows)), 2):
        code = files.digest(seed, rater, row)[:10]
        turned = rng.random() < 0.5
        key[code] = {"id": row["id"], "turned": turned, "rater": rater}
        answers = (row["second"], row["first"]) if turned else (row["first"], row["second"])
        for column, text in enumerate((code, row["question"], *answers), 1):
            cell = sheet.cell(number, column)
            cell.value, cell.data_type = _cell_text(text), "s"
            cell.alignment = Alignment(wrap_text=True, vertical="top")
    for name, width in WIDTHS.items():
        sheet.column_dimensions[name].width = width
        sheet[f"{name}1"].font = Font(bold=True)
    _add_validation(sheet, last_row=len(rows) + 1)
    book.save(path)


def _cell_text(text: str) -> str:
    """Return a text that fits into a cell: without control characters, cut to MAX_CELL."""
    from openpyxl.cell.cell import ILLEGAL_CHARACTERS_RE

    return ILLEGAL_CHARACTERS_RE.sub(" ", text)[:MAX_CELL]


def _add_validation(sheet: Any, last_row: int) -> None:
    """Make the spreadsheet offer the verdicts, and accept only points from 0 to 10.

    Args:
        sheet: The openpyxl worksheet.
        last_row: The last row with an answer.
    """
    from openpyxl.worksheet.datavalidation import DataValidation

    choices = f'"{",".join(BETTER)}"'
    verdict = DataValidation(type="list", formula1=choices, allow_blank=True)
    points = DataValidation(
        type="decimal", operator="between", formula1="0", formula2="10", allow_blank=True
    )
    for rule, span in ((verdict, f"E2:E{last_row}"), (points, f"F2:G{last_row}")):
        rule.add(span)
        sheet.add_data_validation(rule)


# --- sheets in -----------------------------------------------------------------------------------
def open_sheets(paths: list[Path]) -> dict[str, Table]:
    """Return the cells of filled sheets.

    Args:
        paths: The .xlsx files that the raters sent back.

    Returns:
        {folder/name: rows of cells}.

    Raises:
        ValueError: A sheet is missing, is not a spreadsheet, or is not one of ours.
    """
    from openpyxl import load_workbook

    tables = {}
    for path in map(Path, paths):
        try:
            sheet = load_workbook(path, data_only=True, read_only=True).active
            table = _filled_rows(sheet)
        except Exception as error:  # openpyxl raises errors of many kinds
            raise ValueError(
                f"{path} cannot be read as a spreadsheet ({type(error).__name__}): "
                "give the .xlsx that the rater filled in"
            ) from None
        if not table or list(table[0][: len(COLUMNS)]) != COLUMNS:
            raise ValueError(
                f"{path}: the first row is not {', '.join(COLUMNS)}: "
                "fill in the sheet that was sent out, without moving columns"
            )
        tables[f"{path.parent.name}/{path.name}"] = table
    return tables


def _filled_rows(sheet: Any) -> Table:
    """Return the rows of a sheet up to the last filled one.

    A sheet that is formatted to its end has a million rows. So reading stops when more than
    MAX_EMPTY_ROWS empty rows follow one another.
    """
    rows: Table = []
    empty = 0
    for cells in sheet.iter_rows(values_only=True):
        empty = 0 if any(cell is not None for cell in cells) else empty + 1
        if empty > MAX_EMPTY_ROWS:
            break
        rows.append(cells)
    return rows


def _read_key(path: Path) -> dict[str, dict]:
    """Return the key that was written with the sheets.

    Raises:
        ValueError: The file is missing, or is not a key.
    """
    try:
        key = files.read_json(path)
    except (OSError, ValueError) as error:
        reason = "is missing" if isinstance(error, FileNotFoundError) else "cannot be read"
        raise ValueError(
            f"{path} {reason}: without it nobody knows which answer was 甲; "
            "restore it from where the sheets were written"
        ) from None
    known = isinstance(key, dict) and all(
        isinstance(entry, dict) and {"id", "turned", "rater"} <= set(entry)
        for entry in key.values()
    )
    if not known:
        raise ValueError(f"{path} is not a key of sheets: restore the one written with them")
    return key


def read_sheets(
    tables: dict[str, Table], key_file: Path
) -> tuple[list[Judgement], list[dict[str, str]]]:
    """Return the judgements of opened sheets, with 甲 and 乙 translated back by the key.

    Args:
        tables: From `open_sheets`.
        key_file: The key that was written with the sheets.

    Returns:
        Judgements {id, rater, verdict, points, rewrite, note}, where a verdict is first, same or
        second; and faults {where, reason}: rows that cannot be read, or are judged twice.
    """
    key = _read_key(key_file)
    judgements, faults, seen = [], [], set()
    for sheet, table in tables.items():
        for number, cells in enumerate(table[1:], 2):
            texts = ["" if cell is None else str(cell).strip() for cell in cells]
            row = dict(zip(COLUMNS, texts))
            if not any(row.values()):
                continue
            reason = _fault(row, key, seen)
            if reason:
                faults.append({"where": f"{sheet}:row {number}", "reason": reason})
                continue
            seen.add(row["编号"])
            judgements.append(_judgement(row, key[row["编号"]]))
    return judgements, faults


def _judgement(row: dict[str, str], entry: dict) -> Judgement:
    """Return a rater's row as a judgement, with the sides turned back.

    Args:
        row: {column: cell text}.
        entry: The key's entry for the row, {id, turned, rater}.
    """
    sides, columns = ("first", "same", "second"), ("甲分", "乙分")
    if entry["turned"]:
        sides, columns = sides[::-1], columns[::-1]
    return {
        "id": entry["id"],
        "rater": entry["rater"],
        "verdict": sides[BETTER.index(row["哪个更好"])],
        "points": [float(row[name]) if row[name] else None for name in columns],
        "rewrite": row["更好的写法"],
        "note": row["备注"],
    }


def _fault(row: dict[str, str], key: dict[str, dict], seen: set[str]) -> str:
    """Return why a row cannot be read, or an empty string.

    Args:
        row: {column: cell text}.
        key: {number on a sheet: {id, turned, rater}}.
        seen: The numbers of the rows that were read before.
    """
    code, verdict = row["编号"], row["哪个更好"]
    if code not in key:
        return f"the number '{code}' stands in no sheet that was sent out"
    if code in seen:
        return f"the number {code} is judged a second time"
    if not verdict:
        return "not judged"
    if verdict not in BETTER:
        return f"哪个更好 is '{verdict}': write 甲, 一样 or 乙"
    for name in ("甲分", "乙分"):
        if row[name] and not (NUMBER.fullmatch(row[name]) and float(row[name]) <= 10):
            return f"{name} is '{row[name]}': write a number from 0 to 10, or nothing"
    return _contradiction(row)


def _contradiction(row: dict[str, str]) -> str:
    """Return how the verdict of a row contradicts its points, or an empty string."""
    if not row["甲分"] or not row["乙分"]:
        return ""
    first, second = float(row["甲分"]), float(row["乙分"])
    verdict = row["哪个更好"]
    if (verdict == "甲" and first < second) or (verdict == "乙" and second < first):
        return f"哪个更好 is {verdict}, and the points are {row['甲分']} to {row['乙分']}: fix one"
    return ""


# --- agreement -----------------------------------------------------------------------------------
def fleiss(ratings: list[list[str]]) -> float | None:
    """Return Fleiss' kappa (1971), which says how far raters agree beyond chance.

    Args:
        ratings: The verdicts on each item; every item has the same number of them.

    Returns:
        Kappa: 1 is full agreement, 0 is chance. None where it is not defined: with fewer than two
        raters, or if all verdicts are the same.
    """
    n = len(ratings[0]) if ratings else 0
    if n < 2:
        return None
    agreed = 0.0
    for item in ratings:
        squares = sum(count * count for count in Counter(item).values())
        agreed += (squares - n) / (n * (n - 1))
    agreed /= len(ratings)
    total = Counter(rating for item in ratings for rating in item)
    chance = sum((count / (n * len(ratings))) ** 2 for count in total.values())
    return None if chance == 1 else (agreed - chance) / (1 - chance)


def _majority(verdicts: list[str]) -> str:
    """Return the most frequent verdict; `same` if two are equally frequent."""
    (best, count), *rest = Counter(verdicts).most_common(2)
    return "same" if rest and rest[0][1] == count else best


def people(judgements: list[Judgement]) -> dict[str, Any]:
    """Count good, same and bad by majority, for the second answer (XuanYuan's GSB).

    Returns:
        n, raters, good, same, bad; win_rate (same counts half) with a 95% bootstrap interval over
        questions; kappa over the kappa_n questions that all raters judged; mean_points of each
        side; and majority, {question id: majority verdict}.
    """
    by_question: dict[str, dict[int, str]] = defaultdict(dict)
    for one in judgements:
        by_question[one["id"]][one["rater"]] = one["verdict"]
    majority = {name: _majority(list(each.values())) for name, each in by_question.items()}
    raters = sorted({one["rater"] for one in judgements})
    whole = []
    for verdicts in by_question.values():
        if sorted(verdicts) == raters:
            whole.append([verdicts[rater] for rater in raters])
    counts = Counter(majority.values())
    values = [WORTH[verdict] for verdict in majority.values()]
    means = {}
    for place, side in enumerate(("first", "second")):
        means[side] = mean_points(judgements, place)
    return {
        "n": len(majority),
        "raters": len(raters),
        "good": counts["second"],
        "same": counts["same"],
        "bad": counts["first"],
        **statistics.win_rate(values),
        "kappa": fleiss(whole),
        "kappa_n": len(whole),
        "mean_points": means,
        "majority": majority,
    }


def mean_points(judgements: list[Judgement], place: int) -> float | None:
    """Return the mean points of one side; None where nobody gave points.

    Args:
        judgements: The judgements.
        place: 0 for the first answer, 1 for the second.
    """
    given = [one["points"][place] for one in judgements if one["points"][place] is not None]
    return statistics.mean(given)
