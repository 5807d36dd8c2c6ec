"""Figures: their style, a font with Chinese glyphs, and a text for readers who cannot see.

A notebook shows a figure with twice the pixels, so that it is sharp on a good screen and on paper.
The text `alt` of a figure says what it shows, for readers who cannot see it.
"""

from __future__ import annotations

import base64
import io
from typing import TYPE_CHECKING, Any

import matplotlib.pyplot as plt
from matplotlib import font_manager
from matplotlib.figure import Figure

from finlab.run.reports.fonts import chinese_font_file

if TYPE_CHECKING:
    from matplotlib.axes import Axes

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
SHARPNESS = 2  # pixels that are drawn for each pixel that is shown


def style() -> str:
    """Set the style of the figures and a font with Chinese glyphs; return the font's name.

    An installed font is used if there is one, else Noto Sans CJK from the `mplfonts` package.
    """
    known = {font.name for font in font_manager.fontManager.ttflist}
    name = next((font for font in CHINESE_FONTS if font in known), "")
    if not name:
        path = chinese_font_file()
        font_manager.fontManager.addfont(str(path))
        name = font_manager.FontProperties(fname=str(path)).get_name()
    plt.rcParams.update(LOOK | {"font.sans-serif": [name, "DejaVu Sans"]})
    return name


class Drawing(Figure):
    """A figure that says in words what it shows.

    Attributes:
        alt: What the figure shows, in words, for readers who cannot see it.
    """

    alt: str = ""

    def png(self) -> bytes:
        """Return the figure as a PNG, with twice the pixels that it is shown with."""
        buffer = io.BytesIO()
        dots = self.get_dpi() * SHARPNESS
        self.savefig(buffer, format="png", dpi=dots, bbox_inches="tight", facecolor="white")
        return buffer.getvalue()

    def _repr_mimebundle_(self, **_: Any) -> tuple[dict[str, str], dict[str, dict]]:
        """Return what a notebook stores of the figure: its picture, size and text."""
        png = self.png()
        # A PNG's header holds its width and height at these places.
        width = int.from_bytes(png[16:20], "big") // SHARPNESS
        height = int.from_bytes(png[20:24], "big") // SHARPNESS
        picture = base64.b64encode(png).decode()
        facts = {"width": width, "height": height, "alt": self.alt}
        return {"image/png": picture, "text/plain": self.alt}, {"image/png": facts}


def axes_of(**options: Any) -> tuple[Drawing, Any]:
    """Return a new figure with axes.

    The figure is closed, so that a notebook shows it only where a cell returns it.

    Args:
        **options: Arguments of `plt.subplots`.
    """
    style()
    figure, axes = plt.subplots(FigureClass=Drawing, **options)
    plt.close(figure)
    return figure, axes


def canvas(width: float, height: float, title: str, alt: str) -> tuple[Drawing, Axes]:
    """Return a figure without scales for a drawing: x from 0 to `width`, y to `height`.

    Args:
        width: Width in units of the drawing; 10 units fill the width of a page.
        height: Height in the same units.
        title: Title above the drawing.
        alt: What the drawing shows, in words.
    """
    figure, axes = axes_of(figsize=(0.78 * width, 0.78 * height + 0.3))
    axes.set(xlim=(0, width), ylim=(0, height))
    axes.set_axis_off()
    axes.set_title(title, fontsize=11, loc="left")
    figure.alt = alt
    return figure, axes
