"""Draw boxes, arrows and notes, for the figures of ideas."""

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
        axes: The axes to draw on.
        corner: (x, y) of the lower left corner.
        size: (width, height).
        text: The text in the middle.
        colour: Colour of the background.
        fontsize: Size of the text, in points.
    """
    (x, y), (width, height) = corner, size
    look = {"boxstyle": "round,pad=0.02,rounding_size=0.08", "linewidth": 0.8}
    axes.add_patch(FancyBboxPatch(corner, width, height, facecolor=colour, edgecolor=INK, **look))
    middle = {"ha": "center", "va": "center", "color": INK, "fontsize": fontsize}
    axes.text(x + width / 2, y + height / 2, text, **middle)


def arrow(axes: Axes, begin: tuple[float, float], end: tuple[float, float], text: str = "") -> None:
    """Draw an arrow, with a text above its middle.

    Args:
        axes: The axes to draw on.
        begin: (x, y) of the tail.
        end: (x, y) of the head.
        text: The text above the middle; empty for none.
    """
    look = {"arrowstyle": "-|>", "color": INK, "linewidth": 1}
    axes.annotate("", xy=end, xytext=begin, arrowprops=look)
    if text:
        x = (begin[0] + end[0]) / 2
        y = (begin[1] + end[1]) / 2
        axes.text(x, y + 0.08, text, ha="center", va="bottom", fontsize=8, color=INK)


def note(axes: Axes, x: float, y: float, text: str, **look: object) -> None:
    """Write a small text.

    Args:
        axes: The axes to draw on.
        x: x of the left end of the text.
        y: y of the middle of the text.
        text: The text to write.
        **look: Settings of matplotlib's text.
    """
    axes.text(x, y, text, **{"fontsize": 8.5, "va": "center", "color": INK, **look})
