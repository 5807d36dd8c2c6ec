"""Executed notebooks as chapters of a page: both languages, folded code, list of contents."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from finlab.run import twins
from finlab.run.reports.appendix import linked
from finlab.run.reports.html import both, say

# Code is folded, and its outputs are visible.
TEMPLATE = """
{%- extends 'basic/index.html.j2' -%}
{% block input_group -%}
<details class="code"><summary>CODE</summary>{{ super() }}</details>
{%- endblock input_group %}
"""
HEADING = re.compile(r"^## (.+)$", re.M)


@dataclass(frozen=True)
class Chapter:
    """An executed notebook as a part of a page.

    Attributes:
        html: HTML of the chapter.
        headings: (anchor, English heading, Chinese heading) of each section.
        title: (English title, Chinese title).
    """

    html: str
    headings: list[tuple[str, str, str]]
    title: tuple[str, str]


def chapter(path: Path, notebook: str, prefix: str) -> Chapter:
    """Return an executed notebook as HTML without scripts, in both languages.

    Args:
        path: File of the executed notebook.
        notebook: Name of the notebook, to find its Chinese twin.
        prefix: Text to put before HTML ids, so that they are unique on the page.
    """
    import nbformat
    from nbconvert import HTMLExporter

    content = nbformat.read(path, 4)
    headings: list[tuple[str, str, str]] = []
    title = (notebook, notebook)
    _join_quiet_cells(content)
    for cell in content.cells:
        if cell.cell_type != "markdown":
            continue
        twin = twins.chinese_of(notebook, cell.get("id", ""), cell.source)
        if cell.source.startswith("# "):
            title = (_first_line(cell.source), _first_line(twin))
        pairs = zip(HEADING.findall(cell.source), HEADING.findall(twin))
        anchors = ""
        for english, of_twin in pairs:
            anchor = f"{prefix}-s{len(headings) + 1}"
            headings.append((anchor, english, of_twin))
            anchors += f'<a id="{anchor}"></a>'
        cell.source = anchors + "\n\n" + _in_both(cell.source, twin)
    return Chapter(_as_html(HTMLExporter, content, prefix), headings, title)


def _join_quiet_cells(content: Any) -> None:
    """Join each code cell without outputs with the next code cell, so that they fold as one.

    Args:
        content: The notebook; it is changed in place.
    """
    joined: list[Any] = []
    for cell in content.cells:
        before = joined[-1] if joined else None
        both_code = before is not None and before.cell_type == cell.cell_type == "code"
        if both_code and not before.outputs and "parameters" not in before.metadata.get("tags", []):
            cell.source = f"{before.source}\n\n{cell.source}"
            joined.pop()
        joined.append(cell)
    content.cells = joined


def _first_line(text: str) -> str:
    """Return the first line of a cell without its `#` marks."""
    return text.strip().splitlines()[0].lstrip("# ")


def _in_both(english: str, chinese: str) -> str:
    """Return a Markdown text that has a cell in both languages.

    Args:
        english: Markdown of the English cell.
        chinese: Markdown of the Chinese cell.
    """
    parts = ""
    for language, text in (("en", english), ("zh", chinese)):
        parts += f'<div class="{language}" lang="{language}">\n\n{text}\n\n</div>\n\n'
    return parts


def _as_html(exporter_class: Any, content: Any, prefix: str) -> str:
    """Return a notebook as HTML.

    Args:
        exporter_class: HTMLExporter of nbconvert, passed in because its import takes a second.
        content: The notebook, from nbformat.
        prefix: Text to put before HTML ids.
    """
    exporter = exporter_class(
        raw_template=TEMPLATE.replace("CODE", say("code")), anchor_link_text=""
    )
    body, _ = exporter.from_notebook_node(content)
    body = re.sub(r"<script.*?</script>", "", body, flags=re.S)
    body = re.sub(r'<a class="anchor-link".*?</a>', "", body, flags=re.S)
    # Links to another notebook or to the guide lead to places of the same page.
    body = re.sub(r'href="(\d\d_\w+)\.ipynb"', r'href="#\1"', body)
    body = linked(body)
    return re.sub(r'\bid="(?!' + prefix + r'-s\d)([^"]+)"', rf'id="{prefix}-\1"', body)


def contents(chapters: dict[str, Chapter], unfolded: bool = False) -> str:
    """Return the list of chapters, each with its sections.

    Args:
        chapters: {anchor: chapter}.
        unfolded: Show the sections without a click.
    """
    state = " open" if unfolded else ""
    items = []
    for anchor, each in chapters.items():
        inner = ""
        for place, english, chinese in each.headings:
            inner += f"<li><a href='#{place}'>{both(english, chinese)}</a></li>"
        head = f"<a href='#{anchor}'>{both(*each.title)}</a>"
        if inner:
            head = f"<details{state}><summary>{head}</summary><ul>{inner}</ul></details>"
        items.append(f"<li>{head}</li>")
    return f"<ul>{''.join(items)}</ul>"
