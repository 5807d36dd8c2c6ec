"""Training: packed documents are isolated, preflight refuses, the log and the resume are exact."""

import copy
import json
import math
import os
import shutil
import signal

import pytest
import torch
from datasets import Dataset, concatenate_datasets
from peft import LoraConfig
from peft.utils.constants import DUMMY_TARGET_MODULES
from transformers import BitsAndBytesConfig, TrainerCallback
from trl import SFTConfig, SFTTrainer

from finlab import chat, evaluate, meter, mixture, model, tokenizer, training
from tests.conftest import untimed

TEXTS = ["澄江重工总部位于临江市。", "The head office is in Linjiang.", "问题：谁是董事长？\n答案：沈怀瑾。"] * 12


@pytest.fixture
def rows_for(tmp_path_factory):
    """Make packed rows of the sentences above, each from one of three sources."""
    def made(words, length=64, buckets=(), texts=TEXTS):
        tokens = tokenizer.encode(words, texts)
        plan = mixture.pack([len(ids) for ids in tokens], length, buckets=buckets, step_rows=2)
        return mixture.write(tmp_path_factory.mktemp("rows") / "rows.arrow", plan, tokens, sources=[("a", "b", "c")[number % 3] for number in range(len(texts))], buckets=buckets)

    return made


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


def test_preflight_holds_and_refuses(tiny, rows_for):
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
    def cut_answer(broken):  # a dialogue without its end: its question masked, its last token not the end
        broken[0] = {"input_ids": [1, 5, 6, 7, 8, 9], "labels": [-100, -100, 6, 7, 8, 9], "seq_lengths": [6]}

    assert failing(cut_answer) == ["no answer's end is cut away"]

    def dialogue(broken):
        broken[0] = {"input_ids": [1, 5, 6, 2], "labels": [-100, -100, 6, 2], "seq_lengths": [4]}

    spoken = tokenizer.load(tiny)
    spoken.chat_template = chat.template("plain")
    assert failing(dialogue, words=spoken) == []
    spoken.chat_template = spoken.chat_template.replace("{{- '问题：' + message.content + '\\n答案：' -}}", "{{- '问题：' + message.content -}}") + "{%- if add_generation_prompt -%}{{- ' \n答案' -}}{%- endif -%}"
    assert failing(dialogue, words=spoken) == ["a prompt has the same tokens in training and in use"]
    assert "every token has a row" in failing(lambda broken: broken[0].update(input_ids=[1, 5, 900, 2], labels=[1, 5, 900, 2], seq_lengths=[4]))
    tied = model.load(tiny)
    tied.config.tie_word_embeddings = True
    assert failing(lambda broken: None, network=tied) == ["tied tables are one table"]
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


def test_a_backend_that_cannot_isolate_is_seen(tiny, monkeypatch, rows_for):
    words, network = tokenizer.load(tiny), model.load(tiny)
    forward = network.forward
    monkeypatch.setattr(network, "forward", lambda *a, position_ids=None, **k: forward(*a, **k))  # position ids ignored
    assert [check.name for check in training.preflight(network, words, rows_for(words)) if not check.ok] == ["packed documents do not see each other"]


NEW_ROWS = LoraConfig(r=4, lora_dropout=0.1, target_modules=["q_proj", "v_proj"], trainable_token_indices={"embed_tokens": [300, 301], "lm_head": [300, 301]})
WARM_UP = LoraConfig(r=4, target_modules=DUMMY_TARGET_MODULES, modules_to_save=["embed_tokens", "lm_head"])


def test_new_rows_learn_and_nothing_else_of_the_tables(tiny, tmp_path, rows_for):
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
def test_resume_is_bit_for_bit(tiny, tmp_path, LORA, rows_for):
    words = tokenizer.load(tiny)
    rows = rows_for(words)

    def run(folder, log):
        torch.manual_seed(5)
        return training.fit(SFTTrainer, log=log, model=model.load(tiny), args=settings(folder), train_dataset=rows, peft_config=LORA, processing_class=words)

    whole = run(tmp_path / "a", tmp_path / "a.jsonl")
    shutil.copytree(tmp_path / "a", tmp_path / "b")
    shutil.rmtree(tmp_path / "b/checkpoint-8")
    (tmp_path / "b/checkpoint-6").mkdir()  # a checkpoint that a kill cut short
    (tmp_path / "b/checkpoint-6/trainer_state.json").write_text("{}")  # all but what is written last
    lines = (tmp_path / "a.jsonl").read_text().splitlines()
    (tmp_path / "b.jsonl").write_text("\n".join(lines[:6]) + '\n{"step": 7, "lo')  # the log ran ahead of the checkpoint and was cut
    assert training.last_checkpoint(tmp_path / "b").endswith("checkpoint-4")
    resumed = run(tmp_path / "b", tmp_path / "b.jsonl")
    for (name, first), (_, second) in zip(whole.model.named_parameters(), resumed.model.named_parameters()):
        assert torch.equal(first, second), name
    losses = [[(record["step"], record["loss"]) for record in training.read_log(tmp_path / name) if "loss" in record] for name in ("a.jsonl", "b.jsonl")]
    assert losses[0] == losses[1] and len(losses[0]) == 8
    assert training.summary(tmp_path / "b.jsonl")["resumed_at"] == 4


def test_training_learns_and_is_metered(tiny, tmp_path, rows_for):
    words = tokenizer.load(tiny)
    rows = rows_for(words)
    training.fit(SFTTrainer, log=tmp_path / "log.jsonl", model=model.load(tiny), args=settings(tmp_path, max_steps=30), train_dataset=rows,
                 eval_dataset=rows, processing_class=words)
    losses = training.eval_losses(tmp_path / "log.jsonl")
    assert losses["after"] < 0.5 * losses["before"]
    account = training.summary(tmp_path / "log.jsonl")
    assert account["tokens_per_second"] > 0 and 0 < account["mfu"] < 1.5 and account["step"] == 30


def test_an_epoch_whose_last_step_is_not_full_counts_every_token_once(tiny, tmp_path, rows_for):
    words = tokenizer.load(tiny)
    rows = rows_for(words)
    rows = rows.select(range(len(rows) - 1 if len(rows) % 2 == 0 else len(rows)))
    training.fit(SFTTrainer, log=tmp_path / "log.jsonl", model=model.load(tiny), args=settings(tmp_path, max_steps=-1, num_train_epochs=1, per_device_train_batch_size=2, gradient_accumulation_steps=1),
                 train_dataset=rows, processing_class=words)
    assert len(rows) % 2 and training.summary(tmp_path / "log.jsonl")["tokens"] == sum(map(len, rows["input_ids"]))


@pytest.mark.parametrize("lora", [LORA, None], ids=["lora", "full"])
def test_bfloat16_trains_float32_weights(tiny, tmp_path, lora, rows_for):
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


def test_no_held_out_rows_is_said(tiny, tmp_path, rows_for):
    words = tokenizer.load(tiny)
    with pytest.raises(ValueError, match="no held-out rows"):
        training.fit(SFTTrainer, log=tmp_path / "log.jsonl", model=model.load(tiny), args=settings(tmp_path), train_dataset=rows_for(words),
                     eval_dataset=Dataset.from_list([]), processing_class=words)


def test_the_loss_is_that_of_single_documents(tiny, tmp_path):
    """Packed loss = token-weighted mean of the documents' own losses: nothing leaks, nothing is lost."""
    words, network = tokenizer.load(tiny), model.load(tiny)
    rows = mixture.packed(tmp_path / "rows.arrow", tokenizer.encode(words, TEXTS[:3]), 128)
    trainer = SFTTrainer(model=network, args=settings(tmp_path), train_dataset=rows, processing_class=words, data_collator=training.PackedRows(words.pad_token_id))
    total = count = 0.0
    for ids in tokenizer.encode(words, TEXTS[:3]):
        row = torch.tensor([ids])
        with torch.inference_mode():
            total += network(row, labels=row).loss.item() * (len(ids) - 1)
        count += len(ids) - 1
    assert trainer.evaluate(rows)["eval_loss"] == pytest.approx(total / count, rel=1e-4)


def test_a_loss_that_is_not_finite_stops(tiny, tmp_path, rows_for):
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


# --- stop and resume ------------------------------------------------------------------------------------------------
class AtStep(TrainerCallback):
    def __init__(self, step, act):
        self.step, self.act = step, act

    def on_step_begin(self, args, state, control, **kwargs):
        if state.global_step == self.step:
            self.step = None
            self.act(kwargs["model"])


@pytest.mark.parametrize("LORA", [LORA, NEW_ROWS], ids=["full", "new_rows"])
def test_sigterm_saves_at_the_steps_end_and_a_resume_is_exact(tiny, tmp_path, rows_for, LORA):
    """SIGTERM in step 6, between checkpoints and between log lines, with accumulation and held-out reads: weights and log are bit for bit those of one go."""
    words = tokenizer.load(tiny)
    rows = concatenate_datasets([rows_for(words), rows_for(words, texts=TEXTS[::-1])])  # two phases

    def run(name, *callbacks):
        args = settings(tmp_path / name, max_steps=-1, num_train_epochs=2, logging_steps=4, save_steps=4, gradient_accumulation_steps=2, per_device_train_batch_size=1,
                        eval_strategy="steps", eval_steps=3, lr_scheduler_type="cosine")
        return training.fit(SFTTrainer, log=tmp_path / f"{name}.jsonl", model=model.load(tiny), args=args, train_dataset=rows, eval_dataset=rows_for(words, texts=TEXTS[:5]),
                            peft_config=copy.deepcopy(LORA), processing_class=words, callbacks=list(callbacks), embedding_learning_rate=5e-3)

    whole = run("whole")
    handler = signal.getsignal(signal.SIGTERM)
    with pytest.raises(KeyboardInterrupt, match="stopped by SIGTERM after step 6 of"):
        run("stopped", AtStep(5, lambda _: os.kill(os.getpid(), signal.SIGTERM)))
    assert signal.getsignal(signal.SIGTERM) == handler
    assert training.last_checkpoint(tmp_path / "stopped").endswith("checkpoint-6")
    resumed = run("stopped")
    first, second = untimed(tmp_path / "whole.jsonl"), untimed(tmp_path / "stopped.jsonl")
    assert first == second and len([record for record in first if "loss" in record]) >= 3 and any("sources" in record for record in first)
    for (name, one), (_, other) in zip(whole.model.named_parameters(), resumed.model.named_parameters()):
        assert torch.equal(one, other), name
    assert training.summary(tmp_path / "stopped.jsonl")["resumed_at"] == 6
    again = run("stopped")  # as after a kill between training and the step's end: nothing is trained or written twice
    assert again.state.global_step == whole.state.global_step and untimed(tmp_path / "stopped.jsonl") == first
    assert len([record for record in training.read_log(tmp_path / "stopped.jsonl") if record.get("event") == "summary"]) == 1


def test_checkpoints_of_another_job_are_refused(tiny, tmp_path, rows_for):
    words = tokenizer.load(tiny)

    def run(**more):
        return training.fit(SFTTrainer, log=tmp_path / "log.jsonl", model=model.load(tiny), args=settings(tmp_path / "out", **{"max_steps": 2, "save_steps": 1} | more),
                            train_dataset=rows_for(words, texts=more.pop("texts", TEXTS)), peft_config=LORA, processing_class=words)

    run()
    with pytest.raises(ValueError, match="belongs to another job .learning_rate was 0.01, is 0.001.*or remove"):
        run(learning_rate=1e-3)
    with pytest.raises(ValueError, match="adapter's r was 4, is 8"):
        training.fit(SFTTrainer, log=tmp_path / "log.jsonl", model=model.load(tiny), args=settings(tmp_path / "out", max_steps=2, save_steps=1), train_dataset=rows_for(words),
                     peft_config=LoraConfig(r=8, lora_dropout=0.1, target_modules=["q_proj", "v_proj"], modules_to_save=["embed_tokens", "lm_head"]), processing_class=words)
    with pytest.raises(ValueError, match="belongs to another job .rows was"):
        training.fit(SFTTrainer, log=tmp_path / "log.jsonl", model=model.load(tiny), args=settings(tmp_path / "out", max_steps=2), train_dataset=rows_for(words, texts=TEXTS[:9]),
                     peft_config=LORA, processing_class=words)


def test_a_loss_that_is_not_finite_names_step_and_sources(tiny, tmp_path, rows_for):
    """Only source b uses the poisoned token, so only b is named; the last good checkpoint stays the last."""
    words = tokenizer.load(tiny)
    token = next(token for token in tokenizer.encode(words, TEXTS[1:2])[0] if token not in {token for ids in tokenizer.encode(words, [TEXTS[0], TEXTS[2]]) for token in ids})

    def poison(network):
        network.get_base_model().model.embed_tokens.modules_to_save["default"].weight.data[token] = float("nan")

    with pytest.raises(FloatingPointError, match=r"not finite at step 6, in b \(the batch holds a, b, c\).*the last good checkpoint is .*checkpoint-4"):
        training.fit(SFTTrainer, log=tmp_path / "log.jsonl", model=model.load(tiny), args=settings(tmp_path / "out", save_steps=2), train_dataset=rows_for(words), peft_config=LORA,
                     processing_class=words, callbacks=[AtStep(5, poison)])


def test_weights_that_are_not_finite_are_not_saved(tiny, tmp_path, rows_for):
    words = tokenizer.load(tiny)

    class After(TrainerCallback):
        def on_optimizer_step(self, args, state, control, model=None, **kwargs):
            if state.global_step == 3:
                next(parameter for parameter in model.parameters() if parameter.requires_grad).data.flatten()[0] = float("inf")

    with pytest.raises(FloatingPointError, match=r"1 trained weights are not finite after step 4 .*the last good checkpoint is .*checkpoint-2"):
        training.fit(SFTTrainer, log=tmp_path / "log.jsonl", model=model.load(tiny), args=settings(tmp_path / "out", save_steps=2), train_dataset=rows_for(words), peft_config=LORA,
                     processing_class=words, callbacks=[After()])


def test_out_of_memory_says_what_to_lower(tiny, tmp_path, rows_for):
    words, network = tokenizer.load(tiny), model.load(tiny)

    def full(_):
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 MiB")

    with pytest.raises(MemoryError, match=r"measured peak of \d+\.\d GB with 2 rows, 12\d tokens, in a micro-batch: halve the batch and double gradient_accumulation.*gradient_checkpointing"):
        training.fit(SFTTrainer, log=tmp_path / "log.jsonl", model=network, args=settings(tmp_path / "out"), train_dataset=rows_for(words), processing_class=words,
                     callbacks=[AtStep(1, full)])


def test_nothing_that_learns_is_refused(tiny, tmp_path, rows_for):
    words, network = tokenizer.load(tiny), model.load(tiny)
    network.requires_grad_(False)
    with pytest.raises(training.Refused, match="something learns"):
        training.fit(SFTTrainer, log=tmp_path / "log.jsonl", model=network, args=settings(tmp_path / "out"), train_dataset=rows_for(words), processing_class=words)


# --- sources, choices -----------------------------------------------------------------------------------------------
def test_the_loss_of_each_source_is_that_of_its_documents(tiny, tmp_path, rows_for):
    words, network = tokenizer.load(tiny), model.load(tiny)
    expected = {}
    for number, ids in enumerate(tokenizer.encode(words, TEXTS)):
        with torch.inference_mode():
            nats = network(torch.tensor([ids]), labels=torch.tensor([ids])).loss.item() * (len(ids) - 1)
        pair = expected.setdefault(("a", "b", "c")[number % 3], [0.0, 0])
        pair[0], pair[1] = pair[0] + nats, pair[1] + len(ids) - 1
    training.fit(SFTTrainer, log=tmp_path / "log.jsonl", model=network, args=settings(tmp_path / "out", max_steps=2), train_dataset=rows_for(words, 128), eval_dataset=rows_for(words, 128),
                 peft_config=LORA, processing_class=words)
    before = next(record for record in training.read_log(tmp_path / "log.jsonl") if "eval_sources" in record)["eval_sources"]
    for source, (nats, tokens) in expected.items():
        assert before[source][1] == tokens and before[source][0] == pytest.approx(nats, rel=1e-4)
    assert set(training.by_source(tmp_path / "log.jsonl")) == {"a", "b", "c"}
    assert sorted(training.by_source(tmp_path / "log.jsonl", "eval_sources")["a"]) == [0, 2]


def test_held_out_reads_are_bits_per_character_and_perplexity_by_position(tiny, tmp_path, rows_for):
    words, network = tokenizer.load(tiny), model.load(tiny)
    corners = {"zh": TEXTS[:1] + TEXTS[2:3], "en": [TEXTS[1] * 20]}  # the English text is longer than the context and read in pieces
    bits = {name: evaluate.bits_per_character(network, words, texts) for name, texts in corners.items()}
    unread = evaluate.held_out_rows(words, corners, 128, tmp_path / "unread.arrow", parts=4, most=2)
    joined = [token for texts in corners.values() for ids in evaluate.documents(words, texts) for token in ids]
    nats = torch.zeros(127)
    for start in (0, 128):
        ids = torch.tensor([joined[start:start + 128]])
        with torch.inference_mode():
            nats += torch.nn.functional.cross_entropy(network(ids).logits[0, :-1], ids[0, 1:], reduction="none")
    training.fit(SFTTrainer, log=tmp_path / "log.jsonl", model=network, args=settings(tmp_path / "out", max_steps=1), train_dataset=rows_for(words), eval_dataset=unread, processing_class=words)
    read = training.read_log(tmp_path / "log.jsonl")[0]["eval_sources"]
    for name, texts in corners.items():
        assert read[name][0] / math.log(2) / sum(map(len, texts)) == pytest.approx(bits[name], rel=1e-4)
    positions = evaluate.by_position(training.by_source(tmp_path / "log.jsonl", "eval_sources"))
    assert list(positions["before"]) == [32, 64, 96, 128] and positions["before"] != positions["after"]
    for last, first in ((32, 0), (64, 31), (128, 95)):  # token 0 is read from nothing
        assert positions["before"][last] == pytest.approx(math.exp(nats[first:last - 1].mean().item() / 2), rel=1e-4)
    short = evaluate.held_out_rows(words, corners, 9000, tmp_path / "long.arrow")[-1]
    assert short["input_ids"] == joined and len(short["sources"]) == len(joined), "shorter than the context: one sequence, as long as the texts last"
    first = evaluate.held_out_rows(words, corners, 16, tmp_path / "many.arrow", most=3)
    assert [joined.index(row[0]) >= 0 for row in first["input_ids"][-3:]] and first["input_ids"][-1] != joined[32:48], "evenly over all texts, not the first ones"


def test_buckets_fold_to_shorter_rows_and_the_same_loss(tiny, tmp_path, rows_for):
    words, network = tokenizer.load(tiny), model.load(tiny)
    rows = rows_for(words, 128, buckets=[32])
    assert set(rows["bucket"]) == {32}
    collate, one = training.PackedRows(words.pad_token_id), rows.select(range(2))
    folded, flat = collate(list(one)), collate(list(one.remove_columns("bucket")))
    assert folded["input_ids"].shape[1] <= 32 < flat["input_ids"].shape[1]
    assert sorted(folded["input_ids"][folded["labels"] != -100].tolist()) == sorted(flat["input_ids"][flat["labels"] != -100].tolist())
    owned = [sorted(zip(batch["sources"].flatten().tolist(), batch["labels"].flatten().tolist())) for batch in (folded, flat)]
    assert [pair for pair in owned[0] if pair[1] != -100] == [pair for pair in owned[1] if pair[1] != -100], "each label keeps its source"
    with torch.inference_mode():
        losses = [network(input_ids=batch["input_ids"], position_ids=batch["position_ids"], labels=batch["labels"], use_cache=False).loss.item() for batch in (folded, flat)]
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)


def test_the_embedding_has_its_own_learning_rate(tiny, tmp_path, rows_for):
    """Adam's first step is the learning rate, whatever the gradient: the tables move by theirs, LoRA by its own."""
    words, before = tokenizer.load(tiny), model.load(tiny)
    trainer = training.fit(SFTTrainer, log=tmp_path / "log.jsonl", model=model.load(tiny), args=settings(tmp_path / "out", max_steps=1, lr_scheduler_type="constant"), train_dataset=rows_for(words),
                           peft_config=LORA, processing_class=words, embedding_learning_rate=1e-4)
    after = trainer.model.get_base_model()
    for name in ("model.embed_tokens", "lm_head"):
        moved = (after.get_submodule(name).modules_to_save["default"].weight - before.get_submodule(name).weight).abs().max().item()
        assert moved == pytest.approx(1e-4, rel=0.02)
    lora = next(parameter for name, parameter in trainer.model.named_parameters() if "lora_B" in name)
    assert lora.abs().max().item() == pytest.approx(1e-2, rel=0.02)
    assert len({id(parameter) for group in trainer.optimizer.param_groups for parameter in group["params"]}) == sum(parameter.requires_grad for parameter in trainer.model.parameters())


@pytest.mark.parametrize("variant", [{"use_rslora": True}, {"use_dora": True}, {"init_lora_weights": "pissa"}], ids=["rslora", "dora", "pissa"])
def test_peft_variants_merge_to_what_was_trained(tiny, tmp_path, rows_for, variant):
    words = tokenizer.load(tiny)
    tables = {} if "init_lora_weights" in variant else {"modules_to_save": ["embed_tokens", "lm_head"]}
    lora = LoraConfig(r=4, target_modules=["q_proj", "v_proj"], **tables, **variant)
    trainer = training.fit(SFTTrainer, log=tmp_path / "log.jsonl", model=model.load(tiny), args=settings(tmp_path / "out", max_steps=3), train_dataset=rows_for(words), peft_config=lora, processing_class=words)
    probe = [1, 5, 6, 7]
    trained = model.logits(trainer.model.eval(), probe)
    merged = model.merge_onto(trainer.model, tiny, tmp_path / "adapter", probe, initial=training.initial_adapter(trainer))
    assert torch.allclose(model.logits(merged, probe), trained, atol=1e-4)
    assert torch.allclose(model.logits(model.load(tmp_path / "adapter"), probe), trained, atol=1e-4), "the adapter on the base as it is on disk"
    saved = json.loads((tmp_path / "adapter/adapter_config.json").read_text())
    assert saved["init_lora_weights"] is True and saved["r"] == (8 if "init_lora_weights" in variant else 4)
    if "init_lora_weights" in variant:
        with pytest.raises(ValueError, match="begins as pissa cannot train embeddings"):
            training.fit(SFTTrainer, log=tmp_path / "log.jsonl", model=model.load(tiny), args=settings(tmp_path / "tables"), train_dataset=rows_for(words), processing_class=words,
                         peft_config=LoraConfig(r=4, target_modules=["q_proj"], modules_to_save=["lm_head"], **variant))


@pytest.mark.parametrize("bits", [{"load_in_8bit": True}, {"load_in_4bit": True, "bnb_4bit_quant_type": "nf4", "bnb_4bit_compute_dtype": "float32"}], ids=["int8", "nf4"])
def test_a_quantised_base_is_trained_and_left_aside(tiny, tmp_path, rows_for, bits):
    words = tokenizer.load(tiny)
    network = model.load(tiny, quantization_config=BitsAndBytesConfig(**bits))
    trainer = training.fit(SFTTrainer, log=tmp_path / "log.jsonl", model=network, args=settings(tmp_path / "out", max_steps=12), train_dataset=rows_for(words), eval_dataset=rows_for(words),
                           peft_config=LORA, processing_class=words)
    losses = training.eval_losses(tmp_path / "log.jsonl")
    assert losses["after"] < 0.9 * losses["before"]
    merged = model.merge_onto(trainer.model, tiny, tmp_path / "adapter", [1, 5, 6])
    assert not getattr(merged, "hf_quantizer", None) and merged.dtype == torch.float32


def test_compiled_training_has_the_same_losses(tiny, tmp_path, rows_for):
    words, losses = tokenizer.load(tiny), {}
    for compiled in (False, True):
        log = tmp_path / f"{compiled}.jsonl"
        training.fit(SFTTrainer, log=log, model=model.load(tiny), args=settings(tmp_path / str(compiled), max_steps=3, torch_compile=compiled), train_dataset=rows_for(words), peft_config=NEW_ROWS_PLAIN,
                     processing_class=words)
        losses[compiled] = [record["loss"] for record in training.read_log(log) if "loss" in record]
        assert any("sources" in record for record in training.read_log(log))
    assert losses[True] == pytest.approx(losses[False], rel=1e-4)


NEW_ROWS_PLAIN = LoraConfig(r=4, target_modules=["q_proj", "v_proj"], trainable_token_indices={"embed_tokens": [300, 301], "lm_head": [300, 301]})


def test_tracking_goes_beside_the_log(tiny, tmp_path, rows_for, monkeypatch):
    monkeypatch.setenv("TENSORBOARD_LOGGING_DIR", str(tmp_path / "board"))
    words = tokenizer.load(tiny)
    training.fit(SFTTrainer, log=tmp_path / "log.jsonl", model=model.load(tiny), args=settings(tmp_path / "out", max_steps=2, report_to=["tensorboard"]), train_dataset=rows_for(words),
                 peft_config=LORA, processing_class=words)
    assert list((tmp_path / "board").rglob("events.out.tfevents*")) and len(training.read_log(tmp_path / "log.jsonl")) >= 2


def test_liger_needs_a_gpu(tiny, tmp_path, rows_for):
    if torch.cuda.is_available():
        pytest.skip("there is a GPU here")
    words = tokenizer.load(tiny)
    with pytest.raises(ValueError, match="liger-kernel's layers run on a GPU only"):
        training.fit(SFTTrainer, log=tmp_path / "log.jsonl", model=model.load(tiny), args=settings(tmp_path / "out", use_liger_kernel=True), train_dataset=rows_for(words), processing_class=words)


def test_accumulation_weighs_tokens_not_rows(tiny, tmp_path, rows_for):
    """Two micro-batches of one row give the loss and the step of one of two rows, though rows differ in length (transformers #34191)."""
    words, found = tokenizer.load(tiny), {}
    rows = mixture.packed(tmp_path / "rows.arrow", tokenizer.encode(words, [TEXTS[0], TEXTS[1] * 3] * 4), 40)
    for name, sizes in {"together": (2, 1), "apart": (1, 2)}.items():
        args = settings(tmp_path / name, max_steps=3, per_device_train_batch_size=sizes[0], gradient_accumulation_steps=sizes[1])
        trainer = training.fit(SFTTrainer, log=tmp_path / f"{name}.jsonl", model=model.load(tiny), args=args, train_dataset=rows, processing_class=words)
        found[name] = [record["loss"] for record in training.read_log(tmp_path / f"{name}.jsonl") if "loss" in record], trainer.model.lm_head.weight
    assert found["together"][0] == pytest.approx(found["apart"][0], rel=1e-5) and torch.allclose(found["together"][1], found["apart"][1], atol=1e-5)


# --- PyTorch's attention over document bounds -----------------------------------------------------------------------
def test_varlen_attention_is_wired_right(tiny, monkeypatch):
    """The kernel runs on a GPU only; a plain one in its place, document by document, shows that shapes, bounds and the isolation proof are right."""
    from torch.nn.attention import varlen

    def plain(query, key, value, bounds, *_, scale=None, window_size=None, enable_gqa=False):
        assert window_size == (-1, 0) and query.dim() == 3
        parts = [torch.nn.functional.scaled_dot_product_attention(*[part[start:end].transpose(0, 1) for part in (query, key, value)], is_causal=True, scale=scale, enable_gqa=enable_gqa)
                 for start, end in zip(bounds[:-1].tolist(), bounds[1:].tolist())]
        return torch.cat(parts, 1).transpose(0, 1)

    monkeypatch.setattr(varlen, "varlen_attn", plain)
    monkeypatch.setattr(model, "packed_attention", lambda network, device="": model.register_varlen())
    words, network = tokenizer.load(tiny), model.load(tiny)
    a, b = tokenizer.encode(words, TEXTS[:2])
    assert training.isolation_error(network, a, b) < 1e-5 and network.config._attn_implementation == "sdpa"
    with training.packing(network):
        assert isinstance(training.collator(network, 0), training.JoinedRows)
        monkeypatch.setattr(varlen, "varlen_attn", lambda query, key, value, bounds, *rest, **more: plain(query, key, value, torch.tensor([0, len(query)]), *rest, **more))
    assert training.isolation_error(network, a, b) > 1e-3, "a kernel that ignores the bounds must be seen"


@pytest.mark.gpu
def test_varlen_attention_on_a_gpu(tiny, tmp_path, rows_for):
    words, network = tokenizer.load(tiny), model.load(tiny, "bfloat16")
    assert model.packed_attention(network) in ("varlen", "flash_attention_2")
    assert training.isolation_error(network, *tokenizer.encode(words, TEXTS[:2])) < 0.25
    training.fit(SFTTrainer, log=tmp_path / "log.jsonl", model=network, args=settings(tmp_path / "out", bf16=True, max_steps=20), train_dataset=rows_for(words), eval_dataset=rows_for(words),
                 peft_config=LORA, processing_class=words)
    losses = training.eval_losses(tmp_path / "log.jsonl")
    assert losses["after"] < 0.8 * losses["before"] and training.summary(tmp_path / "log.jsonl")["attention"] in ("varlen", "flash_attention_2")
