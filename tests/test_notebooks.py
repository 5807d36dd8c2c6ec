"""The notebooks' style: the budget of the workbook, checked on every notebook that is there."""

import ast
import re
import statistics
import subprocess
import sys

import nbformat
import pytest

from finlab import paths
from finlab.run import parameters, twins

NAMES = parameters.notebook_names()
MAX_NODES_A_LINE = 7.0


def read(name):
    return nbformat.read(paths.NOTEBOOKS / f"{name}.ipynb", 4)


def code_cells(name):
    return [cell for cell in read(name).cells if cell.cell_type == "code"]


def markdown(name):
    return [cell.source for cell in read(name).cells if cell.cell_type == "markdown"]


def lines(source):
    return [line for line in source.splitlines() if line.strip()]


def tree(name):
    return ast.parse("\n".join(cell.source for cell in code_cells(name)))


def test_all_notebooks_are_numbered():
    assert NAMES == sorted(path.stem for path in paths.NOTEBOOKS.glob("*.ipynb"))
    assert len(NAMES) >= 8


@pytest.mark.parametrize("name", NAMES)
class TestBudget:
    def test_cells_are_short(self, name):
        sizes = [len(lines(cell.source)) for cell in code_cells(name)]
        assert statistics.median(sizes) <= 8

    def test_no_cell_but_parameters_is_long(self, name):
        for cell in code_cells(name):
            if "parameters" not in cell.metadata.get("tags", []):
                assert len(lines(cell.source)) <= 25, cell.id

    def test_a_line_holds_one_thought(self, name):
        code = "\n".join(cell.source for cell in code_cells(name))
        parsed = ast.parse(code)
        for node in ast.walk(parsed):
            if isinstance(node, ast.AnnAssign):
                # What a parameter may be is a declaration, and no thought to follow.
                node.annotation = ast.Name("type")
        nodes = sum(1 for _ in ast.walk(parsed))
        assert nodes / len(lines(code)) <= MAX_NODES_A_LINE

    def test_few_functions_and_no_class(self, name):
        nodes = list(ast.walk(tree(name)))
        assert sum(isinstance(node, ast.FunctionDef) for node in nodes) <= 2
        assert not any(isinstance(node, ast.ClassDef) for node in nodes)

    def test_no_magic_no_login_no_widgets(self, name):
        for cell in code_cells(name):
            for line in cell.source.splitlines():
                assert not line.lstrip().startswith(("!", "%")), line
            for word in ("notebook_login", "os.environ", "SMOKE", "sys.exit", "ipywidgets"):
                assert word not in cell.source


@pytest.mark.parametrize("name", NAMES)
class TestShape:
    def test_kernel(self, name):
        notebook = read(name)
        nbformat.validate(notebook)
        assert notebook.metadata.kernelspec.name == "python3"
        assert "papermill" not in notebook.metadata

    def test_ids_are_unique(self, name):
        ids = [cell.id for cell in read(name).cells]
        assert len(set(ids)) == len(ids)

    def test_outputs_are_stripped(self, name):
        for cell in code_cells(name):
            assert not cell.outputs
            assert cell.execution_count is None

    def test_the_title_asks_a_question(self, name):
        first = read(name).cells[0].source
        assert first.startswith(f"# {name[:2]} · ")
        assert "**Question:**" in first
        assert "| reads | writes | cost |" in first
        assert sum(text.startswith("# ") for text in markdown(name)) == 1

    def test_it_starts_and_finishes_its_step(self, name):
        first, second, *_, last = code_cells(name)
        assert first.metadata.get("tags") == ["parameters"]
        assert f'start_step("{name}", globals())' in second.source
        assert "run.finish(" in last.source

    def test_it_says_what_it_does_not_show(self, name):
        assert "What this does not show" in markdown(name)[-1]

    def test_its_defaults_are_the_smoke_run(self, name):
        declared = parameters.declared_parameters(name)
        assert declared["seed"].type == "int"
        assert declared["run_dir"].default == "runs/smoke"


@pytest.mark.parametrize("name", NAMES)
def test_every_parameter_is_used(name):
    _, *rest = code_cells(name)
    code = ast.parse("\n".join(cell.source for cell in rest))
    used = {node.id for node in ast.walk(code) if isinstance(node, ast.Name)}
    for parameter in parameters.declared_parameters(name):
        assert parameter in used | {"run_dir", "step", "seed", "rerun"}, parameter


@pytest.mark.parametrize("name", NAMES)
def test_outputs_and_ids_as_nbstripout_leaves_them(name):
    command = ["-m", "nbstripout", "--verify", "--keep-id", f"{name}.ipynb"]
    done = subprocess.run([sys.executable, *command], cwd=paths.NOTEBOOKS, capture_output=True)
    assert done.returncode == 0, done.stdout


@pytest.mark.parametrize("name", NAMES)
def test_the_chinese_twin_keeps_step(name):
    assert twins.faults(name) == []


def links_and_code(text):
    """Return what a translation leaves as it is: targets of links, code, and table columns."""
    targets = re.findall(r"\]\(([^)]+)\)", text)
    code = sorted(" ".join(each.split()) for each in re.findall(r"`([^`]+)`", text))
    columns = [line.count("|") for line in text.splitlines() if line.startswith("|")]
    headings = re.findall(r"^#+ [\d.]*", text, re.M)
    return targets, code, columns, headings


@pytest.mark.parametrize("name", NAMES)
def test_the_chinese_twin_keeps_links_code_and_tables(name):
    chinese = twins.read(name)
    for cell in read(name).cells:
        if cell.cell_type == "markdown":
            _, twin = chinese[cell.id]
            assert links_and_code(twin) == links_and_code(cell.source), cell.id
            assert re.search("[一-鿿]", twin), cell.id
