"""Draw the ideas of sizes and numbers: a longer token, rounding, an interval, memory."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy

from finlab.evaluate import statistics
from finlab.show.figures import axes_of, canvas
from finlab.show.ideas.shapes import FROZEN, LEARNT, note
from finlab.show.ideas.shapes import box as draw_box

if TYPE_CHECKING:
    from finlab.show.figures import Drawing


def token_merge(text: str, before: list[str], after: list[str]) -> Drawing:
    """Draw a text as the old and as the extended tokenizer cut it.

    Args:
        text: The text that is cut.
        before: Its tokens in the old vocabulary, as people read them.
        after: Its tokens in the extended vocabulary, as people read them.
    """
    alt = f"'{text}' is {len(before)} tokens before and {len(after)} after: {' | '.join(after)}."
    figure, axes = canvas(10, 1.9, f"The same text: {len(before)} tokens, then {len(after)}", alt)
    known = set(before)
    for y, pieces, name in ((1.1, before, "before"), (0.25, after, "after")):
        note(axes, 0.0, y + 0.28, name)
        widths = [0.14 + 0.16 * _columns(piece) for piece in pieces]
        scale = min(1.0, 9.0 / sum(widths))
        x = 0.95
        for piece, width in zip(pieces, widths, strict=True):
            colour = FROZEN if piece in known else LEARNT
            draw_box(axes, (x, y), (width * scale - 0.04, 0.56), piece, colour, 9 * scale**0.5)
            x += width * scale
    return figure


def _columns(text: str) -> int:
    """Return how many columns a text takes: a Chinese character takes two."""
    return sum(2 if ord(letter) > 0x2E80 else 1 for letter in text)


def rounding_levels(weights: numpy.ndarray, levels: numpy.ndarray, group: int) -> Drawing:
    """Draw some weights, and the levels to which a 4-bit format rounds them.

    Args:
        weights: Weights of a real model that share one scale, shape (group,).
        levels: The levels of the format, from -1 to 1, before scaling.
        group: How many weights share a scale.
    """
    scale = float(numpy.abs(weights).max())
    grid = levels * scale
    nearest = grid[numpy.abs(weights[:, None] - grid[None]).argmin(1)]
    figure, axes = axes_of(figsize=(7.5, 3.2))
    for level in grid:
        axes.axhline(level, color="#9aa5b1", linewidth=0.6)
    places = numpy.arange(len(weights))
    axes.vlines(places, weights, nearest, color="#c0392b", linewidth=1.2, label="error")
    axes.plot(places, weights, "o", color="#2c6e9b", markersize=4, label="weight")
    axes.plot(places, nearest, "s", color="#c0392b", markersize=3, label="rounded")
    axes.set(xlabel=f"weight, {group} of them share one scale ({scale:.3g})", ylabel="value")
    axes.set(title=f"{len(levels)} levels are 4 bits: each weight goes to the nearest")
    axes.legend(loc="upper left", bbox_to_anchor=(1, 1))
    axes.grid(False)
    error = float(numpy.abs(weights - nearest).mean())
    figure.alt = (
        f"{len(weights)} weights and the {len(levels)} levels of a 4-bit format, scaled to their "
        f"largest, {scale:.3g}. The mean error of rounding is {error:.2g}."
    )
    return figure


def interval(right: int, asked: int, chance: float) -> Drawing:
    """Draw how the 95% interval of an accuracy narrows with the number of questions.

    Args:
        right: Number of questions answered right.
        asked: Number of questions asked.
        chance: The accuracy of guessing.
    """
    share = right / asked
    counts = numpy.unique(numpy.geomspace(10, max(10_000, asked), 60).astype(int))
    lows, highs = _wilson(share, counts)
    figure, axes = axes_of()
    axes.fill_between(counts, lows, highs, color="#f6c6c0")
    axes.axhline(share, color="#c0392b", label=f"accuracy {share:.3f}")
    axes.axhline(chance, color="#333", linestyle="--", linewidth=1, label=f"chance {chance:.2f}")
    low, high = statistics.wilson(right, asked)
    error = [[share - low], [high - share]]
    axes.errorbar([asked], [share], yerr=error, fmt="o", color="#333", capsize=3)
    axes.annotate(f"here: {asked}", (asked, high), (0, 4), textcoords="offset points")
    axes.set(xscale="log", xlabel="questions asked", ylabel="accuracy", ylim=(0, 1))
    axes.set(title="What this many questions can tell: the 95% interval")
    axes.legend()
    figure.alt = (
        f"The 95% interval of an accuracy of {share:.3f} narrows with the number of questions; "
        f"with the {asked} of this exam it reaches from {low:.3f} to {high:.3f}. "
        f"Chance is {chance:.2f}."
    )
    return figure


def _wilson(share: float, counts: numpy.ndarray) -> tuple[numpy.ndarray, numpy.ndarray]:
    """Return Wilson's 95% interval of a share, for several numbers of questions.

    `statistics.wilson` takes a whole number of right answers, so the edges of a drawn band would
    jump.

    Args:
        share: Share of right answers.
        counts: Numbers of questions, shape (n,).
    """
    z = 1.959964
    middle = (share + z * z / (2 * counts)) / (1 + z * z / counts)
    spread = share * (1 - share) / counts + z * z / (4 * counts**2)
    half = z * numpy.sqrt(spread) / (1 + z * z / counts)
    return middle - half, middle + half


def memory(parts: dict[str, float], capacity: float, title: str) -> Drawing:
    """Draw what fills a GPU's memory, and how much memory the GPU has.

    Args:
        parts: {name of the part: bytes}.
        capacity: Memory of the GPU in bytes.
        title: Title of the figure.
    """
    figure, axes = axes_of(figsize=(7.5, 2.0))
    begin = 0.0
    parts = {name: size for name, size in parts.items() if size}
    for number, (name, size) in enumerate(parts.items()):
        label = f"{name} {size / 1e9:.1f} GB"
        axes.barh(0, size / 1e9, left=begin, color=f"C{number}", label=label)
        begin += size / 1e9
    axes.axvline(capacity / 1e9, color="#333", linestyle="--", linewidth=1)
    axes.annotate(f"{capacity / 1e9:.0f} GB", (capacity / 1e9, 0.42), ha="right", fontsize=8)
    axes.set(yticks=[], xlabel="GB on one GPU", title=title)
    axes.legend(loc="upper left", bbox_to_anchor=(1, 1), fontsize=8)
    told = ", ".join(f"{name} {size / 1e9:.1f} GB" for name, size in parts.items())
    figure.alt = f"{title}: {told}; the GPU has {capacity / 1e9:.0f} GB."
    return figure
