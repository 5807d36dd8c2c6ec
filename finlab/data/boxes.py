"""Extract the text after the thinking, and the contents of `\\boxed{}`."""

from __future__ import annotations

import re

THINK_END = re.compile(r"</(?:think|thinking|thought|reasoning)>", re.I)
THINK_START = re.compile(r"<(?:think|thinking|thought|reasoning)>", re.I)
BRACE = re.compile(r"(?P<open>(?P<box>\\boxed\s*)?\{)|(?P<close>\})")
MOST_WRAPS = 5  # levels of nested \text{} that are removed; real answers have no more
# For \text{A} and \mathrm{元}, only the words inside are kept.
WRAPPED = re.compile(r"\\(?:text|textbf|mathbf|mathrm|rm|bf|mbox)\s*\{([^{}]*)\}")


def after_thinking(text: str) -> str:
    """Return the text after the thinking; an empty string if the thinking never ends."""
    ends = list(THINK_END.finditer(text))
    said = text[ends[-1].end() :] if ends else text
    return "" if THINK_START.search(said) else said


def boxes(text: str) -> list[str]:
    """Return the contents of all `\\boxed{}` with balanced braces; unclosed boxes are ignored.

    The text is read only once, so the time is linear even with a hundred thousand braces.
    """
    found = []
    opened: list[int] = []  # for each open brace: where the content of its box begins, or -1
    for brace in BRACE.finditer(text):
        if brace["open"]:
            opened.append(brace.end() if brace["box"] else -1)
        elif opened:
            begin = opened.pop()
            if begin >= 0:
                found.append((brace.start(), text[begin : brace.start()]))
    return [unwrapped(inside) for _, inside in found]


def unwrapped(text: str) -> str:
    """Return a text without LaTeX marks around words and formulas, such as `\\text{}` and `$`."""
    for _ in range(MOST_WRAPS):
        text, count = WRAPPED.subn(r"\1", text)
        if not count:
            break
    text = text.replace("\\%", "%").replace("\\,", "").replace("\\;", "").strip()
    for mark in ("$$", "$"):
        if len(text) > 2 * len(mark) and text.startswith(mark) and text.endswith(mark):
            text = text[len(mark) : -len(mark)].strip()
    return text.replace("\\$", "$")
