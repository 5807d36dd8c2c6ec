"""The tuning modes of YaYi (full and LoRA, single and multi-turn) and of Cornucopia (LoRA over int8): their recipes, with only base, data and sizes replaced."""

import json
import shutil
import subprocess
import sys

import pytest

from finlab.models import tokenization
from finlab.run import recipe

SIZES = {
    "base.base": "",
    "base.epochs": "0.2",
    "base.text_cards": "[cw_general_zh, cw_general_en]",
    "base.dtype": "float32",
    "base.own_texts": "2",
    "corpus.text_cards": "[cw_news, cw_finance_en, cw_general_zh, cw_general_en]",
    "corpus.exam_cards": "[cw_ceval]",
    "corpus.tokens": "30000",
    "tokenizer.dtype": "float32",
    "sft.dtype": "float32",
    "sft.launch": "",
    "sft.exam_cards": "[cw_ceval]",
    "sft.max_dialogues": "120",
    "sft.max_length": "200",
    "sft.row_length": "256",
    "sft.batch_rows": "4",
    "sft.warmup_steps": "2",
    "quantize.exam_cards": "[cw_ceval]",
    "quantize.exam_items": "8",
    "quantize.held_out_texts": "5",
    "quantize.dtype": "float32",
    "evaluate.exam_cards": "[cw_ceval]",
    "evaluate.exam_items": "8",
    "evaluate.dtype": "float32",
}
MODES = {
    "yayi-7b-single-full": (0, 5e-6, True),
    "yayi-7b-multi-lora": (16, 5e-4, False),
    "yayi-7b-multi-full": (0, 5e-7, False),
}


def run(name, folder, cards, *more):
    steps = {step.name for step in recipe.load(name).steps}
    sets = {key: value for key, value in (SIZES | cards).items() if key.partition(".")[0] in steps}
    command = [
        sys.executable,
        "-m",
        "finlab",
        "run",
        name,
        "--run-dir",
        str(folder),
        *more,
        *[part for key, value in sets.items() for part in ("--set", f"{key}={value}")],
    ]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-2500:] + done.stderr[-2500:]


def found(folder):
    dialogues = [
        json.loads(line) for line in open(folder / "sft/artifact/dialogues.jsonl", encoding="utf-8")
    ]
    return json.loads((folder / "sft/metrics.json").read_text()), dialogues


@pytest.fixture(scope="module")
def yayi(tmp_path_factory):
    """YaYi's single-turn LoRA mode, the whole recipe."""
    folder = tmp_path_factory.mktemp("yayi") / "run"
    run(
        "yayi-7b",
        folder,
        {
            "sft.stage1_cards": "[cw_alpaca, cw_sharegpt]",
            "sft.task_prefixes": "{cw_alpaca: 【金融领域任务】}",
        },
    )
    return folder


def test_yayi_single_turn_lora(yayi):
    metrics, dialogues = found(yayi)
    assert metrics["stage1"]["eval_loss"]["after"] < metrics["stage1"]["eval_loss"]["before"]
    assert metrics["stage1"]["eos_supervised_share"] == 1
    chats = [row["fate"] for row in dialogues if "sharegpt" in row["id"]]
    assert chats.count("several exchanges") == len(chats) - 1, (
        "only the one chat of a single exchange can be learnt"
    )
    lora = json.loads((yayi / "sft/artifact/stage1/adapter/adapter_config.json").read_text())
    assert (lora["r"], lora["lora_alpha"], sorted(lora["target_modules"])) == (
        16,
        32,
        ["q_proj", "v_proj"],
    ), "the new rows learn"
    assert lora["trainable_token_indices"], "the new rows learn"
    tokenizer = tokenization.load(yayi / "sft/artifact/model")
    assert tokenizer.eos_token == "<|End|>"
    assert [
        len(tokenizer.encode(token, add_special_tokens=False))
        for token in ("<|System|>", "<|Human|>", "<|YaYi|>")
    ] == [1, 1, 1]
    prompt = tokenizer.apply_chat_template(
        [{"role": "user", "content": "你好"}], add_generation_prompt=True, tokenize=False
    )
    assert prompt.endswith("<|Human|>:\n你好\n\n<|YaYi|>:\n")
    settings = json.loads((yayi / "sft/artifact/model/generation_config.json").read_text())
    assert (
        settings["temperature"],
        settings["repetition_penalty"],
        settings["max_new_tokens"],
        settings["do_sample"],
    ) == (0.3, 1.1, 100, True)
    assert settings["eos_token_id"] == tokenizer.eos_token_id
    shown = (yayi / "sft/04_two_stage_sft.ipynb").read_text(encoding="utf-8")
    assert "【金融领域任务】" in shown
    assert (yayi / "quantize/artifact/int8").exists()
    assert (yayi / "evaluate/artifact/comparison.html").exists()


@pytest.mark.parametrize("name", MODES)
def test_other_modes_of_yayi(yayi, tmp_path, name):
    rank, rate, single = MODES[name]
    for step in ("base", "corpus", "tokenizer"):
        shutil.copytree(yayi / step, tmp_path / "run" / step, symlinks=True)
    run(
        name,
        tmp_path / "run",
        {
            "sft.stage1_cards": "[cw_sharegpt]" if not single else "[cw_alpaca]",
            "sft.task_prefixes": "{}",
        },
        "--only",
        "sft",
    )
    metrics, dialogues = found(tmp_path / "run")
    used = json.loads((tmp_path / "run/sft/manifest.json").read_text())["parameters"]
    assert used["lora_rank"] == rank
    assert used["learning_rates"][0] == rate
    assert used["single_turn"] is single
    assert used["epochs"][0] == 2.0
    assert used["scheduler"] == ("constant_with_warmup" if single else "cosine")
    assert (
        tmp_path / "run/sft/artifact/stage1/adapter/adapter_model.safetensors"
    ).exists() is bool(rank)
    before, after = (
        metrics["stage1"]["eval_loss"]["before"],
        metrics["stage1"]["eval_loss"]["after"],
    )
    assert after < before
    assert metrics["stage1"]["eos_supervised_share"] == 1
    assert any(row["fate"] == "learnt" for row in dialogues)
    assert not any(row["fate"] == "several exchanges" for row in dialogues)


def test_cornucopia_over_an_int8_base(tmp_path):
    run(
        "cornucopia-7b",
        tmp_path / "run",
        {"sft.stage1_cards": "[cw_alpaca]", "sft.epochs": "[2.0, 1.0]"},
    )
    metrics, _ = found(tmp_path / "run")
    assert metrics["stage1"]["eval_loss"]["after"] < metrics["stage1"]["eval_loss"]["before"]
    assert metrics["stage1"]["eos_supervised_share"] == 1
    lora = json.loads(
        (tmp_path / "run/sft/artifact/stage1/adapter/adapter_config.json").read_text()
    )
    assert (
        lora["r"],
        lora["lora_alpha"],
        lora["lora_dropout"],
        sorted(lora["target_modules"]),
    ) == (8, 16, 0.05, ["q_proj", "v_proj"])
    settings = json.loads((tmp_path / "run/sft/artifact/model/generation_config.json").read_text())
    assert (
        settings["num_beams"],
        settings["repetition_penalty"],
        settings["top_k"],
        settings["epsilon_cutoff"],
    ) == (4, 3.5, 40, 0.05)
    saved = json.loads((tmp_path / "run/sft/artifact/model/config.json").read_text())
    assert "quantization_config" not in saved, (
        "the adapter is merged onto the full base, not onto the rounded one"
    )
