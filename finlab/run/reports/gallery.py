"""Write a small static site of runs, which any web server for files can serve.

An example of such a server is GitHub Pages. The site has these files:

site/index.html              the runs, each with its verdict
site/smoke/report.html       the report of a run
site/smoke/03_lora_pretraining-pretrain.html, ...   each executed notebook as a page
"""

from __future__ import annotations

import html
import re
import shutil
from pathlib import Path

from finlab import files
from finlab.run.reports import page, results
from finlab.run.reports.chapters import Chapter, contents
from finlab.run.reports.html import both, say
from finlab.run.reports.summary import verdict


def write(run_dirs: list[Path], out: Path, language: str = "zh") -> Path:
    """Write the site.

    Args:
        run_dirs: Folders of the runs, in the order of the index.
        out: The site's folder. In it, only the index and the pages of runs with the same names are
            replaced.
        language: Language that the pages show first: `zh` or `en`.

    Returns:
        The path of the index page.

    Raises:
        ValueError: Two runs have the same name, a run has no finished step, or a page would be
            written into a run.
    """
    names = [run_dir.name for run_dir in run_dirs]
    for name in names:
        if names.count(name) > 1:
            raise ValueError(f"two runs are called '{name}': rename one of their folders")
    parts = ""
    for run_dir in run_dirs:
        parts += _write_run(run_dir, out / run_dir.name, language)
    title = both("finlab: executed runs", "finlab：运行过的结果")
    note = both(
        "Every page was made by running the notebooks; nothing on it was written by hand. "
        "Choose the language at the top right.",
        "每一页都由运行笔记本生成，没有手写的数字。语言在右上角选择。",
        "p",
    )
    links = "".join(
        f"<li><a href='#{html.escape(name)}'>{html.escape(name)}</a></li>" for name in names
    )
    content = f"<h1>{title}</h1>{note}{parts}"
    return files.write_text(
        out / "index.html", page.page("finlab", f"<ul>{links}</ul>", content, language)
    )


def _write_run(run_dir: Path, folder: Path, language: str) -> str:
    """Write the pages of a run, and return its part of the index.

    Args:
        run_dir: The run's folder.
        folder: Folder for the pages. Old HTML files in it are deleted.
        language: Language that the pages show first: `zh` or `en`.
    """
    if folder.resolve() == run_dir.resolve() or any(folder.glob("*/manifest.json")):
        raise ValueError(
            f"the pages of {run_dir} would lie in a run, {folder}: choose another --out"
        )
    steps = results.finished_steps(run_dir)
    chapters = page.chapters_of(steps)
    report = page.write(run_dir, language, chapters)
    folder.mkdir(parents=True, exist_ok=True)
    for old in folder.glob("*.html"):
        old.unlink()
    shutil.copy2(report, folder / "report.html")
    notebook_of = {manifest["step"]: manifest["notebook"] for manifest, _, _ in steps}
    for step, chapter in chapters.items():
        path = folder / f"{notebook_of[step]}-{step}.html"
        files.write_text(path, _chapter_page(run_dir.name, step, chapter, language))
    name = html.escape(run_dir.name)
    items = ""
    for step, chapter in chapters.items():
        target = f"{name}/{notebook_of[step]}-{step}.html"
        items += f"<li><a href='{target}'>{both(*chapter.title)}</a></li>"
    link = f"<p><a href='{name}/report.html'>{say('report')}</a></p>"
    return f"<h2 id='{name}'>{name}</h2>{verdict(steps)}{link}<ul>{items}</ul>"


def _chapter_page(run: str, step: str, chapter: Chapter, language: str) -> str:
    """Return an executed notebook as a page.

    Args:
        run: Name of the run.
        step: Name of the step.
        chapter: The executed notebook of the step.
        language: Language that the page shows first: `zh` or `en`.
    """
    back = both("all runs", "全部运行")
    navigation = (
        f"<p><a href='../index.html'>{back}</a> · <a href='report.html'>{say('report')}</a></p>"
        f"{contents({step: chapter}, unfolded=True)}"
    )
    # The targets of these links are in the report: other notebooks, glossary, answers.
    inner = re.sub(r'href="#(\d\d_\w+|glossary|exercises)"', r'href="report.html#\1"', chapter.html)
    body = f"<section class=chapter id='{step}'>{inner}</section>"
    return page.page(f"{run}: {chapter.title[0]}", navigation, body, language)
