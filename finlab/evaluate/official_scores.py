"""Compute the scores of finance sets as their authors compute them, flaws included.

They are shown next to our scores, so that a figure can be compared with a published one. They also
show what a trivial answer earns: under Finova's rule, naming all tools is right.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable
from typing import Any

from finlab.evaluate import answer_sets
from finlab.train.reward import reading, verify

CFLUE = re.compile(r"答案[是：:]+([ABCDEF]+)")
TRUTH = re.compile("[是对否错]")


def _last_box(text: str) -> str:
    """Return the last box of a whole text, thinking included; the text itself if it has none."""
    found = reading.boxes(text)
    return found[-1] if found else text


def _finova_ner(text: str, gold: str) -> float:
    """Return 1 if each named entity contains a gold of its type; missing ones cost nothing."""
    found, right = reading.json_value(text), json.loads(gold)
    if not isinstance(found, list) or not all(isinstance(each, dict) for each in found):
        return 0.0
    if not found or not right:
        return float(not found and not right)
    for each in found:
        alike = [one for one in right if one["type"] == each.get("type")]
        if not any(one["content"] in str(each.get("content", "")) for one in alike):
            return 0.0
    return 1.0


def _finova_tools(text: str, gold: Any) -> float:
    """Return 1 if all the right tools are among the named ones."""
    found = reading.json_value(text)
    if not isinstance(found, list):
        return 0.0
    return float({str(each) for each in found} >= set(answer_sets.as_list(gold)))


def _finova_intent(text: str, gold: Any) -> float:
    """Return 1 if the sorted lists are equal."""
    try:
        found = answer_sets.as_list(_last_box(text))
        return float(sorted(found) == sorted(answer_sets.as_list(gold)))
    except (ValueError, SyntaxError, TypeError):
        return 0.0


def _finova_compliance(text: str, gold: str) -> float:
    """Return 1 for the right word in the box; without one, for the first 是, 对, 否 or 错."""
    boxed = reading.boxes(text)
    if boxed and boxed[-1] in ("是", "否"):
        return float(boxed[-1] == gold)
    first = TRUTH.search(text)
    read = {"是": "是", "对": "是"}.get(first[0], "否") if first else ""
    return float(read == gold)


def _finova_number(text: str) -> float | None:
    """Return a number as Finova's normaliser does; None if the text is not a number.

    Commas and a final percent sign are removed, and so is the minus of a whole number.
    """
    cleaned = re.sub(r"[,，\s]", "", text)
    if re.fullmatch(r"-\d+", cleaned):
        cleaned = cleaned[1:]
    try:
        return float(cleaned.rstrip("%"))
    except ValueError:
        return None


def _finova_reasoning(text: str, gold: str) -> float:
    """Return 1 if each part is equal within 1e-4, or is 100 times or 0.01 times the gold."""
    said = _last_box(text).strip()
    if len(gold) == 1:
        return float(said == gold)
    rights, parts = gold.split(";"), re.split("[;；]", said)
    if all(re.fullmatch("[A-Z]", part) for part in rights):
        return float({part.strip() for part in parts} == set(rights))
    if len(parts) != len(rights):
        return 0.0
    for part, right in zip(parts, rights):
        one, other = _finova_number(part), _finova_number(right)
        if one is None or other is None:
            if part.strip() != right.strip():
                return 0.0
            continue
        near = [math.isclose(one * factor, other, rel_tol=1e-4) for factor in (1, 100, 0.01)]
        if not any(near):
            return 0.0
    return 1.0


def _cflue(text: str, gold: str) -> float:
    """Return 1 for the right letters in the gold's order: BA is wrong for AB."""
    cleaned = re.sub("[、,，\\s]", "", text)
    found = CFLUE.search(cleaned)
    letters = found[1] if found else re.match("[ABCDEF]*", cleaned)[0]
    return float(letters == gold)


def _bizfin_value(text: str) -> str:
    """Return the value of the JSON key `answer`; empty where there is none."""
    return reading.final(text, "json") or ""


def _bizfin_numerical(text: str, gold: str) -> float:
    """Return 1 within 1e-6 of the gold, which has four decimals; else compare as strings."""
    said = _bizfin_value(text)
    try:
        return float(abs(float(said) - float(gold)) < 1e-6)
    except ValueError:
        return float(said == gold)


def _bizfin_time(text: str, gold: str) -> float:
    """Return 1 for the same date in one of three spellings, else for the same string."""
    said = _bizfin_value(text)
    dates = verify.date_of(said), verify.date_of(gold)
    if all(dates):
        return float(dates[0] == dates[1])
    return float(said == gold)


def _bizfin_ner(text: str, gold: str) -> float:
    """Return the recall of the entities; entities that are not in the gold cost nothing."""
    right = answer_sets.grouped_entities(gold)
    verdict = verify.check(text, verify.Gold("entities", right, "whole"))
    return verdict.recall


def _truth(text: str, gold: str) -> float:
    """Return 1 for the right word; the agent that the authors use is not available."""
    return float(_last_box(text).strip() == gold)


SCORERS: dict[str, Callable[[str, Any], float]] = {
    "finova_ner": _finova_ner,
    "finova_tools": _finova_tools,
    "finova_intent": _finova_intent,
    "finova_compliance": _finova_compliance,
    "finova_reasoning": _finova_reasoning,
    "cflue_knowledge": _cflue,
    "bizfin_numerical": _bizfin_numerical,
    "bizfin_time": _bizfin_time,
    "bizfin_ner": _bizfin_ner,
    "finreasoning_l1": _truth,
    "finreasoning_l2": _truth,
    "finreasoning_l3": _truth,
}
