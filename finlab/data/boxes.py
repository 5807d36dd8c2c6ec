"""What stands behind the thinking, and in the `\\boxed{}` of a text."""

from __future__ import annotations

import re

THINK_END = re.compile(r"</(?:think|thinking|thought|reasoning)>", re.I)
THINK_START = re.compile(r"<(?:think|thinking|thought|reasoning)>", re.I)
BRACE = re.compile(r"(?P<open>(?P<box>\\boxed\s*)?\{)|(?P<close>\})")
MOST_WRAPS = 5  # \text{} within \text{}, which no honest answer has deeper
# \text{A}, \mathrm{元}: the words inside count.
WRAPPED = re.compile(r"\\(?:text|textbf|mathbf|mathrm|rm|bf|mbox)\s*\{([^{}]*)\}")


def after_thinking(text: str) -> str:
    """Return what is said after the thinking; empty where the thinking never ends."""
    ends = list(THINK_END.finditer(text))
    said = text[ends[-1].end() :] if ends else text
    return "" if THINK_START.search(said) else said


def boxes(text: str) -> list[str]:
    """Return the contents of all `\\boxed{}` with balanced braces; an open one is none.

    The text is read once: a completion of a hundred thousand braces takes no longer than another.
    """
    found = []
    opened: list[int] = []  # for each brace that is open: where its box begins, or -1
    for brace in BRACE.finditer(text):
        if brace["open"]:
            opened.append(brace.end() if brace["box"] else -1)
        elif opened:
            begin = opened.pop()
            if begin >= 0:
                found.append((brace.start(), text[begin : brace.start()]))
    return [unwrapped(inside) for _, inside in found]


def unwrapped(text: str) -> str:
    """Return a text without the marks that LaTeX puts around words and formulas."""
    for _ in range(MOST_WRAPS):
        text, count = WRAPPED.subn(r"\1", text)
        if not count:
            break
    text = text.replace("\\%", "%").replace("\\,", "").replace("\\;", "").strip()
    for mark in ("$$", "$"):
        if len(text) > 2 * len(mark) and text.startswith(mark) and text.endswith(mark):
            text = text[len(mark) : -len(mark)].strip()
    return text.replace("\\$", "$")
