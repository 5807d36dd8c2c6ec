"""Models: growing keeps old rows, merging keeps logits, bad folders are refused."""

import pytest
import torch
from peft import LoraConfig, get_peft_model

from finlab import model, tokenizer


def grown(tiny, pieces=("临江市", "董事长")):
    base = tokenizer.load(tiny)
    return base, *tokenizer.extend(base, pieces)


def test_growing_keeps_the_old_and_averages_the_new(tiny):
    base, words, added = grown(tiny)
    network = model.load(tiny)
    old = network.get_input_embeddings().weight.detach().clone()
    head = network.get_output_embeddings().weight.detach().clone()
    network = model.grow(network, base, words, 64)
    table = network.get_input_embeddings().weight
    assert torch.equal(table[: len(base)], old[: len(base)]) and table.shape[0] % 64 == 0 and table.shape[0] >= len(words)
    parts = [part.id for part in base.backend_tokenizer.model.tokenize(added[0])]
    number = words.convert_tokens_to_ids(added[0])
    assert len(parts) > 1 and torch.allclose(table[number], old[parts].mean(0))
    assert torch.allclose(network.get_output_embeddings().weight[number], head[parts].mean(0))


def test_padded_rows_are_never_cut(tiny):
    network = model.load(tiny)
    network.resize_token_embeddings(1024)
    base, words, _ = grown(tiny)
    assert model.grow(network, base, words, 64).get_input_embeddings().weight.shape[0] == 1024


def adapter(tiny, **settings):
    torch.manual_seed(1)
    network = get_peft_model(model.load(tiny), LoraConfig(r=4, target_modules=["q_proj", "down_proj"], modules_to_save=["embed_tokens", "lm_head"], **settings))
    for name, parameter in network.named_parameters():
        if parameter.requires_grad:
            parameter.data += 0.05 * torch.randn_like(parameter)
    return network


def test_merged_equals_adapted_and_loads_plainly(tiny, tmp_path):
    network = adapter(tiny)
    ids = [1, 7, 9, 11, 30]
    expected = model.logits(network, ids)
    assert (expected - model.logits(model.load(tiny), ids)).abs().max() > 1e-2, "the adapter must change something"
    merged = model.merge_onto(network, tiny, tmp_path / "adapter", ids)
    merged.save_pretrained(tmp_path / "model")
    assert torch.allclose(model.logits(model.load(tmp_path / "model"), ids), expected, atol=1e-4)
    assert (tmp_path / "adapter/adapter_model.safetensors").stat().st_size > 384 * 64 * 2 * 4, "trained embeddings must be in the adapter"


def test_quantised_base_is_not_merged_into(tiny):
    network = adapter(tiny)
    network.get_base_model().hf_quantizer = object()
    with pytest.raises(ValueError, match="the base is quantised"):
        model.merge(network, [1, 5, 6])


def test_bad_folders(tmp_path):
    with pytest.raises(ValueError, match="holds no config.json"):
        model.fetch(str(tmp_path))
    with pytest.raises(ValueError, match="neither a folder"):
        model.fetch("nobody/nothing")
    with pytest.raises(ValueError, match="no model at"):
        model.load(tmp_path)


def test_description_loads_no_weights(tiny):
    row = model.describe(tiny, ["澄江重工"])
    assert row["parameters"] == model.counts(model.load(tiny))["total"] and row["vocabulary"] == 384 and row["context"] == 128


def test_saved_models_are_found(tiny, tmp_path):
    for name in ("stage1/model", "stage2/model", "int8"):
        (tmp_path / name).mkdir(parents=True)
        (tmp_path / name / "config.json").write_text("{}")
    (tmp_path / "model").symlink_to("stage2/model")
    assert sorted(model.saved("sft", tmp_path)) == ["sft", "sft/int8", "sft/stage1"]


def test_real_tiny_base(data):
    """stories260K: greedy decoding gives a fluent story, so loading and RoPE are right."""
    folder = data / "models/stories260K-hf"
    text = model.complete(model.load(folder), tokenizer.load(folder), "Once upon a time, there was a little", 20)
    assert text.split()[0] in ("girl", "boy") and "named" in text
