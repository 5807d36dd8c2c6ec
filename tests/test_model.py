"""Models: growing keeps old rows, merging keeps logits, bad folders are refused."""

import pytest
import torch
from peft import LoraConfig, get_peft_model
from transformers import LlamaConfig, LlamaForCausalLM, Qwen2Config, Qwen2ForCausalLM
from trl import SFTConfig, SFTTrainer

from finlab import chat, evaluate, mixture, model, tokenizer, training
from tests.test_tokenizer import CHINESE, ENGLISH, byte_level_base


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


def test_old_logits_are_the_same_bits(tiny):
    base, words, _ = grown(tiny)
    ids = [1, 7, 9, 11, 30]
    before = model.logits(model.load(tiny), ids)[:, : len(base)]
    for rows in ("subtokens", "mean", "normal"):
        after = model.logits(model.grow(model.load(tiny), base, words, 128, rows), ids)
        assert torch.equal(after[:, : len(base)], before), rows
        assert not torch.equal(after[:, len(base)], after[:, 0])


def test_tied_tables_stay_tied(tiny, tmp_path):
    base, words, added = grown(tiny)
    torch.manual_seed(2)
    LlamaForCausalLM(LlamaConfig(vocab_size=384, hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=2, tie_word_embeddings=True)).save_pretrained(tmp_path / "tied")
    ids, number = [1, 7, 9, 11, 30], words.convert_tokens_to_ids(added[0])
    before = model.logits(model.load(tmp_path / "tied"), ids)[:, : len(base)]
    network = model.grow(model.load(tmp_path / "tied"), base, words)
    assert torch.equal(model.logits(network, ids)[:, : len(base)], before) and network.get_output_embeddings().weight is network.get_input_embeddings().weight
    network.save_pretrained(tmp_path / "grown")
    for train in ("new_rows", "full"):
        settings = model.embedding_settings(network, train, len(base), len(words))
        adapted = get_peft_model(model.load(tmp_path / "grown"), LoraConfig(r=2, target_modules=["q_proj"], **settings))
        adapted.get_output_embeddings().bias = None
        loss = adapted(input_ids=torch.tensor([[1, number, 7, number]]), labels=torch.tensor([[1, number, 7, number]])).loss
        loss.backward()
        with torch.no_grad():
            for parameter in adapted.parameters():
                parameter -= parameter.grad if parameter.grad is not None else 0
        merged = model.merge_onto(adapted, tmp_path / "grown", tmp_path / train, ids)
        table = merged.get_input_embeddings().weight
        assert torch.equal(merged.get_output_embeddings().weight, table) and not torch.equal(table[number], network.get_input_embeddings().weight[number])
        assert torch.equal(table[: len(base)], network.get_input_embeddings().weight[: len(base)]) == (train == "new_rows")


def test_new_rows_begin_as_asked(tiny):
    base, words, added = grown(tiny)
    number, old = words.convert_tokens_to_ids(added[0]), model.load(tiny).get_input_embeddings().weight
    mean = model.grow(model.load(tiny), base, words, 64, "mean").get_input_embeddings().weight[number]
    assert torch.allclose(mean, old[: len(base)].mean(0))
    first, second = (model.grow(model.load(tiny), base, words, 64, "normal", seed).get_input_embeddings().weight[number] for seed in (1, 2))
    assert not torch.equal(first, second) and 0.3 < first.std() / model.load(tiny).config.initializer_range < 3
    with pytest.raises(ValueError, match="not as 'zeros'"):
        model.grow(model.load(tiny), base, words, 64, "zeros")


def test_special_tokens_begin_as_their_text(tiny):
    base, words, _ = grown(tiny)
    words.add_special_tokens({"additional_special_tokens": ["<|Human|>", "<|用户|>"]})
    network, old = model.grow(model.load(tiny), base, words), model.load(tiny).get_input_embeddings().weight
    for token in ("<|Human|>", "<|用户|>"):
        parts = base(token, add_special_tokens=False)["input_ids"]
        assert len(parts) > 2 and torch.allclose(network.get_input_embeddings().weight[words.convert_tokens_to_ids(token)], old[parts].mean(0), atol=1e-6)


def test_what_does_not_belong_together_is_refused(tiny):
    base, words, _ = grown(tiny)
    small = model.load(tiny)
    small.resize_token_embeddings(100)
    with pytest.raises(ValueError, match=r"the model has 100 rows and the base's tokenizer [0-9,]+ tokens"):
        model.grow(small, base, words)
    with pytest.raises(ValueError, match="does not begin with the base's"):
        model.grow(model.load(tiny), words, base)
    with pytest.raises(ValueError, match="there are no new rows to train: the base has 300 tokens and the tokenizer 300"):
        model.embedding_settings(small, "new_rows", 300, 300)
    with pytest.raises(ValueError, match="not 'some'"):
        model.embedding_settings(small, "some", 1, 2)


@pytest.mark.parametrize("train", ["full", "new_rows"])
def test_an_adapter_of_another_vocabulary_is_refused(tiny, tmp_path, train):
    base, words, _ = grown(tiny)
    network = model.grow(model.load(tiny), base, words, 512)
    network = get_peft_model(network, LoraConfig(r=4, target_modules=["q_proj"], **model.embedding_settings(network, train, len(base), 500)))
    network.save_pretrained(tmp_path)
    with pytest.raises(ValueError, match=r"was trained with (512|500) rows of embeddings, the base has 384"):
        model.attach(model.load(tiny), tmp_path)


def test_padded_rows_are_never_cut(tiny):
    network = model.load(tiny)
    network.resize_token_embeddings(1024)
    base, words, _ = grown(tiny)
    assert model.grow(network, base, words, 64).get_input_embeddings().weight.shape[0] == 1024


def test_a_byte_level_model_without_bos(tmp_path):
    """A Qwen2 in small: byte-level, tied, padded beyond its tokenizer, no BOS. Extended, grown, its new rows trained, read and asked."""
    base = byte_level_base(ENGLISH + CHINESE[:5])
    torch.manual_seed(3)
    Qwen2ForCausalLM(Qwen2Config(vocab_size=512, hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=2, num_key_value_heads=1,
                                 max_position_embeddings=128, tie_word_embeddings=True)).save_pretrained(tmp_path / "base")
    words, added = tokenizer.extend(base, tokenizer.learn(base, CHINESE, 300), "")
    network, old = model.load(tmp_path / "base"), model.load(tmp_path / "base")
    ids = tokenizer.plain(base, ENGLISH[:1])[0][:40]
    before = model.logits(network, ids)[:, : len(base)]
    network = model.grow(network, base, words)
    table, number = network.get_input_embeddings().weight, words.convert_tokens_to_ids(added[-1])
    assert table.shape[0] == 768 and torch.equal(model.logits(network, ids)[:, : len(base)], before)
    parts = tokenizer.plain(base, [words.decode([number])])[0]
    assert len(parts) > 1 and torch.allclose(table[number], old.get_input_embeddings().weight[parts].mean(0), atol=1e-6)
    network.save_pretrained(tmp_path / "grown")
    rows = mixture.packed(tmp_path / "rows.arrow", tokenizer.encode(words, CHINESE[:40]), 64)
    lora = LoraConfig(r=4, target_modules=["q_proj"], **model.embedding_settings(network, "new_rows", len(base), len(words)))
    bits = evaluate.bits_per_character(network, words, CHINESE[:20])
    args = SFTConfig(output_dir=str(tmp_path / "out"), max_steps=20, learning_rate=1e-2, report_to="none", max_length=None, dataset_kwargs={"skip_prepare_dataset": True}, bf16=False)
    trainer = training.fit(SFTTrainer, log=tmp_path / "log.jsonl", model=network, args=args, train_dataset=rows, peft_config=lora, processing_class=words)
    merged = model.merge_onto(trainer.model, tmp_path / "grown", tmp_path / "adapter", ids)
    assert evaluate.bits_per_character(merged, words, CHINESE[:20]) < 0.9 * bits
    assert torch.equal(merged.get_input_embeddings().weight[: len(base)], old.get_input_embeddings().weight[: len(base)])
    assert model.sample(merged, words, 2, 8, 1) and isinstance(model.complete(merged, words, "证券", 4), str)
    for name in ("plain", "xuanyuan", "zhilu", "cornucopia"):
        words.chat_template = chat.template(name)
        assert "None" not in words.apply_chat_template([{"role": "user", "content": "你好"}], tokenize=False, add_generation_prompt=True)


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


def test_an_adapter_knows_its_base(tiny, tmp_path):
    """Loaded by its folder it brings its base along; a base with other weights is refused by hash, the same weights in other files are not."""
    network = adapter(tiny)
    expected = model.logits(network, [1, 5, 6])
    model.merge_onto(network, tiny, tmp_path / "adapter", [1, 5, 6])
    loaded = model.load(tmp_path / "adapter")
    assert torch.allclose(model.logits(loaded, [1, 5, 6]), expected, atol=1e-5)
    copied = model.load(tiny)
    copied.save_pretrained(tmp_path / "copy", max_shard_size="50KB")
    assert len(list((tmp_path / "copy").glob("*.safetensors"))) > 1 and model.fingerprint(tmp_path / "copy") == model.fingerprint(tiny)
    model.attach(model.load(tmp_path / "copy"), tmp_path / "adapter")
    with torch.no_grad():
        copied.lm_head.weight[0, 0] += 1e-3
    copied.save_pretrained(tmp_path / "other")
    with pytest.raises(ValueError, match="was trained on another base than .*other: its weights have another SHA-256"):
        model.attach(model.load(tmp_path / "other"), tmp_path / "adapter")
    with torch.no_grad():
        copied.lm_head.weight.mul_(5)
        copied.model.layers[0].mlp.up_proj.weight.mul_(5)
    copied.save_pretrained(tmp_path / "wrong")
    with pytest.raises(ValueError, match="from those of the model that was trained"):
        model.merge_onto(adapter(tiny), tmp_path / "wrong", tmp_path / "new", [1, 5, 6])
    (tmp_path / "adapter/base.json").unlink()
    with pytest.raises(ValueError, match="does not say where its base is"):
        model.load(tmp_path / "adapter")


@pytest.mark.parametrize("rope", [{}, {"rope_type": "linear"}, {"rope_type": "yarn"}, {"rope_base": 80000.0}], ids=str)
def test_a_longer_context_is_read_trained_and_saved(tiny, tmp_path, rope):
    config = model.longer(tiny, 512, **rope)
    network = model.load(tiny, config=config)
    assert network.config.max_position_embeddings == 512
    if rope:
        assert not torch.allclose(model.logits(network, list(range(3, 90))), model.logits(model.load(tiny), list(range(3, 90))), atol=1e-4), "positions must have changed"
    lora = get_peft_model(network, LoraConfig(r=4, target_modules=["q_proj"], init_lora_weights=False))
    merged = model.merge_onto(lora, tiny, tmp_path / "adapter", list(range(3, 90)))  # refused if the merged model forgot the new positions
    merged.save_pretrained(tmp_path / "model")
    if "rope_type" in rope:  # lengthened again, it goes on from the first context, not from the second
        assert model.longer(tmp_path / "model", 1024, **rope).rope_parameters["factor"] == 8.0
    again = model.load(tmp_path / "model")
    assert again.config.max_position_embeddings == 512 and again.config.rope_parameters == config.rope_parameters
    assert torch.allclose(model.logits(again, list(range(3, 90))), model.logits(lora, list(range(3, 90))), atol=1e-4)


def test_contexts_that_make_no_sense_are_refused(tiny, tmp_path):
    for settings, message in (({"context": 64}, "64 would shorten it"), ({"rope_type": "yarn"}, "set context above 128"), ({"context": 256, "rope_type": "alibi"}, "not 'alibi'")):
        with pytest.raises(ValueError, match=message):
            model.longer(tiny, **settings)
    other = model.load(tiny)
    other.config.rope_parameters = {"rope_type": "dynamic", "factor": 2.0, "rope_theta": 10000.0}
    other.config.save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="scaled by dynamic already"):
        model.longer(tmp_path, 512, "yarn")


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
    (tmp_path / "stage1/adapter").mkdir()
    (tmp_path / "stage1/adapter/base.json").write_text("{}")
    assert sorted(model.saved("sft", tmp_path)) == ["sft", "sft/int8", "sft/stage1"]
    assert sorted(model.saved("sft", tmp_path, adapters=True)) == ["sft", "sft/int8", "sft/stage1", "sft/stage1/adapter"]


def test_real_tiny_base(data):
    """stories260K: greedy decoding gives a fluent story, so loading and RoPE are right."""
    folder = data / "models/stories260K-hf"
    text = model.complete(model.load(folder), tokenizer.load(folder), "Once upon a time, there was a little", 20)
    assert text.split()[0] in ("girl", "boy") and "named" in text
