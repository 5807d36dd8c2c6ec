"""Where in a text the answer stands.

A thinking model writes `<think>…</think><answer>… \\boxed{B}</answer>`. What counts is the text
after the last `</think>`, in it the last `<answer>`, in that the last `\\boxed{}`. Nothing there is
no answer: a search through the whole text would pay for a lucky word.
"""

from __future__ import annotations

import json
import re
from typing import Any

from finlab.data.boxes import after_thinking, boxes, unwrapped

ANSWER = re.compile(r"<(?P<end>/)?answer>", re.I)
BOX = "\\boxed"
PLACES = ("box", "answer", "line", "json", "whole")
LINE = re.compile(r"(?:答案|(?i:answer))\s*(?:是|为)?\s*[:：]\s*([^\n]+)")
OPENING = re.compile(r"[\[{]")
LONGEST_JSON = 20_000  # characters, from the end
MOST_TRIES = 200  # brackets that open no JSON
FENCE = re.compile(r"```(?:json)?\s*\n?(.*?)```", re.S | re.I)
WELL_FORMED = re.compile(
    r"\s*<think>(?P<thought>.*?)</think>\s*<answer>(?P<answer>.*?)</answer>\s*", re.S
)
TAGS = ("<think>", "</think>", "<answer>", "</answer>")


def well_formed(text: str, boxed: bool = True) -> bool:
    """Tell whether a completion has the form that is asked for, and nothing besides.

    Args:
        text: The completion, from `<think>` on.
        boxed: Whether exactly one box must stand in the answer.
    """
    found = WELL_FORMED.fullmatch(text)
    if not found or any(text.count(tag) != 1 for tag in TAGS):
        return False
    if not found["thought"].strip() or not found["answer"].strip():
        return False
    return not boxed or found["answer"].count(BOX) == 1


def answer_part(text: str) -> str | None:
    """Return the inside of the last `<answer>` after the thinking; None where there is none."""
    said = after_thinking(text)
    opened = None
    found = None
    for tag in ANSWER.finditer(said):
        if not tag["end"]:
            opened = tag.end()
        elif opened is not None:
            found = said[opened : tag.start()]
            opened = None
    return None if found is None else unwrapped(found)


def final(text: str, where: str = "box") -> str | None:
    """Return the words of the answer.

    Args:
        text: The completion.
        where: `box`: the last box, inside `<answer>` where that tag is used; `answer`: the inside
            of `<answer>`; `line`: what stands behind the last `答案：`; `json`: the value of
            `answer` in the last JSON object; `whole`: all that is said after the thinking.

    Returns:
        None where there is no answer at that place.

    Raises:
        ValueError: `where` is unknown.
    """
    if where == "whole":
        said = after_thinking(text).strip()
        return unwrapped(said) or None
    if where == "answer":
        return answer_part(text)
    said = after_thinking(text)
    if where == "line":
        lines = LINE.findall(said)
        return unwrapped(lines[-1]) if lines else None
    if where == "json":
        value = json_value(said)
        found = value.get("answer") if isinstance(value, dict) else None
        return None if found is None else str(found)
    if where != "box":
        raise ValueError(f"where can be {', '.join(PLACES)}, not '{where}'")
    if "<answer>" in said.lower():
        said = answer_part(text) or ""
    found = boxes(said)
    return found[-1] if found else None


def json_value(text: str) -> Any:
    """Return the last JSON list or object in a text; None where there is none.

    Args:
        text: Of an answer. A value in a code fence, or behind words, is found.
    """
    fenced = FENCE.findall(text[-LONGEST_JSON:])
    text = fenced[-1] if fenced else text[-LONGEST_JSON:]
    decoder = json.JSONDecoder()
    found = None
    end = 0
    tries = 0
    for opening in OPENING.finditer(text):
        if opening.start() < end or tries > MOST_TRIES:
            continue  # within a value that was read, or in a text that is no JSON
        try:
            found, end = decoder.raw_decode(text, opening.start())
        except (ValueError, RecursionError):
            tries += 1
    return found
