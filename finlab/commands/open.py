"""`finlab open`: open a notebook in JupyterLab with a recipe's values filled in."""

from __future__ import annotations

import argparse
import importlib.util
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

from finlab import files, paths
from finlab.run import recipe, recording, twins
from finlab.run.runner import chosen_steps

KERNEL = "finlab"
PASSED_ON = "What follows -- goes to `jupyter lab`, such as -- --no-browser --port 8890."
LINK = re.compile(r"\]\((?!https?://|#)([^)\s]+)\)")


def add(commands: argparse._SubParsersAction) -> None:
    """Add the subcommand of this module to the parser."""
    parser = commands.add_parser(
        "open", help="open a step's notebook in JupyterLab, with the recipe's values filled in"
    )
    parser.add_argument("recipe", help="a name of `finlab recipes`, or a YAML file")
    parser.add_argument("step", help="one of its steps")
    parser.add_argument("--run-dir", default="", help="the run's folder; default: runs/RECIPE")
    parser.add_argument(
        "--lang", default="zh", choices=twins.LANGUAGES, help="the language of the text"
    )
    parser.add_argument("--new", action="store_true", help="replace a copy that was opened before")
    parser.add_argument(
        "--no-lab", action="store_true", help="write the copy, and start no JupyterLab"
    )
    parser.epilog = PASSED_ON
    parser.set_defaults(function=_open)


def _open(arguments: argparse.Namespace) -> int:
    """Write a copy of the notebook, and open it."""
    plan = recipe.load(arguments.recipe)
    [step] = chosen_steps(plan, only=arguments.step)
    run_dir = Path(arguments.run_dir).expanduser().resolve() if arguments.run_dir else None
    values: dict[str, Any] = {name: step.parameters[name] for name in step.changed}
    values["run_dir"] = str(run_dir or Path("runs") / plan.name)
    values["step"] = step.name
    copy = paths.ROOT / "runs" / "open" / f"{plan.name}-{step.name}.ipynb"
    if copy.exists() and not arguments.new:
        if f"run_dir = {values['run_dir']!r}" not in _filled_in(copy):
            raise ValueError(f"{copy} was opened before for another run folder: add --new")
        print(f"{copy} was opened before and is kept as you left it; --new makes a fresh copy")
    else:
        _write_copy(step.notebook, values, arguments.lang, copy)
        print(f"notebook: {copy}")
    if arguments.no_lab:
        install_kernel()
        return 0
    return start_lab(copy, arguments.passed)


def _filled_in(copy: Path) -> str:
    """Return the text of the cell with the filled-in values; empty if there is none.

    Args:
        copy: File of the copied notebook.
    """
    for cell in files.read_json(copy)["cells"]:
        if "injected-parameters" in cell["metadata"].get("tags", []):
            return "".join(cell["source"])
    return ""


def _write_copy(notebook: str, values: dict[str, Any], language: str, copy: Path) -> None:
    """Write a copy of a notebook with other parameter values, in a language.

    Args:
        notebook: Name of the notebook.
        values: Parameter values that replace the defaults, by name.
        language: Language of the Markdown cells, `zh` or `en`.
        copy: File to write.
    """
    import nbformat

    content = nbformat.read(paths.NOTEBOOKS / f"{notebook}.ipynb", 4)
    twins.in_language(content, notebook, language)
    for cell in content.cells:
        if cell.cell_type == "markdown":
            cell.source = LINK.sub(lambda found: _moved(found.group(1), copy.parent), cell.source)
    recording.fill_in(content, [f"{name} = {value!r}" for name, value in values.items()])
    kernel = {"name": KERNEL, "display_name": KERNEL, "language": "python"}
    content.metadata["kernelspec"] = kernel
    copy.parent.mkdir(parents=True, exist_ok=True)
    files.write_text(copy, nbformat.writes(content))


def _moved(target: str, folder: Path) -> str:
    """Return the end of a Markdown link, with its target changed for another folder.

    Args:
        target: Target of the link, relative to the folder of the notebooks.
        folder: Folder of the copy.
    """
    return f"]({os.path.relpath(paths.NOTEBOOKS / target, folder)})"


def install_kernel() -> None:
    """Register the kernel of finlab in this Python environment, so that JupyterLab finds it."""
    from ipykernel.kernelspec import install

    install(kernel_name=KERNEL, display_name=KERNEL, prefix=sys.prefix)


def start_lab(notebook: Path, options: list[str]) -> int:
    """Open a notebook in JupyterLab, and wait until JupyterLab is closed.

    The root folder of JupyterLab is the repository.

    Args:
        notebook: A notebook in the repository.
        options: Options for `jupyter lab`.

    Returns:
        The exit status of JupyterLab.

    Raises:
        ValueError: JupyterLab is not installed.
    """
    if importlib.util.find_spec("jupyterlab") is None:
        raise ValueError("JupyterLab is not installed here: run `make lab` once, which installs it")
    install_kernel()
    command = [sys.executable, "-m", "jupyter", "lab", f"--ServerApp.root_dir={paths.ROOT}"]
    return subprocess.run([*command, str(notebook), *options], check=False).returncode
