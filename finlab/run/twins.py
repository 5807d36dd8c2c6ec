"""The Chinese twin of each notebook: the same Markdown cells, in Chinese.

`notebooks/zh/03_lora_pretraining.md` has a part for each Markdown cell of the notebook. A mark
before the part has the cell's id and a digest of the English text that was translated:

    <!-- nb03-02 5f0c1a9e -->
    ## 1 输入

A test fails if the English text has changed after the translation.
"""

from __future__ import annotations

import functools
import re
from pathlib import Path
from typing import Any

from finlab import files, paths

MARK = re.compile(r"^<!-- ([\w-]+) ([0-9a-f]{8}) -->\n", re.M)
LANGUAGES = ("zh", "en")


def path_of(notebook: str) -> Path:
    """Return the file of a notebook's twin.

    Args:
        notebook: Name of the notebook, such as `03_lora_pretraining`.
    """
    return paths.NOTEBOOKS / "zh" / f"{notebook}.md"


def digest(english: str) -> str:
    """Return the digest of an English cell, as the mark of its twin must have it."""
    return files.digest(english.strip())[:8]


@functools.cache
def read(notebook: str) -> dict[str, tuple[str, str]]:
    """Return {cell id: (digest of the English text, Chinese text)}; empty if there is no twin.

    Args:
        notebook: Name of the notebook.
    """
    path = path_of(notebook)
    if not path.exists():
        return {}
    _, *parts = MARK.split(path.read_text(encoding="utf-8"))
    found = {}
    for cell, of_english, text in zip(parts[::3], parts[1::3], parts[2::3], strict=True):
        found[cell] = (of_english, text.strip())
    return found


def faults(notebook: str) -> list[str]:
    """Return the differences between a notebook and its twin, as sentences.

    Args:
        notebook: Name of the notebook.
    """
    english = _markdown_cells(notebook)
    chinese = read(notebook)
    where = f"notebooks/zh/{notebook}.md"
    said = []
    for cell, text in english.items():
        if cell not in chinese:
            said.append(f"{where}: cell {cell} has no Chinese: add <!-- {cell} {digest(text)} -->")
        elif chinese[cell][0] != digest(text):
            said.append(
                f"{where}: the English of cell {cell} has changed: fix the Chinese, then its mark "
                f"is <!-- {cell} {digest(text)} -->"
            )
    gone = [cell for cell in chinese if cell not in english]
    said += [f"{where}: cell {cell} is not in the notebook any more" for cell in gone]
    if not said and list(english) != list(chinese):
        said.append(f"{where}: the cells stand in another order than in the notebook")
    return said


def _markdown_cells(notebook: str) -> dict[str, str]:
    """Return {id: text} of a notebook's Markdown cells."""
    content = files.read_json(paths.NOTEBOOKS / f"{notebook}.ipynb")
    found = {}
    for cell in content["cells"]:
        if cell["cell_type"] == "markdown":
            found[cell["id"]] = "".join(cell["source"])
    return found


def in_language(content: Any, notebook: str, language: str) -> None:
    """Translate a notebook's Markdown cells in place; code cells do not change.

    Args:
        content: The notebook, from nbformat.
        notebook: Name of the notebook.
        language: `zh`, or `en` for no translation.
    """
    if language == "en":
        return
    for cell in content.cells:
        if cell.cell_type == "markdown":
            cell.source = chinese_of(notebook, cell.id, cell.source)


def chinese_of(notebook: str, cell: str, english: str) -> str:
    """Return the Chinese text of a cell; the English text if no translation belongs to it.

    If a cell was rewritten after a run, the run still shows the English text that it was made with.

    Args:
        notebook: Name of the notebook.
        cell: Id of the cell.
        english: English text of the cell.
    """
    of_english, text = read(notebook).get(cell, ("", ""))
    return text if of_english == digest(english) else english
