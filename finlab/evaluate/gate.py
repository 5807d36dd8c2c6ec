"""Refuse quantised models that lose too much accuracy, and choose one of the others.

A format is refused if two things are true. The lower end of the 95% interval of its loss is above
what the recipe allows, and the loss is significant in McNemar's exact test, corrected for the
number of formats. If the exams cannot tell a loss from 0, the format is not refused. The interval
is Tango's, which also holds for few questions and where no answer flips.
"""

from __future__ import annotations

from finlab.evaluate import statistics
from finlab.evaluate.score_interval import score_interval

FULL = "full"
LEVEL = 0.05  # significance level of the test
Figures = dict[str, float]


def loss(difference: Figures) -> Figures:
    """Return the accuracy that a format loses, with its interval, from a paired comparison.

    Args:
        difference: From `statistics.paired(full, format)`: format minus full.

    Returns:
        {value, ci_low, ci_high, n}; a positive value is a loss.
    """
    if not difference["n"]:
        return {"value": 0.0, "ci_low": -1.0, "ci_high": 1.0, "n": 0}
    low, high = score_interval(difference["only_first"], difference["only_second"], difference["n"])
    value = -difference["difference"]
    return {"value": value, "ci_low": -high, "ci_high": -low, "n": difference["n"]}


def refusals(compared: dict[str, Figures], max_drop: float) -> list[str]:
    """Return a sentence for each format that certainly loses more than is allowed.

    Args:
        compared: {format: paired comparison with the full model}.
        max_drop: Accuracy that a format may lose, from 0 to 1.
    """
    found = []
    proven = statistics.holm([difference["p"] for difference in compared.values()])
    for (name, difference), p in zip(compared.items(), proven):
        lost = loss(difference)
        if lost["ci_low"] > max_drop and p < LEVEL:
            found.append(
                f"{name} loses {lost['value']:.3f} of accuracy "
                f"[{lost['ci_low']:.3f}, {lost['ci_high']:.3f}] on {difference['n']} questions, "
                f"more than max_drop {max_drop:g}"
            )
    return found


def require(compared: dict[str, Figures], max_drop: float) -> None:
    """Stop the step if a format loses too much.

    Args:
        compared: {format: paired comparison with the full model}.
        max_drop: Accuracy that a format may lose, from 0 to 1.

    Raises:
        ValueError: A format loses too much, see `refusals`.
    """
    found = refusals(compared, max_drop)
    if found:
        raise ValueError(
            f"{'; '.join(found)}: leave it out of formats, calibrate on more text, "
            "or raise max_drop if you can live with it"
        )


def choose(
    measured: dict[str, Figures], compared: dict[str, Figures], max_drop: float
) -> dict[str, str]:
    """Return which format to take, and why.

    It is the smallest format on disk whose loss is at most `max_drop`, even at the upper end of its
    interval. If there is no such format, the full model is kept.

    Args:
        measured: {format: figures with bytes}, including the full model.
        compared: {format: paired comparison with the full model}.
        max_drop: Accuracy that a format may lose, from 0 to 1.

    Returns:
        {format, why}.
    """
    if not compared:
        return {"format": FULL, "why": "no other format was made"}
    safe = [name for name in compared if loss(compared[name])["ci_high"] <= max_drop]
    if not safe:
        # The lowest upper end of a loss shows how close the exams are to a decision.
        nearest = min(compared, key=lambda name: loss(compared[name])["ci_high"])
        lost = loss(compared[nearest])
        return {
            "format": FULL,
            "why": f"no format is sure to lose at most {max_drop:g}: {nearest} may lose up to "
            f"{lost['ci_high']:.3f}; ask more questions, or allow more",
        }
    best = min(safe, key=lambda name: measured[name]["bytes"])
    lost = loss(compared[best])
    share = measured[best]["bytes"] / measured[FULL]["bytes"]
    return {
        "format": best,
        "why": f"it is the smallest ({share:.0%} of the full model's bytes) that loses at most "
        f"{lost['ci_high']:.3f} of accuracy, with {max_drop:g} allowed",
    }
