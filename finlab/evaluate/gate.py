"""Which quantised model may be used: a gate for what loses too much, and a choice.

One rule for both: a format is refused where even the lower end of its loss's 95% interval is above
what the recipe allows. A loss that the exams cannot tell from nothing is no reason to refuse.
"""

from __future__ import annotations

FULL = "full"
Figures = dict[str, float]


def loss(difference: Figures) -> Figures:
    """Return the accuracy that a format loses, with its interval, from a paired comparison.

    Args:
        difference: Of `statistics.paired(full, format)`: format minus full.
    """
    return {
        "value": -difference["difference"],
        "ci_low": -difference["ci_high"],
        "ci_high": -difference["ci_low"],
    }


def refusals(compared: dict[str, Figures], max_drop: float) -> list[str]:
    """Return a sentence for each format that loses more than it may, for certain.

    Args:
        compared: {format: paired comparison with the full model}.
        max_drop: Accuracy that a format may lose.
    """
    found = []
    for name, difference in compared.items():
        lost = loss(difference)
        if lost["ci_low"] > max_drop:
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
