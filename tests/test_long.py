"""Longer runs: the whole chain on real input, a published recipe at small sizes, and a kill in the middle of pretraining."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time

from finlab import recipe, runs, training

FINLAB = [sys.executable, "-m", "finlab"]


def run(*arguments):
    done = subprocess.run([*FINLAB, "run", *map(str, arguments)], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-2500:] + done.stderr[-2500:]
    return done


def metrics(folder, step):
    return json.loads((folder / step / "metrics.json").read_text(encoding="utf-8"))


def test_killed_pretraining_resumes_and_repeats_nothing(smoke, tmp_path):
    """SIGKILL in the middle of training: the rerun keeps finished steps and goes on from a checkpoint, to the same loss curve."""
    folder = tmp_path / "killed"
    for step in ("base", "corpus", "tokenizer"):
        shutil.copytree(smoke / step, folder / step, symlinks=True)
    sizes = ["--set", "pretrain.phases=[0]", "--set", "pretrain.save_steps=20", "--only", "pretrain", "--run-dir", str(folder)]
    first = subprocess.Popen([*FINLAB, "run", "smoke", *sizes], stdout=subprocess.PIPE, stderr=subprocess.PIPE, start_new_session=True)
    deadline = time.time() + 120
    while not (folder / "pretrain/checkpoints/checkpoint-40/trainer_state.json").exists():
        assert time.time() < deadline and first.poll() is None
        time.sleep(0.2)
    os.killpg(first.pid, signal.SIGKILL)
    first.communicate()
    assert runs.manifest(folder / "pretrain") is None
    early = {record["step"]: record["loss"] for record in training.read_log(folder / "pretrain/log.jsonl") if "loss" in record}
    done = run("smoke", *sizes)
    assert "failed" not in done.stdout
    found = metrics(folder, "pretrain")
    assert found["resumed_at"] >= 40
    late = {record["step"]: record["loss"] for record in training.read_log(folder / "pretrain/log.jsonl") if "loss" in record}
    assert all(late[step] == early[step] for step in early) and sorted(late) == list(range(10, max(late) + 1, 10))[: len(late)]
    again = run("smoke", *sizes)
    assert "unchanged, kept" in again.stdout


def test_a_base_without_tokenizer_is_named(tiny, tmp_path):
    (tmp_path / "bare").mkdir()
    for name in ("config.json", "model.safetensors"):
        shutil.copy(tiny / name, tmp_path / "bare" / name)
    done = subprocess.run([*FINLAB, "run", "smoke", "--only", "base", "--run-dir", str(tmp_path / "run"), "--set", f"base.base={tmp_path / 'bare'}"],
                          capture_output=True, text=True)
    assert done.returncode == 1 and f"no tokenizer in '{tmp_path / 'bare'}'" in done.stderr and "Traceback" not in done.stderr
    assert runs.manifest(tmp_path / "run/base") is None


def test_zhilu_runs_end_to_end_at_small_sizes(tmp_path):
    """The published recipe with only sizes, base and data replaced."""
    folder = tmp_path / "zhilu"
    cards = {"base.text_cards": "[cw_general_zh, cw_general_en]", "corpus.text_cards": "[cw_news, cw_encyclopaedia, cw_finance_en, cw_general_zh, cw_general_en]",
             "corpus.exam_cards": "[cw_ceval]", "sft.stage1_cards": "[cw_checked]", "evaluate.exam_cards": "[cw_ceval]"}
    sizes = {"base.base": "", "base.epochs": "0.3", "corpus.tokens": "60000", "pretrain.row_length": "256", "pretrain.gradient_accumulation": "1",
             "pretrain.warmup_steps": "2", "sft.row_length": "256", "sft.max_length": "256", "sft.epochs": "[1.0, 1.0]", "evaluate.exam_items": "20"}
    dtypes = {f"{step}.dtype": "float32" for step in ("base", "tokenizer", "pretrain", "sft", "evaluate")}
    run("zhilu-13b", "--run-dir", folder, *[part for key, value in (cards | sizes | dtypes).items() for part in ("--set", f"{key}={value}")])
    found = metrics(folder, "pretrain")
    assert found["tokens"] > 50_000 and metrics(folder, "tokenizer")["new_pieces"] == 0
    lora = json.loads((folder / "pretrain/artifact/adapter/adapter_config.json").read_text())
    assert (lora["r"], lora["lora_alpha"], lora["lora_dropout"]) == (64, 128, 0.05) and sorted(lora["modules_to_save"]) == ["embed_tokens", "lm_head"]
    assert {line["model"] for line in metrics(folder, "evaluate")["scores"]} == {"base", "pretrain", "sft"}


def test_real_tiny(data, tmp_path):
    """A genuinely pretrained base on text, dialogues, pairs and exams made by others."""
    folder = tmp_path / "real"
    smaller = {"corpus.tokens": "500000", "sft.most_dialogues": "400", "sft.epochs": "[1.0, 1.0]", "dpo.most_pairs": "300", "evaluate.exam_items": "30",
               "quantize.exam_items": "40"}
    run("real-tiny", "--run-dir", folder, *[part for key, value in smaller.items() for part in ("--set", f"{key}={value}")])
    assert metrics(folder, "corpus")["ledger_residual"] == 0
    for path in (folder / "corpus/artifact/cards").glob("*.md"):
        assert path.read_text() == (recipe.ROOT / "data_cards" / path.name).read_text(), f"{path.name}: run finlab with corpus.write_statistics=true"
    tokens = metrics(folder, "tokenizer")
    assert tokens["chars_per_token"]["zh_finance"]["after"] > 2 * tokens["chars_per_token"]["zh_finance"]["before"] and tokens["round_trip_failures"] == 0
    bits = metrics(folder, "pretrain")["bits_per_character"]
    for corner in ("zh_finance", "zh_general"):
        assert bits[corner]["after"] < 0.5 * bits[corner]["before"]
    assert set(bits) == {"zh_finance", "zh_general", "en_finance", "en_general", "own"}
    assert bits["own"]["after"] > bits["own"]["before"], "forgetting of what the base knew must be seen, not hidden"
    sft = metrics(folder, "sft")
    assert all(sft[stage]["eval_loss"]["after"] < sft[stage]["eval_loss"]["before"] and sft[stage]["eos_supervised_share"] == 1 for stage in ("stage1", "stage2"))
    assert abs(metrics(folder, "dpo")["loss_step0"] - 0.6931) < 1e-3
    scores = metrics(folder, "evaluate")["scores"]
    assert {line["benchmark"] for line in scores} == {"ceval", "cmmlu", "fineval", "financeiq", "mmlu"}
