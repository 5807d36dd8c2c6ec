"""Draw a ledger as a stream: a band for each source, and a bar for each loss."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy
import pandas

from finlab.show import alt_texts
from finlab.show.figures import axes_of

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from finlab.show.figures import Drawing

EASE = [3 * part**2 - 2 * part**3 for part in numpy.linspace(0, 1, 13)]  # from 0 to 1, smoothly


def _shares_taken(rows: list[dict], end: str, least: float) -> pandas.DataFrame:
    """Return what each reason took from each source, as shares of all tokens read.

    Args:
        rows: Rows {source, reason, tokens}.
        end: The reason that is not a loss but what is left; it is left out.
        least: Reasons that took a smaller share are added up as `other`.

    Returns:
        A table with a column for each source, the largest first, and a row for each reason. The
        first row is `read`.
    """
    frame = pandas.DataFrame(rows)
    frame = frame[frame.reason != end]
    shares = frame.pivot_table(
        index="reason", columns="source", values="tokens", aggfunc="sum", sort=False
    ).fillna(0.0)
    shares /= shares.loc["read"].sum() or 1
    shares = shares[shares.loc["read"].sort_values(ascending=False, kind="stable").index]
    losses = shares.drop("read")
    small = losses.sum(axis=1).abs() < least
    parts = [shares.loc[["read"]], losses[~small]]
    if small.any():
        other = losses[small].sum().to_frame("other").T
        parts.insert(1, other)
    return pandas.concat(parts)


def flow(rows: list[dict], end: str, title: str = "", least: float = 0.002) -> Drawing:
    """Draw a ledger as a stream from the tokens read to the tokens left, and each loss below.

    Losses are a few percent of the stream, so they have a panel and a scale of their own.

    Args:
        rows: Rows {source, reason, tokens}, from `read` to `end`.
        end: The last reason, which names what is left.
        title: Title of the figure.
        least: Reasons that take a smaller share of all tokens are drawn together as `other`.
    """
    taken = _shares_taken(rows, end, least)
    losses = taken.drop("read")
    height = 3.4 + 0.28 * len(losses)
    ratios = {"height_ratios": [3.4, max(0.28 * len(losses), 0.6)]}
    figure, (above, below) = axes_of(figsize=(7.5, height), nrows=2, gridspec_kw=ratios)
    rest = _draw_stream(above, taken.loc["read"], losses, end)
    above.set_title(title)
    totals = losses.sum(axis=1)
    _draw_losses(below, totals)
    parts = {reason: {"share": -lost} for reason, lost in totals.items()}
    figure.alt = alt_texts.of_bars(parts | {end: {"share": rest}}, "the tokens read", title)
    return figure


def _draw_stream(axes: Axes, left: pandas.Series, losses: pandas.DataFrame, end: str) -> float:
    """Draw the stream, and return the share of the tokens that is left.

    Args:
        axes: The axes to draw on.
        left: {source: share} of the tokens read.
        losses: What each reason took from each source, as shares of the tokens read.
        end: The name of what is left.
    """
    ground = 0.0
    for place, (_, parts) in enumerate(losses.iterrows()):
        after = left - parts
        ground_after = ground + max(parts.sum(), 0)
        _draw_bands(axes, place, (left, ground), (after, ground_after))
        left, ground = after, ground_after
    rest = left.sum()
    axes.text(len(losses) + 0.05, ground + rest / 2, f"{end}\n{rest:.1%}", va="center", fontsize=9)
    numbers = range(1, len(losses) + 1)  # the panel below names them
    axes.set_xticks([number - 0.5 for number in numbers], numbers, fontsize=8)
    axes.tick_params(axis="x", length=0)
    axes.set(xlim=(0, len(losses) + 0.6), ylim=(0, None), ylabel="share of tokens read")
    axes.legend(loc="upper left", bbox_to_anchor=(1.02, 1), fontsize=8, reverse=True)
    axes.spines["bottom"].set_visible(False)
    axes.grid(False)
    return rest


def _draw_losses(axes: Axes, totals: pandas.Series) -> None:
    """Draw what each reason took as bars on a scale of their own; gains are only text.

    Args:
        axes: The axes to draw on.
        totals: {reason: share of the tokens read}; a negative share is read again, so a gain.
    """
    # What is read again is more than all losses together; its bar would make theirs too short.
    taken = totals.clip(lower=0)
    drawn = axes.barh(range(len(totals)), 100 * taken, color="#9aa5b1")
    axes.bar_label(drawn, [f"{-lost:+.1%}" for lost in totals], fontsize=8, padding=3)
    names = [f"{number} {reason}" for number, reason in enumerate(totals.index, 1)]
    axes.set_yticks(range(len(totals)), names, fontsize=8)
    axes.set_xlabel("% of the tokens read, taken out (above 0 in words: read again)", fontsize=8)
    axes.margins(x=0.15)
    axes.invert_yaxis()


def _draw_bands(
    axes: Axes,
    place: int,
    begin: tuple[pandas.Series, float],
    end: tuple[pandas.Series, float],
) -> None:
    """Draw one step of the stream: the band of each source from left to right.

    Args:
        axes: The axes to draw on.
        place: The number of the step, counted from the left, from 0.
        begin: ({source: share}, height of the lowest band's lower edge) at the left of the step.
        end: The same at the right of the step.
    """
    across = numpy.linspace(place, place + 1, 13)
    (left, left_ground), (right, right_ground) = begin, end
    number = len(left)
    for source in reversed(left.index):  # the largest source on top
        number -= 1
        tops = left_ground + left[source], right_ground + right[source]
        low = [left_ground + (right_ground - left_ground) * part for part in EASE]
        high = [tops[0] + (tops[1] - tops[0]) * part for part in EASE]
        label = None if place else source
        colour = f"C{number % 10}"
        axes.fill_between(across, low, high, color=colour, alpha=0.75, linewidth=0, label=label)
        left_ground, right_ground = tops
