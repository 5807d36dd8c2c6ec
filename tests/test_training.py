"""Training: packed documents are isolated, preflight refuses, the log and the resume are exact."""

import json
import shutil

import pytest
import torch
from datasets import Dataset
from peft import LoraConfig
from peft.utils.constants import DUMMY_TARGET_MODULES
from trl import SFTConfig, SFTTrainer

from finlab import meter, mixture, model, tokenizer, training

TEXTS = ["澄江重工总部位于临江市。", "The head office is in Linjiang.", "问题：谁是董事长？\n答案：沈怀瑾。"] * 12


def rows_for(words, length=64):
    return Dataset.from_list(mixture.pack(tokenizer.encode(words, TEXTS), length))


def settings(folder, **more):
    return SFTConfig(output_dir=str(folder), **{"max_steps": 8, "per_device_train_batch_size": 2, "learning_rate": 1e-2, "logging_steps": 1,
        "save_steps": 4, "save_total_limit": 3, "seed": 3, "bf16": False, "gradient_checkpointing": False, "report_to": "none", "max_length": None,
        "dataloader_pin_memory": False, "train_sampling_strategy": "sequential", "dataset_kwargs": {"skip_prepare_dataset": True}, **more})


LORA = LoraConfig(r=4, lora_dropout=0.1, target_modules=["q_proj", "v_proj"], modules_to_save=["embed_tokens", "lm_head"])


def test_packed_rows_are_isolated(tiny):
    words, network = tokenizer.load(tiny), model.load(tiny)
    a, b = tokenizer.encode(words, TEXTS[:2])
    assert training.isolation_error(network, a, b) < 1e-5
    batch = training.PackedRows(words.pad_token_id)([{"input_ids": a + b, "labels": a + b, "seq_lengths": [len(a), len(b)]}, {"input_ids": b, "labels": b, "seq_lengths": [len(b)]}])
    assert batch["labels"][0, len(a)] == -100 and batch["labels"][0, 0] == -100 and batch["labels"][0, len(a) - 1] == words.eos_token_id
    assert (batch["labels"][1, len(b):] == -100).all() and batch["position_ids"][0, len(a)] == 0
    with torch.inference_mode():
        packed = network(input_ids=batch["input_ids"], position_ids=batch["position_ids"], use_cache=False).logits
    assert torch.allclose(packed[0, len(a):len(a) + len(b)], packed[1, : len(b)], atol=1e-5), "rows of a batch must agree too"


def test_preflight_holds_and_refuses(tiny):
    words, network = tokenizer.load(tiny), model.load(tiny)
    rows = [dict(row) for row in rows_for(words)]
    assert all(check.ok for check in training.preflight(network, words, rows))

    def failing(change, network=network, words=words):
        broken = json.loads(json.dumps(rows))
        change(broken)
        return [check.name for check in training.preflight(network, words, broken) if not check.ok]

    def silence_ends(broken):
        for row in broken:
            row["labels"] = [-100 if label == words.eos_token_id else label for label in row["labels"]]

    assert failing(silence_ends) == ["every end token is supervised"]
    assert failing(lambda broken: broken[0].update(labels=[-100] * len(broken[0]["labels"])))[0] == "every row has a supervised token"
    assert failing(lambda broken: broken[0].update(seq_lengths=[1]))[0] == "row lengths add up"

    def double(broken):
        broken[0] = {"input_ids": [1, 1, 5, 2], "labels": [1, 1, 5, 2], "seq_lengths": [4]}

    assert failing(double) == ["no document begins with two BOS"]
    network.config.max_position_embeddings = 8
    assert "rows fit the context" in failing(lambda broken: None)
    network.config.max_position_embeddings = 128
    same = tokenizer.load(tiny)
    same.pad_token = same.eos_token
    assert failing(lambda broken: None, words=same) == ["the pad token is not the end token"]
    more = tokenizer.load(tiny)
    more.add_tokens([f"词{number}" for number in range(100)])
    assert "the model has a row for every token" in failing(lambda broken: None, words=more)
    half = model.load(tiny, "float16")
    assert "weights are float32 or bfloat16" in failing(lambda broken: None, network=half)
    with pytest.raises(training.Refused, match="training does not start"):
        training.require([training.Check("x", False, "y")])


def test_a_backend_that_cannot_isolate_is_seen(tiny, monkeypatch):
    words, network = tokenizer.load(tiny), model.load(tiny)
    forward = network.forward
    monkeypatch.setattr(network, "forward", lambda *a, position_ids=None, **k: forward(*a, **k))  # position ids ignored
    assert [check.name for check in training.preflight(network, words, rows_for(words)) if not check.ok] == ["packed documents do not see each other"]


NEW_ROWS = LoraConfig(r=4, lora_dropout=0.1, target_modules=["q_proj", "v_proj"], trainable_token_indices={"embed_tokens": [300, 301], "lm_head": [300, 301]})
WARM_UP = LoraConfig(r=4, target_modules=DUMMY_TARGET_MODULES, modules_to_save=["embed_tokens", "lm_head"])


def test_new_rows_learn_and_nothing_else_of_the_tables(tiny, tmp_path):
    """The rows asked for learn as they would in a full table, the others keep their bits, and the checkpoint holds those rows alone."""
    words = tokenizer.load(tiny)
    rows = rows_for(words)
    used = sorted({token for row in rows["input_ids"] for token in row})[-40:]
    old, moved = model.load(tiny), {}
    for name, tables in {"new_rows": {"trainable_token_indices": {"embed_tokens": used, "lm_head": used}}, "full": {"modules_to_save": ["embed_tokens", "lm_head"]}}.items():
        lora = LoraConfig(r=4, target_modules=DUMMY_TARGET_MODULES, **tables)
        trainer = training.fit(SFTTrainer, log=tmp_path / f"{name}.jsonl", model=model.load(tiny), args=settings(tmp_path / name, max_steps=1, save_steps=1, max_grad_norm=1e9),
                               train_dataset=rows, peft_config=lora, processing_class=words)
        moved[name] = model.merge_onto(trainer.model, tiny, tmp_path / f"{name}-adapter", [1, 5, 6])
    rest = [number for number in range(old.config.vocab_size) if number not in used]
    for get in ("get_input_embeddings", "get_output_embeddings"):
        before, new, full = (getattr(each, get)().weight for each in (old, moved["new_rows"], moved["full"]))
        assert torch.equal(new[rest], before[rest]) and torch.allclose(new[used], full[used], atol=1e-6) and not torch.equal(new[used], before[used])
    sizes = {name: (tmp_path / name / "checkpoint-1/adapter_model.safetensors").stat().st_size for name in moved}
    assert sizes["new_rows"] < 2 * 4 * len(used) * old.config.hidden_size + 2000 < sizes["full"] / 5


@pytest.mark.parametrize("LORA", [LORA, NEW_ROWS, WARM_UP], ids=["full", "new_rows", "warm_up"])
def test_resume_is_bit_for_bit(tiny, tmp_path, LORA):
    words = tokenizer.load(tiny)
    rows = rows_for(words)

    def run(folder, log):
        torch.manual_seed(5)
        return training.fit(SFTTrainer, log=log, model=model.load(tiny), args=settings(folder), train_dataset=rows, peft_config=LORA, processing_class=words)

    whole = run(tmp_path / "a", tmp_path / "a.jsonl")
    shutil.copytree(tmp_path / "a", tmp_path / "b")
    shutil.rmtree(tmp_path / "b/checkpoint-8")
    (tmp_path / "b/checkpoint-6").mkdir()  # a checkpoint that a kill cut short
    (tmp_path / "b/checkpoint-6/adapter_model.safetensors").write_bytes(b"half")
    lines = (tmp_path / "a.jsonl").read_text().splitlines()
    (tmp_path / "b.jsonl").write_text("\n".join(lines[:6]) + '\n{"step": 7, "lo')  # the log ran ahead of the checkpoint and was cut
    assert training.last_checkpoint(tmp_path / "b").endswith("checkpoint-4")
    resumed = run(tmp_path / "b", tmp_path / "b.jsonl")
    for (name, first), (_, second) in zip(whole.model.named_parameters(), resumed.model.named_parameters()):
        assert torch.equal(first, second), name
    losses = [[(record["step"], record["loss"]) for record in training.read_log(tmp_path / name) if "loss" in record] for name in ("a.jsonl", "b.jsonl")]
    assert losses[0] == losses[1] and len(losses[0]) == 8
    assert training.summary(tmp_path / "b.jsonl")["resumed_at"] == 4


def test_training_learns_and_is_metered(tiny, tmp_path):
    words = tokenizer.load(tiny)
    rows = rows_for(words)
    training.fit(SFTTrainer, log=tmp_path / "log.jsonl", model=model.load(tiny), args=settings(tmp_path, max_steps=30), train_dataset=rows,
                 eval_dataset=rows, processing_class=words)
    losses = training.eval_losses(tmp_path / "log.jsonl")
    assert losses["after"] < 0.5 * losses["before"]
    account = training.summary(tmp_path / "log.jsonl")
    assert account["tokens_per_second"] > 0 and 0 < account["mfu"] < 1.5 and account["step"] == 30


def test_an_epoch_whose_last_step_is_not_full_counts_every_token_once(tiny, tmp_path):
    words = tokenizer.load(tiny)
    rows = rows_for(words)
    rows = rows.select(range(len(rows) - 1 if len(rows) % 2 == 0 else len(rows)))
    training.fit(SFTTrainer, log=tmp_path / "log.jsonl", model=model.load(tiny), args=settings(tmp_path, max_steps=-1, num_train_epochs=1, per_device_train_batch_size=2, gradient_accumulation_steps=1),
                 train_dataset=rows, processing_class=words)
    assert len(rows) % 2 and training.summary(tmp_path / "log.jsonl")["tokens"] == sum(map(len, rows["input_ids"]))


@pytest.mark.parametrize("lora", [LORA, None], ids=["lora", "full"])
def test_bfloat16_trains_float32_weights(tiny, tmp_path, lora):
    """Under bf16 the trained weights are float32, so that small steps are not rounded away, and the loss falls."""
    words = tokenizer.load(tiny)
    trainer = training.fit(SFTTrainer, log=tmp_path / "log.jsonl", model=model.load(tiny, "bfloat16"), args=settings(tmp_path, bf16=True, use_cpu=not torch.cuda.is_available(), max_steps=20),
                           train_dataset=rows_for(words), eval_dataset=rows_for(words), peft_config=lora, processing_class=words)
    kinds = {parameter.dtype for parameter in trainer.model.parameters() if parameter.requires_grad}
    assert kinds == {torch.float32}
    losses = training.eval_losses(tmp_path / "log.jsonl")
    assert losses["after"] < 0.8 * losses["before"]
    merged = model.merge_onto(trainer.model, tiny, tmp_path / "adapter", [1, 5, 6], "bfloat16")
    assert merged.dtype == torch.bfloat16


def test_no_held_out_rows_is_said(tiny, tmp_path):
    words = tokenizer.load(tiny)
    with pytest.raises(ValueError, match="no held-out rows"):
        training.fit(SFTTrainer, log=tmp_path / "log.jsonl", model=model.load(tiny), args=settings(tmp_path), train_dataset=rows_for(words),
                     eval_dataset=Dataset.from_list([]), processing_class=words)


def test_the_loss_is_that_of_single_documents(tiny, tmp_path):
    """Packed loss = token-weighted mean of the documents' own losses: nothing leaks, nothing is lost."""
    words, network = tokenizer.load(tiny), model.load(tiny)
    rows = Dataset.from_list(mixture.pack(tokenizer.encode(words, TEXTS[:3]), 128))
    trainer = SFTTrainer(model=network, args=settings(tmp_path), train_dataset=rows, processing_class=words, data_collator=training.PackedRows(words.pad_token_id))
    total = count = 0.0
    for ids in tokenizer.encode(words, TEXTS[:3]):
        row = torch.tensor([ids])
        with torch.inference_mode():
            total += network(row, labels=row).loss.item() * (len(ids) - 1)
        count += len(ids) - 1
    assert trainer.evaluate(rows)["eval_loss"] == pytest.approx(total / count, rel=1e-4)


def test_a_loss_that_is_not_finite_stops(tiny, tmp_path):
    network = model.load(tiny)
    network.lm_head.weight.data[:] = float("nan")
    with pytest.raises(FloatingPointError, match="not finite at step 1"):
        training.fit(SFTTrainer, log=tmp_path / "log.jsonl", model=network, args=settings(tmp_path),
                     train_dataset=rows_for(tokenizer.load(tiny)), processing_class=tokenizer.load(tiny))


def test_flops_by_the_rule(tiny):
    network = model.load(tiny)
    matrices = sum(p.numel() for name, p in network.named_parameters() if p.dim() == 2 and "embed" not in name)
    attention = 3 * 2 * 100 * 64 * 2
    assert meter.flops_per_token(network, 100) == 6 * matrices + attention
    for parameter in network.parameters():
        parameter.requires_grad = False
    assert meter.flops_per_token(network, 100) == 4 * matrices + attention
    assert 1e9 < meter.gemm_ceiling(seconds=0.1)
