"""What trivial answers score on published finance sets: by their authors' rule, and by ours.

FINLAB_DATA=... python -m benchmarks.answer_sets

It writes notebooks/results/answer_sets.json. If nonsense scores well under a rule, a good score of
a model under this rule says little.
"""

from __future__ import annotations

import json
import os
import platform
import statistics
import time
from collections.abc import Callable
from pathlib import Path

from benchmarks.tables import write_results
from finlab.evaluate import answer_sets, official_scores
from finlab.evaluate.answer_sets import Item
from finlab.run import environment
from finlab.train.reward import verify

Answer = Callable[[Item, list[Item]], str | None]  # None leaves an item out


def _all_names(_: Item, items: list[Item]) -> str:
    """Return every name that is right for any item."""
    names = {name for item in items for name in item.gold.answer}
    return json.dumps(sorted(names), ensure_ascii=False)


def _gold(item: Item, _: list[Item]) -> str:
    """Return the gold itself, in the form that the question asks for."""
    said = item.gold.answer
    if not isinstance(said, str):
        said = json.dumps(said, ensure_ascii=False)
    forms = {"box": f"\\boxed{{{said}}}", "line": f"答案：{said}", "whole": said}
    forms["json"] = json.dumps({"cot": "", "answer": said}, ensure_ascii=False)
    return forms[item.gold.where]


def _hundredfold(item: Item, _: list[Item]) -> str | None:
    """Return each number of the gold times a hundred; other items are left out."""
    if item.gold.kind != "numbers":
        return None
    parts = [str(100 * float(part)) for part in item.gold.answer.split(";")]
    return f"\\boxed{{{';'.join(parts)}}}"


def _one_digit_more(item: Item, _: list[Item]) -> str | None:
    """Return the gold with one more digit, as an honest calculation has; only for numbers."""
    if item.gold.kind != "number" or "." not in item.gold.answer:
        return None
    whole, _, places = item.gold.answer.partition(".")
    return json.dumps({"cot": "", "answer": f"{whole}.{places.ljust(4, '0')}2"})


def _always(text: str) -> Answer:
    """Return a function that answers every item in the same way."""
    return lambda item, items: text


ANSWERS: dict[str, dict[str, Answer]] = {
    "finova_ner": {"always []": _always("[]")},
    "finova_tools": {"all tools": _all_names},
    "finova_intent": {"all intents": lambda *each: f"\\boxed{{{_all_names(*each)}}}"},
    "finova_compliance": {
        "always 是": _always("\\boxed{是}"),
        "always 不是": _always("不是。"),
    },
    "finova_reasoning": {"a hundred times the gold": _hundredfold},
    "cflue_knowledge": {"always C": _always("答案：C"), "always ABCDEF": _always("答案：ABCDEF")},
    "bizfin_numerical": {"the gold with more digits": _one_digit_more},
    "bizfin_time": {},
    "bizfin_ner": {"always []": _always("[]")},
    "finreasoning_l1": {"always 否": _always("\\boxed{否}")},
    "finreasoning_l2": {"always 否": _always("\\boxed{否}")},
    "finreasoning_l3": {"always 否": _always("\\boxed{否}")},
    "fineval_kr": {"always 0": _always("答案：0")},
}


def rows_of(name: str, folder: Path) -> list[dict]:
    """Return a row for each trivial answer to a set.

    Args:
        name: The set.
        folder: The folder of the sets.
    """
    items, unsound = answer_sets.load(name, folder)
    score = official_scores.SCORERS.get(name)
    rows = []
    for label, answer in {"the gold itself": _gold, **ANSWERS[name]}.items():
        said = [(answer(item, items), item) for item in items]
        said = [(text, item) for text, item in said if text is not None]
        # No scorer is published for FinEval-KR.
        theirs = [score(text, item.raw) for text, item in said] if score else []
        ours = [verify.check(text, item.gold) for text, item in said]
        rows.append(
            {
                "set": name,
                "items": len(said),
                "unsound": len(unsound),
                "answer": label,
                "official": statistics.mean(theirs) if theirs else None,
                "ours": statistics.mean(verdict.right for verdict in ours),
                "f1": statistics.mean(verdict.f1 for verdict in ours),
            }
        )
    return rows


def main() -> None:
    """Score the trivial answers, and write their scores."""
    folder = Path(os.environ["FINLAB_DATA"]) / "exams"
    rows = []
    for name in answer_sets.SETS:
        rows += rows_of(name, folder)
    record = {
        "command": "python -m benchmarks.answer_sets",
        "device": f"{environment.device()}, {platform.machine()}",
        "versions": environment.versions(),
        "git_commit": environment.git_commit(),
        "finished": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
        "rows": rows,
    }
    write_results("answer_sets", record)
    for row in rows:
        print(row)


if __name__ == "__main__":
    main()
