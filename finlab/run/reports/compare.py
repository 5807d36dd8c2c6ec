"""Write an HTML page that compares two runs."""

from __future__ import annotations

import html
from pathlib import Path
from typing import Any

from finlab import files
from finlab.run import comparison
from finlab.run.reports import page, results
from finlab.run.reports.html import both
from finlab.run.reports.summary import figures, verdict

HEADS = {
    "step": "步骤",
    "parameter": "参数",
    "quantity": "指标",
    "one": "甲",
    "other": "乙",
    "difference": "差",
    "apart": "区间不相交",
}


def write(one: Path, other: Path, out: Path, language: str = "zh") -> Path:
    """Write a page that compares two runs: verdicts and figures, then all differences.

    Args:
        one: Folder of the first run.
        other: Folder of the second run.
        out: File to write the page to.
        language: Language that the page shows first: `zh` or `en`.

    Returns:
        The path of the page.
    """
    parameters = comparison.parameters(one, other)
    measured = comparison.results(one, other)
    names = [html.escape(f"{run_dir.parent.name}/{run_dir.name}") for run_dir in (one, other)]
    sides = ""
    for name, run_dir in zip(names, (one, other), strict=True):
        steps = results.finished_steps(run_dir)
        sides += f"<div><h2>{name}</h2>{verdict(steps)}{figures(steps)}</div>"
    title = both("Two runs compared", "两次运行的比较")
    content = (
        f"<h1>{title}</h1><div class=sides>{sides}</div>"
        f"<h2 id=parameters>{both('What was set otherwise', '设置的不同')}</h2>{_rows(parameters)}"
        f"<h2 id=results>{both('What came out otherwise', '结果的不同')}</h2>{_rows(measured)}"
    )
    links = (
        f"<ul><li><a href='#parameters'>{both('parameters', '参数')}</a></li>"
        f"<li><a href='#results'>{both('results', '结果')}</a></li></ul>"
    )
    return files.write_text(out, page.page("finlab compare", links, content, language))


def _rows(rows: list[dict[str, Any]]) -> str:
    """Return rows as an HTML table, with numbers of four significant digits.

    Args:
        rows: Rows {column: value}, all with the same columns.
    """
    if not rows:
        return both("nothing differs", "没有不同", "p")
    head = "".join(f"<th>{both(name, HEADS.get(name, name))}</th>" for name in rows[0])
    body = ""
    for row in rows:
        cells = ""
        for value in row.values():
            text = f"{value:.4g}" if isinstance(value, float) else str(value)
            cells += f"<td>{html.escape(text)}</td>"
        body += f"<tr>{cells}</tr>"
    return f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"
