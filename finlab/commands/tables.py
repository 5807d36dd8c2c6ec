"""Tables for a terminal."""

from __future__ import annotations


def table(rows: list[dict], digits: int = 3) -> str:
    """Return rows as aligned text.

    Args:
        rows: Rows {column: value}; a column may be missing in some rows.
        digits: Number of decimals of floats.
    """
    # This import loads matplotlib, which takes time. Commands that print no table do not need it.
    from finlab.show.tables import Table

    return repr(Table(rows, digits))
