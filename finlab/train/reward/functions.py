"""Rewards for TRL's GRPOTrainer, based on answers that code can check.

    GRPOTrainer(..., reward_funcs=[Right(), Formed()], args=GRPOConfig(reward_weights=[1.0, 0.0]))

A reward is called with the completions and the dataset's columns. One of these columns is `gold`
(JSON, see `gold.from_json`). It returns one number for each completion. With weight 0, a reward is
only logged and has no effect. Rewards are classes, not closures, so that they can be pickled for
other processes.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from finlab.train.reward import gold, quantities, verify

if TYPE_CHECKING:
    from transformers import TrainerState

Completion = str | list[dict[str, str]]


def text_of(completion: Completion, opening: str = "") -> str:
    """Return a completion as one text, with the end of the prompt before it.

    Args:
        completion: A text, or a list of messages as TRL gives for conversational prompts.
        opening: Text at the end of the generation prompt, such as DeepSeek-R1's `<think>`.
    """
    said = completion if isinstance(completion, str) else completion[-1]["content"] or ""
    return opening + said


class Reward:
    """Base class of rewards; `score` returns the reward of one completion.

    Args:
        opening: Text at the end of the generation prompt, see `text_of`.

    Attributes:
        __name__: Name of the reward in TRL's log.
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
        """Return the reward of each completion; TRL calls this.

        Args:
            completions: The completions that the policy wrote.
            gold: The right answer for each completion, as JSON.
            completion_ids: The token ids of each completion; None counts every length as 0.
            **columns: The dataset's other columns, and arguments that TRL adds.
        """
        lengths = [len(ids) for ids in completion_ids or [[]] * len(completions)]
        earned = []
        for completion, right, length in zip(completions, gold, lengths, strict=True):
            earned.append(self.score(text_of(completion, self.opening), right, length))
        return earned

    def score(self, text: str, right: str, length: int) -> float:
        """Return the reward of one completion.

        Args:
            text: The completion, from the beginning of the thinking.
            right: The right answer as JSON.
            length: Number of tokens of the completion.
        """
        raise NotImplementedError


class Right(Reward):
    """1 if the answer is right and the form is correct, else 0: the reward of DianJin-R1.

    The form is a condition, not a bonus. With a bonus, a wrong answer in the correct form would
    also get a reward (open-instruct, PR 659).
    """

    def score(self, text: str, right: str, length: int) -> float:
        """Return 1 or 0."""
        answer = gold.from_json(right)
        return float(verify.keeps_form(text, answer) and verify.check(text, answer).right)


class Correct(Reward):
    """1 if the answer is right, in any form; else 0."""

    def score(self, text: str, right: str, length: int) -> float:
        """Return 1 or 0."""
        return float(verify.check(text, gold.from_json(right)).right)


class Formed(Reward):
    """1 if the form is correct, else 0, for right and wrong answers.

    Fin-R1 adds this reward to the reward of the answer.
    """

    def score(self, text: str, right: str, length: int) -> float:
        """Return 1 or 0."""
        return float(verify.keeps_form(text, gold.from_json(right)))


class Short(Reward):
    """0 up to a soft limit of tokens, then falling linearly to -1 at a hard limit, as in DAPO.

    Args:
        soft: The soft limit, in tokens.
        hard: The hard limit in tokens: `max_completion_length`.
        opening: Text at the end of the generation prompt, see `text_of`.
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
        """Return the penalty for the length, from -1 to 0."""
        over = max(0, length - self.soft)
        return -min(1.0, over / (self.hard - self.soft))


class Contains(Reward):
    """1 if the answer occurs anywhere. **Do not use it**: a policy learns to list numbers.

    Many people write this reward first. It is here so that notebook 10 can show what happens with
    it.
    """

    def score(self, text: str, right: str, length: int) -> float:
        """Return 1 or 0."""
        return float(quantities.plain(answer_of(right)) in quantities.plain(text))


class Watched(Reward):
    """A reward that is compared with a stricter reward.

    TRL's log then has `paid_but_wrong`: the share of completions that get more from the reward than
    from the stricter one. This shows whether a policy exploits the reward. The curve of the reward
    itself does not show it, because it counts these completions as good.

    Args:
        paid: The reward that is used in training.
        strict: The stricter reward to compare with.
        kept: How many such completions to keep for each call.

    Attributes:
        caught: Rows {step, completion, answer} of completions that were rewarded but are wrong.
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
        """Return the reward of each completion, and log the share that is wrong.

        Args:
            completions: The completions that the policy wrote.
            gold: The right answer for each completion, as JSON.
            completion_ids: The token ids of each completion; None counts every length as 0.
            log_metric: A function of TRL that writes a metric to the log; None logs nothing.
            trainer_state: The trainer's state, for the step; None counts as step 0.
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
    """Return the answer of a gold (given as JSON) as text."""
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
        soft, hard: The limits of `short`, in tokens.
        opening: Text at the end of the generation prompt, see `text_of`.

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
