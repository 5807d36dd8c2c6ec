"""The Chinese twin of each notebook: the same Markdown cells, in Chinese.

`notebooks/zh/03_lora_pretraining.md` holds a part for each Markdown cell of the notebook, behind a
mark with the cell's id and a digest of the English text that it was made from:

    <!-- nb03-02 5f0c1a9e -->
    ## 1 输入

A test refuses a part whose English has changed since.
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
        notebook: Its name, such as `03_lora_pretraining`.
    """
    return paths.NOTEBOOKS / "zh" / f"{notebook}.md"


def digest(english: str) -> str:
    """Return the digest of an English cell that stands in the mark of its twin."""
    return files.digest(english.strip())[:8]


@functools.cache
def read(notebook: str) -> dict[str, tuple[str, str]]:
    """Return {id of a cell: (digest of its English, Chinese text)}; {} without a twin.

    Args:
        notebook: Its name.
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
    """Return what is out of step between a notebook and its twin, in sentences.

    Args:
        notebook: Its name.
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
    """Put a notebook's Markdown cells into a language, in place; code stays as it is.

    Args:
        content: The notebook, from nbformat.
        notebook: Its name.
        language: `zh` or `en`.
    """
    if language == "en":
        return
    for cell in content.cells:
        if cell.cell_type == "markdown":
            cell.source = chinese_of(notebook, cell.id, cell.source)


def chinese_of(notebook: str, cell: str, english: str) -> str:
    """Return the Chinese of a cell; the English itself where no twin fits this very text.

    A run that was made before a cell was rewritten shows the text that it was made with.

    Args:
        notebook: Its name.
        cell: The cell's id.
        english: Its text.
    """
    of_english, text = read(notebook).get(cell, ("", ""))
    return text if of_english == digest(english) else english
