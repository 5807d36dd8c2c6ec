"""The plots and tables of the notebooks. The only room that draws."""

from finlab.show.plots import bars, curve, flow, gain, lines, style
from finlab.show.tables import Html, Table, comparison, mask, table

__all__ = [
    "Html",
    "Table",
    "bars",
    "comparison",
    "curve",
    "flow",
    "gain",
    "lines",
    "mask",
    "style",
    "table",
]
