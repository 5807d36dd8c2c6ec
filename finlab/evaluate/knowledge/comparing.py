"""Compare answers with and without knowledge: which are right, and which lack support.

compared = Compared(questions, consulted)
compared.add("without", answers)          # an answer to each question
compared.accuracy("without")              # {value, ci_low, ci_high, n}
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from finlab.evaluate import statistics
from finlab.evaluate.knowledge import citing, tiers
from finlab.evaluate.knowledge.citing import Answer
from finlab.evaluate.knowledge.tiers import NONE, Found


class Compared:
    """Several ways to answer the same questions.

    Args:
        questions: Rows {question, reference, from}; an empty reference means that the answer is
            not known, so the right answer is to say so.
        consulted: What the tiers gave for each question.

    Attributes:
        answers: {way: the checked answer to each question}.
        right: {way: whether each answer is right}.
    """

    def __init__(self, questions: Sequence[dict], consulted: Sequence[Found]):
        self.questions = questions
        self.consulted = consulted
        self.answers: dict[str, list[Answer]] = {}
        self.right: dict[str, list[bool]] = {}

    def add(self, way: str, texts: Sequence[str]) -> None:
        """Add the answers of one way.

        Args:
            way: Name of the way, as in the table.
            texts: An answer to each question.
        """
        self.answers[way] = []
        self.right[way] = []
        for question, found, text in zip(self.questions, self.consulted, texts, strict=True):
            answer = citing.check(text, found.passages)
            self.answers[way].append(answer)
            reference = question["reference"]
            # If the answer is not known, the right answer is to say so.
            known = tiers.holds(reference, text) if reference else answer.not_found
            self.right[way].append(known)

    def accuracy(self, way: str) -> dict[str, float]:
        """Return the share of right answers of a way, with its interval."""
        return statistics.share(self.right[way])

    def gain(self, way: str, over: str) -> dict[str, float]:
        """Return the gain of one way over another on the same questions, with McNemar's test."""
        return statistics.mcnemar(self.right[over], self.right[way])

    def table(self, over: str) -> list[dict[str, Any]]:
        """Return a row for each way: its accuracy, its gain over one way, its citations.

        Args:
            over: The way with which all ways are compared.
        """
        rows = []
        for way, answers in self.answers.items():
            gain = self.gain(way, over)
            row = {"answers": way, **self.accuracy(way), "gain": gain["difference"]}
            rows.append({**row, "p of the gain": gain["p"], **citing.shares(answers)})
        return rows

    def shown(self, way: str) -> list[dict[str, str]]:
        """Return the answers of a way as a reader sees them, with sources as a person cites."""
        rows = []
        for question, found, answer in zip(
            self.questions, self.consulted, self.answers[way], strict=True
        ):
            row = {
                "question": question["question"],
                "answer": answer.text,
                "tier": found.tier,
                "sources": "; ".join(passage.reference for passage in answer.cited),
                "passage": " … ".join(passage.text[:60] for passage in answer.cited),
                "links": "; ".join(filter(None, (passage.url for passage in answer.cited))),
            }
            rows.append(row)
        return rows

    def records(self, way: str) -> list[dict[str, Any]]:
        """Return the rows of `shown`, with the ids of the passages that were given."""
        rows: list[dict[str, Any]] = []
        for row, found in zip(self.shown(way), self.consulted, strict=True):
            rows.append({**row, "passages": [passage.id for passage in found.passages]})
        return rows

    def caught(self, way: str, instead: str) -> list[dict[str, str]]:
        """Return the answers of a way that its passages do not support.

        Args:
            way: The way in which the model's own answers were added.
            instead: The way with the answers that are shown in place of the model's.
        """
        rows = []
        for place, answer in enumerate(self.answers[way]):
            faulty = [sentence for sentence in answer.sentences if sentence.faults]
            if not faulty:
                continue
            row = {
                "question": self.questions[place]["question"],
                "the model wrote": answer.text,
                "not supported because": "; ".join(faulty[0].faults),
                "shown instead": self.answers[instead][place].text,
            }
            rows.append(row)
        return rows


def decisions(
    questions: Sequence[dict], consulted: Sequence[Found]
) -> tuple[dict[str, int], list[dict[str, Any]]]:
    """Return how often each tier answered, in all and by the tier that holds the answer.

    Args:
        questions: Questions with `from`, the tier that holds the answer.
        consulted: What the tiers gave for each question.
    """
    names = ("domain", "customer", "search", NONE)
    totals = dict.fromkeys(names, 0)
    rows: dict[str, dict[str, int]] = {}
    for question, found in zip(questions, consulted, strict=True):
        totals[found.tier] += 1
        row = rows.setdefault(question["from"], dict.fromkeys(names, 0))
        row[found.tier] += 1
    return totals, [{"the answer is in": tier, **row} for tier, row in rows.items()]
