"""Boxes and arrows, which the figures of ideas are made of."""

from __future__ import annotations

from typing import TYPE_CHECKING

from matplotlib.patches import FancyBboxPatch

if TYPE_CHECKING:
    from matplotlib.axes import Axes

FROZEN = "#dbe4ee"  # what does not change
LEARNT = "#f6c6c0"  # what is trained, or chosen
PLAIN = "#f4f1e8"
INK = "#1b2733"


def box(
    axes: Axes,
    corner: tuple[float, float],
    size: tuple[float, float],
    text: str,
    colour: str = PLAIN,
    fontsize: float = 9,
) -> None:
    """Draw a rounded box with a text in its middle.

    Args:
        axes: Where to draw.
        corner: (x, y) of its lower left corner.
        size: (width, height).
        text: In its middle.
        colour: Of its ground.
        fontsize: Of the text, in points.
    """
    (x, y), (width, height) = corner, size
    look = {"boxstyle": "round,pad=0.02,rounding_size=0.08", "linewidth": 0.8}
    axes.add_patch(FancyBboxPatch(corner, width, height, facecolor=colour, edgecolor=INK, **look))
    middle = {"ha": "center", "va": "center", "color": INK, "fontsize": fontsize}
    axes.text(x + width / 2, y + height / 2, text, **middle)


def arrow(axes: Axes, begin: tuple[float, float], end: tuple[float, float], text: str = "") -> None:
    """Draw an arrow, with a text above its middle.

    Args:
        axes: Where to draw.
        begin: (x, y) of its tail.
        end: (x, y) of its head.
        text: Above it.
    """
    look = {"arrowstyle": "-|>", "color": INK, "linewidth": 1}
    axes.annotate("", xy=end, xytext=begin, arrowprops=look)
    if text:
        x, y = (begin[0] + end[0]) / 2, (begin[1] + end[1]) / 2
        axes.text(x, y + 0.08, text, ha="center", va="bottom", fontsize=8, color=INK)


def note(axes: Axes, x: float, y: float, text: str, **look: object) -> None:
    """Write a small text.

    Args:
        axes: Where to draw.
        x: Of its left end.
        y: Of its middle.
        text: What to write.
        **look: Of matplotlib's text.
    """
    axes.text(x, y, text, **{"fontsize": 8.5, "va": "center", "color": INK, **look})
