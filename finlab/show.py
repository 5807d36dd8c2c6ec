"""The plots and tables of the notebooks. The only module that draws."""

from __future__ import annotations

import html
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
    from transformers import PreTrainedTokenizerBase

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


# --- tables --------------------------------------------------------------------------------------
class Table:
    """Rows that a notebook shows whole: as HTML where it can, else as aligned text.

    pandas' Styler was tried: it adds a style sheet and ids for each table, which clash on the one
    page of the report, and it has no plain text.
    """

    def __init__(self, rows: list[dict], digits: int = 3, caption: str = ""):
        self.rows = list(rows)
        self.digits = digits
        self.caption = caption
        self.columns = list(dict.fromkeys(column for row in self.rows for column in row))

    def cell(self, value: Any) -> str:
        """Return a value as the table shows it."""
        if value is None:
            return "–"
        if isinstance(value, (bool, numpy.bool_)):
            return "yes" if value else "no"
        if isinstance(value, (int, numpy.integer)):
            return f"{value:,}"
        if not isinstance(value, (float, numpy.floating)):
            return str(value)
        if abs(value) >= 1e7:
            return f"{value:.2e}"
        if value and abs(value) < 10**-self.digits:
            return f"{value:.1e}"
        return f"{value:.{self.digits}f}"

    def __repr__(self) -> str:
        grid = [self.columns]
        for row in self.rows:
            grid.append([self.cell(row.get(column)) for column in self.columns])
        widths = [max(map(len, column)) for column in zip(*grid)]
        lines = []
        for line in grid:
            cells = [text.ljust(width) for text, width in zip(line, widths, strict=True)]
            lines.append("  ".join(cells))
        return "\n".join(lines)

    def _repr_html_(self) -> str:
        head = ""
        for column in self.columns:
            name = html.escape(str(column)).replace("_", "_<wbr>")
            head += f"<th style='text-align:left;max-width:8em'>{name}</th>"
        body = ""
        for row in self.rows:
            cells = [self._html_cell(row.get(column)) for column in self.columns]
            body += f"<tr>{''.join(cells)}</tr>"
        caption = ""
        if self.caption:
            text = html.escape(self.caption)
            caption = f"<caption style='text-align:left;caption-side:top'>{text}</caption>"
        table = f"<table>{caption}<thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"
        return f"<div style='overflow-x:auto'>{table}</div>"

    def _html_cell(self, value: Any) -> str:
        text = self.cell(value)
        number = isinstance(value, (int, float, numpy.number)) and not isinstance(value, bool)
        align = "right" if number else "left"
        wrap = "nowrap"
        if len(text) > 28 or "\n" in text:
            wrap = "pre-wrap;overflow-wrap:anywhere;max-width:32em"
        return f"<td style='text-align:{align};white-space:{wrap}'>{html.escape(text)}</td>"


def table(rows: list[dict] | pandas.DataFrame, digits: int = 3, caption: str = "") -> Table:
    """Return rows, or a frame with its index, as a table; floats have `digits` decimals."""
    if isinstance(rows, pandas.DataFrame):
        if any(name is not None for name in rows.index.names):
            rows = rows.reset_index()
        rows = rows.astype(object).where(rows.notna(), None).to_dict("records")
    return Table(rows, digits, caption)


# --- plots ---------------------------------------------------------------------------------------
def _axes(**options: Any) -> tuple[Figure, Axes]:
    """Return a new figure with axes; it is closed, so it is shown only where it is returned."""
    style()
    figure, axes = plt.subplots(**options)
    plt.close(figure)
    return figure, axes


def curve(records: list[dict], names: dict[str, str], ylabel: str, title: str = "") -> Figure:
    """Plot logged quantities {key of the records: label} over steps."""
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
) -> Figure:
    """Plot {label: {x: y}} as one line each.

    Args:
        values: The lines.
        xlabel, ylabel, title: What is plotted.
        least: Mark the lowest point of each line.
        scale: Of y, linear or log.
    """
    figure, axes = _axes()
    for label, points in values.items():
        marker = "o" if len(points) < 40 else ""
        xs, ys = list(points), list(points.values())
        (line,) = axes.plot(xs, ys, label=label, marker=marker, markersize=3)
        if least:
            x = min(points, key=points.get)
            ring = {"marker": "o", "markersize": 9, "fillstyle": "none"}
            axes.plot(x, points[x], color=line.get_color(), **ring)
    axes.set(xlabel=xlabel, ylabel=ylabel, title=title, yscale=scale)
    if scale == "log":  # plain numbers, and enough of them on a short axis
        axes.yaxis.set_major_locator(matplotlib.ticker.LogLocator(subs=(1, 2, 5)))
        axes.yaxis.set_major_formatter(matplotlib.ticker.FormatStrFormatter("%g"))
        axes.yaxis.set_minor_locator(matplotlib.ticker.NullLocator())
    if len(values) > 4:
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
        ylabel, title: What is drawn.
        chance: Where to draw a dashed line.
        intervals: (low, high) by (group, series).
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
    """Draw what was gained against what was lost, a point with its intervals for each name.

    Points are {name: {across: (value, low, high), up: the same}}.
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

    Sources are the columns, the largest first; the first row is `read`. Reasons that took little
    are added up as `other`.
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
    """Draw one step of the stream: each source's band from its height at the left to the right."""
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


# --- pieces of HTML ------------------------------------------------------------------------------
class Html:
    """A piece of HTML that a notebook shows."""

    def __init__(self, content: str):
        self.content = content

    def _repr_html_(self) -> str:
        return self.content

    def page(self, title: str) -> str:
        """Return the piece as a page of its own."""
        name = html.escape(title)
        font = 'font-family:system-ui,"Noto Sans CJK SC",sans-serif;margin:2em'
        head = f"<!doctype html><meta charset='utf-8'><title>{name}</title>"
        return f"{head}<body style='{font}'><h1>{name}</h1>{self.content}"


def comparison(rows: list[dict]) -> Html:
    """Show whole texts side by side, the first column in bold, the others of one width."""
    columns = list(dict.fromkeys(column for row in rows for column in row))
    look = (
        "vertical-align:top;text-align:left;white-space:pre-wrap;overflow-wrap:anywhere;"
        "border-top:1px solid #d8dee4;padding:4px 6px"
    )
    head = "".join(f"<th style='{look}'>{html.escape(column)}</th>" for column in columns)
    body = ""
    for row in rows:
        body += "<tr>"
        for number, column in enumerate(columns):
            text = html.escape(str(row.get(column) or "–"))
            body += f"<td style='{look}'>{text if number else f'<b>{text}</b>'}</td>"
        body += "</tr>"
    rows_html = f"<thead><tr>{head}</tr></thead><tbody>{body}</tbody>"
    whole = "table-layout:fixed;width:100%;border-collapse:collapse;font-size:12px"
    return Html(f"<table style='{whole}'>{rows_html}</table>")


def mask(tokenizer: PreTrainedTokenizerBase, row: dict, limit: int = 220) -> Html:
    """Show the first tokens of a row, those that the loss covers on a coloured ground."""
    spans = []
    for token, label in list(zip(row["input_ids"], row["labels"], strict=True))[:limit]:
        piece = tokenizer.convert_ids_to_tokens(int(token))
        text = html.escape(piece.replace("▁", "·").replace("<0x0A>", "⏎"))
        ground = "#eef1f4" if label == -100 else "#f6c6c0"
        look = "color:#1b2733;padding:1px 2px;margin:1px;border-radius:2px;display:inline-block"
        spans.append(f"<span style='background:{ground};{look}'>{text}</span>")
    note = "red: the loss is computed here · grey: read, not learnt"
    row_look = "font-family:monospace;line-height:1.7"
    return Html(f"<div style='{row_look}'>{''.join(spans)}</div><p style='margin:4px 0'>{note}</p>")
