"""Models: growing keeps old rows, merging keeps logits, bad folders are refused."""

import re
import shutil

import pytest
import torch
from peft import LoraConfig, get_peft_model
from safetensors.torch import load_file, save_file
from transformers import LlamaConfig, LlamaForCausalLM, Qwen2Config, Qwen2ForCausalLM
from trl import SFTConfig, SFTTrainer

from finlab import files
from finlab.data import packing, templates
from finlab.evaluate import likelihood
from finlab.models import (
    adapters,
    embeddings,
    folders,
    generation,
    loading,
    merging,
    tokenization,
    vocabulary,
)
from finlab.train import fit
from finlab.train.collate import PackedRows
from finlab.train.log import SourceLoss
from finlab.train.meter import TokenMeter
from tests.test_tokenizer import CHINESE, ENGLISH, byte_level_base


def grown(tiny, pieces=("临江市", "董事长")):
    base = tokenization.load(tiny)
    return base, *vocabulary.extend(base, pieces)


def test_growing_keeps_the_old_and_averages_the_new(tiny):
    base, tokenizer, added = grown(tiny)
    model = loading.load(tiny)
    old = model.get_input_embeddings().weight.detach().clone()
    head = model.get_output_embeddings().weight.detach().clone()
    model = embeddings.resize_vocabulary(model, base, tokenizer, 64)
    table = model.get_input_embeddings().weight
    assert torch.equal(table[: len(base)], old[: len(base)])
    assert table.shape[0] % 64 == 0
    assert table.shape[0] >= len(tokenizer)
    parts = [part.id for part in base.backend_tokenizer.model.tokenize(added[0])]
    number = tokenizer.convert_tokens_to_ids(added[0])
    assert len(parts) > 1
    assert torch.allclose(table[number], old[parts].mean(0))
    assert torch.allclose(model.get_output_embeddings().weight[number], head[parts].mean(0))


def test_old_logits_are_the_same_bits(tiny):
    base, tokenizer, _ = grown(tiny)
    ids = [1, 7, 9, 11, 30]
    before = generation.logits(loading.load(tiny), ids)[:, : len(base)]
    for rows in ("subtokens", "mean", "normal"):
        after = generation.logits(
            embeddings.resize_vocabulary(loading.load(tiny), base, tokenizer, 128, rows), ids
        )
        assert torch.equal(after[:, : len(base)], before), rows
        assert not torch.equal(after[:, len(base)], after[:, 0])


def test_tied_tables_stay_tied(tiny, tmp_path):
    base, tokenizer, added = grown(tiny)
    torch.manual_seed(2)
    LlamaForCausalLM(
        LlamaConfig(
            vocab_size=384,
            hidden_size=32,
            intermediate_size=64,
            num_hidden_layers=2,
            num_attention_heads=2,
            tie_word_embeddings=True,
        )
    ).save_pretrained(tmp_path / "tied")
    ids, number = [1, 7, 9, 11, 30], tokenizer.convert_tokens_to_ids(added[0])
    before = generation.logits(loading.load(tmp_path / "tied"), ids)[:, : len(base)]
    model = embeddings.resize_vocabulary(loading.load(tmp_path / "tied"), base, tokenizer)
    assert torch.equal(generation.logits(model, ids)[:, : len(base)], before)
    assert model.get_output_embeddings().weight is model.get_input_embeddings().weight
    model.save_pretrained(tmp_path / "grown")
    for train in ("new_rows", "full"):
        settings = embeddings.embedding_settings(model, train, len(base), len(tokenizer))
        adapted = get_peft_model(
            loading.load(tmp_path / "grown"), LoraConfig(r=2, target_modules=["q_proj"], **settings)
        )
        adapted.get_output_embeddings().bias = None
        loss = adapted(
            input_ids=torch.tensor([[1, number, 7, number]]),
            labels=torch.tensor([[1, number, 7, number]]),
        ).loss
        loss.backward()
        with torch.no_grad():
            for parameter in adapted.parameters():
                parameter -= parameter.grad if parameter.grad is not None else 0
        merged = merging.merge_onto(adapted, tmp_path / "grown", tmp_path / train, ids)
        table = merged.get_input_embeddings().weight
        assert torch.equal(merged.get_output_embeddings().weight, table)
        assert not torch.equal(table[number], model.get_input_embeddings().weight[number])
        assert torch.equal(
            table[: len(base)], model.get_input_embeddings().weight[: len(base)]
        ) == (train == "new_rows")


def test_new_rows_begin_as_asked(tiny):
    base, tokenizer, added = grown(tiny)
    number, old = (
        tokenizer.convert_tokens_to_ids(added[0]),
        loading.load(tiny).get_input_embeddings().weight,
    )
    mean = (
        embeddings.resize_vocabulary(loading.load(tiny), base, tokenizer, 64, "mean")
        .get_input_embeddings()
        .weight[number]
    )
    assert torch.allclose(mean, old[: len(base)].mean(0))
    first, second = (
        embeddings.resize_vocabulary(loading.load(tiny), base, tokenizer, 64, "normal", seed)
        .get_input_embeddings()
        .weight[number]
        for seed in (1, 2)
    )
    assert not torch.equal(first, second)
    assert 0.3 < first.std() / loading.load(tiny).config.initializer_range < 3
    with pytest.raises(ValueError, match="not as 'zeros'"):
        embeddings.resize_vocabulary(loading.load(tiny), base, tokenizer, 64, "zeros")


def test_special_tokens_begin_as_their_text(tiny):
    base, tokenizer, _ = grown(tiny)
    tokenizer.add_special_tokens({"additional_special_tokens": ["<|Human|>", "<|用户|>"]})
    model, old = (
        embeddings.resize_vocabulary(loading.load(tiny), base, tokenizer),
        loading.load(tiny).get_input_embeddings().weight,
    )
    for token in ("<|Human|>", "<|用户|>"):
        parts = base(token, add_special_tokens=False)["input_ids"]
        assert len(parts) > 2
        assert torch.allclose(
            model.get_input_embeddings().weight[tokenizer.convert_tokens_to_ids(token)],
            old[parts].mean(0),
            atol=1e-6,
        )


def test_what_does_not_belong_together_is_refused(tiny):
    base, tokenizer, _ = grown(tiny)
    small = loading.load(tiny)
    small.resize_token_embeddings(100)
    with pytest.raises(
        ValueError, match=r"the model has 100 rows and the base's tokenizer [0-9,]+ tokens"
    ):
        embeddings.resize_vocabulary(small, base, tokenizer)
    with pytest.raises(ValueError, match="does not begin with the base's"):
        embeddings.resize_vocabulary(loading.load(tiny), tokenizer, base)
    with pytest.raises(
        ValueError,
        match="there are no new rows to train: the base has 300 tokens and the tokenizer 300",
    ):
        embeddings.embedding_settings(small, "new_rows", 300, 300)
    with pytest.raises(ValueError, match="not 'some'"):
        embeddings.embedding_settings(small, "some", 1, 2)


@pytest.mark.parametrize("train", ["full", "new_rows"])
def test_an_adapter_of_another_vocabulary_is_refused(tiny, tmp_path, train):
    base, tokenizer, _ = grown(tiny)
    model = embeddings.resize_vocabulary(loading.load(tiny), base, tokenizer, 512)
    model = get_peft_model(
        model,
        LoraConfig(
            r=4,
            target_modules=["q_proj"],
            **embeddings.embedding_settings(model, train, len(base), 500),
        ),
    )
    model.save_pretrained(tmp_path)
    with pytest.raises(
        ValueError, match=r"was trained with (512|500) rows of embeddings, the base has 384"
    ):
        adapters.attach(loading.load(tiny), tmp_path)


def test_padded_rows_are_never_cut(tiny):
    model = loading.load(tiny)
    model.resize_token_embeddings(1024)
    base, tokenizer, _ = grown(tiny)
    assert (
        embeddings.resize_vocabulary(model, base, tokenizer, 64)
        .get_input_embeddings()
        .weight.shape[0]
        == 1024
    )


def test_a_byte_level_model_without_bos(tmp_path):
    """A Qwen2 in small: byte-level, tied, padded beyond its tokenizer, no BOS.

    Extended, grown, its new rows trained, read and asked.
    """
    base = byte_level_base(ENGLISH + CHINESE[:5])
    torch.manual_seed(3)
    Qwen2ForCausalLM(
        Qwen2Config(
            vocab_size=512,
            hidden_size=32,
            intermediate_size=64,
            num_hidden_layers=2,
            num_attention_heads=2,
            num_key_value_heads=1,
            max_position_embeddings=128,
            tie_word_embeddings=True,
        )
    ).save_pretrained(tmp_path / "base")
    tokenizer, added = vocabulary.extend(base, vocabulary.learn(base, CHINESE, 300), "")
    model, old = loading.load(tmp_path / "base"), loading.load(tmp_path / "base")
    ids = tokenization.plain(base, ENGLISH[:1])[0][:40]
    before = generation.logits(model, ids)[:, : len(base)]
    model = embeddings.resize_vocabulary(model, base, tokenizer)
    table, number = model.get_input_embeddings().weight, tokenizer.convert_tokens_to_ids(added[-1])
    assert table.shape[0] == 768
    assert torch.equal(generation.logits(model, ids)[:, : len(base)], before)
    parts = tokenization.plain(base, [tokenizer.decode([number])])[0]
    assert len(parts) > 1
    assert torch.allclose(
        table[number], old.get_input_embeddings().weight[parts].mean(0), atol=1e-6
    )
    model.save_pretrained(tmp_path / "grown")
    rows = packing.packed(tmp_path / "rows.arrow", tokenization.encode(tokenizer, CHINESE[:40]), 64)
    lora = LoraConfig(
        r=4,
        target_modules=["q_proj"],
        **embeddings.embedding_settings(model, "new_rows", len(base), len(tokenizer)),
    )
    bits = likelihood.bits_per_character(model, tokenizer, CHINESE[:20])
    args = SFTConfig(
        output_dir=str(tmp_path / "out"),
        max_steps=20,
        learning_rate=1e-2,
        report_to="none",
        max_length=None,
        dataset_kwargs={"skip_prepare_dataset": True},
        bf16=False,
    )
    trainer = fit.fit(
        SFTTrainer,
        extensions=[PackedRows(), SourceLoss(), TokenMeter()],
        log=tmp_path / "log.jsonl",
        model=model,
        args=args,
        train_dataset=rows,
        peft_config=lora,
        processing_class=tokenizer,
    )
    merged = merging.merge_onto(trainer.model, tmp_path / "grown", tmp_path / "adapter", ids)
    assert likelihood.bits_per_character(merged, tokenizer, CHINESE[:20]) < 0.9 * bits
    assert torch.equal(
        merged.get_input_embeddings().weight[: len(base)],
        old.get_input_embeddings().weight[: len(base)],
    )
    assert generation.sample_texts(merged, tokenizer, 2, 8, 1)
    assert isinstance(generation.complete_text(merged, tokenizer, "证券", 4), str)
    for name in ("plain", "xuanyuan", "zhilu", "cornucopia"):
        tokenizer.chat_template = templates.chat_template(name)
        assert "None" not in tokenizer.apply_chat_template(
            [{"role": "user", "content": "你好"}], tokenize=False, add_generation_prompt=True
        )


def adapter(tiny, **settings):
    torch.manual_seed(1)
    model = get_peft_model(
        loading.load(tiny),
        LoraConfig(
            r=4,
            target_modules=["q_proj", "down_proj"],
            modules_to_save=["embed_tokens", "lm_head"],
            **settings,
        ),
    )
    for parameter in model.parameters():
        if parameter.requires_grad:
            parameter.data += 0.05 * torch.randn_like(parameter)
    return model


def test_merged_equals_adapted_and_loads_plainly(tiny, tmp_path):
    model = adapter(tiny)
    ids = [1, 7, 9, 11, 30]
    expected = generation.logits(model, ids)
    assert (expected - generation.logits(loading.load(tiny), ids)).abs().max() > 1e-2, (
        "the adapter must change something"
    )
    merged = merging.merge_onto(model, tiny, tmp_path / "adapter", ids)
    merged.save_pretrained(tmp_path / "model")
    assert torch.allclose(
        generation.logits(loading.load(tmp_path / "model"), ids), expected, atol=1e-4
    )
    assert (tmp_path / "adapter/adapter_model.safetensors").stat().st_size > 384 * 64 * 2 * 4, (
        "trained embeddings must be in the adapter"
    )


def test_an_adapter_knows_its_base(tiny, tmp_path):
    """Loaded by its folder it brings its base along.

    A base with other weights is refused by hash, the same weights in other files are not.
    """
    model = adapter(tiny)
    expected = generation.logits(model, [1, 5, 6])
    merging.merge_onto(model, tiny, tmp_path / "adapter", [1, 5, 6])
    loaded = loading.load(tmp_path / "adapter")
    assert torch.allclose(generation.logits(loaded, [1, 5, 6]), expected, atol=1e-5)
    copied = loading.load(tiny)
    copied.save_pretrained(tmp_path / "copy", max_shard_size="50KB")
    assert len(list((tmp_path / "copy").glob("*.safetensors"))) > 1
    assert folders.fingerprint(tmp_path / "copy") == folders.fingerprint(tiny)
    adapters.attach(loading.load(tmp_path / "copy"), tmp_path / "adapter")
    with torch.no_grad():
        copied.lm_head.weight[0, 0] += 1e-3
    copied.save_pretrained(tmp_path / "other")
    with pytest.raises(
        ValueError,
        match="was trained on another base than .*other: its weights have another SHA-256",
    ):
        adapters.attach(loading.load(tmp_path / "other"), tmp_path / "adapter")
    with torch.no_grad():
        copied.lm_head.weight.mul_(5)
        copied.model.layers[0].mlp.up_proj.weight.mul_(5)
    copied.save_pretrained(tmp_path / "wrong")
    with pytest.raises(ValueError, match="from those of the model that was trained"):
        merging.merge_onto(adapter(tiny), tmp_path / "wrong", tmp_path / "new", [1, 5, 6])
    (tmp_path / "adapter/base.json").unlink()
    with pytest.raises(ValueError, match="does not say where its base is"):
        loading.load(tmp_path / "adapter")


@pytest.mark.parametrize(
    "rope", [{}, {"rope_type": "linear"}, {"rope_type": "yarn"}, {"rope_base": 80000.0}], ids=str
)
def test_a_longer_context_is_read_trained_and_saved(tiny, tmp_path, rope):
    config = loading.extend_context(tiny, 512, **rope)
    model = loading.load(tiny, config=config)
    assert model.config.max_position_embeddings == 512
    if rope:
        assert not torch.allclose(
            generation.logits(model, list(range(3, 90))),
            generation.logits(loading.load(tiny), list(range(3, 90))),
            atol=1e-4,
        ), "positions must have changed"
    lora = get_peft_model(
        model, LoraConfig(r=4, target_modules=["q_proj"], init_lora_weights=False)
    )
    merged = merging.merge_onto(
        lora, tiny, tmp_path / "adapter", list(range(3, 90))
    )  # refused if the merged model forgot the new positions
    merged.save_pretrained(tmp_path / "model")
    if (
        "rope_type" in rope
    ):  # lengthened again, it goes on from the first context, not from the second
        assert (
            loading.extend_context(tmp_path / "model", 1024, **rope).rope_parameters["factor"]
            == 8.0
        )
    again = loading.load(tmp_path / "model")
    assert again.config.max_position_embeddings == 512
    assert again.config.rope_parameters == config.rope_parameters
    assert torch.allclose(
        generation.logits(again, list(range(3, 90))),
        generation.logits(lora, list(range(3, 90))),
        atol=1e-4,
    )


def test_contexts_that_make_no_sense_are_refused(tiny, tmp_path):
    for settings, message in (
        ({"context": 64}, "64 would shorten it"),
        ({"rope_type": "yarn"}, "set context above 128"),
        ({"context": 256, "rope_type": "alibi"}, "not 'alibi'"),
    ):
        with pytest.raises(ValueError, match=message):
            loading.extend_context(tiny, **settings)
    other = loading.load(tiny)
    other.config.rope_parameters = {"rope_type": "dynamic", "factor": 2.0, "rope_theta": 10000.0}
    other.config.save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="scaled by dynamic already"):
        loading.extend_context(tmp_path, 512, "yarn")


def test_quantised_base_is_not_merged_into(tiny):
    model = adapter(tiny)
    model.get_base_model().hf_quantizer = object()
    with pytest.raises(ValueError, match="the base is quantised"):
        merging.merge(model, [1, 5, 6])


def test_bad_folders(tmp_path):
    with pytest.raises(ValueError, match="holds no config.json"):
        folders.fetch(str(tmp_path))
    with pytest.raises(ValueError, match="neither a folder"):
        folders.fetch("nobody/nothing")
    with pytest.raises(ValueError, match="no model at"):
        loading.load(tmp_path)


def rewrite(folder, change):
    """Change the tensors of a saved model in place."""
    tensors = load_file(folder / "model.safetensors")
    save_file(change(tensors), folder / "model.safetensors", {"format": "pt"})


def without_a_layer(tensors):
    return {name: each for name, each in tensors.items() if ".layers.0." not in name}


def under_another_prefix(tensors):
    return {f"transformer.{name}": each for name, each in tensors.items()}


def with_nan(tensors):
    tensors["model.norm.weight"][0] = float("nan")
    return tensors


def with_one_too_many(tensors):
    return tensors | {"model.layers.9.mlp.up_proj.weight": torch.ones(2, 2)}


def with_another_shape(tensors):
    return tensors | {"model.norm.weight": torch.ones(5)}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (without_a_layer, "are missing (model.layers.0"),
        (under_another_prefix, "are missing"),
        (with_nan, "are not finite (model.norm.weight)"),
        (with_one_too_many, "belong to nothing in it (model.layers.9"),
        (with_another_shape, "have another shape"),
    ],
)
def test_a_model_that_is_not_whole_is_refused(tiny, tmp_path, change, message):
    folder = tmp_path / "model"
    shutil.copytree(tiny, folder)
    rewrite(folder, change)
    with pytest.raises(ValueError, match=re.escape(message)):
        loading.load(folder)


def test_a_config_of_more_layers_than_there_are_is_refused(tiny, tmp_path):
    folder = tmp_path / "model"
    shutil.copytree(tiny, folder)
    config = files.read_json(folder / "config.json")
    config["num_hidden_layers"] += 1
    files.write_json(folder / "config.json", config)
    with pytest.raises(ValueError, match="is not whole: tensors are missing"):
        loading.load(folder)


def test_tensors_that_old_llamas_saved_with_them_are_no_fault(tiny, tmp_path):
    folder = tmp_path / "model"
    shutil.copytree(tiny, folder)
    extra = {"model.layers.0.self_attn.rotary_emb.inv_freq": torch.ones(4)}
    rewrite(folder, lambda tensors: tensors | extra)
    loading.load(folder)


@pytest.mark.parametrize("load", [loading.load, loading.read_config])
def test_code_from_elsewhere_is_never_run(tiny, tmp_path, load, monkeypatch):
    """Nobody is asked on the terminal either: a batch run would wait for ever."""
    monkeypatch.setattr("builtins.input", lambda *words: pytest.fail("somebody was asked"))
    folder = tmp_path / "model"
    shutil.copytree(tiny, folder)
    config = files.read_json(folder / "config.json")
    config["model_type"] = "stranger"
    config["auto_map"] = {"AutoConfig": "strange.Config", "AutoModelForCausalLM": "strange.Model"}
    files.write_json(folder / "config.json", config)
    ran = tmp_path / "ran"
    (folder / "strange.py").write_text(f"open({str(ran)!r}, 'w')")
    with pytest.raises(ValueError, match="no model at"):
        load(folder)
    assert not ran.exists()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "is broken: write"),
        ("[1]", "is broken: write|does not say where its base is"),
        ('{"base": "."}', "does not say where its base is"),
        ('{"base": "../other"}', "names another adapter as its base"),
    ],
)
def test_an_adapter_without_a_sound_base_is_refused(tiny, tmp_path, content, message):
    merging.merge_onto(adapter(tiny), tiny, tmp_path / "adapter", [1, 5, 6])
    shutil.copytree(tmp_path / "adapter", tmp_path / "other")
    (tmp_path / "adapter/base.json").write_text(content)
    with pytest.raises(ValueError, match=message):
        loading.load(tmp_path / "adapter")


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("model.safetensors", b""),
        ("model.safetensors", b"version https://git-lfs.github.com/spec/v1"),
        ("config.json", b'{"model_type": "llama", "hidden_size": "abc"}'),
        ("config.json", b'{"model_type": "llama", "num_attention_heads": 0}'),
        ("config.json", b"[]"),
    ],
)
def test_broken_files_of_a_model_are_named_in_a_sentence(tiny, tmp_path, name, content):
    folder = tmp_path / "model"
    shutil.copytree(tiny, folder)
    (folder / name).write_bytes(content)
    with pytest.raises(ValueError, match="no model at"):
        loading.load(folder)


@pytest.mark.parametrize("content", ["[]", "{", ""])
def test_a_broken_tokenizer_is_named_in_a_sentence(tiny, tmp_path, content):
    folder = tmp_path / "model"
    shutil.copytree(tiny, folder)
    (folder / "tokenizer.json").write_text(content)
    with pytest.raises(ValueError, match="no tokenizer in"):
        tokenization.load(folder)


def test_description_loads_no_weights(tiny):
    row = loading.describe(tiny, ["澄江重工"])
    assert row["parameters"] == loading.parameter_counts(loading.load(tiny))["total"]
    assert row["vocabulary"] == 384
    assert row["context"] == 128


def test_saved_models_are_found(tiny, tmp_path):
    for name in ("stage1/model", "stage2/model", "int8"):
        (tmp_path / name).mkdir(parents=True)
        (tmp_path / name / "config.json").write_text("{}")
    (tmp_path / "model").symlink_to("stage2/model")
    (tmp_path / "stage1/adapter").mkdir()
    (tmp_path / "stage1/adapter/base.json").write_text("{}")
    assert sorted(folders.saved_models("sft", tmp_path)) == ["sft", "sft/int8", "sft/stage1"]
    assert sorted(folders.saved_models("sft", tmp_path, adapters=True)) == [
        "sft",
        "sft/int8",
        "sft/stage1",
        "sft/stage1/adapter",
    ]


def test_real_tiny_base(data):
    """stories260K: greedy decoding gives a fluent story, so loading and RoPE are right."""
    folder = data / "models/stories260K-hf"
    text = generation.complete_text(
        loading.load(folder), tokenization.load(folder), "Once upon a time, there was a little", 20
    )
    assert text.split()[0] in ("girl", "boy")
    assert "named" in text
