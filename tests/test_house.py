"""The house: rooms that import one way, short lines with one thought.

Code that ruff accepts.
"""

import ast
import subprocess
import sys
import tomllib
from graphlib import TopologicalSorter
from importlib import metadata

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from finlab import paths
from finlab.run import code

PACKAGE = paths.ROOT / "finlab"
FILES = sorted(PACKAGE.rglob("*.py"))
# From the top of the house to the bottom; a room imports only from rooms below it.
ROOMS = [
    "commands",
    "show",
    "evaluate",
    "train",
    "models",
    "data",
    "run",
    "closed_world",
    "files",
    "yaml_text",
    "paths",
]
MAX_NODES_A_LINE = 7.0
MAX_MODULE_LINES = 400
MAX_FIRST_LINE = 90


def module_name(path):
    parts = path.relative_to(paths.ROOT).with_suffix("").parts
    return ".".join(part for part in parts if part != "__init__")


MODULES = {module_name(path): path for path in FILES}


def imports(name):
    return code.imports(MODULES[name].read_text(encoding="utf-8"))


def room(name):
    return name.split(".")[1] if "." in name else ""


# --- the drawing of the imports ------------------------------------------------------------------
@pytest.mark.parametrize("name", [name for name in MODULES if room(name) in ROOMS])
def test_no_arrow_goes_up(name):
    for other in imports(name):
        if room(other) in ROOMS and room(other) != room(name):
            below = ROOMS.index(room(other)) > ROOMS.index(room(name))
            assert below, f"{name} imports {other}, which lies above it"


def test_no_circle():
    graph = {}
    for name in MODULES:
        # `launch` starts the ranks as processes; it does not import them.
        graph[name] = imports(name) - {name, "finlab", "finlab.train.rank"}
    order = list(TopologicalSorter(graph).static_order())
    assert len(order) == len(MODULES)


def test_every_module_lies_in_a_room():
    for name in MODULES:
        assert name in ("finlab", "finlab.__main__") or room(name) in ROOMS


@pytest.mark.parametrize("library", ["daft", "trl"])
def test_libraries_stay_in_their_rooms(library):
    allowed = {"daft": ("data",), "trl": ("train", "evaluate")}[library]
    for name, path in MODULES.items():
        if f"import {library}" in path.read_text() or f"from {library}" in path.read_text():
            assert room(name) in allowed, name


def third_party(path):
    """Return the libraries that a file imports, at its top or inside a function."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            found.add(node.module.split(".")[0])
    return found - sys.stdlib_module_names - {"finlab"}


def test_what_finlab_imports_is_asked_for():
    """A library that only another one brought is gone on the day the other one drops it."""
    project = tomllib.loads((paths.ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    asked = list(project["dependencies"])
    for extra in project["optional-dependencies"].values():
        asked += extra
    asked = {canonicalize_name(Requirement(line).name) for line in asked}
    distributions = metadata.packages_distributions()
    for path in FILES:
        for library in third_party(path):
            names = {canonicalize_name(name) for name in distributions.get(library, [library])}
            assert names & asked, f"{path} imports {library}: pyproject.toml does not ask for it"


# --- lines ---------------------------------------------------------------------------------------
def nodes_and_lines(path):
    text = path.read_text(encoding="utf-8")
    nodes = sum(1 for _ in ast.walk(ast.parse(text)))
    return nodes, len([line for line in text.splitlines() if line.strip()])


def test_a_line_holds_one_thought():
    nodes = lines = 0
    for path in FILES:
        of_file = nodes_and_lines(path)
        nodes += of_file[0]
        lines += of_file[1]
    assert nodes / lines <= MAX_NODES_A_LINE


@pytest.mark.parametrize("name", MODULES)
def test_a_module_can_be_read_in_one_go(name):
    assert len(MODULES[name].read_text(encoding="utf-8").splitlines()) <= MAX_MODULE_LINES


@pytest.mark.parametrize("name", MODULES)
def test_no_line_is_too_long(name):
    for number, line in enumerate(MODULES[name].read_text(encoding="utf-8").splitlines(), 1):
        assert len(line) <= 100, f"line {number}"


# --- docstrings ----------------------------------------------------------------------------------
def definitions(name):
    tree = ast.parse(MODULES[name].read_text(encoding="utf-8"))
    for node in ast.walk(tree):
        if isinstance(node, (ast.Module, ast.FunctionDef, ast.ClassDef)):
            yield node


@pytest.mark.parametrize("name", MODULES)
def test_first_lines_of_docstrings_are_short(name):
    for node in definitions(name):
        docstring = ast.get_docstring(node)
        if docstring:
            first = docstring.splitlines()[0]
            assert len(first) <= MAX_FIRST_LINE, first


@pytest.mark.parametrize("name", MODULES)
def test_what_is_public_has_a_docstring(name):
    tree = ast.parse(MODULES[name].read_text(encoding="utf-8"))
    for node in tree.body:
        if isinstance(node, (ast.FunctionDef, ast.ClassDef)) and not node.name.startswith("_"):
            assert ast.get_docstring(node), node.name


# --- ruff ----------------------------------------------------------------------------------------
def ruff(*arguments):
    command = [sys.executable, "-m", "ruff", *arguments, "."]
    return subprocess.run(command, cwd=paths.ROOT, capture_output=True, text=True)


def test_code_is_formatted():
    done = ruff("format", "--check")
    assert done.returncode == 0, done.stdout


def test_code_is_clean():
    done = ruff("check")
    assert done.returncode == 0, done.stdout


# What pylint cannot see into: names that are made while a program runs.
MADE_LATER = "torch,transformers,trl,peft,datasets,numpy,pyarrow,daft,psutil,sentencepiece"
CALLS = (
    "no-member,no-name-in-module,undefined-variable,no-value-for-parameter,"
    "too-many-function-args,unexpected-keyword-arg"
)


def test_programs_that_run_seldom_call_what_is_there():
    """Benchmarks and the slow tier are run by nobody for weeks, while what they call moves."""
    options = ["--disable=all", f"--enable={CALLS}", f"--ignored-modules={MADE_LATER}"]
    command = [sys.executable, "-m", "pylint", *options, "benchmarks", "tests/slow"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=paths.ROOT)
    assert done.returncode == 0, done.stdout + done.stderr[-2000:]


# --- the key of a step ---------------------------------------------------------------------------
def test_a_key_follows_imports():
    found = code.reachable(code.imports("from finlab.data import cards"))
    assert {"finlab.data.cards", "finlab.data.readers", "finlab.files"} <= found
    assert not any(room(name) in ("train", "models", "evaluate") for name in found)


def test_a_key_knows_what_a_launched_process_runs():
    found = code.reachable(code.imports("from finlab.train.fit import fit"))
    assert "finlab.train.rank" in found


def test_a_key_knows_no_comments_and_no_plots():
    plain = code._without_docstrings("def f():\n    return 1\n")
    told = code._without_docstrings('def f():\n    """One."""\n    # why\n    return 1\n')
    assert plain.replace("Pass()", "") != ""
    assert told.replace("Pass(), ", "") == plain
    assert "finlab.show" not in code.reachable({"finlab.show", "finlab.files"})


def test_a_key_knows_only_the_files_of_its_rooms():
    """Exam tasks count for evaluation, chat templates for dialogues, and neither elsewhere."""

    def names(source):
        found = set()
        for name in code.reachable(code.imports(source)):
            beside = code._files_beside(code.module_file(name).parent)
            found |= {path.relative_to(PACKAGE).as_posix() for path in beside}
        return found

    evaluation = names("from finlab.evaluate import exams")
    assert "evaluate/tasks/official_cmmlu.yaml" in evaluation
    training = names("from finlab.train.fit import fit")
    assert "data/templates/chatml.jinja" in training
    for found in (training, names("from finlab import files")):
        assert not any(name.startswith(("evaluate/", "closed_world/")) for name in found)


def test_a_command_whose_module_is_a_variable_is_passed_over():
    assert code.imports('run(["python", "-m", name])\nrun(["python", "-m", *more])') == set()
