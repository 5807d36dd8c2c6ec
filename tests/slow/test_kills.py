"""A pretraining that is killed, launched in two processes, or made longer, by its notebook."""

import os
import shutil
import signal
import subprocess
import time

import psutil
import pytest

from finlab import files
from finlab.run.manifests import read_manifest
from tests.conftest import FINLAB, finlab_run, metrics, settings, untimed

SMALL = settings(
    {
        "corpus.tokens": "120000",
        "tokenizer.trial_steps": "0",
        "pretrain.held_out_texts": "20",
        "pretrain.lora_dropout": "0.05",
        "pretrain.batch_rows": "4",
        "pretrain.gradient_accumulation": "2",
        "pretrain.save_steps": "10",
        "pretrain.log_steps": "4",
        "pretrain.warmup_steps": "5",
    }
)
INPUTS = ("base", "corpus", "tokenizer")
WEIGHTS = ("adapter/adapter_model.safetensors", "model/model.safetensors")


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A small pretraining in one go: LoRA with dropout and trained tables, two mixture phases."""
    folder = tmp_path_factory.mktemp("runs") / "whole"
    for step in (*INPUTS, "pretrain"):
        finlab_run("smoke", *SMALL, "--only", step, "--run-dir", folder)
    return folder


def beside(whole, folder):
    """Return a run folder that has the inputs of a pretraining."""
    for step in INPUTS:
        shutil.copytree(whole / step, folder / step, symlinks=True)
    return folder


# --- kills ---------------------------------------------------------------------------------------
def kill_all(finlab):
    # The kernel notices that its parent is gone.
    os.killpg(finlab.pid, signal.SIGKILL)


def kill_kernel(finlab):
    for child in psutil.Process(finlab.pid).children():
        if "ipykernel" in " ".join(child.cmdline()):
            child.kill()


def terminate(finlab):
    finlab.terminate()


EXPECTED = {
    kill_all: (-signal.SIGKILL, ""),
    kill_kernel: (1, "the kernel died"),
    terminate: (130, "stopped after step"),
}


@pytest.mark.parametrize("kill", EXPECTED)
def test_a_killed_pretraining_ends_as_if_it_had_not_been(whole, tmp_path, kill):
    """The rerun goes on over the boundary of the phases, to the same weights and log."""
    folder = beside(whole, tmp_path / "killed")
    command = ["smoke", *SMALL, "--only", "pretrain", "--run-dir", str(folder)]
    first = subprocess.Popen(
        [*FINLAB, "run", *command],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        start_new_session=True,
        text=True,
    )
    deadline = time.time() + 180
    while not (folder / "pretrain/checkpoints/checkpoint-10/finlab.json").exists():
        assert time.time() < deadline
        assert first.poll() is None, first.stderr.read()[-2000:]
        time.sleep(0.05)
    kill(first)
    _, errors = first.communicate(timeout=60)
    status, message = EXPECTED[kill]
    assert first.returncode == status
    assert message in errors
    assert kill is kill_all or "resume: finlab run smoke" in errors
    assert read_manifest(folder / "pretrain") is None

    finlab_run(*command)
    found = metrics(folder, "pretrain")
    assert found["resumed_at"] >= 10
    assert len(found["mixture_realised"]) == 2
    expected = untimed(whole / "pretrain/log.jsonl")
    assert len(expected) > 15
    assert untimed(folder / "pretrain/log.jsonl") == expected
    for name in WEIGHTS:
        ours = (folder / "pretrain/artifact" / name).read_bytes()
        assert ours == (whole / "pretrain/artifact" / name).read_bytes()
    if kill is terminate:
        assert "unchanged, kept" in finlab_run(*command).stdout


# --- other ways to train -------------------------------------------------------------------------
LONGER = {
    "pretrain.launch": "ddp",
    "pretrain.processes": "2",
    "pretrain.batch_rows": "2",
    "pretrain.context": "1024",
    "pretrain.rope_type": "yarn",
    "pretrain.buckets": "[64, 256]",
    "pretrain.lora_variants": "[rslora]",
    "pretrain.quantize_base": "nf4",
    "pretrain.embedding_learning_rate": "1e-3",
    "pretrain.held_out_texts": "60",
}


def test_pretraining_is_launched_and_lengthened(whole, tmp_path):
    """Two processes, a longer context, buckets, and QLoRA's base, through the notebook."""
    folder = beside(whole, tmp_path / "launched")
    command = ["smoke", *SMALL, "--only", "pretrain", "--run-dir", folder, *settings(LONGER)]
    finlab_run(*command)
    found = metrics(folder, "pretrain")
    assert found["processes"] == 2
    assert found["attention"] == "sdpa"
    assert found["tokens"] == metrics(whole, "pretrain")["tokens"]
    bits = found["bits_per_character"]["zh_finance"]
    assert bits["after"] < 0.75 * bits["before"]
    assert list(found["perplexity_by_position"]["after"])[-1] == "1024"
    config = files.read_json(folder / "pretrain/artifact/model/config.json")
    assert config["max_position_embeddings"] == 1024
    assert config["rope_parameters"]["rope_type"] == "yarn"
    assert config["rope_parameters"]["factor"] == 2.0


def test_an_unknown_launch_is_one_sentence(whole, tmp_path):
    folder = beside(whole, tmp_path / "wrong")
    command = [*FINLAB, "run", "smoke", *SMALL, "--only", "pretrain", "--run-dir", str(folder)]
    command += ["--set", "pretrain.launch=horovod"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 2
    assert "parameter 'launch' is 'horovod': it must be one of" in done.stderr
    assert "Traceback" not in done.stderr
