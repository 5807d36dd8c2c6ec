"""Load published sets of finance questions whose answers code can check.

    items = answer_sets.load("finova_tools", folder)
    verify.check(text, items[0].gold)          # ours
    official_scores.SCORERS["finova_tools"](text, items[0].raw)

Sources and commits: Finova d30d4b2, CFLUE ff28c38, BizFinBench 6d2a4a6, FinReasoning bb6d019,
FinEval-KR 66a09cd. All are for evaluation only. Golds change between commits, so a score is quoted
with its commit.
"""

from __future__ import annotations

import ast
import json
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from finlab import files
from finlab.train.reward import quantities, reading, verify
from finlab.train.reward.gold import Gold


@dataclass(frozen=True)
class Item:
    """A question with its answer.

    Attributes:
        prompt: The whole instruction, as its authors put it.
        gold: The right answer, for `verify.check`.
        raw: The right answer as the file has it, for the authors' own scorer.
    """

    prompt: str
    gold: Gold
    raw: Any


def load(name: str, folder: Path) -> tuple[list[Item], list[Item]]:
    """Return the items of a set: those whose gold can be checked, and those whose gold cannot.

    Args:
        name: A key of SETS.
        folder: Folder of the sets, each in its own subfolder.

    Raises:
        ValueError: There is no such set, or its file is missing.
    """
    if name not in SETS:
        raise ValueError(f"there is no set '{name}': choose one of {', '.join(SETS)}")
    place, read = SETS[name]
    path = folder / place
    if not path.exists():
        raise ValueError(f"the set {name} is not at {path}: get it from its authors")
    sound, unsound = [], []
    for item in read(path):
        try:
            verify.require_sound([item.gold])
            sound.append(item)
        except ValueError:
            unsound.append(item)
    return sound, unsound


# --- Finova --------------------------------------------------------------------------------------
def _finova(path: Path, make: Callable[[Any], Gold]) -> list[Item]:
    """Return the items of one of Finova's files, with rows {prompt, ground_truth, from}."""
    rows = files.read_json(path)
    return [Item(row["prompt"], make(row["ground_truth"]), row["ground_truth"]) for row in rows]


def as_list(value: Any) -> list[str]:
    """Return a value as a list; a string is read as a list in Python's notation."""
    return value if isinstance(value, list) else ast.literal_eval(value)


def _finova_ner(path: Path) -> list[Item]:
    return _finova(path, lambda gold: Gold("entities", json.loads(gold), "whole"))


def _finova_tools(path: Path) -> list[Item]:
    return _finova(path, lambda gold: Gold("names", as_list(gold), "whole"))


def _finova_intent(path: Path) -> list[Item]:
    return _finova(path, lambda gold: Gold("names", as_list(gold)))


def _finova_compliance(path: Path) -> list[Item]:
    return _finova(path, lambda gold: Gold("truth", gold))


def _finova_reasoning(path: Path) -> list[Item]:
    def make(gold: str) -> Gold:
        if re.fullmatch(r"[A-Z](?:;[A-Z])*", gold):
            return Gold("letters", gold)
        return Gold("numbers", gold, "box", {"relative": 1e-4})

    return _finova(path, make)


# --- CFLUE ---------------------------------------------------------------------------------------
def _cflue(path: Path) -> list[Item]:
    """Return CFLUE's knowledge questions, whose choices are a dict written as a string."""
    items = []
    for row in files.read_json(path):
        choices = ast.literal_eval(row["choices"])
        lines = [row["question"], *(f"{letter}、{text}" for letter, text in choices.items())]
        gold = Gold("letters", row["answer"], "line", {"choices": len(choices)})
        items.append(Item("\n".join(lines), gold, row["answer"]))
    return items


# --- BizFinBench ---------------------------------------------------------------------------------
def _bizfin(path: Path, make: Callable[[str], Gold]) -> list[Item]:
    """Return the items of one of BizFinBench's files: the gold is the first choice."""
    items = []
    for row in files.read_jsonl(path):
        [prompt] = [turn["content"] for turn in row["messages"] if turn["role"] == "user"]
        gold = row["choices"][0]["message"]["content"][0]["text"]
        items.append(Item(prompt[0]["text"], make(gold), gold))
    return items


def _value(text: str) -> Gold:
    """Return the gold of a date, a truth value or a number with four decimals."""
    if verify.date_of(text):
        return Gold("date", text, "json")
    if verify.truth_of(text) is not None:
        return Gold("truth", text, "json")
    return Gold("number", text, "json", {"decimals": 4})


def grouped_entities(text: str) -> list[dict[str, str]]:
    """Return {type, text} of each entity in a gold that has them in groups with places."""
    found = []
    for group in json.loads(text):
        for entities in group.values():
            found += [{"type": each["type"], "text": each["text"]} for each in entities]
    return found


def _bizfin_ner(path: Path) -> list[Item]:
    return _bizfin(path, lambda text: Gold("entities", grouped_entities(text), "whole"))


# --- FinReasoning --------------------------------------------------------------------------------
def _finreasoning(path: Path) -> list[Item]:
    """Return FinReasoning's questions: 是 or 否."""
    rows = files.read_json(path)
    return [Item(row["question"], Gold("truth", row["answer"]), row["answer"]) for row in rows]


# --- FinEval-KR ----------------------------------------------------------------------------------
FINAL = re.compile(r"最终答案\s*[:：]\s*(.+)", re.S)
LAST_LINE = "\n请逐步推理，最后单独一行写出：答案：（一个数，带单位）"


def _fineval_kr(folder: Path) -> list[Item]:
    """Return FinEval-KR's questions; if a gold text has one number, the gold is that number.

    In the paper a judge scores the steps, and no scorer is published. If a gold text has several
    different numbers, or none, code cannot check it.
    """
    items = []
    for path in sorted(folder.glob("*.jsonl")):
        for row in files.read_jsonl(path):
            found = FINAL.search(row["gt"])
            said = reading.unwrapped(found[1]) if found else ""
            numbers = dict.fromkeys(quantities.all_in(said))
            answer = next(iter(numbers)) if len(numbers) == 1 else said
            gold = Gold("number", answer, "line", {"relative": 5e-3})
            items.append(Item(row["instruction"] + LAST_LINE, gold, row["gt"]))
    return items


SETS: dict[str, tuple[str, Callable[[Path], list[Item]]]] = {
    "finova_ner": ("finova/金融NER.json", _finova_ner),
    "finova_tools": ("finova/金融工具策划.json", _finova_tools),
    "finova_intent": ("finova/金融意图识别.json", _finova_intent),
    "finova_compliance": ("finova/安全合规.json", _finova_compliance),
    "finova_reasoning": ("finova/复杂金融问题.json", _finova_reasoning),
    "cflue_knowledge": ("cflue/knowledge.json", _cflue),
    "bizfin_numerical": (
        "bizfinbench/Financial_Numerical_Computation.jsonl",
        lambda path: _bizfin(path, _value),
    ),
    "bizfin_time": (
        "bizfinbench/Financial_Time_Reasoning.jsonl",
        lambda path: _bizfin(path, _value),
    ),
    "bizfin_ner": ("bizfinbench/Financial_Named_Entity_Recognition.jsonl", _bizfin_ner),
    "finreasoning_l1": ("finreasoning/L1_Verification.json", _finreasoning),
    "finreasoning_l2": ("finreasoning/L2_Calculation.json", _finreasoning),
    "finreasoning_l3": ("finreasoning/L3_Reasoning.json", _finreasoning),
    "fineval_kr": ("fineval-kr", _fineval_kr),
}
