"""What GRPO in TRL lacks: a preflight, and held-out answers over time.

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

MOST_CLIPPED = 0.5  # of the completions; beyond it rewards are mostly about length
LONGEST_SHARE = 0.99  # of the chains that were learnt must fit the completion length
LEAST_SPREAD = 1e-9  # below it rewards are equal
BOTH_ENDS = 5  # golds that the reward is probed with


@dataclass(frozen=True)
class Rollout:
    """A question, and a group of completions of it with their rewards.

    Attributes:
        gold: The answer as JSON.
        completions: What the policy wrote.
        rewards: What each earns, weighted and summed.
    """

    gold: str
    completions: list[Completion]
    rewards: list[float] = field(default_factory=list)

    @property
    def spread(self) -> float:
        """The standard deviation of the rewards, of the sample; exactly 0 for equal ones."""
        if len(self.rewards) < 2 or max(self.rewards) - min(self.rewards) < LEAST_SPREAD:
            return 0.0
        return float(numpy.std(self.rewards, ddof=1))


def accumulation(prompts: int, group: int, micro_batch: int, processes: int) -> int:
    """Return how many micro-batches make an optimizer step.

    Args:
        prompts: Questions of a step, in all.
        group: Completions of a question.
        micro_batch: Completions in a micro-batch on each device.
        processes: In all.

    Raises:
        ValueError: They do not come out even.
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
    """Refuse fewer questions than one generation takes: TRL would train no step, without a word.

    Args:
        questions: That are reinforced, over all epochs.
        prompts: Of an optimizer step.
        updates: Optimizer steps from one generation.

    Raises:
        ValueError: They do not fill one generation.
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
    """Return groups of completions with what each earns.

    Args:
        gold_texts: The answers as JSON.
        completions: A group for each question.
        rewards: The reward functions.
        weights: Of each, as GRPOConfig's reward_weights.
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
    """Return what the first completions of a policy come to.

    Args:
        groups: From `rollouts`.

    Returns:
        {reward, reward_std, equal_groups, clipped_share, tokens}: reward_std is the mean of the
        groups' standard deviations, equal_groups the share of groups without any.
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
    """Check what makes GRPO learn nothing, before it starts.

    Args:
        model: The policy.
        tokenizer: Its tokenizer.
        args: The trainer's arguments.
        groups: First completions of the policy, from `rollouts`.
        rewards: The reward functions, which are probed.
        chain_lengths: Tokens of the chains that the policy learnt.
        longest: Tokens of the longest question of all that are reinforced.
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
    """Return what rewards pay wrongly, on completions whose worth is known.

    They go through the tokenizer and back, as the policy's do: a tag that is a special token would
    be lost there, and the form's reward would always be 0. Form and length are paid by themselves,
    so those that read the answer are probed.

    Args:
        tokenizer: The policy's.
        rewards: The rewards.
        gold_texts: Answers as JSON; the first and last few are taken.
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
    """Refuse to start where TRL's reference is not the policy itself.

    The KL term would pull towards another model. With LoRA the reference is the policy without its
    adapter, and without a KL term there is none.
    """

    def attach(self, trainer: Trainer) -> None:
        """Compare all weights."""
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
    """Log every so many steps how held-out questions are answered, greedily, with samples.

    The lines of the log then have `held_out` {right, n, formed, tokens} and `samples`, a few
    completions of always the same questions. Nothing is drawn, so the training is the same with it.

    Args:
        questions: In words, for the samples.
        prompts: Their token ids.
        gold_texts: Their answers as JSON.
        budget: Of tokens.
        every: Steps between two readings.
        opening: What the generation prompt ends with.
        shown: So many samples.
        batch_tokens: At most so many at once, padding included.
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
        """Keep the trainer."""
        self.trainer = trainer

    def log_fields(self, logs: dict[str, Any]) -> dict[str, Any]:
        """Return the reading of this step, on the process that writes the log."""
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
        """Return what completions of the held-out questions come to."""
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
