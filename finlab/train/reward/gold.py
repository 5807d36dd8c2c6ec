"""A right answer, and the verdict on a given one."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import Any

OWN_FIELDS = ("kind", "answer", "where")  # of a gold; what else it holds are options


@dataclass(frozen=True)
class Gold:
    """A right answer, and how it may be given.

    Attributes:
        kind: A key of KINDS.
        answer: The answer itself: text, or a list.
        where: Where the answer must stand; see `reading.final`.
        options: For the kind: `choices` (how many letters there are); `unit`, `decimals`,
            `relative`, `absolute` (numbers); `ordered` (several numbers, calls of tools).
    """

    kind: str
    answer: Any
    where: str = "box"
    options: dict[str, Any] = field(default_factory=dict)


def from_json(text: str) -> Gold:
    """Return the gold of a question's row.

    Args:
        text: JSON {kind, answer}, with `where` and the kind's options where they differ.
    """
    given = json.loads(text)
    options = {name: value for name, value in given.items() if name not in OWN_FIELDS}
    return Gold(given["kind"], given["answer"], given.get("where", "box"), options)


@dataclass(frozen=True)
class Verdict:
    """What became of an answer.

    Attributes:
        right: Whether it is the gold.
        read: What was read; None where there was nothing to read.
        why: Why it is not right; empty where it is.
        precision: Of what it lists, the share that is right; for one answer 1 or 0.
        recall: Of what is right, the share that it lists.
    """

    right: bool
    read: Any
    why: str = ""
    precision: float = 0.0
    recall: float = 0.0

    @property
    def f1(self) -> float:
        """The harmonic mean of precision and recall."""
        total = self.precision + self.recall
        return 2 * self.precision * self.recall / total if total else 0.0


def single(right: bool, read: Any, why: str) -> Verdict:
    """Return the verdict on one answer."""
    return Verdict(right, read, "" if right else why, float(right), float(right))
