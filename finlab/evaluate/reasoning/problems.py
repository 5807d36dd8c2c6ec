"""Questions whose answers code can check.

problems, unsound = load(cards.load_all(["cw_arithmetic"], "question"))
problems[0].messages(system)        # what a model is asked
problems[0].check(text).right       # whether a completion answers it
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from finlab.data.cards import Source
from finlab.train.reward import gold as golds
from finlab.train.reward import reading, verify
from finlab.train.reward.gold import Gold, Verdict


@dataclass(frozen=True)
class Problem:
    """A question with its answer.

    Attributes:
        id: Id of the question, which names its card and row.
        card: Name of the card or of the published set.
        question: The text of the question.
        gold: The right answer.
        gold_text: `gold` as JSON, for the dataset column that a reward function reads; empty for a
            published set.
        chain: A completion that reaches the right answer; empty where there is none.
    """

    id: str
    card: str
    question: str
    gold: Gold
    gold_text: str
    chain: str = ""

    def messages(self, system: str = "") -> list[dict[str, str]]:
        """Return the question as a chat.

        Args:
            system: The system message before the question; empty for none.
        """
        asked = [{"role": "user", "content": self.question}]
        return [{"role": "system", "content": system}, *asked] if system else asked

    def check(self, text: str) -> Verdict:
        """Return the verdict on a completion."""
        return verify.check(text, self.gold)


def load(
    sources: dict[str, Source], places: Sequence[str] = reading.PLACES
) -> tuple[list[Problem], list[dict[str, str]]]:
    """Return the questions of cards that code can check, and those that it cannot check.

    Args:
        sources: Loaded question cards by name.
        places: Where an answer may stand, see `reading.final`. A policy that is trained with
            rewards writes its answer into a box or into `<answer>`.

    Returns:
        (problems, unsound {card, question, why}).

    Raises:
        ValueError: A card has no question with a gold that can be checked.
    """
    found: list[Problem] = []
    unsound = []
    for name, source in sources.items():
        before = len(found)
        for row in source.rows:
            if not row["gold"]:
                why = "it has no gold"
            else:
                gold = golds.from_json(row["gold"])
                why = _fault(gold)
                if not why and gold.where not in places:
                    why = f"its answer stands in '{gold.where}', not in {' or '.join(places)}"
            if why:
                unsound.append({"card": name, "question": row["question"][:120], "why": why})
                continue
            found.append(Problem(row["id"], name, row["question"], gold, row["gold"], row["chain"]))
        if len(found) == before:
            raise ValueError(
                f"card {name}: none of its {len(source.rows)} questions has an answer that code "
                'can check: give rows a `gold`, as in {"kind": "number", "answer": "62"}'
            )
    return found, unsound


def spread(values: Sequence, count: int) -> list:
    """Return some of the values, evenly spread over all of them.

    Args:
        values: The values.
        count: How many values to return; 0 returns all.
    """
    if not count or count >= len(values):
        return list(values)
    return [values[number * len(values) // count] for number in range(count)]


def _fault(gold: Gold) -> str:
    """Return why a gold does not pass its own check; empty if it passes."""
    try:
        verify.require_sound([gold])
    except ValueError as error:
        return str(error)
    return ""
