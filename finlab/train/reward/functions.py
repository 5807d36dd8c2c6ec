"""Rewards for TRL's GRPOTrainer, from answers that code checks.

    GRPOTrainer(..., reward_funcs=[Right(), Formed()], args=GRPOConfig(reward_weights=[1.0, 0.0]))

Each is called with the completions and the dataset's columns, `gold` among them (JSON, see
`gold.from_json`), and returns one number for each completion. A weight of 0 logs a reward without
paying it. They are classes and no closures, so that they can be sent to other processes.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from finlab.train.reward import gold, quantities, verify

if TYPE_CHECKING:
    from transformers import TrainerState

Completion = str | list[dict[str, str]]


def text_of(completion: Completion, opening: str = "") -> str:
    """Return a completion as one text, with what the template opened before it.

    Args:
        completion: A text, or TRL's list of messages for conversational prompts.
        opening: What the generation prompt ends with, such as DeepSeek-R1's `<think>`.
    """
    said = completion if isinstance(completion, str) else completion[-1]["content"] or ""
    return opening + said


class Reward:
    """One reward; `score` says what a completion earns.

    Args:
        opening: What the generation prompt ends with, see `text_of`.

    Attributes:
        __name__: How TRL's log calls it.
    """

    def __init__(self, opening: str = ""):
        self.opening = opening
        self.__name__ = type(self).__name__.lower()

    def __call__(
        self,
        completions: list[Completion],
        gold: list[str],
        completion_ids: list[list[int]] | None = None,
        **columns: Any,
    ) -> list[float]:
        """Return what each completion earns, in TRL's form.

        Args:
            completions: What the policy wrote.
            gold: The right answer to each, as JSON.
            completion_ids: The tokens of each.
            **columns: The dataset's other columns, and what TRL adds.
        """
        lengths = [len(ids) for ids in completion_ids or [[]] * len(completions)]
        earned = []
        for completion, right, length in zip(completions, gold, lengths, strict=True):
            earned.append(self.score(text_of(completion, self.opening), right, length))
        return earned

    def score(self, text: str, right: str, length: int) -> float:
        """Return what one completion earns.

        Args:
            text: The completion, from where the thinking begins.
            right: The gold as JSON.
            length: Its tokens.
        """
        raise NotImplementedError


class Right(Reward):
    """1 where the answer is right and the form is kept, else 0: DianJin-R1's reward.

    Form is a gate and no bonus: added up, a well-formed wrong answer would be pushed up
    (open-instruct, PR 659).
    """

    def score(self, text: str, right: str, length: int) -> float:
        """Return 1 or 0."""
        answer = gold.from_json(right)
        return float(verify.keeps_form(text, answer) and verify.check(text, answer).right)


class Correct(Reward):
    """1 where the answer is right, whatever the form."""

    def score(self, text: str, right: str, length: int) -> float:
        """Return 1 or 0."""
        return float(verify.check(text, gold.from_json(right)).right)


class Formed(Reward):
    """1 where the form is kept, right or wrong: Fin-R1 adds it to the answer's."""

    def score(self, text: str, right: str, length: int) -> float:
        """Return 1 or 0."""
        return float(verify.keeps_form(text, gold.from_json(right)))


class Short(Reward):
    """0 up to a soft limit of tokens, then falling to -1 at the hard one, as in DAPO.

    Args:
        soft: Tokens that cost nothing.
        hard: `max_completion_length`.
        opening: See `Reward`.
    """

    def __init__(self, soft: int, hard: int, opening: str = ""):
        super().__init__(opening)
        if not 0 < soft < hard:
            raise ValueError(
                f"the length that costs nothing is {soft}: it must lie between 0 and "
                f"max_completion_length, {hard}"
            )
        self.soft, self.hard = soft, hard

    def score(self, text: str, right: str, length: int) -> float:
        """Return what the length costs, between -1 and 0."""
        over = max(0, length - self.soft)
        return -min(1.0, over / (self.hard - self.soft))


class Contains(Reward):
    """1 where the answer occurs anywhere. **Do not use it**: a policy learns to list numbers.

    It stands here because it is what people write first, and notebook 10 shows what becomes of it.
    """

    def score(self, text: str, right: str, length: int) -> float:
        """Return 1 or 0."""
        return float(quantities.plain(answer_of(right)) in quantities.plain(text))


class Watched(Reward):
    """A reward, and what it pays although a stricter one does not.

    TRL's log then has `paid_but_wrong`, the share of such completions: a reward that can be gamed
    shows by it, and not by its own curve, which counts them as earned.

    Args:
        paid: The reward.
        strict: The one that it is compared with.
        kept: Completions of a step that are kept.

    Attributes:
        caught: {step, completion, answer} of those that were paid and are wrong.
    """

    def __init__(self, paid: Reward, strict: Reward, kept: int = 2):
        super().__init__(paid.opening)
        self.paid, self.strict = paid, strict
        self.__name__ = paid.__name__
        self.kept = kept
        self.caught: list[dict[str, Any]] = []

    def __call__(
        self,
        completions: list[Completion],
        gold: list[str],
        completion_ids: list[list[int]] | None = None,
        log_metric: Callable[[str, float], None] | None = None,
        trainer_state: TrainerState | None = None,
        **columns: Any,
    ) -> list[float]:
        """Return what the watched reward pays, and log how much of it is wrong.

        Args:
            completions: What the policy wrote.
            gold: The right answer to each, as JSON.
            completion_ids: The tokens of each.
            log_metric: TRL's, for the log.
            trainer_state: TRL's, for the step.
            **columns: The dataset's other columns.
        """
        earned = self.paid(completions, gold, completion_ids)
        deserved = self.strict(completions, gold, completion_ids)
        wrong = []
        for place, (paid, right) in enumerate(zip(earned, deserved, strict=True)):
            if paid > right:
                wrong.append(place)
        step = trainer_state.global_step if trainer_state else 0
        for place in wrong[: self.kept]:
            text = text_of(completions[place], self.opening)
            row = {"step": step, "completion": text, "answer": answer_of(gold[place])}
            self.caught.append(row)
        if log_metric:
            log_metric("paid_but_wrong", len(wrong) / len(earned))
        return earned


def answer_of(gold_text: str) -> str:
    """Return the answer of a gold as a text."""
    return str(gold.from_json(gold_text).answer)


REWARDS: dict[str, type[Reward]] = {
    "right": Right,
    "correct": Correct,
    "formed": Formed,
    "contains": Contains,
}


def build(names: list[str], soft: int = 0, hard: int = 0, opening: str = "") -> list[Reward]:
    """Return the rewards that a recipe names.

    Args:
        names: Keys of REWARDS, or `short`.
        soft, hard: For `short`, in tokens.
        opening: What the generation prompt ends with.

    Raises:
        ValueError: A name is unknown.
    """
    found = []
    for name in names:
        if name == "short":
            found.append(Short(soft, hard, opening))
        elif name in REWARDS:
            found.append(REWARDS[name](opening))
        else:
            known = ", ".join([*REWARDS, "short"])
            raise ValueError(f"there is no reward '{name}': choose among {known}")
    return found
