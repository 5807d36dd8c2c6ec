"""Three tiers of knowledge: the domain's base, then the customer's own, then the web.

    tiers = [Tier("domain", domain_index, 0.55), Tier("customer", customer_index, 0.55)]
    found = consult("内幕交易的罚款是多少", tiers)
    found.tier, found.hits        # "domain", [(passage, score), ...]; "none" where all fail

A tier fails if its best passage covers too little of the question. The threshold is measured, not
guessed: `calibrate` chooses it on questions for which it is known whether the base can answer them,
and reports its precision and recall.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import numpy

from finlab import files
from finlab.data import personal
from finlab.evaluate.knowledge.index import Hit, grams
from finlab.evaluate.knowledge.passages import Passage

NONE = "none"
LOOKED_AT = 10  # passages of a source that decide whether it has failed
# Characters of question words, and particles. A pair of characters with one of them, such as 在哪
# and 哪个 in 在哪个城市, only serves to ask, so no passage has to contain it.
ASKING = set("的是在了吗呢么哪谁几多少何怎什")
FILLER = frozenset(  # other pairs and words that only serve to ask
    "请问 为何 可以 我想 想知 知道 告诉 诉我 一下 介绍 what which who where when how is are the of a an in "
    "to do does did was were tell me please".split()
)


class Searchable(Protocol):
    """A source that a tier searches: an index, or the web."""

    def search(self, query: str, count: int = 5, date: str = "") -> list[Hit]:
        """Return the passages that fit best, the best first."""


@dataclass(frozen=True)
class Tier:
    """One source of knowledge.

    Attributes:
        name: `domain`, `customer` or `search`.
        source: The index or web search that is asked.
        threshold: The coverage below which the tier has failed, from 0 to 1.
        outside: Whether the question is sent outside the organisation; personal data are then
            removed from it.
    """

    name: str
    source: Searchable
    threshold: float
    outside: bool = False


@dataclass(frozen=True)
class Found:
    """What the tiers gave for a question.

    Attributes:
        tier: The name of the tier that answered; `none` if all failed.
        hits: (passage, score) of the tier's passages, the best first; empty if all failed.
        coverage: {tier: how much of the question its best passage covers, from 0 to 1}, for each
            tier that was asked.
    """

    tier: str
    hits: list[Hit] = field(default_factory=list)
    coverage: dict[str, float] = field(default_factory=dict)

    @property
    def passages(self) -> list[Passage]:
        """The passages of the hits, without their scores."""
        return [passage for passage, _ in self.hits]


def coverage(question: str, passage: Passage) -> float:
    """Return how much of a question's wording a passage contains, from 0 to 1.

    It is the share of the question's bigrams that the passage contains. Bigrams that only serve to
    ask do not count. Unlike a BM25 score, it means the same for short and long questions.

    Args:
        question: The question.
        passage: A passage; its title and section count too.
    """
    asked = [gram for gram in grams(question) if gram not in FILLER and not ASKING & set(gram)]
    if not asked:
        return 0.0
    held = set(grams(passage.searched))
    return sum(gram in held for gram in asked) / len(asked)


def consult(question: str, tiers: Sequence[Tier], count: int = 5, date: str = "") -> Found:
    """Ask the tiers one after another, until one of them can answer.

    Args:
        question: The question.
        tiers: The tiers, in the order in which they are asked.
        count: Maximum number of passages to return.
        date: The day that the question is about, see `Index.search`.
    """
    covered: dict[str, float] = {}
    for tier in tiers:
        asked = outgoing(question) if tier.outside else question
        # Look at as many passages as `covered_by` does, so that a threshold means the same.
        hits = tier.source.search(asked, max(count, LOOKED_AT), date)
        held = [coverage(question, passage) for passage, _ in hits]
        best = max(held, default=0.0)
        covered[tier.name] = best
        if best and best >= tier.threshold:
            return Found(tier.name, _with(hits, held.index(best), count), covered)
    return Found(NONE, [], covered)


def _with(hits: list[Hit], place: int, count: int) -> list[Hit]:
    """Return the first `count` hits, and always the hit at `place` among them.

    The best hit by BM25 is not always the one that covers most of the question.
    """
    if place < count:
        return hits[:count]
    return [*hits[: count - 1], hits[place]]


def covered_by(source: Searchable, questions: Sequence[dict]) -> list[float]:
    """Return how much of each question's wording the best passage of a source contains.

    Args:
        source: An index, or a web search.
        questions: Rows {question, date}.
    """
    always = [Tier("source", source, 0.0)]
    found = []
    for question in questions:
        answer = consult(question["question"], always, LOOKED_AT, question["date"])
        found.append(answer.coverage["source"])
    return found


def outgoing(question: str) -> str:
    """Return a question as it may be sent outside, with personal data removed."""
    parts = []
    end = 0
    for _, start, after in personal.find(question, people=True):
        parts.append(question[end:start])
        end = after
    return " ".join("".join([*parts, question[end:]]).split())


# --- calibration ---------------------------------------------------------------------------------
@dataclass(frozen=True)
class Calibration:
    """A threshold, and how well it finds the questions that a base can answer.

    Attributes:
        threshold: The least coverage at which a tier answers.
        precision: The share of answerable questions among those that the threshold lets through.
        recall: The share of the answerable questions that the threshold lets through.
        curve: {threshold, precision, recall} for each threshold that was tried.
    """

    threshold: float
    precision: float
    recall: float
    curve: list[dict[str, float]]


def calibrate(
    covered: Sequence[float], answerable: Sequence[bool], least_precision: float = 0.9
) -> Calibration:
    """Choose the threshold that lets most questions through at a given precision.

    Args:
        covered: The best coverage of each question, from 0 to 1.
        answerable: Whether the base holds the answer, for each question.
        least_precision: Among the thresholds with at least this precision, the one with the highest
            recall is taken. If there is none, the one with the highest precision is taken.

    Raises:
        ValueError: All questions are answerable, or none is.
    """
    values, right = numpy.asarray(covered, float), numpy.asarray(answerable, bool)
    if not right.any() or right.all():
        raise ValueError(
            "a threshold needs questions that the base can answer and questions that it cannot"
        )
    curve = []
    for threshold in numpy.linspace(0, 1, 51):
        passed = values >= threshold
        if not passed.any():
            break
        precision = float((right & passed).sum() / passed.sum())
        recall = float((right & passed).sum() / right.sum())
        row = {"threshold": float(threshold), "precision": precision, "recall": recall}
        curve.append(row)
    good = [row for row in curve if row["precision"] >= least_precision]
    if good:
        best = max(good, key=lambda row: (row["recall"], row["precision"]))
    else:
        best = max(curve, key=lambda row: (row["precision"], row["recall"]))
    return Calibration(best["threshold"], best["precision"], best["recall"], curve)


def choosing_half(kinds: Sequence[str], questions: Sequence[str]) -> numpy.ndarray:
    """Return which questions choose thresholds: half of each kind, by a hash of their text.

    The order of a card may follow a pattern, such as a city and a year by turns, so not every
    second question is taken.

    Args:
        kinds: The tier that holds the answer of each question.
        questions: The questions.

    Returns:
        bool [questions]. The questions that are False are unseen by all thresholds.
    """
    order = sorted(range(len(kinds)), key=lambda place: files.digest(questions[place]))
    seen: Counter[str] = Counter()
    choosing = numpy.zeros(len(kinds), bool)
    for place in order:
        choosing[place] = seen[kinds[place]] % 2 == 0
        seen[kinds[place]] += 1
    return choosing


def halves(
    covered: Sequence[float],
    answerable: Sequence[bool],
    least_precision: float,
    choosing: numpy.ndarray,
) -> tuple[Calibration, dict[str, float]]:
    """Choose a threshold on one half of the questions, and measure it on the other half.

    Args:
        covered, answerable, least_precision: As for `calibrate`.
        choosing: Which questions choose the threshold, from `choosing_half`.

    Returns:
        The calibration, and {threshold, precision, recall} on the questions that were not used to
        choose it.

    Raises:
        ValueError: One half has no answerable question, or none that is not.
    """
    values, known = numpy.asarray(covered), numpy.asarray(answerable, bool)
    for half in (known[choosing], known[~choosing]):
        if not half.any() or half.all():
            raise ValueError(
                "a threshold needs two questions at least whose answer the tier holds, and two "
                "whose answer it does not hold: add some to question_cards"
            )
    chosen = calibrate(values[choosing], known[choosing], least_precision)
    unseen = measured(values[~choosing], known[~choosing], chosen.threshold)
    return chosen, {"threshold": chosen.threshold, **unseen}


def measured(
    covered: Sequence[float], answerable: Sequence[bool], threshold: float
) -> dict[str, float]:
    """Return the precision and recall of a threshold on other questions; NaN if undefined."""
    passed = numpy.asarray(covered, float) >= threshold
    right = numpy.asarray(answerable, bool)
    both = float((passed & right).sum())
    return {
        "precision": both / int(passed.sum()) if passed.any() else math.nan,
        "recall": both / int(right.sum()) if right.any() else math.nan,
    }


# --- what a question asks for --------------------------------------------------------------------
YEAR = re.compile(r"(?<!\d)((?:19|20)\d\d)年(?:(\d{1,2})月)?(?:(\d{1,2})日)?")


def date_of(question: str) -> str:
    """Return the day that a question is about: the last day of the year or month in it.

    Returns:
        A day such as 2020-12-31; empty if the question names no year. The last day of every month
        is written as 31, since days are only compared as text.
    """
    named = YEAR.search(question)
    if not named:
        return ""
    year, month, day = named.groups()
    return f"{year}-{int(month or 12):02d}-{int(day or 31):02d}"


def first_answering(question: dict, hits: Sequence[Hit]) -> int:
    """Return the place of the first passage that answers a question, from 1; 0 if none does.

    Such a passage contains the reference. It also contains four successive characters of the
    question, so that it is about the same thing.

    Args:
        question: A row {question, reference}.
        hits: The hits, the best first.
    """
    asked = question["question"]
    runs = [asked[place : place + 4] for place in range(max(1, len(asked) - 3))]
    for place, (passage, _) in enumerate(hits, 1):
        held = f"{passage.title}\n{passage.text}"
        if holds(question["reference"], held) and any(run in held for run in runs):
            return place
    return 0


def holds(reference: str, text: str) -> bool:
    """Tell whether a text contains a reference; 15万元 does not contain 5万元."""
    before = r"(?<![\d.])" if reference[:1].isdigit() else ""
    behind = r"(?![\d.]*\d)" if reference[-1:].isdigit() else ""
    return bool(reference) and bool(re.search(before + re.escape(reference) + behind, text))


# --- recall --------------------------------------------------------------------------------------
def ranks(
    search: Callable[[str], list[Hit]], questions: Sequence[tuple[str, set[str]]]
) -> list[int]:
    """Return the place of the first right passage for each question, from 1; 0 for none.

    Args:
        search: A function that returns the hits for a question.
        questions: (question, ids of the passages that answer it) for each question.
    """
    found = []
    for question, gold in questions:
        hits = search(question)
        places = [place for place, (passage, _) in enumerate(hits, 1) if passage.id in gold]
        found.append(min(places, default=0))
    return found


def recall_row(places: Sequence[int]) -> dict[str, float]:
    """Return a row of a table: questions, recall at 1, 3 and 10, mean reciprocal rank."""
    row: dict[str, float] = {"questions": len(places)}
    for k in (1, 3, 10):
        row[f"recall at {k}"] = recall_at(places, k)
    return row | {"mean reciprocal rank": mean_reciprocal_rank(places)}


def recall_at(places: Sequence[int], k: int) -> float:
    """Return the share of questions whose first right passage is among the first k."""
    return sum(0 < place <= k for place in places) / max(len(places), 1)


def mean_reciprocal_rank(places: Sequence[int]) -> float:
    """Return the mean of 1 / place, where a question without a right passage counts 0."""
    return sum(1 / place for place in places if place) / max(len(places), 1)
