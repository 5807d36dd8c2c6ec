"""Plans before a GPU is rented: the cost model beside published figures, and what is refused."""

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from finlab.commands import checks
from finlab.commands.main import main
from finlab.run import recipe
from finlab.train import costs, meter, planning, published_costs, shapes
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


# --- plans of recipes ----------------------------------------------------------------------------
@pytest.mark.parametrize("name", OPEN)
def test_every_open_recipe_fits_what_its_header_says(name, capsys):
    gpu, count = ("A800-80G", "800") if "70b" in name else ("A100-80G", "8")
    assert main(["plan", name, "--gpu", gpu, "--count", count, "--price", "2"]) == 0
    said = capsys.readouterr().out
    assert "hours of training" in said
    assert "checkpoints" in said


def test_xuanyuan_takes_about_the_time_that_its_authors_state():
    """200 billion tokens at 340 tokens/s of each of 800 GPUs are 204 hours."""
    plan = recipe.load("xuanyuan-70b-open")
    found = planning.of_recipe(plan, shapes.gpu("A800-80G"), 800)
    pretraining = [step for step in found.steps if step.name.startswith(("pretrain", "warmup"))]
    assert sum(step.tokens for step in pretraining) == pytest.approx(200e9)
    assert sum(step.hours for step in pretraining) == pytest.approx(204, rel=0.15)


def test_what_does_not_fit_is_told_with_the_nearest_that_does(capsys):
    command = ["plan", "zhilu-13b-open", "--gpu", "A100-40G"]
    assert main([*command, "--set", "pretrain.gradient_checkpointing=false"]) == 2
    said = capsys.readouterr().out
    changes = "--set pretrain.batch_rows=1 --set pretrain.gradient_checkpointing=true"
    assert f"the nearest that fits: {changes}" in said
    values = ["pretrain.batch_rows=1", "sft.batch_rows=1"]
    assert main([*command, *(word for value in values for word in ("--set", value))]) == 0


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["zhilu-13b-open", "--gpu", "B9"], "the GPU kind 'B9' is not known: write one of A100"),
        (["zhilu-13b-open", "--price", "-1"], "--price -1.0: write what a GPU-hour costs"),
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
    one = (shapes.gpu("RTX4090"), 1)
    monkeypatch.setattr(shapes, "of_this_machine", lambda: one)
    assert main(["run", "zhilu-13b-open", "--run-dir", str(folder)]) == 2
    said = capsys.readouterr().err
    assert "step 'pretrain' takes 63 GB of a GPU of 24 GB; the nearest that fits" in said
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
