"""The right answer to a question (`Gold`), and the verdict on a given answer (`Verdict`)."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import Any

OWN_FIELDS = ("kind", "answer", "where")  # fields of a gold; its other fields are options


@dataclass(frozen=True)
class Gold:
    """A right answer, and how it may be given.

    Attributes:
        kind: Kind of the answer, a key of `verify.KINDS`.
        answer: The answer itself: text, or a list.
        where: Where in the completion the answer must be; see `reading.final`.
        options: Options of the kind. For letters: `choices` (how many letters there are). For
            numbers: `unit`, `decimals`, `relative`, `absolute`. For several numbers and for tool
            calls: `ordered`.
    """

    kind: str
    answer: Any
    where: str = "box"
    options: dict[str, Any] = field(default_factory=dict)


def from_json(text: str) -> Gold:
    """Return the gold from a question's row.

    Args:
        text: JSON {kind, answer}. It may also have `where` (default `box`) and options of the kind.
    """
    given = json.loads(text)
    options = {name: value for name, value in given.items() if name not in OWN_FIELDS}
    return Gold(given["kind"], given["answer"], given.get("where", "box"), options)


@dataclass(frozen=True)
class Verdict:
    """The result of checking an answer.

    Attributes:
        right: Whether the answer equals the gold.
        read: The answer as it was read; None if it could not be read.
        why: Why the answer is not right; empty if it is right.
        precision: Share of the listed items that are right; 1 or 0 for a single answer.
        recall: Share of the right items that are listed; 1 or 0 for a single answer.
    """

    right: bool
    read: Any
    why: str = ""
    precision: float = 0.0
    recall: float = 0.0

    @property
    def f1(self) -> float:
        """The harmonic mean of precision and recall; 0 if both are 0."""
        total = self.precision + self.recall
        return 2 * self.precision * self.recall / total if total else 0.0


def single(right: bool, read: Any, why: str) -> Verdict:
    """Return the verdict on a single answer; `why` is used only if it is not right."""
    return Verdict(right, read, "" if right else why, float(right), float(right))
