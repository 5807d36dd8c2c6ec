"""Which quantised model may be used: a gate for what loses too much, and a choice.

A format is refused where even the lower end of its loss's 95% interval is above what the recipe
allows, and the loss is proven by McNemar's exact test, corrected for the number of formats. A loss
that the exams cannot tell from nothing is no reason to refuse. The interval is Tango's, which stays
honest on few questions, and where no answer flips.
"""

from __future__ import annotations

from finlab.evaluate import statistics
from finlab.evaluate.score_interval import score_interval

FULL = "full"
LEVEL = 0.05  # of the test
Figures = dict[str, float]


def loss(difference: Figures) -> Figures:
    """Return the accuracy that a format loses, with its interval, from a paired comparison.

    Args:
        difference: Of `statistics.paired(full, format)`: format minus full.
    """
    if not difference["n"]:
        return {"value": 0.0, "ci_low": -1.0, "ci_high": 1.0, "n": 0}
    low, high = score_interval(difference["only_first"], difference["only_second"], difference["n"])
    value = -difference["difference"]
    return {"value": value, "ci_low": -high, "ci_high": -low, "n": difference["n"]}


def refusals(compared: dict[str, Figures], max_drop: float) -> list[str]:
    """Return a sentence for each format that loses more than it may, for certain.

    Args:
        compared: {format: paired comparison with the full model}.
        max_drop: Accuracy that a format may lose.
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
    """Stop a step whose formats lose too much.

    Args:
        compared: {format: paired comparison with the full model}.
        max_drop: Accuracy that a format may lose.

    Raises:
        ValueError: One does.
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

    It is the smallest on disk among those whose loss, at the upper end of its interval, stays
    within what is allowed. Where no format is that certain, the full model is kept.

    Args:
        measured: {format: figures with bytes}, the full model's among them.
        compared: {format: paired comparison with the full model}.
        max_drop: Accuracy that a format may lose.

    Returns:
        {format, why}.
    """
    if not compared:
        return {"format": FULL, "why": "no other format was made"}
    safe = [name for name in compared if loss(compared[name])["ci_high"] <= max_drop]
    if not safe:
        # The least that any of them might lose says how far the exams are from telling.
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
