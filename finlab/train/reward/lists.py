"""Check answers that are lists (names, entities, tool calls), with precision and recall.

A scorer that checks only whether the right items are in the list would reward an answer that lists
everything.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from typing import Any

from finlab.train.reward import reading
from finlab.train.reward.gold import Gold, Verdict


def _shares(found: Counter, right: Counter, read: Any) -> Verdict:
    """Return the verdict on a list, by comparing its items with the right items.

    Args:
        found: Counts of the items in the answer.
        right: Counts of the items in the gold.
        read: The answer as it was read, for the verdict.
    """
    hits = sum((found & right).values())
    # If the gold is empty and the answer is empty too, precision and recall are 1.
    precision = hits / found.total() if found else float(not right)
    recall = hits / right.total() if right else float(not found)
    same = found == right
    why = "" if same else f"{hits} of {right.total()} found, {found.total()} listed"
    return Verdict(same, read, why, precision, recall)


def names(said: str, gold: Gold) -> Verdict:
    """Check a list of names in any order: JSON, or words separated by commas or semicolons."""
    found = _listed(said)
    if found is None:
        return Verdict(False, None, "no list")
    right = gold.answer if isinstance(gold.answer, list) else _listed(str(gold.answer))
    return _shares(Counter(found), Counter(map(str.strip, right or [])), found)


def _listed(text: str) -> list[str] | None:
    """Return the items of a list of words; None if the text is not such a list."""
    value = reading.json_value(text) if "[" in text else None
    if isinstance(value, list):
        return (
            [str(each).strip() for each in value]
            if all(isinstance(each, str) for each in value)
            else None
        )
    if re.search(r"[{}\[\]]", text):
        return None
    parts = re.split(r"[;；,，、\n]", text)
    return [part.strip(" \"'“”") for part in parts if part.strip(" \"'“”")]


def entities(said: str, gold: Gold) -> Verdict:
    """Check named entities: a JSON list of {type, content}."""
    value = reading.json_value(said)
    if isinstance(value, dict) and isinstance(value.get("results"), list):
        value = value["results"]
    found = _pairs(value)
    if found is None:
        return Verdict(False, None, "no JSON list of {type, content}")
    right = gold.answer if isinstance(gold.answer, list) else json.loads(gold.answer or "[]")
    return _shares(Counter(found), Counter(_pairs(right) or []), value)


def _pairs(value: Any) -> list[tuple[str, str]] | None:
    """Return (type, content) of each entity; None if `value` has another form."""
    if not isinstance(value, list):
        return None
    pairs = []
    for each in value:
        if not isinstance(each, dict) or not isinstance(each.get("type"), str):
            return None
        content = each.get("content", each.get("text"))
        if not isinstance(content, str):
            return None
        pairs.append((each["type"].strip(), content.strip()))
    return pairs


# --- calls of tools ------------------------------------------------------------------------------
def calls_of(value: Any) -> list[tuple[str, str]] | None:
    """Return (name, arguments as sorted JSON) of each call; None if `value` has another form.

    Args:
        value: A call {name, arguments}, a list of them, or OpenAI's form with `function`.
    """
    calls = []
    for each in value if isinstance(value, list) else [value]:
        if isinstance(each, dict) and isinstance(each.get("function"), dict):
            each = each["function"]
        if not isinstance(each, dict) or not isinstance(each.get("name"), str):
            return None
        arguments = each.get("arguments", {})
        if isinstance(arguments, str):
            try:
                arguments = json.loads(arguments or "{}")
            except ValueError:
                return None
        if not isinstance(arguments, dict):
            return None
        calls.append(
            (each["name"], json.dumps(_plain_values(arguments), sort_keys=True, ensure_ascii=False))
        )
    return calls


def _plain_values(value: Any) -> Any:
    """Return arguments with whole floats as integers (5.0 becomes 5) and with stripped texts."""
    if isinstance(value, dict):
        return {name: _plain_values(each) for name, each in value.items()}
    if isinstance(value, list):
        return [_plain_values(each) for each in value]
    if isinstance(value, float) and value.is_integer():
        return int(value)
    return value.strip() if isinstance(value, str) else value


TOOL_CALL = re.compile(r"<tool_call>\s*(.*?)\s*</tool_call>", re.S)


def tools(said: str, gold: Gold) -> Verdict:
    """Check tool calls by name and arguments; they are `<tool_call>` blocks or JSON."""
    blocks = TOOL_CALL.findall(said)
    if blocks:
        value = [reading.json_value(block) for block in blocks]
    else:
        value = reading.json_value(said)
    found = calls_of(value) if value is not None else None
    if found is None:
        return Verdict(False, None, "no call of a tool in JSON")
    right = calls_of(gold.answer if not isinstance(gold.answer, str) else json.loads(gold.answer))
    if right is None:
        raise ValueError(f"the gold {gold.answer!r} is not a call of a tool")
    verdict = _shares(Counter(found), Counter(right), found)
    if verdict.right and gold.options.get("ordered", False) and found != right:
        return Verdict(False, found, "the calls stand in another order", 1.0, 1.0)
    return verdict
