"""Say in words what a figure shows, for readers who cannot see it and for search."""

from __future__ import annotations

from collections.abc import Iterable

MOST = 12  # maximum number of series that are described one by one


def _number(value: float) -> str:
    """Return a number in at most four significant digits."""
    return f"{value:.4g}"


def _joined(parts: Iterable[str]) -> str:
    """Join the texts of the first MOST series, and say how many more there are."""
    parts = list(parts)
    more = f"; and {len(parts) - MOST} more" if len(parts) > MOST else ""
    return "; ".join(parts[:MOST]) + more + "."


def of_lines(
    values: dict[str, dict[float, float]], xlabel: str, ylabel: str, title: str = ""
) -> str:
    """Return a text that says where each line begins and ends.

    Args:
        values: {label: {x: y}}.
        xlabel: Label of the x axis.
        ylabel: Label of the y axis.
        title: Title of the figure.
    """
    said = []
    for label, points in values.items():
        xs = list(points)
        if not xs:
            continue
        begin, end = xs[0], xs[-1]
        first, last = _number(points[begin]), _number(points[end])
        said.append(f"{label} from {first} at {begin:g} to {last} at {end:g}")
    head = f"{title}. " if title else ""
    return f"{head}Lines of {ylabel} over {xlabel}: {_joined(said)}"


def of_bars(values: dict[str, dict[str, float]], ylabel: str, title: str = "") -> str:
    """Return a text that says how high each bar is.

    Args:
        values: {group: {series: value}}.
        ylabel: Label of the y axis.
        title: Title of the figure.
    """
    said = []
    for group, of_group in values.items():
        bars = ", ".join(f"{name} {_number(value)}" for name, value in of_group.items())
        said.append(f"{group}: {bars}")
    head = f"{title}. " if title else ""
    return f"{head}Bars of {ylabel}. {_joined(said)}"


def of_points(
    points: dict[str, dict[str, tuple[float, float, float]]],
    across: str,
    up: str,
    title: str = "",
) -> str:
    """Return a text that says where each point is.

    Args:
        points: {name: {across: (value, low, high), up: the same}}.
        across: The domain on the horizontal axis, a key of each point.
        up: The domain on the vertical axis, a key of each point.
        title: Title of the figure.
    """
    said = []
    for name, found in points.items():
        x, *_ = found[across]
        y, *_ = found[up]
        said.append(f"{name}: {across} {x:+.3f}, {up} {y:+.3f}")
    head = f"{title}. " if title else ""
    return f"{head}Points. {_joined(said)}"
