"""Draw plots: curves, bars, intervals, and gains against losses."""

from __future__ import annotations

from typing import TYPE_CHECKING

import matplotlib.ticker

from finlab.show import alt_texts
from finlab.show.figures import COLOURS, axes_of

if TYPE_CHECKING:
    from finlab.show.figures import Drawing

MARKERS = ("o", "s", "^", "D", "v", "P", "X", "*", "<", ">")
LINE_STYLES = ("-", "--", "-.", ":")
BESIDE = {"loc": "upper left", "bbox_to_anchor": (1, 1)}  # a legend to the right of the axes


def curve(records: list[dict], names: dict[str, str], ylabel: str, title: str = "") -> Drawing:
    """Plot logged quantities over optimizer steps.

    Args:
        records: Lines of a log.jsonl.
        names: {key of the records: label}.
        ylabel: Label of the y axis.
        title: Title of the figure.
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
    marks: dict[float, str] | None = None,
    families: dict[str, str] | None = None,
) -> Drawing:
    """Plot one line for each label, with its interval where it has one.

    Args:
        values: {label: {x: y}}.
        xlabel: Label of the x axis.
        ylabel: Label of the y axis.
        title: Title of the figure.
        least: Whether to mark the lowest point of each line.
        scale: Scale of the y axis, `linear` or `log`.
        bands: {label: {x: (low, high)}}, the intervals, drawn as bands behind the lines.
        marks: {x: text}, each a dotted line from top to bottom with its text.
        families: {label: family}; the lines of a family have one colour and different line styles.
    """
    figure, axes = axes_of()
    looks = _looks(list(values), families)
    for label, points in values.items():
        marker = "o" if len(points) < 40 else ""
        xs, ys = list(points), list(points.values())
        (line,) = axes.plot(xs, ys, label=label, marker=marker, markersize=3, **looks[label])
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
    for x, text in (marks or {}).items():
        axes.axvline(x, color="#555", linestyle=":", linewidth=1)
        place = {"xy": (x, 1), "xycoords": ("data", "axes fraction")}
        offset = {"xytext": (3, -2), "textcoords": "offset points"}
        axes.annotate(text, **place, **offset, va="top", fontsize=8, color="#555")
    if len(values) > 2:
        axes.legend(**BESIDE, fontsize=8)
    elif len(values) > 1:
        axes.legend()
    figure.alt = alt_texts.of_lines(values, xlabel, ylabel, title)
    return figure


def _looks(labels: list[str], families: dict[str, str] | None) -> dict[str, dict[str, str]]:
    """Return the colour and the line style of each line.

    Args:
        labels: Labels of the lines.
        families: As for `lines`.
    """
    if not families:
        return {label: {} for label in labels}
    known = list(dict.fromkeys(families.values()))
    looks = {}
    members: dict[str, int] = {}
    for label in labels:
        family = families.get(label, "")
        place = members.get(family, 0)
        members[family] = place + 1
        colour = f"C{known.index(family)}" if family in known else "#555"
        looks[label] = {"color": colour, "linestyle": LINE_STYLES[place % len(LINE_STYLES)]}
    return looks


def bars(
    values: dict[str, dict[str, float]],
    ylabel: str,
    title: str = "",
    chance: float | None = None,
    intervals: dict[tuple[str, str], tuple[float, float]] | None = None,
) -> Drawing:
    """Draw grouped bars.

    Args:
        values: {group: {series: value}}.
        ylabel: Label of the y axis.
        title: Title of the figure.
        chance: The accuracy of guessing, drawn as a dashed line; None for no line.
        intervals: {(group, series): (low, high)}.
    """
    series = list(dict.fromkeys(name for group in values.values() for name in group))
    width = 0.8 / len(series)
    figure, axes = axes_of(figsize=(max(7.5, 0.42 * len(values) * len(series)), 3.6))
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
    figure.alt = alt_texts.of_bars(values, ylabel, title)
    return figure


def ranked(
    values: dict[str, dict[str, tuple[float, float, float]]],
    xlabel: str,
    title: str = "",
    chance: float | None = None,
) -> Drawing:
    """Draw a value with its interval for each name: a row for each name, a panel for each group.

    Unlike bars, it is readable with twenty names.

    Args:
        values: {group: {name: (value, low, high)}}.
        xlabel: Label of the x axis, which says what the value is.
        title: Title of the figure.
        chance: The accuracy of guessing, drawn as a dashed line; None for no line.
    """
    names = list(dict.fromkeys(name for group in values.values() for name in group))
    height = 1.1 + 0.26 * len(names)
    shape = {"ncols": len(values), "sharey": True, "sharex": True, "squeeze": False}
    figure, panels = axes_of(figsize=(7.5, height), **shape)
    for axes, (group, of_group) in zip(panels[0], values.items(), strict=True):
        for name, (value, low, high) in of_group.items():
            row = names.index(name)
            dot = {"fmt": "o", "color": "#c0392b", "ecolor": "#333", "capsize": 2, "markersize": 4}
            axes.errorbar([value], [row], xerr=[[value - low], [high - value]], **dot)
        if chance is not None:
            axes.axvline(chance, color="#333", linestyle="--", linewidth=1)
            place = {"xy": (chance, 0), "xycoords": ("data", "axes fraction")}
            offset = {"xytext": (3, 2), "textcoords": "offset points"}
            axes.annotate(f"chance {chance:.2f}", **place, **offset, fontsize=7, color="#333")
        axes.set_title(group, fontsize=10)
        axes.set_xlabel(xlabel, fontsize=9)
        axes.set_yticks(range(len(names)), names, fontsize=8)
        axes.margins(x=0.08)
    panels[0][0].invert_yaxis()
    figure.suptitle(title, fontsize=11)
    plain = {}
    for group, of_group in values.items():
        plain[group] = {name: value for name, (value, _, _) in of_group.items()}
    figure.alt = alt_texts.of_bars(plain, xlabel, title)
    return figure


def gain(
    points: dict[str, dict[str, tuple[float, float, float]]],
    across: str,
    up: str,
    title: str = "",
) -> Drawing:
    """Draw what was gained against what was lost.

    Args:
        points: {name: {across: (value, low, high), up: the same}}.
        across: The domain on the horizontal axis, a key of each point.
        up: The domain on the vertical axis, a key of each point.
        title: Title of the figure.
    """
    figure, axes = axes_of(figsize=(7.5, 4.6))
    for number, (name, found) in enumerate(points.items()):
        x, left, right = found[across]
        y, low, high = found[up]
        errors = {
            "xerr": [[x - left], [right - x]],
            "yerr": [[y - low], [high - y]],
        }
        colour, marker = f"C{number % 10}", MARKERS[number % len(MARKERS)]
        dot = {"fmt": marker, "color": colour, "markersize": 7, "elinewidth": 0.8}
        # Quantised models have nearly the same place: thin intervals and other marks help.
        axes.errorbar([x], [y], **errors, **dot, markerfacecolor="none", alpha=0.85, label=name)
    axes.axhline(0, color="#333", linewidth=0.8)
    axes.axvline(0, color="#333", linewidth=0.8)
    axes.set(xlabel=f"difference in {across} accuracy", title=title)
    axes.set(ylabel=f"difference in {up} accuracy")
    axes.legend(**BESIDE, fontsize=8)
    figure.alt = alt_texts.of_points(points, across, up, title)
    return figure
