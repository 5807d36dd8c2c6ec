"""The workbook in JupyterLab, driven by a real browser: headless Chromium.

A notebook is judged by what JupyterLab saved of it: the outputs of its cells on disk.

`make test-lab` (FINLAB_LAB=all) walks through all notebooks at their defaults, in 13 minutes. CI has
no such time: there the first four run, on a corpus of a fifth.
"""

import json
import os
import shutil
import socket
import subprocess
import time
import urllib.request

import pytest

from finlab import paths
from finlab.run import parameters
from tests.conftest import FINLAB

CHROMIUM = (
    shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
)
TOKEN = "finlab"
ALL = os.environ.get("FINLAB_LAB") == "all"
LONGEST = 400  # seconds that one notebook may take


class Lab:
    """JupyterLab on a clean copy of the workbook, with a page of a browser in it."""

    def __init__(self, root, browser):
        self.root = root
        for name in ("notebooks", "data_cards", "docs"):
            shutil.copytree(paths.ROOT / name, root / name)
        if not ALL:
            corpus = root / "notebooks/01_corpus_stats.ipynb"
            text = corpus.read_text(encoding="utf-8")
            corpus.write_text(text.replace("= 1400000", "= 280000"), encoding="utf-8")
        # Recipes name files of the closed world from the root of the repository.
        (root / "finlab").symlink_to(paths.ROOT / "finlab")
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        self.url = f"http://127.0.0.1:{port}"
        environment = os.environ | {"FINLAB_ROOT": str(root), "JUPYTER_TOKEN": TOKEN}
        command = [*FINLAB, "lab", "--", "--no-browser", f"--port={port}", "--allow-root"]
        self.log = open(root / "lab.log", "w")
        self.server = subprocess.Popen(
            command, env=environment, stdout=self.log, stderr=self.log, start_new_session=True
        )
        self.page = browser.new_page(viewport={"width": 1280, "height": 900})
        self.wait(lambda: self.ask("/api/status"), 90)

    def ask(self, path, method="GET"):
        """Ask the server; None where it does not answer."""
        request = urllib.request.Request(
            self.url + path, headers={"Authorization": f"token {TOKEN}"}, method=method
        )
        try:
            with urllib.request.urlopen(request, timeout=10) as answer:
                return json.loads(answer.read() or "true")
        except (OSError, ValueError):
            return None

    @staticmethod
    def wait(condition, seconds):
        """Wait until a condition holds, and return what it gave."""
        deadline = time.time() + seconds
        while time.time() < deadline:
            found = condition()
            if found:
                return found
            time.sleep(0.5)
        raise AssertionError("it took too long")

    def open(self, name):
        """Open a notebook, with a kernel of its own, and nothing else."""
        for session in self.ask("/api/sessions") or []:
            self.ask(f"/api/sessions/{session['id']}", "DELETE")
        self.page.goto(f"{self.url}/lab/tree/notebooks/{name}.ipynb?token={TOKEN}&reset")
        self.page.locator(".jp-NotebookPanel:visible .jp-Cell").first.wait_for(timeout=60_000)
        self.wait(lambda: self.ask("/api/sessions"), 60)
        self.page.wait_for_timeout(1500)

    def menu(self, name, entry):
        """Choose an entry of a menu."""
        self.page.get_by_role("menuitem", name=name, exact=True).first.click()
        self.page.locator(".lm-Menu-itemLabel", has_text=entry).first.click()

    def run_all(self, name):
        """Run all cells to their end, and return what was saved."""
        self.start(name)
        return self.end(name)

    def start(self, name):
        """Start all cells of an open notebook."""
        self.menu("Run", "Run All Cells")
        self.wait(self.is_busy, 60)

    def is_busy(self):
        """Tell whether a kernel computes."""
        return any(kernel["execution_state"] == "busy" for kernel in self.ask("/api/kernels") or [])

    def end(self, name):
        """Wait until the kernel rests, save, and return the saved cells' outputs."""
        quiet = 0

        def at_rest():
            nonlocal quiet
            quiet = 0 if self.is_busy() else quiet + 1
            return quiet > 4

        self.wait(at_rest, LONGEST)
        path = self.root / f"notebooks/{name}.ipynb"
        before = path.stat().st_mtime_ns
        self.page.keyboard.press("Control+s")
        self.wait(lambda: path.stat().st_mtime_ns != before, 30)
        return json.loads(path.read_text(encoding="utf-8"))

    def stop(self):
        """End the server and all kernels."""
        self.ask("/api/shutdown", "POST")
        try:
            self.server.wait(30)
        except subprocess.TimeoutExpired:
            self.server.kill()
        self.log.close()


@pytest.fixture(scope="module")
def lab(tmp_path_factory):
    if not CHROMIUM:
        pytest.skip("no Chromium on this machine: JupyterLab cannot be opened in a browser")
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        made = Lab(tmp_path_factory.mktemp("lab"), browser)
        yield made
        made.stop()
        browser.close()


def outputs(notebook, kind):
    """Return the outputs of one kind, of all cells."""
    found = []
    for cell in notebook["cells"]:
        for output in cell.get("outputs", []):
            if output["output_type"] == kind:
                found.append(output)
    return found


def printed(notebook):
    """Return all that a notebook printed."""
    return "".join("".join(output["text"]) for output in outputs(notebook, "stream"))


def run_dir(lab):
    return lab.root / "runs/smoke"


def test_out_of_order_is_one_sentence_that_names_the_chain(lab):
    lab.open("05_dpo")
    notebook = lab.run_all("05_dpo")
    (error,) = outputs(notebook, "error")
    assert error["ename"] == "NotReady"
    assert len(error["traceback"]) == 1
    (said,) = error["traceback"]
    chain = "00_base_model → 01_corpus_stats → 02_tokenizer_extension → 03_lora_pretraining"
    assert f"{chain} → 04_two_stage_sft" in said
    assert "`finlab run smoke --to sft`" in said
    ran = [cell for cell in notebook["cells"] if cell.get("execution_count")]
    assert len(ran) == 2, "Run All stops at the refusal"


STEP_OF = {
    name: parameters.declared_parameters(name)["step"].default
    for name in parameters.notebook_names()[: None if ALL else 4]
}


@pytest.mark.parametrize("name", STEP_OF)
def test_run_all_from_a_clean_folder(lab, name):
    lab.open(name)
    if name.startswith("03"):
        interrupt_and_go_on(lab, name)
    else:
        notebook = lab.run_all(name)
        assert outputs(notebook, "error") == []
        assert f"Step '{STEP_OF[name]}' is complete" in printed(notebook)
        assert pictures(notebook) >= 1, "a figure of the idea at least"
    folder = run_dir(lab) / STEP_OF[name]
    assert (folder / "manifest.json").exists()
    kept = json.loads((folder / f"{name}.ipynb").read_text(encoding="utf-8"))
    assert pictures(kept) >= 1, "the run keeps the executed notebook"
    assert "is complete" in printed(kept)


def pictures(notebook):
    """Return how many figures a notebook shows; each must say in words what it shows."""
    found = 0
    for kind in ("display_data", "execute_result"):
        for output in outputs(notebook, kind):
            if "image/png" in output["data"]:
                assert output["metadata"]["image/png"]["alt"]
                found += 1
    return found


def interrupt_and_go_on(lab, name):
    """The square button stops at the end of a step; the notebook then goes on from there."""
    log = run_dir(lab) / "pretrain/log.jsonl"
    lab.start(name)
    lab.wait(lambda: log.exists() and len(log.read_text().splitlines()) > 8, LONGEST)
    lab.menu("Kernel", "Interrupt Kernel")
    notebook = lab.end(name)
    (error,) = outputs(notebook, "error")
    assert error["ename"] == "KeyboardInterrupt"
    (said,) = error["traceback"]
    assert "stopped after step" in said
    assert "the checkpoint is saved in" in said
    assert not (run_dir(lab) / "pretrain/manifest.json").exists()
    lab.open(name)
    notebook = lab.run_all(name)
    assert outputs(notebook, "error") == []
    measured = json.loads((run_dir(lab) / "pretrain/metrics.json").read_text())
    assert measured["resumed_at"] > 0


def test_run_all_twice_keeps_the_result(lab):
    before = (run_dir(lab) / "corpus/manifest.json").read_text()
    lab.open("01_corpus_stats")
    notebook = lab.run_all("01_corpus_stats")
    assert outputs(notebook, "error") == []
    assert "is finished already" in printed(notebook)
    assert "rerun = True" in printed(notebook)
    assert (run_dir(lab) / "corpus/manifest.json").read_text() == before
