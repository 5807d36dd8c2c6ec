"""Intervals, paired tests, and what a score must be reported with."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy
from scipy.stats import binomtest, spearmanr

TOO_LONG = "too long"  # the fault of an item that does not fit into the context
# The result of `paired` where no item fitted into the context of both models.
NOTHING_KNOWN = {
    "n": 0,
    "difference": 0.0,
    "ci_low": -1.0,
    "ci_high": 1.0,
    "p": 1.0,
    "only_first": 0,
    "only_second": 0,
    "bootstrap_low": -1.0,
    "bootstrap_high": 1.0,
}
Record = dict[str, Any]  # one answered item, from `exams.answer_exams`
DRAWS = 10_000
MIDDLE = [0.025, 0.975]  # the quantiles of a 95% interval


# --- intervals and tests -------------------------------------------------------------------------
def wilson(right: int, n: int) -> tuple[float, float]:
    """Return the 95% Wilson interval of a share.

    Args:
        right: Number of right cases.
        n: Number of all cases.

    Returns:
        (low, high), each from 0 to 1; (0, 1) if n is 0.
    """
    if n == 0:
        return 0.0, 1.0
    interval = binomtest(right, n).proportion_ci(0.95, method="wilson")
    return float(interval.low), float(interval.high)


def mean(values: Sequence[float]) -> float | None:
    """Return the mean of values; None if there are none."""
    return sum(values) / len(values) if values else None


def bootstrap(values: Sequence[float], seed: int = 0, draws: int = 4000) -> tuple[float, float]:
    """Return the 95% percentile bootstrap interval of a mean.

    Args:
        values: The observations.
        seed: Seed for drawing the resamples.
        draws: Number of resamples.

    Returns:
        (low, high); (0, 0) without values.
    """
    data = numpy.asarray(values, float)
    if not len(data):
        return 0.0, 0.0
    rng = numpy.random.default_rng(seed)
    means = [data[rng.integers(0, len(data), len(data))].mean() for _ in range(draws)]
    low, high = numpy.quantile(means, MIDDLE)
    return float(low), float(high)


def win_rate(values: Sequence[float]) -> dict[str, float | None]:
    """Return the mean value of verdicts, with its bootstrap interval.

    Args:
        values: 1 for a win, 0.5 for a tie, 0 for a loss.

    Returns:
        {win_rate, ci_low, ci_high}, each None where nothing was judged.
    """
    low, high = bootstrap(values) if values else (None, None)
    return {"win_rate": mean(values), "ci_low": low, "ci_high": high}


def mcnemar(first: list[bool], second: list[bool]) -> dict[str, float]:
    """Compare two models on the same items with the exact two-sided McNemar test.

    Worked value: 10 against 25 discordant items give p = 0.0167.

    Args:
        first: Whether the first model was right, item by item.
        second: Whether the second model was right, item by item.

    Returns:
        n, difference in accuracy (second minus first) with ci_low and ci_high, p, and only_first
        and only_second: how many items are right for that model only.
    """
    n = len(first)
    pairs = list(zip(first, second, strict=True))
    only_first = sum(one and not other for one, other in pairs)
    only_second = sum(other and not one for one, other in pairs)
    discordant = only_first + only_second
    difference = (only_second - only_first) / n
    variance = max(discordant - (only_second - only_first) ** 2 / n, 0)
    error = math.sqrt(variance) / n
    p = binomtest(only_first, discordant).pvalue if discordant else 1.0
    return {
        "n": n,
        "difference": difference,
        "ci_low": difference - 1.96 * error,
        "ci_high": difference + 1.96 * error,
        "p": p,
        "only_first": only_first,
        "only_second": only_second,
    }


def paired(first: list[Record], second: list[Record]) -> dict[str, float]:
    """Compare the records of two models on the items that fit into the context of both.

    Args:
        first: Records of the first model.
        second: Records of the second model.

    Returns:
        What `mcnemar` returns, with bootstrap_low and bootstrap_high of the difference, and
        `unread`: how many items were too long for the context of at least one model.

    Raises:
        ValueError: The two did not answer the same items under the same prompt.
    """
    one = {(record["prompt"], record["id"]): record for record in first}
    other = {(record["prompt"], record["id"]): record for record in second}
    if one.keys() != other.keys():
        raise ValueError(
            f"the models answered different items: {len(one.keys() ^ other.keys())} stand on one "
            "side only, so they cannot be compared pairwise"
        )
    # An item that is too long for a model says nothing about what the model knows.
    readable = [
        item for item in one if TOO_LONG not in (one[item].get("fault"), other[item].get("fault"))
    ]
    unread = len(one) - len(readable)
    if not readable:
        return {**NOTHING_KNOWN, "unread": unread}
    result = mcnemar(
        [one[item]["right"] for item in readable], [other[item]["right"] for item in readable]
    )
    n, lost, won = result["n"], result["only_first"], result["only_second"]
    shares = [lost / n, won / n, 1 - (lost + won) / n]
    draws = numpy.random.default_rng(0).multinomial(n, shares, DRAWS)
    low, high = numpy.quantile((draws[:, 1] - draws[:, 0]) / n, MIDDLE)
    return {
        **result,
        "unread": unread,
        "bootstrap_low": float(low),
        "bootstrap_high": float(high),
    }


def holm(values: list[float]) -> list[float]:
    """Return p values adjusted for multiple tests (Holm 1979).

    An adjusted p below 0.05 is significant at 0.05 for all the tests together.

    Args:
        values: p values.

    Returns:
        The adjusted p values, in the same order.
    """
    adjusted = [0.0] * len(values)
    least = 0.0
    ascending = sorted(range(len(values)), key=values.__getitem__)
    for rank, place in enumerate(ascending):
        least = max(least, min(1.0, (len(values) - rank) * values[place]))
        adjusted[place] = least
    return adjusted


# --- preference pairs ----------------------------------------------------------------------------
def share(hits: list[bool]) -> dict[str, float]:
    """Return how often something holds, with its Wilson interval.

    Args:
        hits: Whether it holds, for each case.

    Returns:
        {value: the share, ci_low, ci_high, n}.
    """
    low, high = wilson(sum(hits), len(hits))
    value = sum(hits) / max(len(hits), 1)
    return {"value": value, "ci_low": low, "ci_high": high, "n": len(hits)}


def _likelier_share(log_probs: list[dict[str, float]], pairs: list[dict], by_token: bool) -> float:
    """Return the share of pairs whose chosen answer a model finds likelier.

    Args:
        log_probs: {chosen, rejected} of each pair, in nats.
        pairs: The token ids of the pairs.
        by_token: Whether to divide by the lengths of the answers in tokens.
    """
    likelier = 0
    for sums, pair in zip(log_probs, pairs, strict=True):
        chosen, rejected = sums["chosen"], sums["rejected"]
        if by_token:
            chosen /= len(pair["chosen_ids"])
            rejected /= len(pair["rejected_ids"])
        likelier += chosen > rejected
    return likelier / max(len(pairs), 1)


def preferences(
    reference: list[dict[str, float]],
    policy: list[dict[str, float]],
    pairs: list[dict],
    beta: float,
) -> dict[str, Any]:
    """Compare a policy with its reference on held-out pairs.

    Args:
        reference: Log-probabilities {chosen, rejected} of each pair under the reference, from
            `likelihood.answer_log_probs`.
        policy: The same under the policy.
        pairs: Pairs from `templates.encode_pairs`.
        beta: DPO's beta, which scales the rewards.

    Returns:
        accuracy: The share of pairs with a positive margin (a tie is a miss), with its interval.
        margin: The mean margin, with its interval.
        chosen_likelier: The share of pairs whose chosen answer is the likelier one, before and
            after, by the sum of log-probabilities and by their mean for each token.
        length_bias: Accuracy where the chosen answer is longer and where it is shorter, and
            Spearman's correlation of margin and difference in length. The correlation is None if
            one of the two does not vary.
    """
    margins = []
    for old, new in zip(reference, policy, strict=True):
        chosen = new["chosen"] - old["chosen"]
        rejected = new["rejected"] - old["rejected"]
        margins.append(beta * (chosen - rejected))
    extra_tokens = [len(pair["chosen_ids"]) - len(pair["rejected_ids"]) for pair in pairs]
    n = len(pairs)
    low, high = bootstrap(margins)
    likelier = {}
    for how, by_token in (("by sum", False), ("by token", True)):
        before = _likelier_share(reference, pairs, by_token)
        likelier[how] = {"before": before, "after": _likelier_share(policy, pairs, by_token)}
    longer = [margin > 0 for margin, extra in zip(margins, extra_tokens) if extra > 0]
    shorter = [margin > 0 for margin, extra in zip(margins, extra_tokens) if extra < 0]
    correlation = None
    if len(set(margins)) > 1 and len(set(extra_tokens)) > 1:
        correlation = float(spearmanr(margins, extra_tokens).statistic)
    mean_margin = sum(margins) / max(n, 1)
    return {
        "accuracy": share([margin > 0 for margin in margins]),
        "margin": {"value": mean_margin, "ci_low": low, "ci_high": high, "n": n},
        "chosen_likelier": likelier,
        "length_bias": {
            "chosen longer": share(longer),
            "chosen shorter": share(shorter),
            "correlation": correlation,
        },
    }


# --- exam scores ---------------------------------------------------------------------------------
def accuracy(records: list[Record]) -> dict[str, float]:
    """Return the accuracy of records, over all items and over subjects.

    Macro accuracy is the plain mean over subjects. Its interval is a bootstrap within each subject,
    so that no subject drops out of a draw.

    Returns:
        n, accuracy, ci_low, ci_high (Wilson), macro, macro_low, macro_high, subjects (how many),
        and no_answer: how many items count as wrong because of a fault, such as a missing answer.
    """
    n = len(records)
    right = sum(record["right"] for record in records)
    hits_by_subject: dict[tuple[str, str], list[bool]] = {}
    for record in records:
        subject = record["benchmark"], record["subject"]
        hits_by_subject.setdefault(subject, []).append(record["right"])
    low, high = wilson(right, n)
    rng = numpy.random.default_rng(0)
    subjects = max(len(hits_by_subject), 1)
    macro, draws = 0.0, 0.0
    for hits in hits_by_subject.values():
        share = sum(hits) / len(hits)
        macro += share
        draws = draws + rng.binomial(len(hits), share, DRAWS) / len(hits)
    macro_low, macro_high = numpy.quantile(draws / subjects, MIDDLE)
    return {
        "n": n,
        "no_answer": sum(bool(record.get("fault")) for record in records),
        "accuracy": right / max(n, 1),
        "ci_low": low,
        "ci_high": high,
        "macro": macro / subjects,
        "macro_low": float(macro_low),
        "macro_high": float(macro_high),
        "subjects": len(hits_by_subject),
    }


def scores(model: str, records: list[Record]) -> list[Record]:
    """Return one line for each benchmark and prompt.

    Args:
        model: The model's name.
        records: Records of one setting (prompt, shots and answer token). Score each setting in a
            call of its own.

    Returns:
        model, benchmark, prompt, version, shots, what `accuracy` returns, and six counts of items.
        unparsed, too_long, failed and alike are wrong for that reason, see `exams.answer_exams`.
        shortened were asked with fewer examples than the others, since the context was full. ties
        have two or more best options that are equally likely; the first one counts.
    """
    groups: dict[tuple[str, str], list[Record]] = {}
    for record in records:
        groups.setdefault((record["benchmark"], record["prompt"]), []).append(record)
    lines = []
    for (benchmark, prompt), part in sorted(groups.items()):
        shots = part[0]["shots"]
        faults = Counter(record["fault"] for record in part)
        shortened = 0
        for record in part:
            shortened += record["examples"] < shots and record["fault"] != "too long"
        line = {
            "model": model,
            "benchmark": benchmark,
            "prompt": prompt,
            "version": prompt.rpartition("@")[2],
            "shots": shots,
            **accuracy(part),
            "unparsed": faults["unparsed"],
            "too_long": faults["too long"],
            "failed": faults["failed"],
            "alike": faults["options alike"],
            "ties": sum(record["tie"] for record in part),
            "shortened": shortened,
        }
        lines.append(line)
    return lines


def baselines(items: list[dict]) -> dict[str, Any]:
    """Return accuracies that need no model: guessing, and always the same letter.

    Args:
        items: Exam items.

    Returns:
        {chance: the accuracy of guessing, letter: the letter that is right most often, always: the
        accuracy of always giving that letter}.
    """
    letters = Counter("ABCDEFGHIJ"[item["answer"]] for item in items)
    letter, count = letters.most_common(1)[0]
    chance = sum(1 / len(item["choices"]) for item in items) / len(items)
    return {"chance": chance, "letter": letter, "always": count / len(items)}


def by_verdict(records: list[Record], verdicts: dict[str, str]) -> dict[str, dict]:
    """Return `accuracy` for each verdict that the corpus step gives to items.

    Args:
        records: Answered items, from `exams.answer_exams`.
        verdicts: {item id: verdict}. The training texts contain nothing of a `clean` item, parts
            of a `suspect` one, and most of a `contaminated` one.

    Returns:
        {all, clean, suspect, contaminated, unchecked: what `accuracy` returns}; a verdict without
        items is left out. Unchecked items were never searched for in the training texts.
    """
    parts: dict[str, list[Record]] = {"all": list(records)}
    for name in ("clean", "suspect", "contaminated", "unchecked"):
        parts[name] = [
            record for record in records if verdicts.get(record["id"], "unchecked") == name
        ]
    return {name: accuracy(part) for name, part in parts.items() if part}
