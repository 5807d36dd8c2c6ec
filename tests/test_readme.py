"""The README's commands work, its paths exist, and its figures are those of the results files."""

import json
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from finlab import paths
from finlab.run import recipe

README = (paths.ROOT / "README.md").read_text(encoding="utf-8")
COMMANDS = [
    line[2:]
    for block in re.findall(r"```console\n(.*?)```", README, re.S)
    for line in block.splitlines()
    if line.startswith("$ ")
]


def test_there_are_commands():
    assert len(COMMANDS) >= 6


@pytest.mark.parametrize("command", COMMANDS)
def test_command(command):
    program, *arguments = shlex.split(command)
    path = Path(sys.executable).parent / program
    done = subprocess.run([str(path), *arguments], cwd=paths.ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-1500:]


def test_make_targets():
    for target in re.findall(r"^make (\w+)", README, re.M):
        assert (
            subprocess.run(["make", "-n", target], cwd=paths.ROOT, capture_output=True).returncode
            == 0
        ), target


def test_every_recipe_and_notebook_is_named():
    for name in [path.stem for path in paths.RECIPES.glob("*.yaml")] + recipe.notebook_names():
        assert name in README, name
    for file in (paths.ROOT / "finlab").glob("*.py"):
        assert file.stem.startswith("__") or file.stem in README, file.stem


def test_figures_are_measured():
    """The results block is what `tests/results_table.py` makes of notebooks/results/*.json."""
    from tests import results_table

    for name, table in results_table.TABLES.items():
        assert (
            README.split(f"<!-- {name}:begin -->\n")[1].split(f"<!-- {name}:end -->")[0] == table()
        ), name
    for path in (paths.NOTEBOOKS / "results").glob("*.json"):
        found = json.loads(path.read_text(encoding="utf-8"))
        assert {"command", "versions", "device", "finished"} <= set(found), path
        assert {
            "rows",
            "sizes",
            "embeddings",
            "preparation",
            "ratio",
        } & set(found), path
