"""Find the answer in a completion.

A thinking model writes `<think>…</think><answer>… \\boxed{B}</answer>`. The answer is searched for
in the text after the last `</think>`, there in the last `<answer>`, and there in the last
`\\boxed{}`. If nothing is found, there is no answer. A search through the whole text would reward
a right word that is there by chance.
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
LONGEST_JSON = 20_000  # JSON is searched for in this many characters at the end
MOST_TRIES = 200  # the search ends after this many brackets that do not begin JSON
FENCE = re.compile(r"```(?:json)?\s*\n?(.*?)```", re.S | re.I)
WELL_FORMED = re.compile(
    r"\s*<think>(?P<thought>.*?)</think>\s*<answer>(?P<answer>.*?)</answer>\s*", re.S
)
TAGS = ("<think>", "</think>", "<answer>", "</answer>")


def well_formed(text: str, boxed: bool = True) -> bool:
    """Tell whether a completion has exactly the required form, without other text.

    Args:
        text: The completion, from `<think>` on.
        boxed: Whether the answer must have exactly one box.
    """
    found = WELL_FORMED.fullmatch(text)
    if not found or any(text.count(tag) != 1 for tag in TAGS):
        return False
    if not found["thought"].strip() or not found["answer"].strip():
        return False
    return not boxed or found["answer"].count(BOX) == 1


def answer_part(text: str) -> str | None:
    """Return the inside of the last `<answer>` after the thinking; None if there is none."""
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
    """Return the text of the answer in a completion.

    Args:
        text: The completion.
        where: Where the answer is. `box`: the last box, inside `<answer>` if that tag is used.
            `answer`: the inside of `<answer>`. `line`: the rest of the line after the last `答案：`.
            `json`: the value of `answer` in the last JSON object. `whole`: the whole text after the
            thinking.

    Returns:
        The text of the answer; None if there is no answer at that place.

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
    """Return the last JSON list or object in a text; None if there is none.

    Args:
        text: Text of an answer. JSON is also found in a code fence, or after other words.
    """
    fenced = FENCE.findall(text[-LONGEST_JSON:])
    text = fenced[-1] if fenced else text[-LONGEST_JSON:]
    decoder = json.JSONDecoder()
    found = None
    end = 0
    tries = 0
    for opening in OPENING.finditer(text):
        if opening.start() < end or tries > MOST_TRIES:
            continue  # inside a value that was read, or after too many failures
        try:
            found, end = decoder.raw_decode(text, opening.start())
        except (ValueError, RecursionError):
            tries += 1
    return found
