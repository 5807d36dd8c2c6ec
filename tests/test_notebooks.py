"""Notebook style: the budget of the workbook, checked on every notebook that is there."""

import ast
import statistics

import nbformat
import pytest

from finlab import recipe

NAMES = recipe.names()


def read(name):
    return nbformat.read(recipe.NOTEBOOKS / f"{name}.ipynb", 4)


def code_lines(source):
    return [line for line in source.splitlines() if line.strip()]


def test_all_notebooks_are_numbered_and_found():
    assert NAMES == sorted(path.stem for path in recipe.NOTEBOOKS.glob("*.ipynb")) and len(NAMES) >= 8


@pytest.mark.parametrize("name", NAMES)
def test_budget(name):
    notebook = read(name)
    nbformat.validate(notebook)
    code = [cell.source for cell in notebook.cells if cell.cell_type == "code"]
    sizes = [len(code_lines(source)) for source in code]
    tree = ast.parse("\n".join(code))
    assert len(notebook.cells) <= 40 and sum(sizes) <= 250 and statistics.median(sizes) <= 8 and max(sizes) <= 40
    assert sum(isinstance(node, ast.FunctionDef) for node in ast.walk(tree)) <= 3
    assert not any(isinstance(node, ast.ClassDef) for node in ast.walk(tree))
    for source in code:
        assert not any(line.lstrip().startswith(("!", "%")) for line in source.splitlines())
        for word in ("notebook_login", "os.environ", "SMOKE", "sys.exit", "ipywidgets", "exit("):
            assert word not in source, f"{name}: {word}"


@pytest.mark.parametrize("name", NAMES)
def test_shape(name):
    notebook = read(name)
    assert notebook.metadata.kernelspec.name == "python3" and "papermill" not in notebook.metadata
    ids = [cell.id for cell in notebook.cells]
    assert len(set(ids)) == len(ids)
    for cell in notebook.cells:
        assert not cell.get("outputs") and cell.get("execution_count") is None, "outputs must be stripped: nbstripout --keep-id"
    first = notebook.cells[0].source
    assert first.startswith(f"# {name[:2]} · ") and "**Question:**" in first and "| reads | writes | cost |" in first
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert code[0].metadata.get("tags") == ["parameters"]
    assert f'runs.start("{name}", globals())' in code[1].source and "run.finish(" in code[-1].source
    markdown = [cell.source for cell in notebook.cells if cell.cell_type == "markdown"]
    assert sum(text.startswith("# ") for text in markdown) == 1 and "What this does not show" in markdown[-1]
    assert recipe.declared(name)["seed"].annotation == "int" and recipe.declared(name)["run_dir"].default == "runs/smoke"


@pytest.mark.parametrize("name", NAMES)
def test_every_parameter_is_used_and_explained(name):
    notebook = read(name)
    code = [cell.source for cell in notebook.cells if cell.cell_type == "code"]
    used = {node.id for node in ast.walk(ast.parse("\n".join(code[1:]))) if isinstance(node, ast.Name)}
    for parameter in recipe.declared(name):
        assert parameter in used | {"run_dir", "step", "seed"}, f"{name}: parameter {parameter} is never used"


@pytest.mark.parametrize("name", NAMES)
def test_functions_are_not_finlabs_again(name):
    package = {node.name for file in (recipe.ROOT / "finlab").glob("*.py") for node in ast.parse(file.read_text()).body if isinstance(node, ast.FunctionDef)}
    code = "\n".join(cell.source for cell in read(name).cells if cell.cell_type == "code")
    own = {node.name for node in ast.walk(ast.parse(code)) if isinstance(node, ast.FunctionDef)}
    assert not own & (package - {"pack"})


def test_the_package_stays_small_and_imports_one_way():
    files = list((recipe.ROOT / "finlab").glob("*.py"))
    assert sum(len(file.read_text().splitlines()) for file in files) <= 6850
    below = {"recipe": set(), "cards": {"chat", "cleaning", "closed_world", "pages", "recipe"}, "cleaning": set(), "pages": set(), "corpus": {"cleaning"}, "mixture": set(), "chat": set(), "closed_world": set(), "meter": set(),
             "tokenizer": {"mixture"}, "show": set(), "report": set(), "quantize": set(), "launch": {"recipe"}, "evaluate": {"mixture", "tokenizer"},
             "store": set(), "harness": {"cards", "store"}, "judge": {"chat", "evaluate", "store"},
             "training": {"chat", "launch", "meter", "mixture", "model", "runs", "training"}}  # itself, as the module that a launched process runs
    for file in files:
        if file.stem in below:
            found = {alias.name for node in ast.walk(ast.parse(file.read_text())) if isinstance(node, ast.ImportFrom) and node.module == "finlab" for alias in node.names}
            assert found <= below[file.stem], f"{file.stem} imports {found - below[file.stem]}"


def test_code_is_clean():
    import subprocess
    import sys

    done = subprocess.run([sys.executable, "-m", "ruff", "check", "finlab", "tests", "notebooks"], cwd=recipe.ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout
    done = subprocess.run([sys.executable, "-m", "nbstripout", "--verify", "--keep-id", *map(str, recipe.NOTEBOOKS.glob("*.ipynb"))], cwd=recipe.ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
