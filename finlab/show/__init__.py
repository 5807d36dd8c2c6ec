"""The plots, tables and headlines of the notebooks. No other package draws."""

from finlab.show.figures import Drawing, style
from finlab.show.plots import bars, curve, gain, lines, ranked
from finlab.show.streams import flow
from finlab.show.tables import Html, Table, comparison, mask, pieces, readable, table

__all__ = [
    "Drawing",
    "Html",
    "Table",
    "bars",
    "comparison",
    "curve",
    "flow",
    "gain",
    "lines",
    "mask",
    "pieces",
    "ranked",
    "readable",
    "style",
    "table",
]
