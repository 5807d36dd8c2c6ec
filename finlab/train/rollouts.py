"""Additions to GRPO in TRL: a preflight, and a log of answers to held-out questions.

require(rollout_preflight(...))                       # before GRPOTrainer starts
fit(GRPOTrainer, extensions=[HeldOutAnswers(...), SameReference()], reward_funcs=[...], ...)
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy
import torch

from finlab.models import sampling
from finlab.models.sampling import Budget, Completion
from finlab.train.extensions import Extension
from finlab.train.preflight import Check, Refused
from finlab.train.reward import gold as golds
from finlab.train.reward import verify
from finlab.train.reward.functions import Formed, Reward, Short

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase, Trainer
    from trl import GRPOConfig

MOST_CLIPPED = 0.5  # share of cut completions; with more, rewards mostly measure length
LONGEST_SHARE = 0.99  # share of the learnt chains that must fit the completion length
LEAST_SPREAD = 1e-9  # rewards that differ by less count as equal
BOTH_ENDS = 5  # this many first and last golds are used to probe the rewards


@dataclass(frozen=True)
class Rollout:
    """A question, and a group of completions of it with their rewards.

    Attributes:
        gold: The right answer as JSON.
        completions: The completions that the policy wrote.
        rewards: For each completion, the weighted sum of its rewards.
    """

    gold: str
    completions: list[Completion]
    rewards: list[float] = field(default_factory=list)

    @property
    def spread(self) -> float:
        """Sample standard deviation of the rewards; exactly 0 if they are equal."""
        if len(self.rewards) < 2 or max(self.rewards) - min(self.rewards) < LEAST_SPREAD:
            return 0.0
        return float(numpy.std(self.rewards, ddof=1))


def accumulation(prompts: int, group: int, micro_batch: int, processes: int) -> int:
    """Return how many micro-batches make an optimizer step.

    Args:
        prompts: Number of questions of a step, over all processes.
        group: Number of completions of a question.
        micro_batch: Number of completions in a micro-batch on each device.
        processes: Number of processes on all machines.

    Raises:
        ValueError: The completions of a step cannot be divided evenly.
    """
    whole, at_once = prompts * group, micro_batch * processes
    if whole % at_once:
        raise ValueError(
            f"{prompts} questions of {group} completions are {whole}, which {processes} processes "
            f"with micro-batches of {micro_batch} do not divide: change prompts_per_step, "
            "group_size or micro_batch"
        )
    return whole // at_once


def require_enough(questions: int, prompts: int, updates: int) -> None:
    """Raise an error if there are fewer questions than one generation needs.

    TRL would then train no step, and would not say so.

    Args:
        questions: Number of training questions, over all epochs.
        prompts: Number of questions of an optimizer step.
        updates: Number of optimizer steps from one generation.

    Raises:
        ValueError: There are too few questions for one generation.
    """
    if questions < prompts * updates:
        raise ValueError(
            f"{questions} questions are left to reinforce, and one generation takes "
            f"{prompts * updates}: raise rl_questions or rl_epochs, lower prompts_per_step, or "
            "lower screened (what is always or never right is left out)"
        )


def rollouts(
    gold_texts: Sequence[str],
    completions: Sequence[list[Completion]],
    rewards: Sequence[Reward],
    weights: Sequence[float],
) -> list[Rollout]:
    """Return groups of completions with their rewards.

    Args:
        gold_texts: The right answer to each question, as JSON.
        completions: For each question, a group of completions.
        rewards: The reward functions.
        weights: Weight of each reward function, like reward_weights in GRPOConfig.
    """
    found = []
    for gold, group in zip(gold_texts, completions, strict=True):
        earned = []
        for completion in group:
            parts = [each.score(completion.text, gold, completion.tokens) for each in rewards]
            earned.append(sum(weight * part for weight, part in zip(weights, parts, strict=True)))
        found.append(Rollout(gold, group, earned))
    return found


def first_batch(groups: Sequence[Rollout]) -> dict[str, float]:
    """Return statistics of the first completions of a policy.

    Args:
        groups: Groups of completions, from `rollouts`.

    Returns:
        {reward, reward_std, equal_groups, clipped_share, tokens}. reward_std is the mean of the
        groups' standard deviations. equal_groups is the share of groups with equal rewards.
        clipped_share is the share of completions that did not end by themselves. reward and tokens
        are means over completions.
    """
    spreads = [group.spread for group in groups]
    completions = [each for group in groups for each in group.completions]
    rewards = [reward for group in groups for reward in group.rewards]
    return {
        "reward": sum(rewards) / len(rewards),
        "reward_std": sum(spreads) / len(spreads),
        "equal_groups": sum(not spread for spread in spreads) / len(spreads),
        "clipped_share": sum(not each.ended for each in completions) / len(completions),
        "tokens": sum(each.tokens for each in completions) / len(completions),
    }


def rollout_preflight(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    args: GRPOConfig,
    groups: Sequence[Rollout],
    rewards: Sequence[Reward],
    chain_lengths: Sequence[int],
    longest: int,
) -> list[Check]:
    """Check for problems that would keep GRPO from learning, before it starts.

    Args:
        model: The policy.
        tokenizer: The tokenizer of the model.
        args: The arguments of the trainer.
        groups: First completions of the policy, from `rollouts`.
        rewards: The reward functions, which are tested on completions of known worth.
        chain_lengths: Number of tokens of each chain of thought that the policy learnt from.
        longest: Number of tokens of the longest training question.
    """
    found = first_batch(groups)
    context = model.config.max_position_embeddings
    limit = args.max_completion_length
    needed = int(numpy.quantile(chain_lengths, LONGEST_SHARE)) if len(chain_lengths) else 0
    failed = probe_failures(tokenizer, rewards, [group.gold for group in groups])
    differing = round((1 - found["equal_groups"]) * len(groups))
    return [
        Check(
            "a group has two completions or more",
            args.num_generations > 1,
            f"num_generations {args.num_generations}",
        ),
        Check(
            "rewards differ within groups",
            found["reward_std"] > 0,
            f"in {differing} of {len(groups)} groups, standard deviation {found['reward_std']:.2f}",
        ),
        Check(
            "most completions end by themselves",
            found["clipped_share"] <= MOST_CLIPPED,
            f"{found['clipped_share']:.0%} are cut at {limit} tokens",
        ),
        Check(
            "the completions' length holds the chains that were learnt",
            needed <= limit,
            f"99 of 100 chains have up to {needed} tokens, max_completion_length is {limit}",
        ),
        Check(
            "question and completion fit the context",
            longest + limit <= context,
            f"{longest} + {limit} of {context} tokens",
        ),
        Check(
            "the reward pays right answers and nothing else",
            not failed,
            "; ".join(failed[:2]) or f"{len(rewards)} rewards, probed through the tokenizer",
        ),
    ]


def probe_failures(
    tokenizer: PreTrainedTokenizerBase, rewards: Sequence[Reward], gold_texts: Sequence[str]
) -> list[str]:
    """Return the errors that rewards make on completions of known worth, as sentences.

    The completions are encoded and decoded, like the policy's completions. If a tag is a special
    token, it is lost there, and the reward for the form would always be 0. Rewards for form or
    length do not depend on the answer, so they are not tested.

    Args:
        tokenizer: The tokenizer of the policy.
        rewards: The reward functions.
        gold_texts: Right answers as JSON. Only the first and the last few are used.
    """
    reading_answers = [each for each in rewards if not isinstance(each, (Formed, Short))]
    if not reading_answers:
        return ["no reward reads the answer"]
    failures = []
    chosen = [*gold_texts[:BOTH_ENDS], *gold_texts[-BOTH_ENDS:]]
    for gold_text in dict.fromkeys(chosen):
        for what, text, pays in verify.probes(golds.from_json(gold_text)):
            ids = tokenizer.encode(text, add_special_tokens=False)
            back = tokenizer.decode(ids, skip_special_tokens=True)
            for reward in reading_answers:
                paid = reward.score(back, gold_text, len(ids)) > 0
                if paid != pays:
                    verb = "pays" if paid else "does not pay"
                    failures.append(f"{reward.__name__} {verb} {back!r} ({what})")
    return failures


# --- while training ------------------------------------------------------------------------------
class SameReference(Extension):
    """Raise an error if TRL's reference is not equal to the initial policy.

    Otherwise the KL term would pull the policy towards another model. With LoRA, the reference is
    the policy without its adapter. Without a KL term, there is no reference.
    """

    def attach(self, trainer: Trainer) -> None:
        """Compare all weights of policy and reference.

        Raises:
            Refused: A weight differs.
        """
        reference = getattr(trainer, "ref_model", None)
        if reference is None or trainer.is_deepspeed_enabled or trainer.is_fsdp_enabled:
            return
        others = dict(trainer.accelerator.unwrap_model(reference).named_parameters())
        for name, weight in trainer.model.named_parameters():
            other = others.get(name)
            if other is None or not torch.equal(other.float().to(weight.device), weight.float()):
                raise Refused(
                    "training does not start: it must hold that the reference is the policy "
                    f"itself ({name} differs)"
                )


class HeldOutAnswers(Extension):
    """Log at regular steps how well held-out questions are answered, with samples.

    Log lines of these steps have `held_out` {right, n, formed, tokens} and `samples`, the
    completions of the first few questions. Decoding is greedy and draws no random numbers, so the
    training itself does not change.

    Args:
        questions: The held-out questions as text, for the samples.
        prompts: Token ids of each question's prompt.
        gold_texts: The right answer to each question, as JSON.
        budget: How many tokens a completion may have.
        every: Number of steps between two evaluations.
        opening: Text at the end of the generation prompt; it is put before each completion.
        shown: Number of samples in a log line.
        batch_tokens: Most tokens in a batch, padding included.
    """

    def __init__(
        self,
        questions: list[str],
        prompts: list[list[int]],
        gold_texts: list[str],
        budget: Budget,
        every: int,
        opening: str = "",
        shown: int = 3,
        batch_tokens: int = sampling.BATCH_TOKENS,
    ):
        self.batch_tokens = batch_tokens
        self.questions = questions
        self.prompts = prompts
        self.golds = gold_texts
        self.budget = budget
        self.every = every
        self.opening = opening
        self.shown = shown

    def attach(self, trainer: Trainer) -> None:
        """Store the trainer."""
        self.trainer = trainer

    def log_fields(self, logs: dict[str, Any]) -> dict[str, Any]:
        """Return the evaluation of this step, only in the process that writes the log."""
        step = self.trainer.state.global_step
        if "loss" not in logs or step % self.every or not self.trainer.args.should_save:
            return {}
        model = self.trainer.accelerator.unwrap_model(self.trainer.model)
        written = sampling.complete(
            model,
            self.trainer.processing_class,
            self.prompts,
            self.budget,
            batch_tokens=self.batch_tokens,
        )
        return self._record([group[0] for group in written])

    def _record(self, written: list[Completion]) -> dict[str, Any]:
        """Return the scores of completions of the held-out questions, with samples."""
        right = formed = 0
        samples = []
        for question, gold_text, completion in zip(
            self.questions, self.golds, written, strict=True
        ):
            text = self.opening + completion.text
            gold = golds.from_json(gold_text)
            verdict = verify.check(text, gold)
            right += verdict.right
            formed += verify.keeps_form(text, gold)
            if len(samples) < self.shown:
                row = {"question": question, "completion": text, "right": verdict.right}
                samples.append(row)
        tokens = sum(each.tokens for each in written) / max(len(written), 1)
        reading_of_step = {"right": right, "formed": formed, "n": len(written), "tokens": tokens}
        return {"held_out": reading_of_step, "samples": samples}
