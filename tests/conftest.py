"""Shared fixtures: the real data, a small model, a project of fake notebooks, the smoke run."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import nbformat
import pytest

from finlab.data import cards  # noqa: F401  (tells `run` how a data card is fingerprinted)
from finlab.models import sentencepieces, vocabulary
from finlab.train.log import read_log

ROOT = Path(__file__).resolve().parents[1]
FINLAB = [sys.executable, "-m", "finlab"]
os.environ["HF_HUB_OFFLINE"] = os.environ["HF_DATASETS_OFFLINE"] = "1"


# Fixtures that take longest. Their tests come first, while another worker has the rest.
LONGEST = {"smoke", "real"}


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Put the longest tests first."""
    items.sort(key=lambda item: LONGEST.isdisjoint(item.fixturenames))


# What a rerun measures anew.
TIMES = ("seconds", "seconds_left", "tokens_per_second", "mfu", "hfu", "peak_bytes")


def untimed(log: Path) -> list[dict]:
    """Return the records of a log without what a clock measures, and without the last accounts."""
    records = []
    for record in read_log(log):
        if record.get("event") == "summary" or "train_runtime" in record:
            continue
        kept = {}
        for name, value in record.items():
            timed = name in TIMES or name.endswith(("_runtime", "_per_second"))
            if not timed:
                kept[name] = value
        records.append(kept)
    return records


def metrics(folder: Path, step: str) -> dict:
    """Return the metrics of a step of a run."""
    return json.loads((folder / step / "metrics.json").read_text(encoding="utf-8"))


def settings(values: dict[str, str]) -> list[str]:
    """Return {step.parameter: value} as `--set` options."""
    options = []
    for name, value in values.items():
        options += ["--set", f"{name}={value}"]
    return options


def finlab_run(*arguments: object) -> subprocess.CompletedProcess:
    """Run `finlab run` and require that it succeeds."""
    command = [*FINLAB, "run", *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-2500:] + done.stderr[-2500:]
    return done


# --- a project of two fake notebooks -------------------------------------------------------------
FIRST = """
run = start_step("00_first", globals())
time.sleep(pause)
if fault == "raise":
    raise ValueError("the cupboard is bare: fill it")
if fault == "die":
    os.kill(os.getpid(), 9)
if fault == "forget":
    raise SystemExit
if fault == "full":
    raise OSError(28, "No space left on device", "artifact/big")
(run.artifact / "number.txt").write_text(str(value))
run.finish({"value": value});
"""
SECOND = """
run = start_step("01_second", globals())
number = int((run.read(first_from) / "number.txt").read_text())
run.finish({"double": 2 * number});
"""
PAIR = """
name: pair
steps:
  - {step: first, notebook: 00_first}
  - {step: second, notebook: 01_second}
"""


def write_notebook(path: Path, parameters: str, code: str) -> None:
    """Write a notebook of a parameters cell, imports, and code."""
    notebook = nbformat.v4.new_notebook()
    notebook.metadata = {
        "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"}
    }
    cell = nbformat.v4.new_code_cell(parameters)
    cell.metadata["tags"] = ["parameters"]
    imports = "import os, time\nfrom finlab.run.step import start_step"
    notebook.cells = [
        cell,
        nbformat.v4.new_code_cell(imports),
        nbformat.v4.new_code_cell(code.strip()),
    ]
    path.parent.mkdir(parents=True, exist_ok=True)
    nbformat.write(notebook, path)


class Project:
    """A folder that looks like the repository to finlab, with two tiny notebooks in a chain."""

    def __init__(self, root: Path):
        self.root = root
        self.run_dir = root / "runs" / "pair"
        head = 'run_dir: str = "runs/pair"\nstep: str = "{}"\nseed: int = 1\n'
        first = head.format("first") + 'value: int = 1\npause: float = 0.0\nfault: str = ""'
        second = head.format("second") + 'first_from: str = "first"'
        write_notebook(root / "notebooks/00_first.ipynb", first, FIRST)
        write_notebook(root / "notebooks/01_second.ipynb", second, SECOND)
        self.recipe(PAIR)

    def recipe(self, text: str, name: str = "pair") -> Path:
        """Write a recipe."""
        path = self.root / "notebooks/recipes" / f"{name}.yaml"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
        return path

    @property
    def environment(self) -> dict:
        """The environment of a process that works in this project."""
        return os.environ | {"FINLAB_ROOT": str(self.root)}

    def finlab(self, *arguments: str) -> subprocess.CompletedProcess:
        """Run the command to its end."""
        return subprocess.run(
            [*FINLAB, *arguments],
            env=self.environment,
            capture_output=True,
            text=True,
            timeout=120,
        )

    def start(self, *arguments: str) -> subprocess.Popen:
        """Start the command in a process group of its own."""
        return subprocess.Popen(
            [*FINLAB, *arguments],
            env=self.environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )


@pytest.fixture
def project(tmp_path) -> Project:
    """A small project of its own."""
    return Project(tmp_path)


@pytest.fixture
def ask(project, monkeypatch, capsys):
    """Call the command in this process, as `ask("status", "pair")`, which is quicker.

    Not for `finlab run`, whose kernels look for the project by the environment.
    """
    from finlab import paths
    from finlab.commands.main import main

    monkeypatch.setattr(paths, "ROOT", project.root)
    monkeypatch.setattr(paths, "NOTEBOOKS", project.root / "notebooks")
    monkeypatch.setattr(paths, "RECIPES", project.root / "notebooks/recipes")

    def call(*arguments: str) -> subprocess.CompletedProcess:
        capsys.readouterr()
        status = main(list(arguments))
        said = capsys.readouterr()
        return subprocess.CompletedProcess(arguments, status, said.out, said.err)

    return call


# --- data and models -----------------------------------------------------------------------------
@pytest.fixture(scope="session")
def data() -> Path:
    """The folder of real data; tests that use it skip when FINLAB_DATA is unset."""
    if not os.environ.get("FINLAB_DATA"):
        pytest.skip("FINLAB_DATA is not set: the real data is not at hand")
    return Path(os.environ["FINLAB_DATA"])


@pytest.fixture(scope="session")
def smoke(tmp_path_factory) -> Path:
    """The folder of the smoke run, made once for all tests through the command a user types.

    FINLAB_SMOKE names a folder in which it is kept from one session to the next; a step that has
    changed since runs again.
    """
    folder = tmp_path_factory.mktemp("runs") / "smoke"
    if os.environ.get("FINLAB_SMOKE"):
        folder = Path(os.environ["FINLAB_SMOKE"])
    done = finlab_run("smoke", "--run-dir", folder)
    (folder / "output.txt").write_text(done.stdout + done.stderr)
    return folder


@pytest.fixture(scope="session")
def tiny(tmp_path_factory) -> Path:
    """A folder with a random tiny Llama and a tokenizer trained on a few sentences."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    sentences = [
        "澄江重工总部位于临江市。",
        "The head office is in Linjiang.",
        "问题：谁是董事长？\n答案：沈怀瑾。",
    ]
    model = sentencepieces.train(sentences * 20, 330)
    tokenizer, _ = vocabulary.extend(sentencepieces.fast(model), [])
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=384,
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=2,
        num_attention_heads=2,
        max_position_embeddings=128,
        bos_token_id=1,
        eos_token_id=2,
        pad_token_id=tokenizer.pad_token_id,
    )
    folder = tmp_path_factory.mktemp("tiny")
    LlamaForCausalLM(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def chat_model(tmp_path_factory) -> Path:
    """A folder with a tiny chat model that knows a few turns by heart; see tests/talker.py."""
    from tests import talker

    return talker.write(tmp_path_factory.mktemp("talker") / "merged")
