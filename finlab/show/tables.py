"""Tables, and other pieces of HTML for notebooks."""

from __future__ import annotations

import html
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import numpy
import pandas

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


# JupyterLab shows text between $ signs as formulas, except in elements of this class.
NO_FORMULAS = "mathjax_ignore"
MANY_COLUMNS = 9
LONGEST_CHARACTER = 4  # bytes of a character in UTF-8


# --- tables --------------------------------------------------------------------------------------
class Table:
    """Rows that a notebook shows completely: as HTML if it can, else as aligned text.

    pandas' Styler was tried: it adds a style sheet and ids for each table, which clash on the one
    page of the report, and it has no plain text.

    Args:
        rows: Rows {column: value}; a column may be missing in some.
        digits: Decimal places of floats.
        caption: Text above the table.
    """

    def __init__(self, rows: list[dict], digits: int = 3, caption: str = ""):
        self.rows = list(rows)
        self.digits = digits
        self.caption = caption
        self.columns = list(dict.fromkeys(column for row in self.rows for column in row))

    def cell(self, value: Any) -> str:
        """Return a value as the table shows it.

        Args:
            value: The value. Whole numbers get commas between thousands. Very large and very small
                floats get an exponent. None is shown as a dash.
        """
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
            head += f"<th style='text-align:left;max-width:8em;padding:2px 5px'>{name}</th>"
        body = ""
        for row in self.rows:
            cells = [self._html_cell(row.get(column)) for column in self.columns]
            body += f"<tr>{''.join(cells)}</tr>"
        caption = ""
        if self.caption:
            text = html.escape(self.caption)
            caption = f"<caption style='text-align:left;caption-side:top'>{text}</caption>"
        # A table with many columns gets a smaller font, so that it fits on a page.
        size = "font-size:11px" if len(self.columns) > MANY_COLUMNS else ""
        rows = f"<thead><tr>{head}</tr></thead><tbody>{body}</tbody>"
        table = f"<table style='{size}'>{caption}{rows}</table>"
        return f"<div class='{NO_FORMULAS}' style='overflow-x:auto'>{table}</div>"

    def _html_cell(self, value: Any) -> str:
        text = self.cell(value)
        number = isinstance(value, (int, float, numpy.number)) and not isinstance(value, bool)
        align = "right" if number else "left"
        wrap = "nowrap"
        if len(text) > 28 or "\n" in text:
            wrap = "pre-wrap;overflow-wrap:anywhere;max-width:32em"
        return f"<td style='text-align:{align};white-space:{wrap}'>{html.escape(text)}</td>"


def table(rows: list[dict] | pandas.DataFrame, digits: int = 3, caption: str = "") -> Table:
    """Return rows as a table.

    Args:
        rows: Rows {column: value}, or a frame; an index that has a name is shown too.
        digits: Decimal places of floats.
        caption: Text above the table.
    """
    if isinstance(rows, pandas.DataFrame):
        if any(name is not None for name in rows.index.names):
            rows = rows.reset_index()
        rows = rows.astype(object).where(rows.notna(), None).to_dict("records")
    return Table(rows, digits, caption)


def readable(rows: list[dict], names: dict[str, str] | None = None) -> list[dict]:
    """Return rows with an interval in one column, and with readable names of columns.

    Args:
        rows: Rows {column: value}; `ci_low` and `ci_high` become `95% interval`.
        names: {column: readable name}; an empty name leaves the column out.
    """
    names = names or {}
    found = []
    for row in rows:
        told: dict[str, Any] = {}
        for column, value in row.items():
            if column == "ci_high" or names.get(column) == "":
                continue
            if column == "ci_low":
                ends = (value, row["ci_high"])
                told["95% interval"] = None if None in ends else f"[{ends[0]:.3f}, {ends[1]:.3f}]"
            else:
                told[names.get(column, column)] = value
        found.append(told)
    return found


# --- pieces of HTML ------------------------------------------------------------------------------
class Html:
    """A piece of HTML that a notebook shows."""

    def __init__(self, content: str):
        self.content = content

    def _repr_html_(self) -> str:
        return self.content

    def page(self, title: str) -> str:
        """Return the piece as a complete HTML page.

        Args:
            title: Heading of the page.
        """
        name = html.escape(title)
        font = 'font-family:system-ui,"Noto Sans CJK SC",sans-serif;margin:2em'
        head = f"<!doctype html><meta charset='utf-8'><title>{name}</title>"
        return f"{head}<body style='{font}'><h1>{name}</h1>{self.content}"


def comparison(rows: list[dict]) -> Html:
    """Show whole texts side by side in columns of the same width, the first in bold.

    Args:
        rows: Rows {column: text}.
    """
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
    return Html(f"<table class='{NO_FORMULAS}' style='{whole}'>{rows_html}</table>")


def mask(tokenizer: PreTrainedTokenizerBase, row: dict, limit: int = 220) -> Html:
    """Show the first tokens of a row; the tokens that the loss covers are red.

    Args:
        tokenizer: The tokenizer that the token ids are from.
        row: A row {input_ids, labels}.
        limit: How many tokens to show.
    """
    spans = []
    for text, label in _pieces(tokenizer, row, limit):
        text = html.escape(text.replace("\n", "⏎"))
        ground = "#eef1f4" if label == -100 else "#f6c6c0"
        look = "color:#1b2733;padding:1px 2px;margin:1px;border-radius:2px;display:inline-block"
        spans.append(f"<span style='background:{ground};{look}'>{text}</span>")
    note = "red: the loss is computed here · grey: read, not learnt"
    row_look = "font-family:monospace;line-height:1.7"
    tokens = f"<div class='{NO_FORMULAS}' style='{row_look}'>{''.join(spans)}</div>"
    return Html(f"{tokens}<p style='margin:4px 0'>{note}</p>")


def pieces(tokenizer: PreTrainedTokenizerBase, text: str) -> list[str]:
    """Return the tokens of a text as people read them; `tokenize` shows some as bytes.

    Args:
        tokenizer: The tokenizer that cuts the text.
        text: The text to cut.

    Returns:
        One text for each token. A character that takes several byte tokens is one text, followed by
        the number of these tokens, as in 锂×3.
    """
    ids = tokenizer(text, add_special_tokens=False)["input_ids"]
    found = []
    waiting: list[int] = []
    for number in ids:
        waiting.append(number)
        piece = tokenizer.decode(waiting, clean_up_tokenization_spaces=False)
        if "\ufffd" in piece and len(waiting) < LONGEST_CHARACTER:
            continue
        found.append(piece if len(waiting) == 1 else f"{piece}×{len(waiting)}")
        waiting = []
    if waiting:
        found.append(tokenizer.decode(waiting))
    return found


def _pieces(tokenizer: PreTrainedTokenizerBase, row: dict, limit: int) -> Iterator[tuple[str, int]]:
    """Yield the tokens of a row as people read them, each with its label.

    A character that takes several byte tokens is one piece.

    Args:
        tokenizer: The tokenizer that the token ids are from.
        row: A row {input_ids, labels}.
        limit: How many tokens to read.
    """
    waiting: list[str] = []
    for token, label in list(zip(row["input_ids"], row["labels"], strict=True))[:limit]:
        waiting.append(tokenizer.convert_ids_to_tokens(int(token)))
        text = tokenizer.convert_tokens_to_string(waiting)
        if "\ufffd" in text and len(waiting) < LONGEST_CHARACTER:
            continue
        # A decoder drops the space at the beginning of a text.
        space = waiting[0].startswith("▁") and not text.startswith(" ")
        yield ("·" if space else "") + text.replace(" ", "·"), label
        waiting = []
    if waiting:
        yield tokenizer.convert_tokens_to_string(waiting), label
