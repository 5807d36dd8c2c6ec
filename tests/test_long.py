"""Longer runs: the whole chain on real input, a published recipe at small sizes, and a kill in the middle of pretraining."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time

import psutil
import pytest

from finlab import paths
from finlab.run.step import read_manifest
from tests.conftest import untimed

FINLAB = [sys.executable, "-m", "finlab"]


def run(*arguments):
    done = subprocess.run([*FINLAB, "run", *map(str, arguments)], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-2500:] + done.stderr[-2500:]
    return done


def metrics(folder, step):
    return json.loads((folder / step / "metrics.json").read_text(encoding="utf-8"))


SMALL = {
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
SIZES = [part for key, value in SMALL.items() for part in ("--set", f"{key}={value}")]


@pytest.fixture(scope="module")
def whole(smoke, tmp_path_factory):
    """A small pretraining in one go: two phases of the mixture, LoRA with dropout and trained embeddings, two micro-batches in a step."""
    folder = tmp_path_factory.mktemp("runs") / "whole"
    shutil.copytree(smoke / "base", folder / "base", symlinks=True)
    for step in ("corpus", "tokenizer", "pretrain"):
        run("smoke", *SIZES, "--only", step, "--run-dir", folder)
    return folder


def kill_all(finlab):
    os.killpg(finlab.pid, signal.SIGKILL)  # the kernel notices that its parent is gone


def kill_kernel(finlab):
    next(
        child
        for child in psutil.Process(finlab.pid).children()
        if "ipykernel" in " ".join(child.cmdline())
    ).kill()


def terminate(finlab):
    finlab.terminate()


@pytest.mark.parametrize("kill", [kill_all, kill_kernel, terminate])
def test_a_killed_pretraining_ends_as_if_it_had_not_been(whole, tmp_path, kill):
    """SIGKILL to everything, a dead kernel under papermill, SIGTERM: the rerun goes on from a checkpoint, over the phase boundary, to the very same weights and log."""
    folder = tmp_path / "killed"
    for step in ("base", "corpus", "tokenizer"):
        shutil.copytree(whole / step, folder / step, symlinks=True)
    command = ["smoke", *SIZES, "--only", "pretrain", "--run-dir", str(folder)]
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
        assert first.poll() is None
        time.sleep(0.05)
    kill(first)
    _, said = first.communicate(timeout=60)
    assert read_manifest(folder / "pretrain") is None
    if kill is terminate:
        assert first.returncode == 130
        assert "stopped by SIGTERM after step" in said
        assert "resume: finlab run smoke" in said
    if kill is kill_kernel:
        assert first.returncode == 1
        assert "the kernel died" in said
        assert "resume: finlab run smoke" in said
    assert "failed" not in run(*command).stdout
    found = metrics(folder, "pretrain")
    assert found["resumed_at"] >= 10
    assert len(found["mixture_realised"]) == 2

    expected = untimed(whole / "pretrain/log.jsonl")
    assert untimed(folder / "pretrain/log.jsonl") == expected
    assert len(expected) > 15
    for name in ("adapter/adapter_model.safetensors", "model/model.safetensors"):
        assert (folder / "pretrain/artifact" / name).read_bytes() == (
            whole / "pretrain/artifact" / name
        ).read_bytes()
    if kill is terminate:
        assert "unchanged, kept" in run(*command).stdout


def test_pretraining_is_launched_and_lengthened(whole, tmp_path):
    """The notebook under two processes with a longer context, buckets and QLoRA's base; and a wrong launch is one sentence."""
    folder = tmp_path / "launched"
    for step in ("base", "corpus", "tokenizer"):
        shutil.copytree(whole / step, folder / step, symlinks=True)
    more = {
        "launch": "ddp",
        "processes": "2",
        "batch_rows": "2",
        "context": "1024",
        "rope_type": "yarn",
        "buckets": "[64, 256]",
        "lora_variants": "[rslora]",
        "quantize_base": "nf4",
        "embedding_learning_rate": "1e-3",
        "held_out_texts": "60",
    }
    command = [
        "smoke",
        *SIZES,
        "--only",
        "pretrain",
        "--run-dir",
        str(folder),
        *[part for name, value in more.items() for part in ("--set", f"pretrain.{name}={value}")],
    ]
    run(*command)
    found, before = metrics(folder, "pretrain"), metrics(whole, "pretrain")
    assert found["processes"] == 2
    assert found["attention"] == "sdpa"
    assert found["tokens"] == before["tokens"]
    assert (
        found["bits_per_character"]["zh_finance"]["after"]
        < 0.75 * found["bits_per_character"]["zh_finance"]["before"]
    )
    assert list(found["perplexity_by_position"]["after"])[-1] == "1024"
    config = json.loads((folder / "pretrain/artifact/model/config.json").read_text())
    assert config["max_position_embeddings"] == 1024
    assert config["rope_parameters"]["rope_type"] == "yarn"
    assert config["rope_parameters"]["factor"] == 2.0
    done = subprocess.run(
        [*FINLAB, "run", *command, "--set", "pretrain.launch=horovod"],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 1
    assert "there is no accelerate config 'horovod'" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_base_without_tokenizer_is_named(tiny, tmp_path):
    (tmp_path / "bare").mkdir()
    for name in ("config.json", "model.safetensors"):
        shutil.copy(tiny / name, tmp_path / "bare" / name)
    done = subprocess.run(
        [
            *FINLAB,
            "run",
            "smoke",
            "--only",
            "base",
            "--run-dir",
            str(tmp_path / "run"),
            "--set",
            f"base.base={tmp_path / 'bare'}",
        ],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 1
    assert f"no tokenizer in '{tmp_path / 'bare'}'" in done.stderr
    assert "Traceback" not in done.stderr
    assert read_manifest(tmp_path / "run/base") is None


def test_zhilu_runs_end_to_end_at_small_sizes(tmp_path):
    """The published recipe with only sizes, base and data replaced."""
    folder = tmp_path / "zhilu"
    cards = {
        "base.text_cards": "[cw_general_zh, cw_general_en]",
        "corpus.text_cards": "[cw_news, cw_encyclopaedia, cw_finance_en, cw_general_zh, cw_general_en]",
        "corpus.exam_cards": "[cw_ceval]",
        "sft.stage1_cards": "[cw_checked]",
        "sft.exam_cards": "[cw_ceval]",
        "evaluate.exam_cards": "[cw_ceval]",
    }
    sizes = {
        "base.base": "",
        "base.epochs": "0.3",
        "corpus.tokens": "60000",
        "pretrain.row_length": "256",
        "pretrain.gradient_accumulation": "1",
        "pretrain.warmup_steps": "2",
        "sft.row_length": "256",
        "sft.max_length": "256",
        "sft.epochs": "[1.0, 1.0]",
        "evaluate.exam_items": "20",
    }
    dtypes = {
        f"{step}.dtype": "float32" for step in ("base", "tokenizer", "pretrain", "sft", "evaluate")
    }
    run(
        "zhilu-13b",
        "--run-dir",
        folder,
        *[
            part
            for key, value in (cards | sizes | dtypes).items()
            for part in ("--set", f"{key}={value}")
        ],
    )
    found = metrics(folder, "pretrain")
    assert found["tokens"] > 50_000
    assert metrics(folder, "tokenizer")["new_pieces"] == 0
    lora = json.loads((folder / "pretrain/artifact/adapter/adapter_config.json").read_text())
    assert (lora["r"], lora["lora_alpha"], lora["lora_dropout"]) == (64, 128, 0.05)
    assert sorted(lora["modules_to_save"]) == ["embed_tokens", "lm_head"]
    scores = {}
    for line in metrics(folder, "evaluate")["scores"]:
        scores.setdefault(line["model"], {})[line["setting"]] = line["accuracy"]
    assert set(scores) == {"base", "pretrain", "pretrain/adapter", "sft", "sft/stage1/adapter"}
    assert "generate:0" in scores["sft"]
    for merged, adapter in (("pretrain", "pretrain/adapter"), ("sft", "sft/stage1/adapter")):
        assert set(scores[adapter]) == {"official:5", "official:5:sum", "official:0"}
        assert all(
            scores[merged][setting] == found for setting, found in scores[adapter].items()
        ), "the two ways are one model"
    assert found["processes"] == 1
    assert read_manifest(folder / "pretrain")["attention"] == "sdpa"


def test_real_tiny(data, tmp_path):
    """A genuinely pretrained base on text, dialogues, pairs and exams made by others."""
    folder = tmp_path / "real"
    smaller = {
        "corpus.tokens": "500000",
        "tokenizer.trial_steps": "4",
        "pretrain.held_out_texts": "40",
        "pretrain.held_out_reads": "2",
        "sft.max_dialogues": "300",
        "sft.epochs": "[1.0, 1.0]",
        "dpo.max_pairs": "200",
        "dpo.exam_items": "8",
        "dpo.held_out_texts": "10",
        "evaluate.exam_items": "20",
        "quantize.exam_items": "30",
    }
    run(
        "real-tiny",
        "--run-dir",
        folder,
        *[part for key, value in smaller.items() for part in ("--set", f"{key}={value}")],
    )
    assert metrics(folder, "corpus")["ledger_residual"] == 0
    for path in (folder / "corpus/artifact/cards").glob("*.md"):
        assert path.read_text() == (paths.ROOT / "data_cards" / path.name).read_text(), (
            f"{path.name}: run finlab with corpus.write_statistics=true"
        )
    tokens = metrics(folder, "tokenizer")
    assert (
        tokens["chars_per_token"]["zh_finance"]["after"]
        > 2 * tokens["chars_per_token"]["zh_finance"]["before"]
    )
    assert tokens["round_trip_failures"] == 0
    bits = metrics(folder, "pretrain")["bits_per_character"]
    for corner in ("zh_finance", "zh_general"):
        assert bits[corner]["after"] < 0.5 * bits[corner]["before"]
    assert set(bits) == {"zh_finance", "zh_general", "en_finance", "en_general", "own"}
    assert bits["own"]["after"] > bits["own"]["before"], (
        "forgetting of what the base knew must be seen, not hidden"
    )
    sft = metrics(folder, "sft")
    assert all(
        sft[stage]["eval_loss"]["after"] < sft[stage]["eval_loss"]["before"]
        and sft[stage]["eos_supervised_share"] == 1
        for stage in ("stage1", "stage2")
    )
    assert abs(metrics(folder, "dpo")["loss_step0"] - 0.6931) < 1e-3
    scores = metrics(folder, "evaluate")["scores"]
    assert {line["benchmark"] for line in scores} == {
        "ceval",
        "cmmlu",
        "fineval",
        "fineva",
        "financeiq",
        "mmlu",
    }
    exams = metrics(folder, "evaluate")["exams"]
    assert [
        (exams[name]["subjects"], exams[name]["subjects_published"])
        for name in ("ceval", "cmmlu", "fineval", "fineva")
    ] == [(52, 52), (10, 67), (6, 34), (33, 33)]
    assert all(len(exam["sha256"]) == 64 for exam in exams.values())
