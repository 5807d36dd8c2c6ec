"""Write the report as one HTML file without scripts, which loads no other files."""

from __future__ import annotations

import functools
import html
import re
from pathlib import Path

from finlab import files
from finlab.run import twins
from finlab.run.reports import appendix, chapters, fonts
from finlab.run.reports.html import both, say
from finlab.run.reports.results import Step, finished_steps
from finlab.run.reports.summary import summary


@functools.cache
def style() -> str:
    """Return the style sheet of all pages."""
    return (Path(__file__).parent / "page.css").read_text(encoding="utf-8")


def page(title: str, navigation: str, content: str, language: str) -> str:
    """Return a whole page.

    Args:
        title: Title of the browser window, as plain text.
        navigation: HTML of the list of contents, which is on the left.
        content: HTML of the page's main part.
        language: Language that the page shows first: `zh` or `en`.

    Raises:
        ValueError: `language` is another word.
    """
    if language not in twins.LANGUAGES:
        raise ValueError(f"the language is '{language}': choose one of zh and en")
    switches = ""
    for each, name in (("zh", "中文"), ("en", "English")):
        chosen = " checked" if each == language else ""
        switches += f"<label><input type=radio name=lang id=lang-{each}{chosen}> {name}</label>"
    body = f"<div class=lang>{switches}</div>{content}"
    # The page has both languages, so the font must have the characters of all its text.
    font = fonts.embedded(title + navigation + body)
    return f"""<!DOCTYPE html>
<html lang="{language}">
<head>
<meta charset="utf-8"><meta name="viewport" content="width=device-width">
<title>{html.escape(title)}</title>
<style>{font}{style()}</style>
</head>
<body>
<nav>{navigation}</nav>
<main>{body}</main>
</body>
</html>"""


def write(
    run_dir: Path, language: str = "zh", parts: dict[str, chapters.Chapter] | None = None
) -> Path:
    """Write `report.html` into the folder of a run.

    Args:
        run_dir: The run's folder.
        language: Language that the page shows first: `zh` or `en`. The page has both.
        parts: The chapters from `chapters_of`, if they were made before. None makes them, which
            takes seconds.

    Returns:
        The path of the page.

    Raises:
        ValueError: The run has no complete step, or `language` is another word.
    """
    run_dir = Path(run_dir).resolve()
    steps = finished_steps(run_dir)
    if not steps:
        raise ValueError(f"{run_dir} holds no finished step: run a recipe there first")
    if parts is None:
        parts = chapters_of(steps)
    name = run_dir.name
    head = f"<h1>{both(f'finlab run: {name}', f'finlab 运行：{name}')}</h1>{_made_with(steps)}"
    body = "".join(_section(manifest, parts) for manifest, _, _ in steps)
    notebooks = f"<h2 id=chapters>{say('chapters')}</h2>{body}"
    content = f"{head}{summary(run_dir, steps)}{notebooks}{appendix.appendix()}"
    links = ""
    for anchor in ("verdict", "warnings", "cost", "sources", "results"):
        links += f"<li><a href='#{anchor}'>{say(anchor)}</a></li>"
    for anchor, title in appendix.PAGES.items():
        links += f"<li><a href='#{anchor}'>{both(*title)}</a></li>"
    navigation = f"<b>{say('contents')}</b><ul>{links}</ul><hr>{chapters.contents(parts)}"
    whole = without_dead_links(page(f"finlab: {name}", navigation, content, language))
    return files.write_text(run_dir / "report.html", whole)


def without_dead_links(body: str) -> str:
    """Replace links to missing places of the page with their text.

    For example, a link may lead to a step that was not run.

    Args:
        body: HTML of the page.
    """
    places = set(re.findall(r"""\bid=["']?([\w-]+)""", body))
    link = re.compile(r"""<a href=["']#([^"']+)["']>(.*?)</a>""", re.S)
    return link.sub(lambda found: found[0] if found[1] in places else found[2], body)


def chapters_of(steps: list[Step]) -> dict[str, chapters.Chapter]:
    """Return {step: chapter} of the steps whose executed notebook was kept.

    Args:
        steps: The finished steps, from `finished_steps`.
    """
    found = {}
    for manifest, _, folder in steps:
        path = folder / f"{manifest['notebook']}.ipynb"
        if path.exists():
            step = manifest["step"]
            found[step] = chapters.chapter(path, manifest["notebook"], step)
    return found


def _made_with(steps: list[Step]) -> str:
    """Return commit and versions as a folded section."""
    last = steps[-1][0]
    versions = ", ".join(f"{name} {version}" for name, version in last["versions"].items())
    facts = html.escape(f"Python {last['python']} · {versions}")
    commit = html.escape(last["git_commit"])
    return f"<details class=faint><summary>commit {commit}</summary>{facts}</details>"


def _section(manifest: dict, parts: dict[str, chapters.Chapter]) -> str:
    """Return a step's part of the page: its executed notebook.

    Args:
        manifest: Manifest of the step.
        parts: The chapters, from `chapters_of`.
    """
    step, notebook = manifest["step"], manifest["notebook"]
    body = parts[step].html if step in parts else say("no notebook", "p")
    return f"<section class=chapter id='{step}'><a id='{notebook}'></a>{body}</section>"
