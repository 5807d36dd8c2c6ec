"""Measure how well a model answers questions that code checks: one sample, or several.

found = answer(model, tokenizer, problems, Budget(64), samples=8, temperature=1.0)
accuracy(found)           # {accuracy, ci_low, ci_high, n, cap_share, ended_share, tokens}
best_of(found, [1, 2, 4, 8])
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from math import comb
from typing import TYPE_CHECKING, Any

from finlab.data import templates
from finlab.evaluate import statistics
from finlab.evaluate.reasoning.problems import Problem
from finlab.models import reward_models, sampling
from finlab.models.sampling import Budget, Completion
from finlab.train.reward import quantities, reading
from finlab.train.reward.gold import Verdict

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

Score = Callable[[Problem, Completion], float]
UNREAD = Completion("", 0, False, False)  # the completion of a question that does not fit


@dataclass(frozen=True)
class Answered:
    """A question, a model's completions of it, and the verdict on each completion.

    The text of a completion begins with the thinking tag that the generation prompt opened, if any.
    """

    problem: Problem
    completions: list[Completion]
    verdicts: list[Verdict]


def answer(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    problems: Sequence[Problem],
    budget: Budget,
    system: str = "",
    samples: int = 1,
    temperature: float = 0.0,
    seed: int = 0,
    batch_tokens: int = sampling.BATCH_TOKENS,
) -> list[Answered]:
    """Let a model answer questions.

    Args:
        model: The model.
        tokenizer: The tokenizer of `model`, with a chat template.
        problems: The questions.
        budget: How many tokens a completion may have for thinking and answer.
        system: The system message before each question; empty for none.
        samples: Number of completions of each question.
        temperature: Sampling temperature; 0 takes the likeliest token.
        seed: Seed for sampling the tokens.
        batch_tokens: Maximum number of tokens in one batch, padding included.
    """
    prompts = [templates.prompt_ids(tokenizer, problem.messages(system)) for problem in problems]
    opening = templates.thinking_opened(tokenizer)
    # A question that does not fit into the context counts as answered wrong.
    room = sampling.room_for_prompt(model, tokenizer, budget)
    fits = [place for place, prompt in enumerate(prompts) if len(prompt) <= room]
    completed = sampling.complete(
        model,
        tokenizer,
        [prompts[place] for place in fits],
        budget,
        samples,
        temperature,
        seed,
        batch_tokens,
    )
    written = [[UNREAD] * samples for _ in prompts]
    for place, completions in zip(fits, completed, strict=True):
        written[place] = completions
    found = []
    for problem, completions in zip(problems, written, strict=True):
        if completions[0] is UNREAD:
            verdicts = [Verdict(False, None, "the question is longer than the context")]
            found.append(Answered(problem, completions, verdicts * samples))
            continue
        whole = [replace(each, text=opening + each.text) for each in completions]
        verdicts = [problem.check(each.text) for each in whole]
        found.append(Answered(problem, whole, verdicts))
    return found


def accuracy(answered: Sequence[Answered]) -> dict[str, float]:
    """Return the share of right answers, its interval, and the figures to report with it.

    With several samples, accuracy is the mean over all of them. The interval is then a bootstrap
    over the means of the questions, since samples of one question are not independent.

    Args:
        answered: From `answer`.

    Returns:
        {accuracy, ci_low, ci_high, n, cap_share, ended_share, read_share, tokens}. n is the number
        of questions. The shares are of all completions: cap_share had their thinking cut off or
        never ended, ended_share ended by themselves, and read_share hold an answer at its place.
        tokens is the mean number of tokens in a completion.

    Raises:
        ValueError: Nothing was answered.
    """
    if not answered:
        raise ValueError("no question was answered: there is nothing to score")
    means = []
    completions: list[Completion] = []
    read = 0
    for each in answered:
        means.append(sum(verdict.right for verdict in each.verdicts) / len(each.verdicts))
        completions += each.completions
        read += sum(verdict.read is not None for verdict in each.verdicts)
    several = len(completions) > len(answered)
    if several:
        low, high = statistics.bootstrap(means)
    else:
        low, high = statistics.wilson(round(sum(means)), len(means))
    count = len(completions)
    return {
        "accuracy": sum(means) / len(means),
        "ci_low": low,
        "ci_high": high,
        "n": len(answered),
        "cap_share": sum(each.capped or not each.ended for each in completions) / count,
        "ended_share": sum(each.ended for each in completions) / count,
        "read_share": read / count,
        "tokens": sum(each.tokens for each in completions) / count,
    }


# --- the best of several -------------------------------------------------------------------------
def pass_at(right: int, samples: int, k: int) -> float:
    """Return the chance that one of k samples is right (Chen et al. 2021, unbiased).

    Args:
        right: How many of the samples are right.
        samples: How many samples there are.
        k: How many samples are looked at.

    Raises:
        ValueError: k is larger than the number of samples.
    """
    if not 1 <= k <= samples:
        raise ValueError(f"pass@{k} needs {k} samples, and there are {samples}")
    return 1 - comb(samples - right, k) / comb(samples, k)


def majority(answered: Answered, k: int) -> bool:
    """Tell whether the most frequent of the first k answers is right.

    In a tie, the answer that came first is taken. An answer that could not be read has no vote.

    Args:
        answered: A question and its completions.
        k: How many completions are looked at.
    """
    votes: Counter[str] = Counter()
    right = {}
    for completion, verdict in zip(answered.completions[:k], answered.verdicts[:k]):
        said = reading.final(completion.text, answered.problem.gold.where)
        if verdict.read is None or said is None:
            continue
        name = _vote(said, verdict, answered.problem)
        votes[name] += 1
        right[name] = verdict.right
    if not votes:
        return False
    return right[votes.most_common(1)[0][0]]


def _vote(said: str, verdict: Verdict, problem: Problem) -> str:
    """Return the value that an answer votes for; all spellings of a number get one name."""
    if problem.gold.kind != "number":
        return str(verdict.read)
    number = quantities.read(said)
    if number is None:
        return said.strip()
    number = quantities.in_unit(number, problem.gold.options.get("unit", ""))
    return f"{number.value} {number.unit}"


def chosen(answered: Answered, k: int, score: Score) -> bool:
    """Tell whether the completion with the highest score among the first k is right."""
    best = max(range(k), key=lambda place: score(answered.problem, answered.completions[place]))
    return answered.verdicts[best].right


def best_of(
    answered: Sequence[Answered], counts: Sequence[int], scorers: dict[str, Score] | None = None
) -> list[dict[str, Any]]:
    """Return how often the best of k completions is right, for each way of choosing.

    Args:
        answered: From `answer`, with at least as many samples as the largest count.
        counts: The values of k.
        scorers: {name: score function}, such as one from `by_reward_model`; None for no others.

    Returns:
        Rows {by, k, accuracy, ci_low, ci_high, tokens}. `verifier` is pass@k, which a perfect
        choice would reach. `majority` is maj@k. tokens is the mean number of tokens that k
        completions of a question have together.
    """
    rows = []
    for k in counts:
        tokens = sum(each.tokens for item in answered for each in item.completions[:k])
        ways = {"verifier": [], "majority": []} | {name: [] for name in scorers or {}}
        for item in answered:
            right = sum(verdict.right for verdict in item.verdicts)
            ways["verifier"].append(pass_at(right, len(item.verdicts), k))
            ways["majority"].append(float(majority(item, k)))
            for name, score in (scorers or {}).items():
                ways[name].append(float(chosen(item, k, score)))
        for name, values in ways.items():
            low, high = statistics.bootstrap(values)
            row = {"by": name, "k": k, "accuracy": sum(values) / len(values)}
            rows.append({**row, "ci_low": low, "ci_high": high, "tokens": tokens / len(answered)})
    return rows


def by_reward_model(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    answered: Sequence[Answered],
    system: str = "",
) -> Score:
    """Return a score function for `best_of`: the score of a reward model for a completion.

    The reward model reads all completions at once, before anything is chosen.

    Args:
        model: The reward model.
        tokenizer: The tokenizer of `model`, with the chat template.
        answered: The questions with their completions.
        system: The system message before each question; empty for none.
    """
    talks = {}
    for each in answered:
        for completion in each.completions:
            said = {"role": "assistant", "content": completion.text}
            talks[each.problem.id, completion.text] = [*each.problem.messages(system), said]
    values = reward_models.scores(model, tokenizer, list(talks.values()))
    known = dict(zip(talks, values, strict=True))

    def score(problem: Problem, completion: Completion) -> float:
        return known[problem.id, completion.text]

    return score


def outcome_pairs(answered: Sequence[Answered], system: str = "") -> list[dict[str, list]]:
    """Return preference pairs of a right and a wrong completion of the same question.

    A reward model trained on them is an outcome reward model (Cobbe et al. 2021). A question gives
    as many pairs as it has right completions, or wrong completions if these are fewer. Each text
    is used once.

    Args:
        answered: From `answer`, with several samples.
        system: The system message before each question; empty for none.

    Returns:
        Pairs {prompt, chosen, rejected}, each value a list of messages.
    """
    pairs = []
    for each in answered:
        judged = list(zip(each.completions, each.verdicts, strict=True))
        # Each text once, in the order in which they were sampled.
        right = dict.fromkeys(said.text for said, verdict in judged if verdict.right)
        wrong = dict.fromkeys(said.text for said, verdict in judged if not verdict.right)
        for chosen_text, rejected_text in zip(right, wrong):
            pair = {"prompt": each.problem.messages(system)}
            pair["chosen"] = [{"role": "assistant", "content": chosen_text}]
            pair["rejected"] = [{"role": "assistant", "content": rejected_text}]
            pairs.append(pair)
    return pairs


def pass_rates(answered: Sequence[Answered]) -> dict[str, int]:
    """Return how many questions are always, sometimes and never answered right.

    Only questions that are sometimes answered right teach the model: when all rewards of a group
    are equal, every advantage is 0.
    """
    found = {"never": 0, "sometimes": 0, "always": 0}
    for each in answered:
        right = sum(verdict.right for verdict in each.verdicts)
        if not right:
            found["never"] += 1
        elif right == len(each.verdicts):
            found["always"] += 1
        else:
            found["sometimes"] += 1
    return found
