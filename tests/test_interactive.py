"""A person at a notebook: one sentence in place of a traceback, and results that are kept.

A kernel is asked as JupyterLab asks it: each request says which cell it comes from.
"""

import json
import shutil

import nbformat
import pytest
from jupyter_client.manager import KernelManager

SECONDS = 60


class Front:
    """A front end: a kernel, and a notebook whose cells are run in order."""

    def __init__(self, project):
        self.project = project
        self.manager = KernelManager(kernel_name="python3")
        self.manager.start_kernel(env=project.environment, cwd=str(project.root))
        self.client = self.manager.client()
        self.client.start_channels()
        self.client.wait_for_ready(SECONDS)

    def run(self, source, cell=""):
        """Run a cell, and return (reply's status, what it showed)."""
        content = {"code": source, "silent": False, "store_history": True, "allow_stdin": False}
        session = self.client.session
        message = session.msg("execute_request", content, metadata={"cellId": cell})
        self.client.shell_channel.send(message)
        request = message["header"]["msg_id"]
        shown = []
        while True:
            found = self.client.get_iopub_msg(timeout=SECONDS)
            if found["parent_header"].get("msg_id") != request:
                continue
            if found["content"].get("execution_state") == "idle":
                break
            if found["msg_type"] in ("stream", "error", "execute_result", "display_data"):
                shown.append(found)
        # On a slow machine the kernel was asked twice whether it is ready, and answers twice.
        reply = self.client.get_shell_msg(timeout=SECONDS)
        while reply["parent_header"].get("msg_id") != request:
            reply = self.client.get_shell_msg(timeout=SECONDS)
        return reply["content"]["status"], shown

    def run_all(self, name, changes=""):
        """Run a notebook's cells until one fails, as Run All does; return what was shown."""
        content = nbformat.read(self.project.root / f"notebooks/{name}.ipynb", 4)
        shown = []
        for number, cell in enumerate(content.cells):
            source = f"{cell.source}\n{changes}" if not number else cell.source
            status, of_cell = self.run(source, cell.id)
            shown += of_cell
            if status != "ok":
                return status, shown
        return "ok", shown

    def stop(self):
        self.client.stop_channels()
        self.manager.shutdown_kernel(now=True)


@pytest.fixture
def front(project):
    made = Front(project)
    yield made
    made.stop()


def errors(shown):
    return [message["content"] for message in shown if message["msg_type"] == "error"]


def printed(shown):
    return "".join(
        message["content"]["text"] for message in shown if message["msg_type"] == "stream"
    )


def test_out_of_order_is_one_sentence(front):
    status, shown = front.run_all("01_second")
    assert status == "error"
    (error,) = errors(shown)
    assert error["ename"] == "NotReady"
    (said,) = error["traceback"]
    assert "step 'second' reads step 'first', which is not finished" in said
    assert "run 00_first in this order, or `finlab run pair --to first`, which does" in said


def test_what_is_refused_holds_no_other_up(front):
    """The step that is missing can be made in another kernel at once."""
    (front.project.run_dir / "first").mkdir(parents=True)
    assert front.run_all("01_second")[0] == "error"
    other = Front(front.project)
    try:
        status, shown = other.run_all("00_first")
    finally:
        other.stop()
    assert status == "ok", errors(shown)


def test_cells_that_ran_with_another_text_make_another_result(front):
    project = front.project
    assert front.run_all("00_first")[0] == "ok"
    folder = project.run_dir / "first"
    plain = json.loads((folder / "manifest.json").read_text())
    content = nbformat.read(project.root / "notebooks/00_first.ipynb", 4)
    start, imports, last = content.cells
    shutil.rmtree(folder)
    front.run(start.source, start.id)
    front.run(imports.source, imports.id)
    front.run(last.source.replace("str(value)", "str(2 * value)"), last.id)
    edited = json.loads((folder / "manifest.json").read_text())
    assert edited["edited"] == [last.id]
    assert edited["key"] != plain["key"]
    # So the runner, which knows the file alone, makes the step again.
    done = project.finlab("run", "pair", "--only", "first")
    assert "unchanged, kept" not in done.stdout
    assert json.loads((folder / "manifest.json").read_text())["key"] == plain["key"]


def test_a_finished_step_is_kept_until_rerun(front):
    project = front.project
    assert front.run_all("00_first")[0] == "ok"
    folder = project.run_dir / "first"
    before = (folder / "manifest.json").read_text()
    # Nothing has changed: a sentence, no error, and Run All stops.
    status, shown = front.run_all("00_first")
    assert status == "error"
    assert errors(shown) == []
    assert "Step 'first' is finished already" in printed(shown)
    assert (folder / "manifest.json").read_text() == before
    # A changed value runs, and the finished result stays beside the new one.
    status, shown = front.run_all("00_first", "value = 4")
    assert status == "ok", errors(shown)
    kept = json.loads((project.run_dir / "first.previous/manifest.json").read_text())
    assert kept == json.loads(before)
    # So does each that follows.
    assert front.run_all("00_first", "value = 5")[0] == "ok"
    assert (project.run_dir / "first.previous2/manifest.json").exists()
    assert json.loads((project.run_dir / "first.previous/manifest.json").read_text()) == kept


def test_the_run_keeps_the_executed_notebook(front):
    status, shown = front.run_all("00_first", "value = 3")
    assert status == "ok", errors(shown)
    assert "Step 'first' is complete" in printed(shown)
    assert "Next: 01_second" in printed(shown)
    kept = nbformat.read(front.project.run_dir / "first/00_first.ipynb", 4)
    told = [cell for cell in kept.cells if "injected-parameters" in cell.metadata.get("tags", [])]
    assert [cell.source for cell in told] == ["value = 3"]
    last = kept.cells[-1]
    assert "run.finish" in last.source
    assert "is complete" in last.outputs[-1].text
    # Nothing is noted any more.
    front.run("print('later')", "other")
    assert "later" not in (front.project.run_dir / "first/00_first.ipynb").read_text()


def test_cells_that_somebody_added_are_kept_in_their_place(front):
    content = nbformat.read(front.project.root / "notebooks/00_first.ipynb", 4)
    start, *_, last = content.cells
    *body, finish = last.source.splitlines()
    for source, cell in (
        (start.source, start.id),
        (content.cells[1].source, content.cells[1].id),
        ("\n".join(body), last.id),
        ("print('my own look')", "mine"),
        (finish, "end"),
    ):
        assert front.run(source, cell)[0] == "ok", source
    kept = nbformat.read(front.project.run_dir / "first/00_first.ipynb", 4)
    sources = [cell.source for cell in kept.cells]
    assert sources.index("print('my own look')") == sources.index("\n".join(body)) + 1
    mine = kept.cells[sources.index("print('my own look')")]
    assert mine.outputs[0].text == "my own look\n"


def test_an_interrupt_is_one_sentence(front):
    front.run("from finlab.run import refusals; refusals.show_as_sentences()")
    status, shown = front.run("raise KeyboardInterrupt")
    assert status == "error"
    (error,) = errors(shown)
    (said,) = error["traceback"]
    assert said.startswith("stopped: what finished steps left is kept")
    # A fault of the code keeps its traceback.
    status, shown = front.run("1 / 0")
    assert len(errors(shown)[0]["traceback"]) > 1


def test_open_fills_in_values_and_language(project, ask):
    project.recipe(
        "name: pair\nsteps:\n  - {step: first, notebook: 00_first, parameters: {value: 7}}\n"
        "  - {step: second, notebook: 01_second}\n"
    )
    done = ask("open", "pair", "first", "--no-lab")
    assert done.returncode == 0, done.stderr
    copy = project.root / "runs/open/pair-first.ipynb"
    content = nbformat.read(copy, 4)
    assert content.metadata.kernelspec.name == "finlab"
    filled_in = content.cells[1]
    assert filled_in.metadata.tags == ["injected-parameters"]
    assert filled_in.source.splitlines() == ["value = 7", "run_dir = 'runs/pair'", "step = 'first'"]
    # What a person has changed there stays.
    copy.write_text(copy.read_text().replace("value = 7", "value = 8"))
    assert "is kept as you left it" in ask("open", "pair", "first", "--no-lab").stdout
    assert "value = 8" in copy.read_text()
    ask("open", "pair", "first", "--no-lab", "--new")
    assert "value = 7" in copy.read_text()
    assert ask("open", "pair", "third", "--no-lab").returncode == 2
    done = ask("open", "pair", "first", "--no-lab", "--run-dir", "/elsewhere", "--", "--port", "1")
    assert done.returncode == 2
    assert "was opened before for another run folder: add --new" in done.stderr
