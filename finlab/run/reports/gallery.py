"""A small static site of runs, which any host of files can serve, such as GitHub Pages.

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
        run_dirs: The runs, in the order of the list.
        out: The site's folder. Pages of runs of the same name in it are replaced, nothing else.
        language: `zh` or `en`, which its pages show at first.

    Returns:
        Its index.

    Raises:
        ValueError: Two runs have one name, one has no finished step, or a page would lie in a run.
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
        run_dir: The run.
        folder: Of its pages.
        language: What the pages show at first.
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
        run: The run's name.
        step: The step's.
        chapter: Its notebook.
        language: What the page shows at first.
    """
    back = both("all runs", "全部运行")
    navigation = (
        f"<p><a href='../index.html'>{back}</a> · <a href='report.html'>{say('report')}</a></p>"
        f"{contents({step: chapter}, unfolded=True)}"
    )
    # What is linked stands in the report: other notebooks, glossary, answers.
    inner = re.sub(r'href="#(\d\d_\w+|glossary|exercises)"', r'href="report.html#\1"', chapter.html)
    body = f"<section class=chapter id='{step}'>{inner}</section>"
    return page.page(f"{run}: {chapter.title[0]}", navigation, body, language)
