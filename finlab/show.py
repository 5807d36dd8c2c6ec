"""Show: the plots and tables of the notebooks. The only module that draws."""

from __future__ import annotations

import html
from pathlib import Path

import matplotlib
import matplotlib.pyplot as plt
import matplotlib.ticker
from matplotlib import font_manager

COLOURS = {"before": "#9aa5b1", "after": "#c0392b", "finance": "#c0392b", "general": "#2c6e9b"}
CHINESE_FONTS = ("Noto Sans CJK SC", "Source Han Sans SC", "Source Han Sans CN", "WenQuanYi Micro Hei", "PingFang SC", "Microsoft YaHei")


def style() -> str:
    """Set the look of the figures and a font with Chinese glyphs; return the font's name.

    An installed font is used where there is one, else Noto Sans CJK from the `mplfonts` package.
    """
    known = {font.name for font in font_manager.fontManager.ttflist}
    name = next((font for font in CHINESE_FONTS if font in known), None)
    if name is None:
        import mplfonts

        file = Path(mplfonts.__file__).parent / "fonts" / "NotoSansCJKsc-Regular.otf"
        font_manager.fontManager.addfont(str(file))
        name = font_manager.FontProperties(fname=str(file)).get_name()
    plt.rcParams.update({"font.family": ["sans-serif"], "font.sans-serif": [name, "DejaVu Sans"], "axes.unicode_minus": False, "figure.dpi": 100,
                         "figure.figsize": (7.5, 3.4), "figure.autolayout": True, "axes.spines.top": False, "axes.spines.right": False,
                         "axes.grid": True, "grid.alpha": 0.25, "axes.axisbelow": True, "legend.frameon": False})
    return name


class Table:
    """Rows of a table that a notebook shows whole: HTML in JupyterLab and the report, aligned text elsewhere."""

    def __init__(self, rows: list[dict], digits: int = 3, caption: str = ""):
        self.rows, self.digits, self.caption = list(rows), digits, caption
        self.columns = list(dict.fromkeys(column for row in self.rows for column in row))

    def cell(self, value: object) -> str:
        if value is None:
            return "–"
        if isinstance(value, bool):
            return "yes" if value else "no"
        if isinstance(value, int):
            return f"{value:,}"
        if isinstance(value, float) and abs(value) >= 1e7:
            return f"{value:.2e}"
        if isinstance(value, float):
            return f"{value:.{self.digits}f}" if abs(value) >= 10**-self.digits or value == 0 else f"{value:.1e}"
        return str(value)

    def __repr__(self) -> str:
        grid = [self.columns] + [[self.cell(row.get(column)) for column in self.columns] for row in self.rows]
        widths = [max(len(line[number]) for line in grid) for number in range(len(self.columns))]
        return "\n".join("  ".join(text.ljust(width) for text, width in zip(line, widths, strict=True)) for line in grid)

    def _repr_html_(self) -> str:
        def align(value: object) -> str:
            return "right" if isinstance(value, (int, float)) and not isinstance(value, bool) else "left"

        head = "".join(f"<th style='text-align:left;max-width:8em'>{html.escape(column).replace('_', '_<wbr>')}</th>" for column in self.columns)
        body = ""
        for row in self.rows:
            cells = ""
            for column in self.columns:
                text = self.cell(row.get(column))
                wrap = "nowrap" if len(text) <= 28 and "\n" not in text else "pre-wrap;overflow-wrap:anywhere;max-width:32em"
                cells += f"<td style='text-align:{align(row.get(column))};white-space:{wrap}'>{html.escape(text)}</td>"
            body += f"<tr>{cells}</tr>"
        caption = f"<caption style='text-align:left;caption-side:top'>{html.escape(self.caption)}</caption>" if self.caption else ""
        return f"<div style='overflow-x:auto'><table>{caption}<thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>"


def table(rows: list[dict], digits: int = 3, caption: str = "") -> Table:
    """Return rows as a table; floats are shown with `digits` decimals."""
    return Table(rows, digits, caption)


def curve(records: list[dict], names: dict[str, str], ylabel: str, title: str = "") -> matplotlib.figure.Figure:
    """Plot logged quantities over steps; `names` maps a key of the records to its label. Records without the key are left out."""
    style()
    figure, axes = plt.subplots()
    for key, label in names.items():
        points = [(record["step"], record[key]) for record in records if key in record]
        axes.plot(*zip(*points), label=label, marker="o" if len(points) < 12 else "", markersize=4) if points else None
    axes.set(xlabel="optimizer step", ylabel=ylabel, title=title)
    if len(names) > 1:
        axes.legend()
    plt.close(figure)
    return figure


def lines(values: dict[str, dict[float, float]], xlabel: str, ylabel: str, title: str = "", least: bool = True,
          scale: str = "linear") -> matplotlib.figure.Figure:
    """Plot {label: {x: y}} as one line each, with its lowest point marked if `least`; `scale` is that of y, linear or log."""
    style()
    figure, axes = plt.subplots()
    for label, points in values.items():
        line, = axes.plot(list(points), list(points.values()), label=label, marker="o" if len(points) < 40 else "", markersize=3)
        if not least:
            continue
        lowest = min(points, key=points.get)
        axes.plot(lowest, points[lowest], marker="o", markersize=9, fillstyle="none", color=line.get_color())
    axes.set(xlabel=xlabel, ylabel=ylabel, title=title, yscale=scale)
    if scale == "log":  # plain numbers, and enough of them on a short axis
        axes.yaxis.set_major_locator(matplotlib.ticker.LogLocator(subs=(1, 2, 5)))
        axes.yaxis.set_major_formatter(matplotlib.ticker.FormatStrFormatter("%g"))
        axes.yaxis.set_minor_locator(matplotlib.ticker.NullLocator())
    axes.legend(**({} if len(values) <= 4 else {"loc": "upper left", "bbox_to_anchor": (1, 1), "fontsize": 8}))
    plt.close(figure)
    return figure


def before_after(values: dict[str, dict[str, float]], ylabel: str, title: str = "", chance: float | None = None) -> matplotlib.figure.Figure:
    """Draw pairs of bars {name: {before, after}}, each with its value above it."""
    return bars({name: {"before": pair["before"], "after": pair["after"]} for name, pair in values.items()}, ylabel, title, chance)


def bars(values: dict[str, dict[str, float]], ylabel: str, title: str = "", chance: float | None = None,
         intervals: dict[tuple[str, str], tuple[float, float]] | None = None) -> matplotlib.figure.Figure:
    """Draw grouped bars {group: {series: value}}; `intervals` holds (low, high) by (group, series), `chance` a line."""
    style()
    series = list(dict.fromkeys(name for group in values.values() for name in group))
    figure, axes = plt.subplots(figsize=(max(7.5, 0.42 * len(values) * len(series)), 3.6))
    width = 0.8 / len(series)
    for number, name in enumerate(series):
        places = [place + (number - (len(series) - 1) / 2) * width for place, group in enumerate(values) if name in values[group]]
        heights = [values[group][name] for group in values if name in values[group]]
        drawn = axes.bar(places, heights, width * 0.94, label=name, color=COLOURS.get(name, f"C{number}"))
        if intervals:
            ends = [intervals[group, name] for group in values if name in values[group]]
            errors = list(zip(*[(height - low, high - height) for height, (low, high) in zip(heights, ends, strict=True)], strict=True))
            axes.errorbar(places, heights, yerr=errors, fmt="none", ecolor="#333", elinewidth=1, capsize=2)
        elif len(series) * len(values) <= 16:
            axes.bar_label(drawn, fmt="%.3g", fontsize=8, padding=2)
    if chance is not None:
        axes.axhline(chance, color="#333", linestyle="--", linewidth=1, label=f"chance {chance:.2f}")
    axes.set_xticks(range(len(values)), [str(name) for name in values], rotation=0 if len(values) <= 6 else 30, ha="center" if len(values) <= 6 else "right")
    axes.set(ylabel=ylabel, title=title)
    axes.margins(y=0.15)
    if len(series) > 1 or chance is not None:
        axes.legend(loc="upper left", bbox_to_anchor=(1, 1))
    plt.close(figure)
    return figure


def gain(points: dict[str, dict[str, tuple[float, float, float]]], across: str, up: str, title: str = "") -> matplotlib.figure.Figure:
    """Draw each name as a point with its intervals, {name: {across: (value, low, high), up: the same}}: what was gained against what was lost."""
    style()
    figure, axes = plt.subplots(figsize=(7.5, 4.6))
    for number, (name, found) in enumerate(points.items()):
        (x, left, right), (y, low, high) = found[across], found[up]
        axes.errorbar([x], [y], xerr=[[x - left], [right - x]], yerr=[[y - low], [high - y]], fmt="o", color=f"C{number}", elinewidth=1, capsize=2, label=name)
    axes.axhline(0, color="#333", linewidth=0.8)
    axes.axvline(0, color="#333", linewidth=0.8)
    axes.set(xlabel=f"difference in {across} accuracy", ylabel=f"difference in {up} accuracy", title=title)
    axes.legend(loc="upper left", bbox_to_anchor=(1, 1))
    plt.close(figure)
    return figure


def flow(rows: list[dict], end: str, title: str = "", least: float = 0.002) -> matplotlib.figure.Figure:
    """Draw a ledger {source, reason, tokens} as a stream from `read` to `end`: a band per source, a branch down for each loss, a step up
    for each gain. Reasons that take less than `least` of all tokens are drawn together as `other`."""
    style()
    read = {row["source"]: row["tokens"] for row in rows if row["reason"] == "read"}
    sources, total = sorted(read, key=lambda source: -read[source]), sum(read.values()) or 1
    taken: dict[str, dict[str, float]] = {}
    for row in rows:
        if row["reason"] not in ("read", end):
            taken.setdefault(row["reason"], dict.fromkeys(sources, 0))[row["source"]] += row["tokens"] / total
    small = [reason for reason, parts in taken.items() if abs(sum(parts.values())) < least]
    if small:
        other = {source: sum(taken[reason][source] for reason in small) for source in sources}
        taken = {"other": other, **{reason: parts for reason, parts in taken.items() if reason not in small}}
    left = {source: read[source] / total for source in sources}
    figure, axes = plt.subplots(figsize=(max(7.5, 1.15 * len(taken) + 3), 4.6))
    ease = [3 * part**2 - 2 * part**3 for part in (step / 12 for step in range(13))]
    base = 0.0

    def edges(levels: dict[str, float], ground: float) -> list[float]:
        heights = [ground]
        for source in reversed(sources):
            heights.append(heights[-1] + levels[source])
        return heights

    for place, (reason, parts) in enumerate(taken.items()):
        after = {source: left[source] - parts[source] for source in sources}
        lost = sum(parts.values())
        ends, begins = edges(after, base + max(lost, 0)), edges(left, base)
        across = [place + step / 12 for step in range(13)]
        for number, source in enumerate(reversed(sources)):
            low, high = ([a + (b - a) * part for part in ease] for a, b in ((begins[number], ends[number]), (begins[number + 1], ends[number + 1])))
            axes.fill_between(across, low, high, color=f"C{sources.index(source) % 10}", alpha=0.75, linewidth=0, label=source if not place else None)
        if lost > 0:
            axes.fill_between([place + 0.35, place + 0.65], [-0.06, -0.06], [base, base + lost], color="#9aa5b1", alpha=0.45, linewidth=0)
        axes.text(place + 0.5, -0.1, f"{reason}\n{-lost:+.1%}", ha="right", va="top", fontsize=8, rotation=35, rotation_mode="anchor")
        left, base = after, base + max(lost, 0)
    axes.text(len(taken) + 0.05, base + sum(left.values()) / 2, f"{end}\n{sum(left.values()):.1%}", va="center", fontsize=9)
    axes.set(xlim=(0, len(taken) + 0.6), ylim=(-0.1, None), xticks=[], ylabel="share of tokens read", title=title)
    axes.legend(loc="upper left", bbox_to_anchor=(1.02, 1), fontsize=8, reverse=True)
    axes.spines["bottom"].set_visible(False)
    axes.grid(False)
    plt.close(figure)
    return figure


class Html:
    """A piece of HTML that a notebook shows."""

    def __init__(self, content: str):
        self.content = content

    def _repr_html_(self) -> str:
        return self.content


    def page(self, title: str) -> str:
        """Return the piece as a page of its own."""
        head = f"<!doctype html><meta charset='utf-8'><title>{html.escape(title)}</title>"
        return f"{head}<body style='font-family:system-ui,\"Noto Sans CJK SC\",sans-serif;margin:2em'><h1>{html.escape(title)}</h1>{self.content}"


def comparison(rows: list[dict]) -> Html:
    """Show texts side by side: the first column in bold, the others of one width, whole texts, long ones wrapped."""
    columns = list(dict.fromkeys(column for row in rows for column in row))
    look = "vertical-align:top;text-align:left;white-space:pre-wrap;overflow-wrap:anywhere;border-top:1px solid #d8dee4;padding:4px 6px"
    head = "".join(f"<th style='{look}'>{html.escape(column)}</th>" for column in columns)
    body = ""
    for row in rows:
        cells = [html.escape(str(row.get(column) or "–")) for column in columns]
        body += "<tr>" + "".join(f"<td style='{look}'>{f'<b>{text}</b>' if not number else text}</td>" for number, text in enumerate(cells)) + "</tr>"
    table_look = "table-layout:fixed;width:100%;border-collapse:collapse;font-size:12px"
    return Html(f"<table style='{table_look}'><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>")


def mask(tokenizer: object, row: dict, limit: int = 220) -> Html:
    """Show a row's tokens, those the loss covers on a coloured ground."""
    spans = []
    for token, label in list(zip(row["input_ids"], row["labels"], strict=True))[:limit]:
        text = tokenizer.convert_ids_to_tokens(int(token)).replace("▁", "·").replace("<0x0A>", "⏎")
        ground = "#f6c6c0" if label != -100 else "#eef1f4"
        look = f"background:{ground};color:#1b2733;padding:1px 2px;margin:1px;border-radius:2px;display:inline-block"
        spans.append(f"<span style='{look}'>{html.escape(text)}</span>")
    note = "<p style='margin:4px 0'>red: the loss is computed here · grey: read, not learnt</p>"
    return Html(f"<div style='font-family:monospace;line-height:1.7'>{''.join(spans)}</div>{note}")
