"""Plans before a GPU is rented: the cost model beside published figures, and what is refused."""

import re
from types import SimpleNamespace

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from finlab import paths
from finlab.commands import checks
from finlab.commands.main import main
from finlab.run import recipe
from finlab.train import advice, costs, launch, meter, planning, published_costs, shapes
from finlab.train.costs import Setup

OPEN = [
    "cornucopia-7b-open",
    "golden-gpt-7b-open",
    "xuanyuan-70b-open",
    "yayi-7b-open",
    "zhilu-13b-open",
]


# --- the cost model ------------------------------------------------------------------------------
def test_the_cost_model_is_near_what_others_published():
    rows = published_costs.comparison()
    assert len(rows) == 25
    for row in rows:
        assert abs(row["error %"]) < 15, row


@pytest.fixture(scope="module")
def small():
    config = LlamaConfig(
        vocab_size=300,
        hidden_size=64,
        intermediate_size=160,
        num_hidden_layers=3,
        num_attention_heads=4,
        num_key_value_heads=2,
    )
    return LlamaForCausalLM(config)


def test_flops_and_weights_are_those_of_a_real_model(small):
    """The plan and the meter of a training run count by the same rule."""
    shape = shapes.from_config(small.config.to_dict())
    assert shape.parameters == sum(each.numel() for each in small.parameters())
    setup = Setup(row_length=128, gradient_checkpointing=True)
    for hardware in (False, True):
        counted = costs.flops_per_token(shape, setup, hardware)
        assert counted == pytest.approx(meter.flops_per_token(small, 128, hardware))


def test_flops_and_weights_of_adapters(small):
    from peft import LoraConfig, get_peft_model

    targets = ["q_proj", "v_proj", "down_proj"]
    model = get_peft_model(small, LoraConfig(r=8, target_modules=targets, task_type="CAUSAL_LM"))
    shape = shapes.from_config(small.config.to_dict())
    learning = sum(each.numel() for each in model.parameters() if each.requires_grad)
    assert shape.adapter_weights(8, targets) == learning
    setup = Setup(lora_rank=8, lora_targets=tuple(targets), row_length=128)
    assert costs.flops_per_token(shape, setup) == pytest.approx(meter.flops_per_token(model, 128))


def test_memory_moves_as_it_must():
    shape = shapes.of_model("meta-llama/Llama-2-7b-hf")
    assert shape.parameters == 6_738_415_616  # as its card counts
    plain = costs.memory(shape, Setup(lora_rank=64, row_length=4096))
    cheaper = costs.memory(shape, Setup(lora_rank=64, row_length=4096, gradient_checkpointing=True))
    assert cheaper.activations < plain.activations / 5
    four_bits = costs.memory(shape, Setup(lora_rank=64, row_length=4096, quantize_base="nf4"))
    assert four_bits.weights < 0.4 * plain.weights
    full = costs.memory(shape, Setup(launch="zero3"), processes=1)
    sharded = costs.memory(shape, Setup(launch="zero3"), processes=8)
    assert sharded.optimizer == pytest.approx(full.optimizer / 8)
    assert full.optimizer == 12 * shape.parameters


def test_weights_that_learn_are_held_in_float32():
    """Four bytes each, four of gradient, eight of moments: what `fit` builds without DeepSpeed."""
    shape = shapes.of_model("meta-llama/Llama-2-7b-hf")
    full = costs.memory(shape, Setup(gradient_checkpointing=True))
    states = full.weights + full.gradients + full.optimizer
    assert states == 16 * shape.parameters
    # A table that learns under LoRA is a copy beside the base's.
    tables = costs.memory(shape, Setup(lora_rank=64, train_embeddings="full"))
    alone = costs.memory(shape, Setup(lora_rank=64))
    more = tables.weights + tables.gradients + tables.optimizer
    more -= alone.weights + alone.gradients + alone.optimizer
    assert more == pytest.approx(16 * 2 * shape.table_weights)


@pytest.mark.parametrize(
    ("name", "capability", "teraflops"),
    [
        ("NVIDIA H200", (9, 0), 989),
        ("NVIDIA H20", (9, 0), 148),
        ("NVIDIA H100 80GB HBM3", (9, 0), 989),
        ("NVIDIA A100-SXM4-40GB", (8, 0), 312),
        ("NVIDIA GeForce RTX 4090", (8, 9), 165),
        ("NVIDIA RTX A6000", (8, 6), 155),
        ("Tesla of tomorrow", (8, 0), 71),  # not known: the slowest of its family
        ("NVIDIA B300", (10, 3), 148),
    ],
)
def test_a_gpu_is_known_by_its_drivers_name(name, capability, teraflops):
    kind = shapes.kind_of(name, 80e9, capability)
    assert kind.flops == teraflops * 1e12
    assert kind.bytes == 80e9


def test_all_gpus_of_all_machines_count_though_this_process_sees_one(monkeypatch, tmp_path):
    found = SimpleNamespace(name="NVIDIA H200", total_memory=141e9, major=9, minor=0)
    monkeypatch.setattr(shapes, "DRIVER", tmp_path)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda number: found)
    monkeypatch.setattr(launch, "gpu_count", lambda: 8)
    monkeypatch.setenv("SLURM_NNODES", "100")
    kind, count = shapes.of_this_machine()
    assert (kind.flops, count) == (989e12, 800)


def test_checkpoints_hold_the_optimizer_wherever_it_lies():
    steps = {}
    for form in ("zero2", "zero3"):
        plan = recipe.load("yayi-7b-open", ["sft.lora_rank=0", f"sft.launch={form}"])
        (step,) = planning.of_recipe(plan, shapes.gpu("A100-80G"), 8).steps
        steps[form] = step.checkpoint_bytes
    assert steps["zero2"] == steps["zero3"] > 14 * 6.7e9


def test_advice_names_parameters_that_the_step_has():
    """SFT has no quantize_base, a preference step counts pairs and has no liger.

    And an optimizer step stays as large as it was.
    """
    gpu = shapes.gpu("RTX4090")
    plan = planning.of_recipe(recipe.load("zhilu-13b-open"), gpu, 1)
    sentence = advice.misfits(plan)["sft"]
    assert "no setting fits" in sentence
    changes = ["dpo.batch_pairs=16", "dpo.gradient_checkpointing=true", "dpo.launch=ddp"]
    changes += ["dpo.lora_rank=16", "dpo.gradient_accumulation=3", "base.base=Qwen/Qwen2.5-7B"]
    plan = planning.of_recipe(recipe.load("xuanyuan-70b-open", changes), gpu, 8)
    preference = advice.misfits(plan)["dpo"]
    pairs = int(re.search(r"dpo.batch_pairs=(\d+)", preference)[1])
    assert f"dpo.gradient_accumulation={3 * 16 // pairs}" in preference
    assert "batch_rows" not in preference
    for gpu in ("RTX4090", "A6000", "A100-80G", "H200"):
        for name in (*OPEN, "first-run", "dianjin-r1-7b", "fin-r1-7b"):
            plan = planning.of_recipe(recipe.load(name), shapes.gpu(gpu), 8)
            sentences = " ".join(advice.misfits(plan).values())
            changes = re.findall(r"--set (\S+)", sentences)
            for step in plan.steps:
                first = step.name.split("/")[0]
                changes += [f"{first}.{word}" for word in advice.fastest(plan, step)]
            recipe.load(name, changes)  # refuses names and values that a notebook does not declare


def test_float32_is_slow_and_large_and_the_plan_says_what_to_change(capsys):
    """Notebooks compute in float32 where nothing is said; an A100 is 16 times slower in it."""
    changes = ["pretrain.dtype=float32", "pretrain.batch_rows=2"]
    gpu = shapes.gpu("A100-80G")
    plans = [planning.of_recipe(recipe.load("first-run", words), gpu, 1) for words in ([], changes)]
    half, whole = (plan.steps[0] for plan in plans)
    assert half.rate / whole.rate == pytest.approx(312 / 19.5)
    assert whole.memory.weights > 1.9 * half.memory.weights
    assert "dtype=bfloat16" in advice.fastest(plans[1], whole)
    # Where no smaller micro-batch without recomputation fits, the type alone is changed.
    tight = ["pretrain.dtype=float32", "base.base=meta-llama/Llama-2-13b-hf"]
    plan = planning.of_recipe(recipe.load("first-run", tight), gpu, 1)
    assert advice.fastest(plan, plan.steps[0])[0] == "dtype=bfloat16"
    assert main(["plan", "first-run", "--gpu", "RTX4090", "--set", changes[0]]) == 2
    assert "--set pretrain.dtype=bfloat16" in capsys.readouterr().out


def test_what_is_held_out_is_not_trained_on(capsys):
    gpu = shapes.gpu("A100-80G")
    tokens = {}
    for share in (0.1, 0.6):
        words = [f"sft.held_out_share={share}", "sft.max_dialogues=1000"]
        plan = planning.of_recipe(recipe.load("yayi-7b-open", words), gpu, 8)
        tokens[share] = plan.steps[-1].tokens
    assert tokens[0.1] / tokens[0.6] == pytest.approx(0.9 / 0.4)
    assert main(["plan", "yayi-7b-open", "--count", "8", "--set", "sft.max_dialogues=1000"]) == 0
    assert "planned with all rows; max_dialogues takes 1,000 at most" in capsys.readouterr().out


# --- plans of recipes ----------------------------------------------------------------------------
@pytest.mark.parametrize("name", OPEN)
def test_every_open_recipe_fits_what_its_header_says(name, capsys):
    gpu, count = ("A800-80G", "800") if "70b" in name else ("A100-80G", "8")
    assert main(["plan", name, "--gpu", gpu, "--count", count, "--price", "2"]) == 0
    said = capsys.readouterr().out
    assert "hours of training" in said
    assert "checkpoints" in said


@pytest.mark.parametrize("name", ["golden-gpt-7b", "zhilu-13b", "zhilu-13b-open"])
def test_the_hours_of_a_header_are_those_of_the_plan(name):
    header = (paths.RECIPES / f"{name}.yaml").read_text(encoding="utf-8")
    stated = re.search(r"^# hours: about ([\d,]+) on 8 x A100-80G", header, re.M)[1]
    plan = planning.of_recipe(recipe.load(name), shapes.gpu("A100-80G"), 8)
    assert plan.hours == pytest.approx(float(stated.replace(",", "")), rel=0.02)


def test_xuanyuan_takes_about_the_time_that_its_authors_state():
    """200 billion tokens at 340 tokens/s of each of 800 GPUs are 204 hours."""
    plan = recipe.load("xuanyuan-70b-open")
    found = planning.of_recipe(plan, shapes.gpu("A800-80G"), 800)
    pretraining = [step for step in found.steps if step.name.startswith(("pretrain", "warmup"))]
    assert sum(step.tokens for step in pretraining) == pytest.approx(200e9)
    assert sum(step.hours for step in pretraining) == pytest.approx(204, rel=0.15)


def test_what_does_not_fit_is_told_with_the_nearest_that_does(capsys):
    command = ["plan", "zhilu-13b-open", "--gpu", "A6000"]
    assert main([*command, "--set", "pretrain.gradient_checkpointing=false"]) == 2
    said = capsys.readouterr().out
    step = next(each for each in recipe.load("zhilu-13b-open").steps if each.name == "pretrain")
    rows = step.parameters["batch_rows"] * step.parameters["gradient_accumulation"]
    changes = f"--set pretrain.batch_rows=1 --set pretrain.gradient_accumulation={rows} "
    changes += "--set pretrain.gradient_checkpointing=true"
    assert f"the nearest that fits: {changes}" in said
    values = ["pretrain.batch_rows=1", "sft.batch_rows=1"]
    assert main([*command, *(word for value in values for word in ("--set", value))]) == 0


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["zhilu-13b-open", "--gpu", "B9"], "the GPU kind 'B9' is not known: write one of A100"),
        (["zhilu-13b-open", "--price", "-1"], "--price -1.0: write what a GPU-hour costs"),
        (["zhilu-13b-open", "--price", "inf"], "--price inf: write what a GPU-hour costs"),
        (["zhilu-13b-open", "--count", "0"], "--count 0: write 1 or more GPUs"),
        (["zhilu-13b-open", "--efficiency", "2"], "write a share between 0 and 1"),
        (["smoke"], "trains the tiny base of finlab, which needs no plan"),
        (["zhilu-13b-open", "--set", "base.base=no/body"], "shape of 'no/body' is not known"),
    ],
)
def test_bad_questions_get_one_sentence(words, message, capsys):
    assert main(["plan", *words]) == 2
    said = capsys.readouterr().err
    assert message in said
    assert said.count("\n") == 1


def test_a_machine_too_small_is_refused_before_anything_is_loaded(tmp_path, capsys, monkeypatch):
    folder = tmp_path / "run"
    if not torch.cuda.is_available():
        assert main(["run", "xuanyuan-70b-open", "--run-dir", str(folder)]) == 2
        assert (
            "the base has 138.2 GB of weights, and this machine has no" in capsys.readouterr().err
        )
    one = (shapes.gpu("A100-40G"), 1)
    monkeypatch.setattr(shapes, "of_this_machine", lambda: one)
    assert main(["run", "zhilu-13b-open", "--run-dir", str(folder)]) == 2
    said = capsys.readouterr().err
    assert "step 'pretrain' takes 67 GB of a GPU of 40 GB; the nearest that fits" in said
    assert "quantize_base=nf4" in said
    assert not folder.exists()
    plan = recipe.load("zhilu-13b-open")
    monkeypatch.setattr(shapes, "of_this_machine", lambda: (shapes.gpu("H200"), 8))
    with pytest.raises(ValueError, match="the run will take about 3"):
        checks.require_feasible(plan, plan.steps, folder)


# --- memory of an answering model ----------------------------------------------------------------
def test_a_model_that_answers_takes_what_others_have_published():
    """XuanYuan's 129, 65 and 35 GiB, ZhiLu's 30 GB, YaYi's 20 GB."""
    rows = [row for row in published_costs.comparison() if "answering" in row["what"]]
    assert len(rows) == 5
    for row in rows:
        assert abs(row["error %"]) < 6, row


def test_memory_grows_with_context_and_batch():
    shape = shapes.of_model("meta-llama/Llama-2-7b-hf")
    small = costs.answering(shape, "none", context=4096)
    # 2 tables × 2 bytes × 32 layers × 4,096 wide × 4,096 tokens.
    assert small.cache == 2 * 2 * 32 * 4096 * 4096
    many = costs.answering(shape, "none", context=4096, batch=8)
    assert many.cache == 8 * small.cache
    assert many.weights == small.weights
    assert costs.answering(shape, "nf4").weights < 0.35 * small.weights


def test_finlab_memory(capsys):
    from finlab.commands.main import main

    assert main(["memory", "Qwen/Qwen3-8B", "--context", "32768", "--gpu", "A100-80G"]) == 0
    said = capsys.readouterr().out
    assert "8.2 billion parameters, 1 × 32,768 tokens" in said
    for label in ("16 bits", "int8", "NF4", "A100-80G needed"):
        assert label in said
    for words, sentence in (
        (["memory", "nobody/knows"], "the shape of 'nobody/knows' is not known"),
        (["memory", "Qwen/Qwen3-8B", "--batch", "0"], "--batch 0: write 1 or more"),
        (["memory", "Qwen/Qwen3-8B", "--gpu", "Abacus"], "the GPU kind 'Abacus' is not known"),
    ):
        assert main(words) == 2
        assert sentence in capsys.readouterr().err
