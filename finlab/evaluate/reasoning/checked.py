"""Score any model on questions that code can check, from cards and from published sets.

    board = Board(load(["cw_arithmetic"], ["finova_tools"], folder, items=100), Budget(64, 512))
    board.add_model("sft", model, tokenizer)
    board.add_endpoint(spec, endpoint)
    board.rows, board.answers

Each score is reported with three things: the share of completions that reached their token budget,
the authors' official score where there is one, and the setting. Scores made under different
settings, backends or prompts are different scores, so do not compare them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
import transformers

from finlab import files
from finlab.data import cards
from finlab.data.templates.rendering import THINKING_ENDS
from finlab.evaluate import answer_sets, official_scores
from finlab.evaluate.reasoning import problems, scores
from finlab.evaluate.reasoning.problems import Problem
from finlab.evaluate.reasoning.scores import Answered
from finlab.models import tokenization
from finlab.models.sampling import Budget, Completion

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from finlab.evaluate.endpoints import Endpoint

Answering = Callable[[Sequence[Problem]], list[Answered]]


@dataclass(frozen=True)
class CheckedSet:
    """Questions of a card or of a published set.

    Attributes:
        name: Name of the card or of the set.
        problems: The questions.
        left_out: How many questions have a gold that code cannot check.
        raw: The golds as their authors write them, for the official score; empty for a card.
    """

    name: str
    problems: list[Problem]
    left_out: int
    raw: list[Any] = field(default_factory=list)


def load(
    card_names: Sequence[str], set_names: Sequence[str], folder: Path, items: int = 0
) -> list[CheckedSet]:
    """Load the sets of questions that a recipe names.

    Args:
        card_names: Question cards with golds.
        set_names: Keys of `answer_sets.SETS`.
        folder: Folder of the published sets.
        items: Maximum number of questions of each set, spread evenly over it; 0 takes all.
    """
    found = []
    for name, source in cards.load_all(list(card_names), "question").items():
        asked, unsound = problems.load({name: source})
        chosen = problems.spread(asked, items)
        found.append(CheckedSet(name, chosen, len(unsound)))
    for name in set_names:
        sound, unsound = answer_sets.load(name, folder)
        chosen = problems.spread(sound, items)
        asked = []
        for number, item in enumerate(chosen):
            identity = f"{name}/{number}"
            asked.append(Problem(identity, name, item.prompt, item.gold, ""))
        found.append(CheckedSet(name, asked, len(unsound), [item.raw for item in chosen]))
    return found


# --- who answers ---------------------------------------------------------------------------------
def by_model(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    budget: Budget,
    samples: int = 1,
    temperature: float = 0.0,
    seed: int = 0,
) -> Answering:
    """Return a function that lets a loaded model answer questions.

    Args:
        model: The model.
        tokenizer: The tokenizer of `model`, with a chat template.
        budget: How many tokens a completion may have.
        samples: Number of completions of each question.
        temperature: Sampling temperature; 0 takes the likeliest token.
        seed: Seed for sampling the tokens.
    """

    def answering(asked: Sequence[Problem]) -> list[Answered]:
        return scores.answer(model, tokenizer, asked, budget, "", samples, temperature, seed)

    return answering


def by_endpoint(endpoint: Endpoint) -> Answering:
    """Return a function that lets an endpoint answer; a failed call gives an empty answer.

    Args:
        endpoint: Opened with `thinking=True`, so that its thinking is marked apart from its answer.
    """

    def answering(asked: Sequence[Problem]) -> list[Answered]:
        found = []
        for problem in asked:
            text = endpoint(problem.messages())
            written = Completion(text or "", 0, text is not None, False)
            found.append(Answered(problem, [written], [problem.check(written.text)]))
        return found

    return answering


def backend_id(model: PreTrainedModel) -> str:
    """Return the library versions, dtype, attention and device that compute the answers.

    With other versions or another dtype, the answers may be different.

    Args:
        model: The model.
    """
    dtype = str(model.dtype).rpartition(".")[2]
    attention = model.config._attn_implementation
    versions = f"transformers {transformers.__version__}, torch {torch.__version__}"
    return f"{versions}, {dtype}, {attention}, {model.device.type}"


def setting_id(
    budget: Budget, samples: int, temperature: float, seed: int, template: str, backend: str
) -> str:
    """Return a short hash of all that a score depends on, except the model and the questions.

    Args:
        budget: How many tokens a completion may have.
        samples, temperature, seed: How completions are sampled.
        template: The chat template; empty for an endpoint.
        backend: From `backend_id`, or the name and address of an endpoint.
    """
    parts = (budget.thinking, budget.answer, samples, temperature, seed, template, backend)
    return files.digest(*parts)[:12]


# --- scores --------------------------------------------------------------------------------------
def score(
    name: str, sets: Sequence[CheckedSet], answering: Answering, setting: str
) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Return a model's scores on sets of questions, and every answer.

    Args:
        name: Name of the model, as in the rows.
        sets: From `load`.
        answering: From `by_model` or `by_endpoint`.
        setting: From `setting_id`.

    Returns:
        (rows {model, set, accuracy, ci_low, ci_high, n, official, cap_share, ended_share,
        read_share, tokens, left_out, setting}, with pass@k and maj@k where there are several
        samples; answers {model, set, id, completion, right, why, capped, ended, setting}).
    """
    rows = []
    answers = []
    for each in sets:
        answered = answering(each.problems)
        row = {"model": name, "set": each.name, **scores.accuracy(answered)}
        row["official"] = official(each, answered)
        row |= _of_several(answered)
        rows.append({**row, "left_out": each.left_out, "setting": setting})
        answers += _answer_lines(name, each.name, setting, answered)
    return rows, answers


def official(of_set: CheckedSet, answered: Sequence[Answered]) -> float | None:
    """Return the score that the authors' own rule gives the first completions.

    Args:
        of_set: The set.
        answered: The answers to its questions, in their order.

    Returns:
        The mean score, from 0 to 1; None where the set has no official scorer.
    """
    scorer = official_scores.SCORERS.get(of_set.name)
    if not scorer or not of_set.raw:
        return None
    points = []
    for each, raw in zip(answered, of_set.raw, strict=True):
        points.append(scorer(each.completions[0].text, raw))
    return sum(points) / len(points)


def _of_several(answered: Sequence[Answered]) -> dict[str, float]:
    """Return pass@k and maj@k of all samples, with their intervals; empty for one sample."""
    count = len(answered[0].completions)
    if count < 2:
        return {}
    found = {}
    for row in scores.best_of(answered, [count]):
        short = {"verifier": "pass", "majority": "maj"}[row["by"]]
        found[f"{short}@{count}"] = row["accuracy"]
        found[f"{short}@{count} low"] = row["ci_low"]
        found[f"{short}@{count} high"] = row["ci_high"]
    return found


def _answer_lines(
    name: str, of_set: str, setting: str, answered: Sequence[Answered]
) -> list[dict[str, Any]]:
    """Return a line for every completion."""
    lines = []
    for each in answered:
        for completion, verdict in zip(each.completions, each.verdicts, strict=True):
            line = {"model": name, "set": of_set, "id": each.problem.id, "setting": setting}
            line |= {"completion": completion.text, "right": verdict.right, "why": verdict.why}
            lines.append(line | {"capped": completion.capped, "ended": completion.ended})
    return lines


def thinks(tokenizer: PreTrainedTokenizerBase) -> bool:
    """Tell whether a model's chat template has a place for thinking, and leaves it open.

    Such a model thinks before it answers. The likelihood of a letter right after the question does
    not show what it would answer.

    Args:
        tokenizer: The tokenizer of the model.
    """
    template = tokenizer.chat_template or ""
    return "<think>" in template and not template.startswith(tokenization.THINKING_OFF)


class Board:
    """The scores of several models on the same questions.

    Args:
        sets: From `load`.
        budget: How many tokens a completion may have.
        samples, temperature, seed: How completions are sampled.

    Attributes:
        rows: A row for each model and set, see `score`.
        answers: A row for every completion, see `score`.
        thinking: Models that think, by their template or by what they wrote.
    """

    def __init__(
        self,
        sets: Sequence[CheckedSet],
        budget: Budget,
        samples: int = 1,
        temperature: float = 0.0,
        seed: int = 0,
    ):
        if samples > 1 and not temperature:
            raise ValueError(
                f"answer_samples is {samples} at temperature 0, where all are one: raise "
                "answer_temperature"
            )
        self.sets = sets
        self.budget = budget
        self.drawing = (samples, temperature, seed)
        self.rows: list[dict[str, Any]] = []
        self.answers: list[dict[str, Any]] = []
        self.thinking: list[str] = []

    def add_model(
        self, name: str, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase
    ) -> None:
        """Score a loaded model, which has a chat template.

        Args:
            name: Name of the model, as in the rows.
            model: The model.
            tokenizer: The tokenizer of `model`.
        """
        backend = backend_id(model)
        answering = by_model(model, tokenizer, self.budget, *self.drawing)
        answers = self._add(name, answering, tokenizer.chat_template, backend)
        if thinks(tokenizer) or any(THINKING_ENDS in each["completion"] for each in answers):
            self.thinking.append(name)

    def add_endpoint(self, name: str, endpoint: Endpoint) -> None:
        """Score a model behind an endpoint.

        Args:
            name: Name of the model, as in the rows.
            endpoint: Opened with `thinking=True`.
        """
        before = len(self.rows)
        self._add(name, by_endpoint(endpoint), "", f"{endpoint.name} at {endpoint.base_url}")
        # An endpoint does not say how many tokens it wrote, nor why it ended.
        for row in self.rows[before:]:
            row |= {"cap_share": None, "ended_share": None, "tokens": None}

    def _add(self, name: str, answering: Answering, template: str, backend: str) -> list[dict]:
        """Score whoever answers, keep the rows, and return the answers."""
        setting = setting_id(self.budget, *self.drawing, template, backend)
        rows, answers = score(name, self.sets, answering, setting)
        self.rows += rows
        self.answers += answers
        return answers

    def note(self) -> str:
        """Return a sentence on models whose exam letters were scored without thinking, or ""."""
        if not self.thinking:
            return ""
        names = ", ".join(self.thinking)
        return f"{names}: the exams above score letters by likelihood, without any thinking"
