"""Runs: manifest last, skip and resume, locks, failures that a person can act on.

Each runs real kernels on tiny notebooks.
"""

import fcntl
import json
import os
import shutil
import signal
import subprocess
import sys
import time

import pytest

from finlab import paths
from finlab.run import comparison, locks, progress, recipe, runner
from finlab.run.keys import data_fingerprints
from finlab.run.manifests import read_manifest


def manifest(project, step):
    return read_manifest(project.run_dir / step)


def wait_for(condition, seconds=40):
    deadline = time.time() + seconds
    while not condition():
        assert time.time() < deadline, "waited too long"
        time.sleep(0.1)


def test_a_run_leaves_what_it_should_and_is_kept(project):
    done = project.finlab("run", "pair")
    assert done.returncode == 0, done.stderr
    folder = project.run_dir / "second"
    assert json.loads((folder / "metrics.json").read_text()) == {"double": 2}
    found = manifest(project, "second")
    assert found["inputs"]["steps"] == {"first": manifest(project, "first")["key"]}
    for key in (
        "key",
        "parameters",
        "versions",
        "git_commit",
        "device",
        "seconds",
        "peak_bytes",
        "seed",
    ):
        assert key in found
    assert (folder / "01_second.ipynb").exists()
    assert (project.run_dir / "report.html").exists()
    again = project.finlab("run", "pair")
    assert again.stdout.count("unchanged, kept") == 2
    assert manifest(project, "second") == found


def test_a_changed_value_runs_again_what_depends_on_it_and_keeps_the_old_result(project):
    project.finlab("run", "pair")
    done = project.finlab("run", "pair", "--set", "first.value=5")
    assert "unchanged" not in done.stdout
    assert json.loads((project.run_dir / "second/metrics.json").read_text()) == {"double": 10}
    assert (project.run_dir / "first.previous/artifact/number.txt").read_text() == "1"


def test_only_and_from(project):
    done = project.finlab("run", "pair", "--only", "second")
    assert done.returncode == 2
    assert "reads step 'first', which is not finished" in done.stderr
    assert project.finlab("run", "pair", "--only", "first").returncode == 0
    assert manifest(project, "second") is None
    done = project.finlab("run", "pair", "--from", "second")
    assert done.returncode == 0
    assert "[1/2]" not in done.stdout
    assert "[2/2] second" in done.stdout
    done = project.finlab("run", "pair", "--from", "third")
    assert done.returncode == 2
    assert "it has first, second" in done.stderr


def test_a_finished_step_whose_files_changed_runs_again(project):
    project.finlab("run", "pair")
    number = project.run_dir / "first/artifact/number.txt"
    for damage in (number.unlink, lambda: number.write_text("7")):
        damage()
        done = project.finlab("run", "pair", "--only", "second")
        assert done.returncode == 2
        assert "'first'" in done.stderr
        assert "damaged since: artifact/number.txt" in done.stderr
        done = project.finlab("run", "pair")
        assert "step 'first' was finished and is damaged since (artifact/number.txt" in done.stdout
        assert number.read_text() == "1"
    (project.run_dir / "first/metrics.json").write_text("")
    assert "metrics.json cannot be read" in project.finlab("run", "pair").stdout
    (project.run_dir / "first/manifest.json").write_text("{")
    done = project.finlab("run", "pair")
    assert done.returncode == 0, done.stderr
    assert manifest(project, "first") is not None


def test_steps_of_different_histories_are_not_mixed(project):
    project.finlab("run", "pair")
    done = project.finlab("run", "pair", "--only", "second", "--set", "first.value=9")
    assert done.returncode == 2
    assert "'first', which was made with value = 1 and not 9" in done.stderr
    project.finlab("run", "pair", "--only", "first", "--set", "first.value=9")
    project.finlab("report", str(project.run_dir))
    assert "made from an earlier first" in (project.run_dir / "report.html").read_text()


def test_status_says_what_stands_in_a_run(project):
    project.finlab("run", "pair")
    done = project.finlab("status", str(project.run_dir), "--verify")
    assert done.returncode == 0, done.stderr
    assert [line.rsplit(" (")[0] for line in done.stdout.splitlines()] == [
        "first   finished",
        "second  finished",
    ]
    number = project.run_dir / "first/artifact/number.txt"
    stat = number.stat()
    number.write_text("7")
    os.utime(number, ns=(stat.st_atime_ns, stat.st_mtime_ns))  # a flip that leaves size and time
    assert project.finlab("status", str(project.run_dir)).returncode == 0
    done = project.finlab("status", str(project.run_dir), "--verify")
    assert done.returncode == 1
    assert "first   damaged: artifact/number.txt has another content" in done.stdout
    project.finlab("run", "pair", "--only", "first", "--set", "first.value=9")
    done = project.finlab("status")  # the latest run
    assert "second  made from an earlier first" in done.stdout
    # A step left out of a copy, or deleted for its space, contradicts nothing.
    shutil.rmtree(project.run_dir / "first")
    assert "second  finished" in project.finlab("status", str(project.run_dir)).stdout
    (project.run_dir / "second/manifest.json").unlink()
    assert "second  not finished" in project.finlab("status", str(project.run_dir)).stdout
    assert project.finlab("status", "nothing").returncode == 2


def report_text(project):
    return (project.run_dir / "report.html").read_text(encoding="utf-8")


def test_a_run_is_watched_accepted_compared_and_cleaned(project, ask):
    """One story, since each kernel takes seconds to start."""
    assert "there is no run" in ask("runs").stdout
    # --to ends it early.
    done = project.finlab("run", "pair", "--to", "first")
    assert done.returncode == 0, done.stderr
    assert manifest(project, "first")
    assert not (project.run_dir / "second").exists()
    assert "second  not started" in ask("status", "pair").stdout
    done = ask("run", "pair", "--from", "second", "--to", "first")
    assert done.returncode == 2
    assert "--to first comes before --from second" in done.stderr
    done = ask("run", "pair", "--only", "second", "--from", "first")
    assert "--only runs one step: leave --from and --to out" in done.stderr
    # A changed cell makes a step stale, and says so.
    first = project.root / "notebooks/00_first.ipynb"
    first.write_text(first.read_text().replace("time.sleep(pause)", "time.sleep(2 * pause)"))
    done = ask("status", "pair")
    assert done.returncode == 1
    assert "first   finished, stale: the next run makes it again" in done.stdout
    assert "because notebooks/00_first.ipynb has changed" in done.stdout
    done = ask("run", "pair", "--set", "first.seed=5", "--dry-run")
    assert done.returncode == 0, done.stderr
    assert "first        runs  parameter seed: 1 → 5; notebooks/00_first.ipynb has" in done.stdout
    assert "second       runs  it is not finished" in done.stdout
    # Accepted, it is kept, and the mark stays.
    before = manifest(project, "first")
    done = project.finlab("run", "pair", "--accept", "first")
    assert "first: accepted although notebooks/00_first.ipynb has changed" in done.stdout
    assert "unchanged, kept" in done.stdout
    assert manifest(project, "first")["key"] == before["key"]
    assert "accepted although notebooks/00_first.ipynb has changed" in report_text(project)
    done = ask("status", "pair")
    assert done.returncode == 0, done.stdout
    assert "first   finished, accepted although notebooks/00_first.ipynb has changed" in done.stdout
    text = first.read_text()
    first.write_text(text.replace("2 * pause", "3 * pause"))
    assert ask("status", "pair").returncode == 1  # it was accepted for that change alone
    first.write_text(text)
    assert ask("run", "pair", "--accept", "third").returncode == 2
    # Compared with a copy in which one value was another.
    other = project.root / "runs/other"
    shutil.copytree(project.run_dir, other)
    for name, change in (("manifest", {"parameters": {"value": 9}}), ("metrics", {"value": 9})):
        path = other / f"first/{name}.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | change))
    assert {"pair", "other"} < {line.split()[0] for line in ask("runs").stdout.splitlines()}
    done = ask("compare", "pair", "other")
    assert done.returncode == 0, done.stderr
    assert "first  value" in done.stdout
    done = ask("compare", "pair", "pair")
    assert "no parameter differs" in done.stdout
    assert "no result differs" in done.stdout
    assert ask("status", "pair").returncode == 0


def test_each_score_of_a_list_is_compared_by_what_names_it(tmp_path):
    manifest = {"key": "k", "inputs": {"steps": {}}}
    for name, second in (("one", 0.5), ("other", 0.6)):
        scores = []
        for k, accuracy in ((1, 0.4), (2, second), (4, 0.7)):
            interval = {"ci_low": accuracy - 0.1, "ci_high": accuracy + 0.1}
            scores.append({"by": "verifier", "k": k, "accuracy": accuracy, **interval})
        folder = tmp_path / name / "reasoning"
        folder.mkdir(parents=True)
        (folder / "manifest.json").write_text(json.dumps(manifest))
        (folder / "metrics.json").write_text(json.dumps({"best_of": scores}))
    (row,) = comparison.results(tmp_path / "one", tmp_path / "other")
    assert row["quantity"] == "best_of verifier 2"
    assert row["difference"] == pytest.approx(0.1)


def test_clean_says_what_would_go_and_deletes_it_when_told(project, ask):
    previous = project.run_dir / "first.previous"
    checkpoint = project.run_dir / "second/checkpoints"
    for folder in (previous, checkpoint):
        folder.mkdir(parents=True)
        (folder / "big").write_text("12345")
    done = ask("clean", "pair")
    assert "first.previous" in done.stdout
    assert "checkpoints" not in done.stdout  # a killed step goes on from them
    assert "add --yes to delete it" in done.stdout
    assert previous.exists()
    assert "freed" in ask("clean", "pair", "--yes").stdout
    assert not previous.exists()
    assert checkpoint.exists()
    # A notebook that runs by hand holds its step alone, and its checkpoints stay.
    with open(project.run_dir / "second/.lock", "a") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        done = ask("clean", "pair", "--yes", "--checkpoints")
        assert done.returncode == 2
        assert "second is in use by" in done.stderr
        assert checkpoint.exists()
    assert "freed" in ask("clean", "pair", "--yes", "--checkpoints").stdout
    assert not checkpoint.exists()
    assert "nothing to free" in ask("clean", "pair").stdout


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        ("raise", "ValueError: the cupboard is bare: fill it"),
        ("die", "the kernel died"),
        ("forget", "ended without run.finish"),
        ("full", "is full: free some space"),
    ],
)
def test_failures_say_where_and_how_to_resume(project, fault, message):
    done = project.finlab("run", "pair", "--set", f"first.fault={fault}")
    assert done.returncode == 1
    assert message in done.stderr
    assert "step 'first' failed" in done.stderr
    assert "notebook: " in done.stderr
    assert f"resume: finlab run pair --set first.fault={fault}" in done.stderr
    assert "Traceback" not in done.stderr
    assert manifest(project, "first") is None
    assert (project.run_dir / "first/00_first.ipynb").exists()
    assert project.finlab("run", "pair").returncode == 0


@pytest.mark.parametrize("kill", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
def test_a_killed_run_completes_when_started_again(project, kill):
    first = project.start("run", "pair", "--set", "first.pause=60")
    wait_for(lambda: (project.run_dir / "first/artifact").exists())
    os.kill(first.pid, kill)
    _, said = first.communicate(timeout=30)
    assert first.returncode == (-9 if kill == signal.SIGKILL else 130)
    assert kill == signal.SIGKILL or "resume: finlab run pair" in said
    assert manifest(project, "first") is None
    again = project.finlab("run", "pair")
    assert again.returncode == 0, again.stderr
    assert manifest(project, "second")


def test_two_runs_in_one_folder(project):
    first = project.start("run", "pair", "--set", "first.pause=60")
    wait_for(lambda: (project.run_dir / "first/artifact").exists())
    second = project.finlab("run", "pair")
    os.killpg(first.pid, signal.SIGKILL)
    assert second.returncode == 2
    assert f"is in use by process {first.pid}" in second.stderr
    first.wait()


def test_a_half_written_artifact_is_never_read(project):
    folder = project.run_dir / "first/artifact"
    folder.mkdir(parents=True)
    (folder / "number.txt").write_text("4")  # a kill after the artifact, before the manifest
    done = project.finlab("run", "pair", "--only", "second")
    assert done.returncode == 2
    assert "not finished" in done.stderr
    project.finlab("run", "pair")
    assert json.loads((project.run_dir / "second/metrics.json").read_text()) == {"double": 2}


def test_a_step_that_is_read_cannot_be_replaced(project):
    """Readers hold what they read: a rerun of the upstream step waits, and then refuses."""
    assert project.finlab("run", "pair", "--only", "first").returncode == 0
    holder = subprocess.Popen(
        [
            sys.executable,
            "-c",
            "import sys, time; from pathlib import Path; from finlab.run import locks; "
            "locks.hold(Path(sys.argv[1]), shared=True); print('held', flush=True); time.sleep(60)",
            str(project.run_dir / "first"),
        ],
        stdout=subprocess.PIPE,
        text=True,
    )
    assert holder.stdout.readline() == "held\n"
    locks.hold(project.run_dir / "first", shared=True)  # another reader is welcome
    locks.release(project.run_dir / "first")
    with pytest.raises(locks.Busy, match="is in use by"):
        locks.hold(project.run_dir / "first", seconds=0.5)
    holder.kill()
    holder.wait()
    locks.hold(project.run_dir / "first", seconds=5)
    locks.release(project.run_dir / "first")


def test_a_left_over_draft_never_replaces_an_executed_notebook(project):
    """A kill before the step began leaves an unexecuted draft.

    A kill after its manifest leaves the executed one.
    """
    assert project.finlab("run", "pair", "--only", "first").returncode == 0
    output, draft = project.run_dir / "first/00_first.ipynb", project.run_dir / ".first.ipynb"
    executed = output.read_text()
    draft.write_text("unexecuted")
    project.finlab("run", "pair", "--only", "first")
    assert output.read_text() == executed
    output.rename(draft)
    project.finlab("run", "pair", "--only", "first")
    assert output.read_text() == executed
    assert not draft.exists()


def test_a_full_disk(project):
    """A real file system with no room.

    One clear message, and the run completes once there is room.
    """
    project.run_dir.mkdir(parents=True)
    if subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=256k", "tmpfs", str(project.run_dir)],
        capture_output=True,
    ).returncode:
        pytest.skip("mounting a small file system needs root")
    try:
        filler = project.run_dir / "filler"
        with open(filler, "wb", buffering=0) as file, pytest.raises(OSError, match="No space left"):
            while True:
                file.write(b"x" * 4096)
        done = project.finlab("run", "pair")
        assert done.returncode == 1, done.stderr
        assert "is full" in done.stderr, done.stderr
        assert "Traceback" not in done.stderr, done.stderr
        filler.unlink()
        again = project.finlab("run", "pair", "--only", "first")
        assert again.returncode == 0 or "is full" in again.stderr, again.stderr
    finally:
        subprocess.run(["umount", "-l", str(project.run_dir)], check=False)


def test_an_unreadable_notebook_still_gives_a_message(tmp_path):
    cut = tmp_path / "cut.ipynb"
    cut.write_text('{"cells": [')
    said = runner.describe_failure(cut, OSError(28, "No space left on device"))
    assert "is full: free some space" in said
    assert str(cut) in said


def test_a_missing_file_is_refused_before_anything_runs():
    with pytest.raises(ValueError, match="'pieces_file': there is nothing at"):
        data_fingerprints({"pieces_file": "nowhere.model"})
    with pytest.raises(ValueError, match="'base': there is nothing at /nowhere/model"):
        data_fingerprints({"base": "/nowhere/model"})
    assert data_fingerprints({"base": "hfl/chinese-alpaca-2-13b", "pieces_file": ""}) == {}


def test_plain_papermill_from_anywhere(project, tmp_path):
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()

    def papermill(value):
        notebook = str(project.root / "notebooks/00_first.ipynb")
        return subprocess.run(
            [sys.executable, "-m", "papermill", notebook, "out.ipynb", "-p", "value", value],
            cwd=elsewhere,
            env=project.environment,
            capture_output=True,
            text=True,
        )

    done = papermill("3")
    assert done.returncode == 0, done.stderr
    assert json.loads((project.run_dir / "first/metrics.json").read_text()) == {"value": 3}
    done = papermill("three")
    assert done.returncode != 0
    assert "'value' is 'three', a str, but the notebook declares int" in done.stderr
    assert manifest(project, "first"), "a refused run must lose nothing"


def test_commands(project):
    assert "pair" in project.finlab("recipes").stdout
    done = project.finlab("report", "nothing")
    assert done.returncode == 2
    assert "there is no run 'nothing'" in done.stderr
    done = project.finlab("run", "nothing")
    assert done.returncode == 2
    assert "one of pair" in done.stderr


def test_progress_comes_from_the_log(tmp_path):
    log = tmp_path / "log.jsonl"
    log.write_text('{"step": 30, "total_steps": 120, "loss": 1.5, "seconds_left": 42.0}\n')
    assert (
        progress.progress_text(log, 10) == "10 s · step 30/120 · loss 1.500 · 42 s left in training"
    )
    assert progress.progress_text(tmp_path / "none.jsonl", 3) == "3 s"
    os.utime(log, (0, 0))
    assert progress.progress_text(log, 3) == "3 s", (
        "the log of an earlier run says nothing about this one"
    )


def test_paths(monkeypatch):
    monkeypatch.delenv("FINLAB_DATA", raising=False)
    with pytest.raises(ValueError, match="FINLAB_DATA"):
        paths.resolve("$FINLAB_DATA/x")
    monkeypatch.setenv("FINLAB_DATA", "/somewhere")
    assert str(paths.resolve("$FINLAB_DATA/x")) == "/somewhere/x"
    assert paths.resolve("runs/smoke").is_absolute()


def test_rows_longer_than_the_context_are_refused_before_anything_runs(tmp_path):
    for override in (
        "pretrain.row_length=1024",
        "sft.max_length=1024",
        "tokenizer.trial_length=1024",
    ):
        step, _, name = override.partition("=")[0].partition(".")
        with pytest.raises(ValueError, match=f"step '{step}': {name} is 1,024 tokens"):
            plan = recipe.load("smoke", [override])
            runner.execute(plan, tmp_path / "run", plan.steps)
    assert not (tmp_path / "run" / "base").exists()


def test_keys_of_the_environment_stand_in_no_file_of_a_run(project, monkeypatch):
    secret = "sk-this-key-stands-nowhere"
    for name in ("OPENAI_API_KEY", "HF_TOKEN", "DASHSCOPE_API_KEY"):
        monkeypatch.setenv(name, secret)
    assert project.finlab("run", "pair").returncode == 0
    for path in project.run_dir.rglob("*"):
        assert not path.is_file() or secret.encode() not in path.read_bytes(), path
