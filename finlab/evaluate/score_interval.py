"""The interval of a paired difference that is right for few items: Tango's score method."""

from __future__ import annotations

import math
from collections.abc import Callable


def score_interval(only_first: int, only_second: int, n: int) -> tuple[float, float]:
    """Return the 95% interval of a paired difference, by Tango's score method.

    Unlike `statistics.mcnemar`'s it has a width where no answer flips, and is right for few items
    (Tango, Statistics in Medicine 17, 1998).

    Worked value: of 50 items 12 by the second alone and 2 by the first alone: 0.061 to 0.345.

    Args:
        only_first: Items that the first model alone has right.
        only_second: Items that the second alone has right.
        n: All items.

    Returns:
        The lowest and highest difference, second minus first, that the items do not speak against.
    """
    difference = (only_second - only_first) / n

    def distance(delta: float) -> float:
        """Return by how many standard errors a difference is off, squared, less 1.96 squared."""
        # The likeliest share of items that the first alone has right, under this difference.
        linear = (2 * n - only_second + only_first) * delta - only_second - only_first
        constant = -only_first * delta * (1 - delta)
        root = math.sqrt(max(linear**2 - 8 * n * constant, 0.0))
        share = (root - linear) / (4 * n)
        variance = n * (2 * share + delta * (1 - delta))
        off = only_second - only_first - n * delta
        if variance <= 0:
            return -(1.96**2) if abs(off) < 1e-12 else math.inf
        return off**2 / variance - 1.96**2

    low = high = difference
    if difference > -1:
        low = _root(distance, -1.0, difference)
    if difference < 1:
        high = _root(distance, 1.0, difference)
    return low, high


def _root(distance: Callable[[float], float], outside: float, inside: float) -> float:
    """Return where a function changes its sign between two places, by halving."""
    for _ in range(60):
        middle = (outside + inside) / 2
        if distance(middle) > 0:
            outside = middle
        else:
            inside = middle
    return inside
