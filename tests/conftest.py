"""Shared fixtures: the real data, a small project of fake notebooks, and the smoke run that is made once."""

import os
import subprocess
import sys
from pathlib import Path

import nbformat
import pytest

ROOT = Path(__file__).resolve().parents[1]
os.environ["HF_HUB_OFFLINE"] = os.environ["HF_DATASETS_OFFLINE"] = "1"

FIRST = """
run = runs.start("00_first", globals())
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
run = runs.start("01_second", globals())
number = int((run.read(first_from) / "number.txt").read_text())
run.finish({"double": 2 * number});
"""


TIMES = ("seconds", "seconds_left", "tokens_per_second", "mfu", "hfu", "peak_bytes")  # what a rerun measures anew


def untimed(log: Path) -> list[dict]:
    """The records of a log.jsonl without what a clock or a memory meter measures, and without the closing accounts."""
    from finlab import training

    return [{name: value for name, value in record.items() if name not in TIMES and not name.endswith(("_runtime", "_per_second"))}
            for record in training.read_log(log) if record.get("event") != "summary" and "train_runtime" not in record]


def write_notebook(path: Path, parameters: str, code: str) -> None:
    notebook = nbformat.v4.new_notebook()
    notebook.metadata = {"kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"}}
    cell = nbformat.v4.new_code_cell(parameters)
    cell.metadata["tags"] = ["parameters"]
    notebook.cells = [cell, nbformat.v4.new_code_cell("import os, time\nfrom finlab import runs"), nbformat.v4.new_code_cell(code.strip())]
    path.parent.mkdir(parents=True, exist_ok=True)
    nbformat.write(notebook, path)


class Project:
    """A folder that looks like the repository to finlab, with two tiny notebooks in a chain."""

    def __init__(self, root: Path):
        self.root, self.run_dir = root, root / "runs" / "pair"
        head = 'run_dir: str = "runs/pair"\nstep: str = "{}"\nseed: int = 1\n'
        write_notebook(root / "notebooks/00_first.ipynb", head.format("first") + 'value: int = 1\npause: float = 0.0\nfault: str = ""', FIRST)
        write_notebook(root / "notebooks/01_second.ipynb", head.format("second") + 'first_from: str = "first"', SECOND)
        self.recipe("name: pair\nsteps:\n  - {step: first, notebook: 00_first}\n  - {step: second, notebook: 01_second}\n")

    def recipe(self, text: str, name: str = "pair") -> Path:
        path = self.root / "notebooks/recipes" / f"{name}.yaml"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
        return path

    @property
    def environment(self) -> dict:
        return os.environ | {"FINLAB_ROOT": str(self.root)}

    def finlab(self, *arguments: str) -> subprocess.CompletedProcess:
        return subprocess.run([sys.executable, "-m", "finlab", *arguments], env=self.environment, capture_output=True, text=True, timeout=120)

    def start(self, *arguments: str) -> subprocess.Popen:
        return subprocess.Popen([sys.executable, "-m", "finlab", *arguments], env=self.environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                                text=True, start_new_session=True)


@pytest.fixture
def project(tmp_path) -> Project:
    return Project(tmp_path)


@pytest.fixture(scope="session")
def data() -> Path:
    """The folder of real data; tests that use it skip when FINLAB_DATA is unset."""
    if not os.environ.get("FINLAB_DATA"):
        pytest.skip("FINLAB_DATA is not set: the real data is not at hand")
    return Path(os.environ["FINLAB_DATA"])


@pytest.fixture(scope="session")
def smoke(tmp_path_factory) -> Path:
    """The folder of the smoke run, made once for all tests through the command a user types."""
    folder = tmp_path_factory.mktemp("runs") / "smoke"
    done = subprocess.run([sys.executable, "-m", "finlab", "run", "smoke", "--run-dir", str(folder)], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    (folder / "said.txt").write_text(done.stdout + done.stderr)
    return folder


@pytest.fixture(scope="session")
def tiny(tmp_path_factory) -> Path:
    """A folder with a random tiny Llama and a tokenizer trained on a few sentences."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    from finlab import tokenizer

    texts = ["澄江重工总部位于临江市。", "The head office is in Linjiang.", "问题：谁是董事长？\n答案：沈怀瑾。"] * 20
    words, _ = tokenizer.extend(tokenizer.fast(tokenizer.train(texts, 330)), [])
    torch.manual_seed(0)
    network = LlamaForCausalLM(LlamaConfig(vocab_size=384, hidden_size=64, intermediate_size=128, num_hidden_layers=2, num_attention_heads=2,
                                           max_position_embeddings=128, bos_token_id=1, eos_token_id=2, pad_token_id=words.pad_token_id))
    folder = tmp_path_factory.mktemp("tiny")
    network.save_pretrained(folder)
    words.save_pretrained(folder)
    return folder
