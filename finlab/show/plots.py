"""Plots: their look, curves, bars, and a ledger drawn as a stream."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import matplotlib
import matplotlib.pyplot as plt
import matplotlib.ticker
import numpy
import pandas
from matplotlib import font_manager

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

COLOURS = {"before": "#9aa5b1", "after": "#c0392b", "finance": "#c0392b", "general": "#2c6e9b"}
CHINESE_FONTS = (
    "Noto Sans CJK SC",
    "Source Han Sans SC",
    "Source Han Sans CN",
    "WenQuanYi Micro Hei",
    "PingFang SC",
    "Microsoft YaHei",
)
LOOK = {
    "font.family": ["sans-serif"],
    "axes.unicode_minus": False,
    "figure.dpi": 100,
    "figure.figsize": (7.5, 3.4),
    "figure.autolayout": True,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.alpha": 0.25,
    "axes.axisbelow": True,
    "legend.frameon": False,
}
BESIDE = {"loc": "upper left", "bbox_to_anchor": (1, 1)}  # a legend to the right of the axes


def style() -> str:
    """Set the look of the figures and a font with Chinese glyphs; return the font's name.

    An installed font is used where there is one, else Noto Sans CJK from the `mplfonts` package.
    """
    known = {font.name for font in font_manager.fontManager.ttflist}
    name = next((font for font in CHINESE_FONTS if font in known), "")
    if not name:
        import mplfonts

        path = Path(mplfonts.__file__).parent / "fonts" / "NotoSansCJKsc-Regular.otf"
        font_manager.fontManager.addfont(str(path))
        name = font_manager.FontProperties(fname=str(path)).get_name()
    plt.rcParams.update(LOOK | {"font.sans-serif": [name, "DejaVu Sans"]})
    return name


# --- plots ---------------------------------------------------------------------------------------
def _axes(**options: Any) -> tuple[Figure, Axes]:
    """Return a new figure with axes.

    It is closed, so that it is shown only where it is returned.

    Args:
        **options: For `plt.subplots`.
    """
    style()
    figure, axes = plt.subplots(**options)
    plt.close(figure)
    return figure, axes


def curve(records: list[dict], names: dict[str, str], ylabel: str, title: str = "") -> Figure:
    """Plot logged quantities over optimizer steps.

    Args:
        records: Lines of a log.jsonl.
        names: {key of the records: label}.
        ylabel: What is plotted.
        title: Of the figure.
    """
    found = {}
    for key, label in names.items():
        points = {record["step"]: record[key] for record in records if key in record}
        if points:
            found[label] = points
    return lines(found, "optimizer step", ylabel, title, least=False)


def lines(
    values: dict[str, dict[float, float]],
    xlabel: str,
    ylabel: str,
    title: str = "",
    least: bool = True,
    scale: str = "linear",
    bands: dict[str, dict[float, tuple[float, float]]] | None = None,
) -> Figure:
    """Plot one line for each label, with its interval where it has one.

    Args:
        values: {label: {x: y}}.
        xlabel: What x is.
        ylabel: What y is.
        title: Of the figure.
        least: Whether to mark the lowest point of each line.
        scale: Of y, `linear` or `log`.
        bands: {label: {x: (low, high)}}, drawn behind the line.
    """
    figure, axes = _axes()
    for label, points in values.items():
        marker = "o" if len(points) < 40 else ""
        xs, ys = list(points), list(points.values())
        (line,) = axes.plot(xs, ys, label=label, marker=marker, markersize=3)
        if bands and label in bands:
            lows, highs = zip(*bands[label].values())
            axes.fill_between(xs, lows, highs, color=line.get_color(), alpha=0.15, linewidth=0)
        if least:
            x = min(points, key=points.get)
            ring = {"marker": "o", "markersize": 9, "fillstyle": "none"}
            axes.plot(x, points[x], color=line.get_color(), **ring)
    axes.set(xlabel=xlabel, ylabel=ylabel, title=title, yscale=scale)
    if scale == "log":  # plain numbers, and enough of them on a short axis
        axes.yaxis.set_major_locator(matplotlib.ticker.LogLocator(subs=(1, 2, 5)))
        axes.yaxis.set_major_formatter(matplotlib.ticker.FormatStrFormatter("%g"))
        axes.yaxis.set_minor_locator(matplotlib.ticker.NullLocator())
    if len(values) > 2:
        axes.legend(**BESIDE, fontsize=8)
    elif len(values) > 1:
        axes.legend()
    return figure


def bars(
    values: dict[str, dict[str, float]],
    ylabel: str,
    title: str = "",
    chance: float | None = None,
    intervals: dict[tuple[str, str], tuple[float, float]] | None = None,
) -> Figure:
    """Draw grouped bars.

    Args:
        values: {group: {series: value}}.
        ylabel: What is drawn.
        title: Of the figure.
        chance: Where to draw a dashed line.
        intervals: {(group, series): (low, high)}.
    """
    series = list(dict.fromkeys(name for group in values.values() for name in group))
    width = 0.8 / len(series)
    figure, axes = _axes(figsize=(max(7.5, 0.42 * len(values) * len(series)), 3.6))
    for number, name in enumerate(series):
        offset = (number - (len(series) - 1) / 2) * width
        places, heights, ends = [], [], []
        for place, (group, of_group) in enumerate(values.items()):
            if name not in of_group:
                continue
            places.append(place + offset)
            heights.append(of_group[name])
            if intervals:
                low, high = intervals[group, name]
                ends.append((of_group[name] - low, high - of_group[name]))
        colour = COLOURS.get(name, f"C{number}")
        drawn = axes.bar(places, heights, width * 0.94, label=name, color=colour)
        if intervals:
            errors = {"ecolor": "#333", "elinewidth": 1, "capsize": 2}
            axes.errorbar(places, heights, yerr=list(zip(*ends)), fmt="none", **errors)
        elif len(series) * len(values) <= 16:
            axes.bar_label(drawn, fmt="%.3g", fontsize=8, padding=2)
    if chance is not None:
        label = f"chance {chance:.2f}"
        axes.axhline(chance, color="#333", linestyle="--", linewidth=1, label=label)
    few = len(values) <= 6
    turn = {"rotation": 0, "ha": "center"} if few else {"rotation": 30, "ha": "right"}
    axes.set_xticks(range(len(values)), [str(name) for name in values], **turn)
    axes.set(ylabel=ylabel, title=title)
    axes.margins(y=0.15)
    if len(series) > 1 or chance is not None:
        axes.legend(**BESIDE)
    return figure


def gain(
    points: dict[str, dict[str, tuple[float, float, float]]],
    across: str,
    up: str,
    title: str = "",
) -> Figure:
    """Draw what was gained against what was lost.

    Args:
        points: {name: {across: (value, low, high), up: the same}}.
        across: What lies on the horizontal axis.
        up: What lies on the vertical axis.
        title: Of the figure.
    """
    figure, axes = _axes(figsize=(7.5, 4.6))
    for number, (name, found) in enumerate(points.items()):
        x, left, right = found[across]
        y, low, high = found[up]
        errors = {"xerr": [[x - left], [right - x]], "yerr": [[y - low], [high - y]]}
        dot = {"fmt": "o", "color": f"C{number}", "elinewidth": 1, "capsize": 2}
        axes.errorbar([x], [y], **errors, **dot, label=name)
    axes.axhline(0, color="#333", linewidth=0.8)
    axes.axvline(0, color="#333", linewidth=0.8)
    axes.set(xlabel=f"difference in {across} accuracy", title=title)
    axes.set(ylabel=f"difference in {up} accuracy")
    axes.legend(**BESIDE)
    return figure


# --- the ledger as a stream ----------------------------------------------------------------------
EASE = [3 * part**2 - 2 * part**3 for part in numpy.linspace(0, 1, 13)]  # from 0 to 1, smoothly


def _shares_taken(rows: list[dict], end: str, least: float) -> pandas.DataFrame:
    """Return what each reason took of each source, as shares of all that was read.

    Args:
        rows: {source, reason, tokens}.
        end: The reason that is no loss, and is left out.
        least: Reasons that took less are added up as `other`.

    Returns:
        Sources are the columns, the largest first; the first row is `read`.
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


def flow(rows: list[dict], end: str, title: str = "", least: float = 0.002) -> Figure:
    """Draw a ledger as a stream: a band for each source, and a branch for each loss.

    Args:
        rows: {source, reason, tokens}, from `read` to `end`.
        end: The last reason.
        title: Of the figure.
        least: Reasons that take less of all tokens are drawn together as `other`.
    """
    taken = _shares_taken(rows, end, least)
    left = taken.loc["read"]
    losses = taken.drop("read")
    figure, axes = _axes(figsize=(max(7.5, 1.15 * len(losses) + 3), 4.6))
    ground = 0.0
    for place, (reason, parts) in enumerate(losses.iterrows()):
        after, lost = left - parts, parts.sum()
        ground_after = ground + max(lost, 0)
        _draw_bands(axes, place, (left, ground), (after, ground_after))
        if lost > 0:
            branch = [place + 0.35, place + 0.65]
            below, above = [-0.06, -0.06], [ground, ground + lost]
            axes.fill_between(branch, below, above, color="#9aa5b1", alpha=0.45, linewidth=0)
        label = {"ha": "right", "va": "top", "rotation": 35, "rotation_mode": "anchor"}
        axes.text(place + 0.5, -0.1, f"{reason}\n{-lost:+.1%}", fontsize=8, **label)
        left, ground = after, ground_after
    rest = left.sum()
    axes.text(len(losses) + 0.05, ground + rest / 2, f"{end}\n{rest:.1%}", va="center", fontsize=9)
    axes.set(xlim=(0, len(losses) + 0.6), ylim=(-0.1, None), xticks=[])
    axes.set(ylabel="share of tokens read", title=title)
    axes.legend(loc="upper left", bbox_to_anchor=(1.02, 1), fontsize=8, reverse=True)
    axes.spines["bottom"].set_visible(False)
    axes.grid(False)
    return figure


def _draw_bands(
    axes: Axes,
    place: int,
    begin: tuple[pandas.Series, float],
    end: tuple[pandas.Series, float],
) -> None:
    """Draw one step of the stream: each source's band from its height at the left to the right.

    Args:
        axes: Where to draw.
        place: The step's place from the left.
        begin: ({source: share}, height of the ground) at the left.
        end: The same at the right.
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
