"""The documents: commands that work, paths that exist.

Figures that are those of the results.
"""

import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from benchmarks import tables
from finlab import files, paths
from finlab.data import card_schema
from finlab.run import parameters

README = (paths.ROOT / "README.md").read_text(encoding="utf-8")
DOCUMENTS = sorted(
    path
    for folder in (".", "docs", "benchmarks", "tests")
    for path in (paths.ROOT / folder).glob("*.md")
)


def blocks(language):
    """Return the code blocks of all documents in a language."""
    found = []
    for path in DOCUMENTS:
        found += re.findall(rf"```{language}\n(.*?)```", path.read_text(encoding="utf-8"), re.S)
    return found


# The first real run is rehearsed whole, in tests/slow/test_first_run.py.
FIRST_RUN = (paths.ROOT / "docs/first_run.md").read_text(encoding="utf-8")
COMMANDS = []
for block in blocks("console"):
    if block in FIRST_RUN:
        continue
    COMMANDS += [line[2:] for line in block.splitlines() if line.startswith("$ ")]


# --- commands ------------------------------------------------------------------------------------
def test_there_are_commands():
    assert len(COMMANDS) >= 6


@pytest.mark.parametrize("command", COMMANDS)
def test_command(command):
    program, *arguments = shlex.split(command)
    path = Path(sys.executable).parent / program
    done = subprocess.run([str(path), *arguments], cwd=paths.ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-1500:]


MAKE = sorted(
    {target for block in blocks("") for target in re.findall(r"^make ([\w-]+)", block, re.M)}
)


@pytest.mark.parametrize("target", MAKE)
def test_make_target(target):
    done = subprocess.run(["make", "-n", target], cwd=paths.ROOT, capture_output=True)
    assert done.returncode == 0


ALL = "".join(path.read_text(encoding="utf-8") for path in DOCUMENTS)


@pytest.mark.parametrize("module", sorted(set(re.findall(r"python -m (benchmarks\.\w+)", ALL))))
def test_benchmark_exists(module):
    assert paths.ROOT.joinpath(*module.split(".")).with_suffix(".py").exists()


# --- names ---------------------------------------------------------------------------------------
@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_links_lead_somewhere(document):
    for link in re.findall(r"\]\(([^)#:]+)\)", document.read_text(encoding="utf-8")):
        assert (document.parent / link).exists(), link


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_files_that_are_named_exist(document):
    text = document.read_text(encoding="utf-8")
    for name in re.findall(
        r"`((?:finlab|tests|benchmarks|notebooks|docs|data_cards)/[\w/.-]+)`", text
    ):
        assert (paths.ROOT / name).exists(), name


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_parameters_that_are_named_exist(document):
    """A `name: value` in the documents is a parameter of a notebook or a key of a card."""
    known = set(card_schema.Spec.model_fields)
    for notebook in parameters.notebook_names():
        known |= set(parameters.declared_parameters(notebook))
    text = document.read_text(encoding="utf-8")
    for name in re.findall(r"`([a-z]+_[a-z_]+): [^`]+`", text):
        assert name in known, name


def test_every_recipe_notebook_and_room_is_named():
    for path in paths.RECIPES.glob("*.yaml"):
        assert path.stem in README
    for name in parameters.notebook_names():
        assert name in README
    for folder in (paths.ROOT / "finlab").iterdir():
        if (folder / "__init__.py").exists():
            assert f"  {folder.name} " in README


def test_the_readme_is_short():
    assert len(README.splitlines()) <= 200


# --- figures -------------------------------------------------------------------------------------
TABLES = []
for page, of_page in tables.DOCUMENTS.items():
    TABLES += [(page, name, make) for name, make in of_page.items()]


@pytest.mark.parametrize(("page", "name", "make"), TABLES, ids=[name for _, name, _ in TABLES])
def test_figures_are_measured(page, name, make):
    text = (paths.ROOT / page).read_text(encoding="utf-8")
    assert tables.replace(text, name, make()) == text


@pytest.mark.parametrize("path", sorted(tables.RESULTS.glob("*.json")), ids=lambda path: path.stem)
def test_results_say_where_they_come_from(path):
    found = files.read_json(path)
    assert {"command", "versions", "device", "finished"} <= set(found)
    assert {"rows", "sizes", "embeddings", "preparation", "ratio", "tries"} & set(found)


# --- the environment -----------------------------------------------------------------------------
def test_environment_yml_installs_this_project():
    content = yaml.safe_load((paths.ROOT / "environment.yml").read_text(encoding="utf-8"))
    pip = next(part["pip"] for part in content["dependencies"] if isinstance(part, dict))
    assert any(line.startswith("-e .") for line in pip)
    assert "torch==2.13.0" in pip


def test_the_workflow_runs_what_ci_runs():
    path = paths.ROOT / ".github/workflows/workbook.yml"
    jobs = yaml.safe_load(path.read_text(encoding="utf-8"))["jobs"]
    runs = [step.get("run", "") for step in jobs["test"]["steps"]]
    assert runs[-1] == ".ci/run"
    assert jobs["publish"]["needs"] == ["test", "gallery"]


# --- the Chinese README --------------------------------------------------------------------------
CHINESE = (paths.ROOT / "README.zh.md").read_text(encoding="utf-8")


def skeleton(text):
    """Return what two languages of one page share: commands, names in tables, links, headings."""
    body = re.sub(r"```.*?```", "", text, flags=re.S).replace("docs/zh/", "docs/")
    rows = [line.split("|")[1].strip() for line in body.splitlines() if line.startswith("| ")]
    return {
        "code": re.findall(r"```.*?```", text, re.S),
        "headings": [len(mark) for mark in re.findall(r"^(#+) ", body, re.M)],
        "names in tables": [row for row in rows if re.fullmatch(r"[\w, .-]+", row, re.ASCII)],
        "rows": len(rows),
        "links": [link for link in re.findall(r"\]\(([^)]+)\)", body) if "README" not in link[:6]],
        "items": len(re.findall(r"^(?:-|\d+\.) ", body, re.M)),
    }


def test_the_chinese_readme_keeps_step():
    ours, chinese = skeleton(README), skeleton(CHINESE)
    # A first column of English words is translated, so only names are compared.
    kept = set(chinese["names in tables"])
    names = [name for name in ours.pop("names in tables") if name in kept or re.search(r"\d", name)]
    assert names == [name for name in chinese.pop("names in tables") if name in names]
    assert ours == chinese


# Pages that have no Chinese twin: one is in both languages, the other is tables of figures.
IN_ONE_FILE = {"glossary", "results"}
GUIDE = [path.stem for path in (paths.ROOT / "docs").glob("*.md") if path.stem not in IN_ONE_FILE]


@pytest.mark.parametrize("name", sorted(GUIDE))
def test_the_chinese_guide_keeps_step(name):
    english = (paths.ROOT / f"docs/{name}.md").read_text(encoding="utf-8")
    chinese = (paths.ROOT / f"docs/zh/{name}.md").read_text(encoding="utf-8")
    # Generated tables stand on the English page alone, or on both.
    generated = re.compile(r"<!-- ([\w-]+):begin -->.*?<!-- \1:end -->", re.S)
    ours, theirs = skeleton(generated.sub("", english)), skeleton(generated.sub("", chinese))
    for part in ("code", "headings", "rows", "items"):
        assert ours[part] == theirs[part], part
    assert_chinese(generated.sub("", chinese))


@pytest.mark.parametrize("name", sorted(GUIDE))
def test_links_of_the_chinese_guide_lead_somewhere(name):
    path = paths.ROOT / f"docs/zh/{name}.md"
    for link in re.findall(r"\]\(([^)#:]+)\)", path.read_text(encoding="utf-8")):
        assert (path.parent / link).exists(), link


def test_the_chinese_readme_is_chinese():
    assert_chinese(CHINESE)


def assert_chinese(text):
    """Require that a text is mostly Chinese."""
    body = re.sub(r"```.*?```|`[^`]*`|\([^)]*\)", "", text, flags=re.S)
    han = sum("\u4e00" <= sign <= "\u9fff" for sign in body)
    latin = len(re.findall(r"[A-Za-z]+", body))
    assert han > 3 * latin
