"""Find the code of finlab that a notebook uses, and hash it.

The key of a step changes when this code changes. Comments, docstrings, plots, the report and the
command line cannot change a result, so they do not count.
"""

from __future__ import annotations

import ast
import functools
from pathlib import Path

from finlab import files

PACKAGE = Path(__file__).resolve().parents[1]
CHANGES_NO_RESULT = (
    "finlab.show",
    "finlab.run.reports",
    "finlab.run.twins",
    "finlab.run.recording",
    "finlab.run.refusals",
    "finlab.commands",
)


def module_file(name: str) -> Path | None:
    """Return the file of a module of finlab; None if there is no such module.

    Args:
        name: Name of the module, such as `finlab.data.cards`.
    """
    parts = name.split(".")
    if parts[0] != "finlab":
        return None
    path = PACKAGE.joinpath(*parts[1:])
    if path.with_suffix(".py").is_file() and len(parts) > 1:
        return path.with_suffix(".py")
    package = path / "__init__.py"
    return package if package.is_file() else None


def _run_by_name(tree: ast.AST) -> set[str]:
    """Return the module names after "-m" in tuples or lists, as in a command line."""
    found = set()
    for node in ast.walk(tree):
        if not isinstance(node, (ast.Tuple, ast.List)):
            continue
        words = [item.value if isinstance(item, ast.Constant) else "" for item in node.elts]
        if "-m" in words[:-1]:
            found.add(str(words[words.index("-m") + 1]))
    return found


def imports(source: str) -> set[str]:
    """Return the modules of finlab that Python code imports, at the top or inside functions.

    A module that is run by name, as in `python -m finlab.train.rank`, counts too.

    Args:
        source: Python code.

    Returns:
        Names such as `finlab.data.cards`.
    """
    tree = ast.parse(source)
    found = _run_by_name(tree)
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.module:
            for alias in node.names:
                inner = f"{node.module}.{alias.name}"
                found.add(inner if module_file(inner) else node.module)
        elif isinstance(node, ast.Import):
            found.update(alias.name for alias in node.names)
    return {name for name in found if module_file(name)}


@functools.cache
def _module_imports(name: str) -> frozenset[str]:
    """Return the modules of finlab that a module imports; the result is cached."""
    return frozenset(imports(module_file(name).read_text(encoding="utf-8")))


def reachable(modules: set[str]) -> set[str]:
    """Return modules of finlab and all modules that they import, directly or indirectly.

    Modules in CHANGES_NO_RESULT are left out.
    """
    found: set[str] = set()
    waiting = list(modules)
    while waiting:
        name = waiting.pop()
        if name in found or name.startswith(CHANGES_NO_RESULT):
            continue
        found.add(name)
        waiting += _module_imports(name)
    return found


def _without_docstrings(source: str) -> str:
    """Return a module's syntax tree as text, without comments and docstrings."""
    tree = ast.parse(source)
    for node in ast.walk(tree):
        body = getattr(node, "body", None)
        if not isinstance(body, list) or not body or not isinstance(body[0], ast.Expr):
            continue
        first = body[0].value
        if isinstance(first, ast.Constant) and isinstance(first.value, str):
            body[0] = ast.Pass()
    return ast.dump(tree)


def _files_beside(folder: Path) -> list[Path]:
    """Return the templates, tasks and tables that the modules in a folder read.

    They are in the same folder, or in subfolders that are not packages. Files of other packages do
    not count: for example, a change in evaluation must not make a training run again.
    """
    candidates: list[Path] = []
    for child in folder.iterdir():
        if child.is_file():
            candidates.append(child)
        elif not (child / "__init__.py").exists():
            candidates += child.rglob("*")
    return [path for path in candidates if path.suffix in (".jinja", ".json", ".yaml")]


def code_parts(source: str) -> dict[str, str]:
    """Return {file: hash} of the finlab code that a notebook uses.

    Templates, tasks and tables in the folders of that code count too.

    Args:
        source: All code of the notebook, as one text.
    """
    parts = {}
    folders = set()
    for name in reachable(imports(source)):
        path = module_file(name)
        folders.add(path.parent)
        parts[str(path.relative_to(PACKAGE.parent))] = _without_docstrings(
            path.read_text(encoding="utf-8")
        )
    for folder in folders:
        for path in _files_beside(folder):
            parts[str(path.relative_to(PACKAGE.parent))] = path.read_text(encoding="utf-8")
    return {name: files.digest(content)[:16] for name, content in sorted(parts.items())}
