"""Tables for a terminal."""

from __future__ import annotations


def table(rows: list[dict], digits: int = 3) -> str:
    """Return rows as aligned text.

    Args:
        rows: Rows {column: value}; a column may be missing in some.
        digits: Decimals of floats.
    """
    # Its room brings matplotlib along, which a command that prints no table need not wait for.
    from finlab.show.tables import Table

    return repr(Table(rows, digits))
