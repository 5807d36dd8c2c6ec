"""Quantization: what is made loads elsewhere, publishes no text, and is refused where it loses."""

import json
import os
import stat
import sys

import pandas
import pytest
import torch
from transformers import BitsAndBytesConfig, GPTQConfig

from finlab.data import templates
from finlab.evaluate import gate, statistics
from finlab.evaluate.score_interval import score_interval
from finlab.models import calibration, generation, loading, quantize, rounding, tokenization

TEXTS = ["澄江重工总部位于临江市，董事长是沈怀瑾。", "The head office is in Linjiang."]
IDS = [1, 7, 9, 11, 30]


@pytest.fixture
def rows(tiny):
    return calibration.encode(tokenization.load(tiny), TEXTS * 20, 64)


# --- formats -------------------------------------------------------------------------------------
FORMATS = ["int8", "nf4", "gptq4", "fp8"]


def settings(name, rows):
    if name == "int8":
        return BitsAndBytesConfig(load_in_8bit=True)
    if name == "nf4":
        return BitsAndBytesConfig(
            load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_use_double_quant=True
        )
    if name == "fp8":
        return quantize.fp8_config()
    return GPTQConfig(bits=4, group_size=32, desc_act=True, dataset=rows)


@pytest.mark.parametrize("name", FORMATS)
def test_a_format_is_saved_and_loaded_again(tiny, tmp_path, rows, name):
    tokenizer = tokenization.load(tiny)
    full = loading.load(tiny)
    rounded = quantize.round_model(tiny, settings(name, rows))
    quantize.make(tiny, settings(name, rows), tokenizer, tmp_path)
    model = loading.load(tmp_path, device_map="cpu")
    expected = generation.logits(rounded, IDS)
    assert torch.allclose(generation.logits(model, IDS), expected, atol=2e-3)
    assert quantize.weight_bytes(tmp_path) < 0.7 * quantize.weight_bytes(tiny)
    assert quantize.full_precision_weights(tmp_path) == [
        "lm_head.weight",
        "model.embed_tokens.weight",
    ]
    error = rounding.logit_error(rounding.log_probs(full, [IDS]), model, [IDS])["kl"]
    assert 0 < error < 0.05
    assert quantize.method_of(tmp_path) in ("bitsandbytes", "gptq", "compressed-tensors")
    with pytest.raises(ValueError, match="is quantised already"):
        quantize.round_model(tmp_path, settings("int8", rows))


def test_no_calibration_text_is_published(tiny, tmp_path):
    """transformers writes the texts of a GPTQConfig into config.json."""
    settings = GPTQConfig(bits=4, group_size=32, dataset=TEXTS * 20, tokenizer=str(tiny))
    quantize.make(tiny, settings, tokenization.load(tiny), tmp_path)
    escaped = json.dumps("澄江").strip('"')
    for path in tmp_path.glob("*.json"):
        if not path.name.startswith("tokenizer"):
            text = path.read_text(encoding="utf-8")
            assert "澄江" not in text and escaped not in text, path
    saved = json.loads((tmp_path / "config.json").read_text())["quantization_config"]
    assert saved["dataset"] is None
    assert saved["bits"] == 4


def test_gptq_lies_on_disk_in_the_form_that_every_server_reads(tiny, tmp_path, rows):
    """In GPTQModel's second form other servers write "!!!!" (vllm-project/vllm#26343)."""
    from safetensors import safe_open

    quantize.make(tiny, settings("gptq4", rows), tokenization.load(tiny), tmp_path)
    saved = json.loads((tmp_path / "config.json").read_text())["quantization_config"]
    assert saved["checkpoint_format"] == "gptq"
    with safe_open(tmp_path / "model.safetensors", "pt") as tensors:
        zeros = tensors.get_tensor("model.layers.0.mlp.down_proj.qzeros")
    # The first form stores the zero point 8 as 7.
    assert (zeros == 0x77777777).all()


def test_calibration_keeps_what_it_has_seen(tiny, tmp_path, rows):
    """GPTQ is nearer to the full model than plain rounding, on the text that it saw."""
    full = loading.load(tiny)
    seen = [row["input_ids"][0].tolist() for row in rows[:2]]
    calibrated = quantize.round_model(tiny, settings("gptq4", rows))
    blind = [{"input_ids": torch.tensor([[5, 5]]), "attention_mask": torch.ones(1, 2).long()}]
    uncalibrated = quantize.round_model(tiny, settings("gptq4", blind))
    reference = rounding.log_probs(full, seen)
    near = rounding.logit_error(reference, calibrated, seen)["kl"]
    assert near < rounding.logit_error(reference, uncalibrated, seen)["kl"]


def test_what_cannot_be_quantised_is_refused(tiny, tmp_path):
    model = loading.load(tiny)
    tokenizer = tokenization.load(tiny)
    quantize.require_pad(model, tokenizer)
    model.generation_config.pad_token_id = 2
    with pytest.raises(ValueError, match="generation_config pads with token 2, its tokenizer with"):
        quantize.require_pad(model, tokenizer)
    tokenizer.pad_token = None
    with pytest.raises(ValueError, match="the tokenizer has no pad token"):
        quantize.require_pad(model, tokenizer)
    (tmp_path / "adapter_config.json").write_text("{}")
    with pytest.raises(ValueError, match="is an adapter: merge it"):
        quantize.require_full_precision(tmp_path)
    with pytest.raises(ValueError, match="intermediate_size is 128"):
        model.config.hidden_size = 192
        quantize.require_groups(model.config, 96)
    if not torch.cuda.is_available():
        with pytest.raises(ValueError, match="gptq_group is 16: without a GPU it can be one of"):
            quantize.require_groups(model.config, 16)


@pytest.mark.skipif(torch.cuda.is_available(), reason="AWQ can be made here")
def test_what_this_machine_cannot_make_is_named(monkeypatch):
    quantize._converter.cache_clear()
    monkeypatch.setenv("PATH", "")
    monkeypatch.delenv("LLAMA_CPP", raising=False)
    assert "CUDA" in quantize.missing("awq4")
    assert "LLAMA_CPP" in quantize.missing("gguf")
    assert [quantize.missing(name) for name in FORMATS] == [""] * 4
    quantize._converter.cache_clear()


CONVERTER = """#!{python}
import pathlib, sys
source, out, kind = sys.argv[1], sys.argv[3], sys.argv[5]
if kind == "f32":
    sys.exit("this converter has no f32")
pathlib.Path(out).write_bytes(b"GGUF" + kind.encode() + source.encode())
"""


def test_gguf_is_written_by_the_converter_that_is_installed(tiny, tmp_path, monkeypatch):
    """The converter of this test stands in for llama.cpp's, with its arguments."""
    script = tmp_path / "convert_hf_to_gguf.py"
    script.write_text(CONVERTER.format(python=sys.executable))
    script.chmod(script.stat().st_mode | stat.S_IEXEC)
    monkeypatch.setenv("LLAMA_CPP", str(tmp_path))
    quantize._converter.cache_clear()
    try:
        made = quantize.export_gguf(tiny, tmp_path / "model.gguf", "q8_0")
        assert made.read_bytes().startswith(b"GGUFq8_0")
        with pytest.raises(ValueError, match="cannot write .* as f32: this converter has no f32"):
            quantize.export_gguf(tiny, tmp_path / "other.gguf", "f32")
        assert not list(tmp_path.glob("other*"))
    finally:
        quantize._converter.cache_clear()


# --- calibration ---------------------------------------------------------------------------------
def test_calibration_texts_are_drawn_by_domain_and_language():
    documents = []
    for domain in ("finance", "general"):
        for language in ("zh", "en"):
            for number in range(30):
                text = f"{domain}-{language}-{number}"
                documents.append({"domain": domain, "language": language, "text": text})
    table = pandas.DataFrame(documents)
    chosen = calibration.choose(table, 40, 0.75, seed=1)
    count = pandas.Series(chosen).str.rsplit("-", n=1).str[0].value_counts().to_dict()
    assert count == {"finance-zh": 15, "finance-en": 15, "general-zh": 5, "general-en": 5}
    assert calibration.choose(table, 40, 0.75, seed=1) == chosen
    assert calibration.choose(table, 40, 0.75, seed=2) != chosen
    only = table[table.domain == "general"]
    assert len(calibration.choose(only, 10, 0.0, seed=1)) == 10
    with pytest.raises(ValueError, match="no finance text to calibrate on"):
        calibration.choose(only, 10, 0.5, seed=1)


def test_too_little_calibration_text_is_refused(tiny):
    tokenizer = tokenization.load(tiny)
    config = loading.read_config(tiny)
    with pytest.raises(ValueError, match="tokens, and the widest layer 128 columns"):
        calibration.require_enough(calibration.encode(tokenizer, TEXTS[:1], 16), config)
    rows = calibration.encode(tokenizer, TEXTS * 20, 16)
    assert {row["input_ids"].shape[1] for row in rows} <= set(range(1, 17))
    calibration.require_enough(rows, config)


# --- measures ------------------------------------------------------------------------------------
def test_a_model_is_not_apart_from_itself(tiny):
    model = loading.load(tiny)
    same = rounding.logit_error(rounding.log_probs(model, [IDS]), model, [IDS])
    assert abs(same["kl"]) < 1e-6
    assert same["same_top"] == 1


def test_the_error_is_found_in_the_block_that_has_it(tiny):
    full, other = loading.load(tiny), loading.load(tiny)
    with torch.no_grad():
        other.model.layers[1].mlp.down_proj.weight.add_(0.3)
    before = generation.logits(full, IDS)
    errors = rounding.error_by_block(full, other, [IDS])
    assert list(errors) == ["model.layers.0", "model.layers.1"]
    assert abs(errors["model.layers.0"]) < 1e-6
    assert errors["model.layers.1"] > 1e-4
    assert torch.equal(generation.logits(full, IDS), before)


def test_peak_memory_grows_with_the_prompt(tiny):
    model = loading.load(tiny, place=False)
    weights = model.get_memory_footprint()
    short = rounding.peak_bytes(model, IDS, 2) - weights
    long = rounding.peak_bytes(model, IDS * 10, 2) - weights
    assert 0 < short < long
    # At the least the keys and values of the prompt: two layers, 64 wide, in float32.
    assert long > 50 * 2 * 2 * 64 * 4


def test_speed_counts_every_answer_of_a_batch(tiny):
    model = loading.load(tiny)
    assert rounding.generation_speed(model, IDS, batch_size=4, new_tokens=4, repeats=1) > 0


# --- the gate ------------------------------------------------------------------------------------
def compared_with(n, lost, won=0):
    """Return a paired comparison: so many answers that only one of the two models has right."""
    first = [True] * lost + [False] * won + [True] * (n - lost - won)
    second = [False] * lost + [True] * won + [True] * (n - lost - won)
    return statistics.mcnemar(first, second)


def test_a_format_that_is_sure_to_lose_too_much_is_refused():
    compared = {
        "int8": compared_with(400, 3, 2),
        "nf4": compared_with(400, 30, 14),  # 0.04, and may be within 0.03
        "gptq4": compared_with(400, 40, 4),
    }
    with pytest.raises(ValueError, match=r"^gptq4 loses 0.090 of accuracy \[0.061, 0.125\] on 400"):
        gate.require(compared, 0.03)
    gate.require(compared, 0.07)
    assert len(gate.refusals(compared, 0.0)) == 2
    assert "int8" not in " ".join(gate.refusals(compared, 0.0))


@pytest.mark.parametrize(("n", "lost"), [(3, 3), (10, 4), (20, 5)])
def test_few_questions_prove_nothing(n, lost):
    """The exact test does not refuse these, and neither does the gate."""
    compared = {"nf4": compared_with(n, lost)}
    assert compared["nf4"]["p"] > 0.05
    gate.require(compared, 0.0)


def test_no_flip_in_few_questions_is_no_certainty():
    compared = {"nf4": compared_with(3, 0)}
    measured = {"full": {"bytes": 100}, "nf4": {"bytes": 30}}
    assert gate.loss(compared["nf4"])["ci_high"] > 0.5
    assert gate.choose(measured, compared, 0.05)["format"] == "full"
    assert gate.choose(measured, {"nf4": compared_with(400, 0)}, 0.05)["format"] == "nf4"
    assert gate.choose(measured, {}, 0.05)["format"] == "full"


def test_the_smallest_format_that_is_safe_is_chosen():
    measured = {"full": {"bytes": 100}, "int8": {"bytes": 52}, "nf4": {"bytes": 30}}
    compared = {"int8": compared_with(400, 1), "nf4": compared_with(400, 10, 6)}
    chosen = gate.choose(measured, compared, 0.02)
    assert chosen["format"] == "int8"
    assert "52%" in chosen["why"]
    assert gate.choose(measured, compared, 0.05)["format"] == "nf4"
    unsure = gate.choose(measured, compared, 0.001)
    assert unsure["format"] == "full"
    assert "int8 may lose up to 0.01" in unsure["why"]


def test_the_score_interval_is_tangos():
    """Of 50 pairs 12 and 2 differ; and where none differs it has a width all the same."""
    low, high = score_interval(2, 12, 50)
    assert (round(low, 4), round(high, 4)) == (0.0611, 0.3447)
    assert score_interval(12, 2, 50) == pytest.approx((-high, -low))
    low, high = score_interval(0, 0, 392)
    assert low == pytest.approx(-high)
    assert 0.005 < high < 0.02


# --- a chat template stays with the model ---------------------------------------------------------
def test_a_quantised_chat_model_keeps_template_and_end_token(tiny, tmp_path):
    tokenizer = tokenization.load(tiny)
    tokenizer.chat_template = templates.chat_template("plain")
    quantize.make(tiny, BitsAndBytesConfig(load_in_8bit=True), tokenizer, tmp_path)
    again = tokenization.load(tmp_path)
    assert again.chat_template == tokenizer.chat_template
    saved = json.loads((tmp_path / "generation_config.json").read_text())
    assert saved["eos_token_id"] == tokenizer.eos_token_id
    assert os.environ["HF_HUB_OFFLINE"] == "1"  # nothing was fetched
