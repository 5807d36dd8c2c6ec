"""Add pages of the guide to the end of the report: the glossary and answers to exercises."""

from __future__ import annotations

import re

from finlab import paths
from finlab.run.reports.html import both

PAGES = {
    "glossary": ("Glossary", "词汇表"),
    "exercises": ("Things to try, answered", "试一试的答案"),
}
LINK = re.compile(r'<a href="(?!https?://|#)[^"]*">(.*?)</a>', re.S)


def linked(body: str) -> str:
    """Make links to the guide lead to places of the same page.

    Links to other files of the repository become text, because these files are not with the page.

    Args:
        body: HTML of a notebook or of a page of the guide.
    """
    names = "|".join(PAGES)
    body = re.sub(rf'href="(?:\.\./)*(?:docs/)?(?:zh/)?({names})\.md"', r'href="#\1"', body)
    return LINK.sub(r"\1", body)


def appendix() -> str:
    """Return the pages in PAGES as parts of the report, in both languages."""
    return "".join(_part(name) for name in PAGES)


def _part(name: str) -> str:
    """Return one page of the guide, in both languages; empty if there is no such file.

    Args:
        name: Name of the page's file without `.md`.
    """
    from nbconvert.filters.markdown import markdown2html

    english = paths.DOCS / f"{name}.md"
    chinese = paths.DOCS / "zh" / f"{name}.md"
    bodies = ""
    for language, path in (("en", english), ("zh", chinese if chinese.exists() else english)):
        if not path.exists():
            return ""
        text = re.sub(r"^# .*\n", "", path.read_text(encoding="utf-8"))
        text = re.sub(r"<!--.*?-->", "", text, flags=re.S)
        bodies += f"<div class={language} lang={language}>{linked(markdown2html(text))}</div>"
    title = both(*PAGES[name])
    return f"<section class=chapter id={name}><h1>{title}</h1>{bodies}</section>"
