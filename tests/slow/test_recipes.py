"""Published recipes from end to end, with only their base, data and sizes replaced."""

import shutil
import subprocess

import pytest

from finlab import files
from finlab.models import tokenization
from finlab.run import recipe
from finlab.run.manifests import read_manifest
from tests.conftest import FINLAB, finlab_run, metrics, settings


def run(name, folder, values, *options):
    """Run a recipe with those of the values that its steps have."""
    steps = {step.name for step in recipe.load(name).steps}
    given = {key: value for key, value in values.items() if key.partition(".")[0] in steps}
    finlab_run(name, "--run-dir", folder, *options, *settings(given))


def generation_config(folder):
    return files.read_json(folder / "sft/artifact/model/generation_config.json")


def lora_config(adapter):
    return files.read_json(adapter / "adapter_config.json")


def learns(stage):
    loss = stage["eval_loss"]
    assert loss["after"] < loss["before"]
    assert stage["eos_supervised_share"] == 1


# --- ZhiLu ---------------------------------------------------------------------------------------
ZHILU = {
    "base.text_cards": "[cw_general_zh, cw_general_en]",
    "base.base": "",
    "base.epochs": "0.3",
    "base.dtype": "float32",
    "corpus.text_cards": "[cw_news, cw_encyclopaedia, cw_finance_en, cw_general_zh, cw_general_en]",
    "corpus.exam_cards": "[cw_ceval]",
    "corpus.tokens": "60000",
    "tokenizer.dtype": "float32",
    "pretrain.dtype": "float32",
    "pretrain.row_length": "256",
    "pretrain.gradient_accumulation": "1",
    "pretrain.warmup_steps": "2",
    "sft.dtype": "float32",
    "sft.stage1_cards": "[cw_checked]",
    "sft.exam_cards": "[cw_ceval]",
    "sft.row_length": "256",
    "sft.max_length": "256",
    "sft.epochs": "[1.0, 1.0]",
    "evaluate.dtype": "float32",
    "evaluate.exam_cards": "[cw_ceval]",
    "evaluate.exam_items": "20",
}


@pytest.fixture(scope="module")
def zhilu(tmp_path_factory):
    folder = tmp_path_factory.mktemp("zhilu") / "run"
    run("zhilu-13b", folder, ZHILU)
    return folder


def test_zhilu_trains_as_published(zhilu):
    found = metrics(zhilu, "pretrain")
    assert found["tokens"] > 50_000
    assert found["processes"] == 1
    assert metrics(zhilu, "tokenizer")["new_pieces"] == 0
    lora = lora_config(zhilu / "pretrain/artifact/adapter")
    assert (lora["r"], lora["lora_alpha"], lora["lora_dropout"]) == (64, 128, 0.05)
    assert sorted(lora["modules_to_save"]) == ["embed_tokens", "lm_head"]
    assert read_manifest(zhilu / "pretrain")["attention"] == "sdpa"


def test_zhilu_scores_adapters_and_merged_models_alike(zhilu):
    scores = {}
    for line in metrics(zhilu, "evaluate")["scores"]:
        scores.setdefault(line["model"], {})[line["setting"]] = line["accuracy"]
    assert set(scores) == {"base", "pretrain", "pretrain/adapter", "sft", "sft/stage1/adapter"}
    assert "generate:0" in scores["sft"]
    for merged, adapter in (("pretrain", "pretrain/adapter"), ("sft", "sft/stage1/adapter")):
        assert set(scores[adapter]) == {"official:5", "official:5:sum", "official:0"}
        for setting, accuracy in scores[adapter].items():
            assert scores[merged][setting] == accuracy


# --- YaYi and Cornucopia -------------------------------------------------------------------------
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
# recipe: (LoRA rank, 0 for full tuning; learning rate; single turns only; scheduler)
MODES = {
    "yayi-7b-single-full": (0, 5e-6, True, "constant_with_warmup"),
    "yayi-7b-multi-lora": (16, 5e-4, False, "cosine"),
    "yayi-7b-multi-full": (0, 5e-7, False, "cosine"),
}


@pytest.fixture(scope="module")
def yayi(tmp_path_factory):
    """YaYi's single-turn LoRA mode, the whole recipe."""
    folder = tmp_path_factory.mktemp("yayi") / "run"
    cards = {
        "sft.stage1_cards": "[cw_alpaca, cw_sharegpt]",
        "sft.task_prefixes": "{cw_alpaca: 【金融领域任务】}",
    }
    run("yayi-7b", folder, SIZES | cards)
    return folder


def test_yayi_learns_single_turns(yayi):
    learns(metrics(yayi, "sft")["stage1"])
    dialogues = files.read_jsonl(yayi / "sft/artifact/dialogues.jsonl")
    chats = [row["status"] for row in dialogues if "sharegpt" in row["id"]]
    # One chat has a single exchange.
    assert chats.count("several exchanges") == len(chats) - 1


def test_yayi_trains_as_published(yayi):
    lora = lora_config(yayi / "sft/artifact/stage1/adapter")
    assert (lora["r"], lora["lora_alpha"]) == (16, 32)
    assert sorted(lora["target_modules"]) == ["q_proj", "v_proj"]
    assert lora["trainable_token_indices"], "the new rows must learn"
    assert "【金融领域任务】" in (yayi / "sft/04_two_stage_sft.ipynb").read_text(encoding="utf-8")


def test_yayi_chats_in_its_own_format(yayi):
    tokenizer = tokenization.load(yayi / "sft/artifact/model")
    assert tokenizer.eos_token == "<|End|>"
    for token in ("<|System|>", "<|Human|>", "<|YaYi|>"):
        assert len(tokenizer.encode(token, add_special_tokens=False)) == 1
    messages = [{"role": "user", "content": "你好"}]
    prompt = tokenizer.apply_chat_template(messages, add_generation_prompt=True, tokenize=False)
    assert prompt.endswith("<|Human|>:\n你好\n\n<|YaYi|>:\n")
    config = generation_config(yayi)
    assert (config["temperature"], config["repetition_penalty"]) == (0.3, 1.1)
    assert (config["max_new_tokens"], config["do_sample"]) == (100, True)
    assert config["eos_token_id"] == tokenizer.eos_token_id


def test_yayi_runs_to_the_end(yayi):
    assert (yayi / "quantize/artifact/int8").exists()
    assert (yayi / "evaluate/artifact/comparison.html").exists()


@pytest.mark.parametrize("name", MODES)
def test_other_modes_of_yayi(yayi, tmp_path, name):
    rank, rate, single, scheduler = MODES[name]
    folder = tmp_path / "run"
    for step in ("base", "corpus", "tokenizer"):
        shutil.copytree(yayi / step, folder / step, symlinks=True)
    cards = "[cw_alpaca]" if single else "[cw_sharegpt]"
    values = SIZES | {"sft.stage1_cards": cards, "sft.task_prefixes": "{}"}
    run(name, folder, values, "--only", "sft")

    used = read_manifest(folder / "sft")["parameters"]
    assert used["lora_rank"] == rank
    assert used["learning_rates"][0] == rate
    assert used["single_turn"] is single
    assert used["epochs"][0] == 2.0
    assert used["scheduler"] == scheduler
    adapter = folder / "sft/artifact/stage1/adapter/adapter_model.safetensors"
    assert adapter.exists() is bool(rank)
    learns(metrics(folder, "sft")["stage1"])
    found = {row["status"] for row in files.read_jsonl(folder / "sft/artifact/dialogues.jsonl")}
    assert "learnt" in found
    assert "several exchanges" not in found


def test_cornucopia_over_an_int8_base(tmp_path):
    folder = tmp_path / "run"
    run(
        "cornucopia-7b",
        folder,
        SIZES | {"sft.stage1_cards": "[cw_alpaca]", "sft.epochs": "[2.0, 1.0]"},
    )
    learns(metrics(folder, "sft")["stage1"])
    lora = lora_config(folder / "sft/artifact/stage1/adapter")
    assert (lora["r"], lora["lora_alpha"], lora["lora_dropout"]) == (8, 16, 0.05)
    assert sorted(lora["target_modules"]) == ["q_proj", "v_proj"]
    config = generation_config(folder)
    assert (config["num_beams"], config["repetition_penalty"]) == (4, 3.5)
    assert (config["top_k"], config["epsilon_cutoff"]) == (40, 0.05)
    # The adapter is merged onto the full base, not onto the rounded one.
    saved = files.read_json(folder / "sft/artifact/model/config.json")
    assert "quantization_config" not in saved


# --- DianJin-R1 ----------------------------------------------------------------------------------
DIANJIN = {
    "base.text_cards": "[cw_general_zh, cw_general_en, cw_finance_en, cw_community]",
    "base.base": "",
    "base.epochs": "0.5",
    "base.dtype": "float32",
    "reasoning.dtype": "float32",
    "reasoning.launch": "",
    "reasoning.use_vllm": "false",
    "reasoning.chat_template": "plain",  # the tiny base has no <|im_end|>
    "reasoning.batch_tokens": "65536",
    "reasoning.read_every": "2",
    "reasoning.question_cards": "[cw_arithmetic]",
    "reasoning.exam_cards": "[cw_ceval]",
    "reasoning.form_tokens": "[<think>, </think>, <answer>, </answer>]",
    "reasoning.sft_learning_rate": "1.0e-3",
    "reasoning.row_length": "256",
    "reasoning.batch_rows": "4",
    "reasoning.rl_questions": "64",
    "reasoning.rl_epochs": "1",
    "reasoning.screened": "40",
    "reasoning.prompts_per_step": "4",
    "reasoning.micro_batch": "32",
    "reasoning.max_completion_length": "64",
    "reasoning.thinking_budget": "40",
    "reasoning.held_out_items": "20",
    "reasoning.best_of_items": "10",
    "evaluate.dtype": "float32",
    "evaluate.exam_cards": "[cw_ceval]",
    "evaluate.exam_items": "10",
    "evaluate.checked_cards": "[cw_arithmetic]",
    "evaluate.checked_items": "10",
    "evaluate.answer_tokens": "32",
    "evaluate.thinking_budget": "32",
}


def test_dianjin_reasons_as_published(tmp_path):
    folder = tmp_path / "run"
    run("dianjin-r1-7b", folder, DIANJIN)
    found = metrics(folder, "reasoning")
    assert found["reward_std_first_batch"] > 0
    assert found["chains"]["kept"] > 1500
    assert found["reward_model"] is None
    assert [row["k"] for row in found["best_of"] if row["by"] == "verifier"] == [1, 4, 8]
    log = files.read_jsonl(folder / "reasoning/log.jsonl")
    steps = [line for line in log if line.get("stage") == "grpo" and "loss" in line]
    assert len(steps) == steps[-1]["total_steps"]
    # Four updates from one generation, as stated.
    drawn = [line["step"] for line in steps if "reward" in line]
    assert drawn == list(range(1, len(steps) + 1, 4))
    assert all("kl" in line for line in steps)
    # The tiny base has no chat template, so it answers no question in writing.
    checked = metrics(folder, "evaluate")["checked"]
    assert {row["model"] for row in checked} == {"reasoning"}
    assert all(row["n"] == 10 for row in checked)


def test_fin_r1_adds_form_to_the_answer(tmp_path):
    folder = tmp_path / "run"
    changed = {
        "reasoning.system_prompt": "先想再答。",  # the tiny context has no room for the whole one
        "reasoning.min_steps": "2",
        "reasoning.sft_epochs": "2.0",
    }
    run("fin-r1-7b", folder, DIANJIN | changed, "--to", "reasoning")
    log = files.read_jsonl(folder / "reasoning/log.jsonl")
    steps = [line for line in log if line.get("stage") == "grpo" and "reward" in line]
    for line in steps:
        parts = line["rewards/correct/mean"] + 0.5 * line["rewards/formed/mean"]
        assert line["reward"] == pytest.approx(parts, abs=1e-3)
    # Chains without steps are left out.
    assert metrics(folder, "reasoning")["chains"]["fewer steps than asked for"] > 500


# --- a wrong base --------------------------------------------------------------------------------
def test_a_base_without_tokenizer_is_named(tiny, tmp_path):
    bare = tmp_path / "bare"
    bare.mkdir()
    for name in ("config.json", "model.safetensors"):
        shutil.copy(tiny / name, bare / name)
    command = [*FINLAB, "run", "smoke", "--only", "base", "--run-dir", str(tmp_path / "run")]
    done = subprocess.run([*command, "--set", f"base.base={bare}"], capture_output=True, text=True)
    assert done.returncode == 1
    assert f"no tokenizer in '{bare}'" in done.stderr
    assert "Traceback" not in done.stderr
    assert read_manifest(tmp_path / "run/base") is None
