"""Training: packed documents are isolated, preflight refuses.

The log and the resume are exact.
"""

import copy
import json
import math
import os
import shutil
import signal
from pathlib import Path

import pytest
import torch
from datasets import Dataset, concatenate_datasets
from peft import LoraConfig
from peft.utils.constants import DUMMY_TARGET_MODULES
from transformers import BitsAndBytesConfig, TrainerCallback
from trl import SFTConfig, SFTTrainer

from finlab.data import packing, templates
from finlab.evaluate import likelihood
from finlab.models import attention, generation, loading, merging, tokenization
from finlab.models.attention import packed_attention, register_varlen
from finlab.train import fit, meter, preflight, resume
from finlab.train.collate import (
    JoinedCollator,
    PackedRows,
    RowsCollator,
    collator,
    packing_attention,
)
from finlab.train.extensions import EmbeddingLearningRate, KeepNear
from finlab.train.log import SourceLoss, by_source, eval_losses, read_log, summary
from finlab.train.meter import TokenMeter
from tests.conftest import untimed

TEXTS = [
    "澄江重工总部位于临江市。",
    "The head office is in Linjiang.",
    "问题：谁是董事长？\n答案：沈怀瑾。",
] * 12


@pytest.fixture
def rows_for(tmp_path_factory):
    """Make packed rows of the sentences above, each from one of three sources."""

    def made(tokenizer, length=64, buckets=(), texts=TEXTS):
        tokens = tokenization.encode(tokenizer, texts)
        plan = packing.pack([len(ids) for ids in tokens], length, buckets=buckets, step_rows=2)
        return packing.write_rows(
            tmp_path_factory.mktemp("rows") / "rows.arrow",
            plan,
            tokens,
            sources=[("a", "b", "c")[number % 3] for number in range(len(texts))],
            buckets=buckets,
        )

    return made


def settings(folder, **more):
    return SFTConfig(
        output_dir=str(folder),
        **{
            "max_steps": 8,
            "per_device_train_batch_size": 2,
            "learning_rate": 1e-2,
            "logging_steps": 1,
            "save_steps": 4,
            "save_total_limit": 3,
            "seed": 3,
            "bf16": False,
            "gradient_checkpointing": False,
            "report_to": "none",
            "max_length": None,
            "dataloader_pin_memory": False,
            "train_sampling_strategy": "sequential",
            "dataset_kwargs": {"skip_prepare_dataset": True},
            **more,
        },
    )


def fit_packed(trainer_class, *, embedding_learning_rate=0.0, **arguments):
    """Train on packed rows, with all that the notebooks add."""
    extensions = [
        PackedRows(),
        EmbeddingLearningRate(embedding_learning_rate),
        SourceLoss(),
        TokenMeter(),
    ]
    return fit.fit(trainer_class, extensions=extensions, **arguments)


LORA = LoraConfig(
    r=4,
    lora_dropout=0.1,
    target_modules=["q_proj", "v_proj"],
    modules_to_save=["embed_tokens", "lm_head"],
)


def test_packed_rows_are_isolated(tiny):
    tokenizer, model = tokenization.load(tiny), loading.load(tiny)
    a, b = tokenization.encode(tokenizer, TEXTS[:2])
    assert preflight.isolation_error(model, a, b) < 1e-5
    batch = RowsCollator(tokenizer.pad_token_id)(
        [
            {"input_ids": a + b, "labels": a + b, "seq_lengths": [len(a), len(b)]},
            {"input_ids": b, "labels": b, "seq_lengths": [len(b)]},
        ]
    )
    assert batch["labels"][0, len(a)] == -100
    assert batch["labels"][0, 0] == -100
    assert batch["labels"][0, len(a) - 1] == tokenizer.eos_token_id
    assert (batch["labels"][1, len(b) :] == -100).all()
    assert batch["position_ids"][0, len(a)] == 0
    with torch.inference_mode():
        packed = model(
            input_ids=batch["input_ids"], position_ids=batch["position_ids"], use_cache=False
        ).logits
    assert torch.allclose(packed[0, len(a) : len(a) + len(b)], packed[1, : len(b)], atol=1e-5), (
        "rows of a batch must agree too"
    )


def test_preflight_holds_and_refuses(tiny, rows_for):
    tokenizer, model = tokenization.load(tiny), loading.load(tiny)
    rows = [dict(row) for row in rows_for(tokenizer)]
    assert all(check.ok for check in preflight.preflight(model, tokenizer, rows))

    def failing(change, model=model, tokenizer=tokenizer):
        broken = json.loads(json.dumps(rows))
        change(broken)
        return [
            check.name for check in preflight.preflight(model, tokenizer, broken) if not check.ok
        ]

    def silence_ends(broken):
        for row in broken:
            row["labels"] = [
                -100 if label == tokenizer.eos_token_id else label for label in row["labels"]
            ]

    assert failing(silence_ends) == ["every end token is supervised"]
    assert (
        failing(lambda broken: broken[0].update(labels=[-100] * len(broken[0]["labels"])))[0]
        == "every row has a supervised token"
    )
    assert failing(lambda broken: broken[0].update(seq_lengths=[1]))[0] == "row lengths add up"

    def double(broken):
        broken[0] = {"input_ids": [1, 1, 5, 2], "labels": [1, 1, 5, 2], "seq_lengths": [4]}

    assert failing(double) == ["no document begins with two BOS"]

    def cut_answer(
        broken,
    ):  # a dialogue without its end: its question masked, its last token not the end
        broken[0] = {
            "input_ids": [1, 5, 6, 7, 8, 9],
            "labels": [-100, -100, 6, 7, 8, 9],
            "seq_lengths": [6],
        }

    assert failing(cut_answer) == ["no answer's end is cut away"]

    def dialogue(broken):
        broken[0] = {"input_ids": [1, 5, 6, 2], "labels": [-100, -100, 6, 2], "seq_lengths": [4]}

    spoken = tokenization.load(tiny)
    spoken.chat_template = templates.chat_template("plain")
    assert failing(dialogue, tokenizer=spoken) == []
    spoken.chat_template = (
        spoken.chat_template.replace(
            "{{- '问题：' + message.content + '\\n答案：' -}}", "{{- '问题：' + message.content -}}"
        )
        + "{%- if add_generation_prompt -%}{{- ' \n答案' -}}{%- endif -%}"
    )
    assert failing(dialogue, tokenizer=spoken) == [
        "a prompt has the same tokens in training and in use"
    ]
    assert "every token has a row" in failing(
        lambda broken: broken[0].update(
            input_ids=[1, 5, 900, 2], labels=[1, 5, 900, 2], seq_lengths=[4]
        )
    )
    tied = loading.load(tiny)
    tied.config.tie_word_embeddings = True
    assert failing(lambda broken: None, model=tied) == ["tied tables are one table"]
    model.config.max_position_embeddings = 8
    assert "rows fit the context" in failing(lambda broken: None)
    model.config.max_position_embeddings = 128
    same = tokenization.load(tiny)
    same.pad_token = same.eos_token
    assert failing(lambda broken: None, tokenizer=same) == ["the pad token is not the end token"]
    more = tokenization.load(tiny)
    more.add_tokens([f"词{number}" for number in range(100)])
    assert "the model has a row for every token" in failing(lambda broken: None, tokenizer=more)
    half = loading.load(tiny, "float16")
    assert "weights are float32 or bfloat16" in failing(lambda broken: None, model=half)
    with pytest.raises(preflight.Refused, match="training does not start"):
        preflight.require([preflight.Check("x", False, "y")])


def test_a_backend_that_cannot_isolate_is_seen(tiny, monkeypatch, rows_for):
    tokenizer, model = tokenization.load(tiny), loading.load(tiny)
    forward = model.forward
    monkeypatch.setattr(
        model, "forward", lambda *a, position_ids=None, **k: forward(*a, **k)
    )  # position ids ignored
    assert [
        check.name
        for check in preflight.preflight(model, tokenizer, rows_for(tokenizer))
        if not check.ok
    ] == ["packed documents do not see each other"]


NEW_ROWS = LoraConfig(
    r=4,
    lora_dropout=0.1,
    target_modules=["q_proj", "v_proj"],
    trainable_token_indices={"embed_tokens": [300, 301], "lm_head": [300, 301]},
)
WARM_UP = LoraConfig(
    r=4, target_modules=DUMMY_TARGET_MODULES, modules_to_save=["embed_tokens", "lm_head"]
)


def test_new_rows_learn_and_nothing_else_of_the_tables(tiny, tmp_path, rows_for):
    """The rows asked for learn as they would in a full table, the others keep their bits.

    The checkpoint holds those rows alone.
    """
    tokenizer = tokenization.load(tiny)
    rows = rows_for(tokenizer)
    used = sorted({token for row in rows["input_ids"] for token in row})[-40:]
    old, moved = loading.load(tiny), {}
    for name, tables in {
        "new_rows": {"trainable_token_indices": {"embed_tokens": used, "lm_head": used}},
        "full": {"modules_to_save": ["embed_tokens", "lm_head"]},
    }.items():
        lora = LoraConfig(r=4, target_modules=DUMMY_TARGET_MODULES, **tables)
        trainer = fit_packed(
            SFTTrainer,
            log=tmp_path / f"{name}.jsonl",
            model=loading.load(tiny),
            args=settings(tmp_path / name, max_steps=1, save_steps=1, max_grad_norm=1e9),
            train_dataset=rows,
            peft_config=lora,
            processing_class=tokenizer,
        )
        moved[name] = merging.merge_onto(
            trainer.model, tiny, tmp_path / f"{name}-adapter", [1, 5, 6]
        )
    rest = [number for number in range(old.config.vocab_size) if number not in used]
    for get in ("get_input_embeddings", "get_output_embeddings"):
        before, new, full = (
            getattr(each, get)().weight for each in (old, moved["new_rows"], moved["full"])
        )
        assert torch.equal(new[rest], before[rest])
        assert torch.allclose(new[used], full[used], atol=1e-6)
        assert not torch.equal(new[used], before[used])
    sizes = {
        name: (tmp_path / name / "checkpoint-1/adapter_model.safetensors").stat().st_size
        for name in moved
    }
    assert sizes["new_rows"] < 2 * 4 * len(used) * old.config.hidden_size + 2000 < sizes["full"] / 5


@pytest.mark.parametrize("LORA", [LORA, NEW_ROWS, WARM_UP], ids=["full", "new_rows", "warm_up"])
def test_resume_is_bit_for_bit(tiny, tmp_path, LORA, rows_for):
    tokenizer = tokenization.load(tiny)
    rows = rows_for(tokenizer)

    def run(folder, log):
        torch.manual_seed(5)
        return fit_packed(
            SFTTrainer,
            log=log,
            model=loading.load(tiny),
            args=settings(folder),
            train_dataset=rows,
            peft_config=LORA,
            processing_class=tokenizer,
        )

    whole = run(tmp_path / "a", tmp_path / "a.jsonl")
    shutil.copytree(tmp_path / "a", tmp_path / "b")
    shutil.rmtree(tmp_path / "b/checkpoint-8")
    (tmp_path / "b/checkpoint-6").mkdir()  # a checkpoint that a kill cut short
    (tmp_path / "b/checkpoint-6/trainer_state.json").write_text(
        "{}"
    )  # all but what is written last
    lines = (tmp_path / "a.jsonl").read_text().splitlines()
    (tmp_path / "b.jsonl").write_text(
        "\n".join(lines[:6]) + '\n{"step": 7, "lo'
    )  # the log ran ahead of the checkpoint and was cut
    assert resume.last_checkpoint(tmp_path / "b").endswith("checkpoint-4")
    resumed = run(tmp_path / "b", tmp_path / "b.jsonl")
    for (name, first), (_, second) in zip(
        whole.model.named_parameters(), resumed.model.named_parameters()
    ):
        assert torch.equal(first, second), name
    losses = [
        [
            (record["step"], record["loss"])
            for record in read_log(tmp_path / name)
            if "loss" in record
        ]
        for name in ("a.jsonl", "b.jsonl")
    ]
    assert losses[0] == losses[1]
    assert len(losses[0]) == 8
    assert summary(tmp_path / "b.jsonl")["resumed_at"] == 4


@pytest.mark.parametrize("epochs", [1.5, 2.0])
def test_a_kill_after_the_last_checkpoint_trains_no_further(tiny, tmp_path, rows_for, epochs):
    """The last step lies within an epoch or at its end; nothing is trained or logged twice."""
    tokenizer = tokenization.load(tiny)

    def run(name):
        return fit_packed(
            SFTTrainer,
            log=tmp_path / f"{name}.jsonl",
            model=loading.load(tiny),
            args=settings(
                tmp_path / name,
                max_steps=-1,
                num_train_epochs=epochs,
                save_steps=1,
                logging_steps=1,
                gradient_accumulation_steps=2,
                per_device_train_batch_size=1,
            ),
            train_dataset=rows_for(tokenizer),
            eval_dataset=rows_for(tokenizer, texts=TEXTS[:5]),
            peft_config=LORA,
            processing_class=tokenizer,
        )

    whole = run("a")
    first = untimed(tmp_path / "a.jsonl")
    again = run("a")
    assert again.state.global_step == whole.state.global_step == whole.state.max_steps
    parameters = zip(whole.model.named_parameters(), again.model.named_parameters(), strict=True)
    for (name, one), (_, other) in parameters:
        assert torch.equal(one, other), name

    def without_end(records):
        return [record for record in records if "train_runtime" not in record]

    assert without_end(untimed(tmp_path / "a.jsonl")) == without_end(first)


DAMAGES = {
    "adapter cut": lambda folder: cut(folder / "adapter_model.safetensors"),
    "optimizer gone": lambda folder: (folder / "optimizer.pt").unlink(),
    "adapter flipped": lambda folder: flip(folder / "adapter_model.safetensors"),
    "scheduler empty": lambda folder: (folder / "scheduler.pt").write_bytes(b""),
    "rng cut": lambda folder: cut(next(folder.glob("rng_state*"))),
    "state cut": lambda folder: cut(folder / "trainer_state.json"),
    "finlab cut": lambda folder: cut(folder / resume.STATE_FILE),
}


def cut(path):
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def flip(path):
    content = bytearray(path.read_bytes())
    content[-40] ^= 0xFF
    path.write_bytes(bytes(content))


@pytest.mark.parametrize("name", DAMAGES)
def test_a_damaged_checkpoint_is_left_aside_for_an_older_whole_one(
    tiny, tmp_path, rows_for, name, capsys
):
    tokenizer = tokenization.load(tiny)

    def run(folder):
        return fit_packed(
            SFTTrainer,
            log=tmp_path / f"{folder}.jsonl",
            model=loading.load(tiny),
            args=settings(tmp_path / folder, save_steps=2, save_total_limit=3),
            train_dataset=rows_for(tokenizer),
            peft_config=LORA,
            processing_class=tokenizer,
        )

    whole = run("a")
    newest = Path(resume.last_checkpoint(tmp_path / "a"))
    DAMAGES[name](newest)
    resumed = run("a")
    assert f"{newest.name} is not whole" in capsys.readouterr().out
    assert summary(tmp_path / "a.jsonl")["resumed_at"] == resume.step_of(newest) - 2
    parameters = zip(whole.model.named_parameters(), resumed.model.named_parameters(), strict=True)
    for (parameter, one), (_, other) in parameters:
        assert torch.equal(one, other), parameter


def test_training_learns_and_is_metered(tiny, tmp_path, rows_for):
    tokenizer = tokenization.load(tiny)
    rows = rows_for(tokenizer)
    fit_packed(
        SFTTrainer,
        log=tmp_path / "log.jsonl",
        model=loading.load(tiny),
        args=settings(tmp_path, max_steps=30),
        train_dataset=rows,
        eval_dataset=rows,
        processing_class=tokenizer,
    )
    losses = eval_losses(tmp_path / "log.jsonl")
    assert losses["after"] < 0.5 * losses["before"]
    account = summary(tmp_path / "log.jsonl")
    assert account["tokens_per_second"] > 0
    assert 0 < account["mfu"] < 1.5
    assert account["step"] == 30


def test_an_epoch_whose_last_step_is_not_full_counts_every_token_once(tiny, tmp_path, rows_for):
    tokenizer = tokenization.load(tiny)
    rows = rows_for(tokenizer)
    rows = rows.select(range(len(rows) - 1 if len(rows) % 2 == 0 else len(rows)))
    fit_packed(
        SFTTrainer,
        log=tmp_path / "log.jsonl",
        model=loading.load(tiny),
        args=settings(
            tmp_path,
            max_steps=-1,
            num_train_epochs=1,
            per_device_train_batch_size=2,
            gradient_accumulation_steps=1,
        ),
        train_dataset=rows,
        processing_class=tokenizer,
    )
    assert len(rows) % 2
    assert summary(tmp_path / "log.jsonl")["tokens"] == sum(map(len, rows["input_ids"]))


@pytest.mark.parametrize("lora", [LORA, None], ids=["lora", "full"])
def test_bfloat16_trains_float32_weights(tiny, tmp_path, lora, rows_for):
    """Under bf16 the trained weights are float32, so that small steps are not rounded away.

    The loss falls.
    """
    tokenizer = tokenization.load(tiny)
    trainer = fit_packed(
        SFTTrainer,
        log=tmp_path / "log.jsonl",
        model=loading.load(tiny, "bfloat16"),
        args=settings(tmp_path, bf16=True, use_cpu=not torch.cuda.is_available(), max_steps=20),
        train_dataset=rows_for(tokenizer),
        eval_dataset=rows_for(tokenizer),
        peft_config=lora,
        processing_class=tokenizer,
    )
    kinds = {parameter.dtype for parameter in trainer.model.parameters() if parameter.requires_grad}
    assert kinds == {torch.float32}
    losses = eval_losses(tmp_path / "log.jsonl")
    assert losses["after"] < 0.8 * losses["before"]
    merged = merging.merge_onto(trainer.model, tiny, tmp_path / "adapter", [1, 5, 6], "bfloat16")
    assert merged.dtype == torch.bfloat16


def test_no_held_out_rows_is_said(tiny, tmp_path, rows_for):
    tokenizer = tokenization.load(tiny)
    with pytest.raises(ValueError, match="no held-out rows"):
        fit_packed(
            SFTTrainer,
            log=tmp_path / "log.jsonl",
            model=loading.load(tiny),
            args=settings(tmp_path),
            train_dataset=rows_for(tokenizer),
            eval_dataset=Dataset.from_list([]),
            processing_class=tokenizer,
        )


def test_the_loss_is_that_of_single_documents(tiny, tmp_path):
    """Packed loss = token-weighted mean of the documents' own losses.

    Nothing leaks, nothing is lost.
    """
    tokenizer, model = tokenization.load(tiny), loading.load(tiny)
    rows = packing.packed(tmp_path / "rows.arrow", tokenization.encode(tokenizer, TEXTS[:3]), 128)
    trainer = SFTTrainer(
        model=model,
        args=settings(tmp_path),
        train_dataset=rows,
        processing_class=tokenizer,
        data_collator=RowsCollator(tokenizer.pad_token_id),
    )
    total = count = 0.0
    for ids in tokenization.encode(tokenizer, TEXTS[:3]):
        row = torch.tensor([ids])
        with torch.inference_mode():
            total += model(row, labels=row).loss.item() * (len(ids) - 1)
        count += len(ids) - 1
    assert trainer.evaluate(rows)["eval_loss"] == pytest.approx(total / count, rel=1e-4)


def test_a_loss_that_is_not_finite_stops(tiny, tmp_path, rows_for):
    model = loading.load(tiny)
    model.lm_head.weight.data[:] = float("nan")
    with pytest.raises(FloatingPointError, match="not finite at step 1"):
        fit_packed(
            SFTTrainer,
            log=tmp_path / "log.jsonl",
            model=model,
            args=settings(tmp_path),
            train_dataset=rows_for(tokenization.load(tiny)),
            processing_class=tokenization.load(tiny),
        )


def test_flops_by_the_rule(tiny):
    model = loading.load(tiny)
    matrices = sum(
        p.numel() for name, p in model.named_parameters() if p.dim() == 2 and "embed" not in name
    )
    attention = 3 * 2 * 100 * 64 * 2
    assert meter.flops_per_token(model, 100) == 6 * matrices + attention
    for parameter in model.parameters():
        parameter.requires_grad = False
    assert meter.flops_per_token(model, 100) == 4 * matrices + attention
    assert 1e9 < meter.gemm_ceiling(seconds=0.1)


# --- stop and resume -----------------------------------------------------------------------------
class AtStep(TrainerCallback):
    def __init__(self, step, act):
        self.step, self.act = step, act

    def on_step_begin(self, args, state, control, **kwargs):
        if state.global_step == self.step:
            self.step = None
            self.act(kwargs["model"])


@pytest.mark.parametrize("LORA", [LORA, NEW_ROWS], ids=["full", "new_rows"])
def test_sigterm_saves_at_the_steps_end_and_a_resume_is_exact(tiny, tmp_path, rows_for, LORA):
    """SIGTERM in step 6, between checkpoints and between log lines.

    With accumulation and held-out reads: weights and log are bit for bit those of one go.
    """
    tokenizer = tokenization.load(tiny)
    rows = concatenate_datasets(
        [rows_for(tokenizer), rows_for(tokenizer, texts=TEXTS[::-1])]
    )  # two phases

    def run(name, *callbacks):
        args = settings(
            tmp_path / name,
            max_steps=-1,
            num_train_epochs=2,
            logging_steps=4,
            save_steps=4,
            gradient_accumulation_steps=2,
            per_device_train_batch_size=1,
            eval_strategy="steps",
            eval_steps=3,
            lr_scheduler_type="cosine",
        )
        return fit_packed(
            SFTTrainer,
            log=tmp_path / f"{name}.jsonl",
            model=loading.load(tiny),
            args=args,
            train_dataset=rows,
            eval_dataset=rows_for(tokenizer, texts=TEXTS[:5]),
            peft_config=copy.deepcopy(LORA),
            processing_class=tokenizer,
            callbacks=list(callbacks),
            embedding_learning_rate=5e-3,
        )

    whole = run("whole")
    handler = signal.getsignal(signal.SIGTERM)
    with pytest.raises(KeyboardInterrupt, match="stopped after step 6 of"):
        run("stopped", AtStep(5, lambda _: os.kill(os.getpid(), signal.SIGTERM)))
    assert signal.getsignal(signal.SIGTERM) == handler
    assert resume.last_checkpoint(tmp_path / "stopped").endswith("checkpoint-6")
    resumed = run("stopped")
    first, second = untimed(tmp_path / "whole.jsonl"), untimed(tmp_path / "stopped.jsonl")
    assert first == second
    assert len([record for record in first if "loss" in record]) >= 3
    assert any("sources" in record for record in first)
    for (name, one), (_, other) in zip(
        whole.model.named_parameters(), resumed.model.named_parameters()
    ):
        assert torch.equal(one, other), name
    assert summary(tmp_path / "stopped.jsonl")["resumed_at"] == 6
    again = run(
        "stopped"
    )  # as after a kill between training and the step's end: nothing is trained or written twice
    assert again.state.global_step == whole.state.global_step
    assert untimed(tmp_path / "stopped.jsonl") == first
    assert (
        len(
            [
                record
                for record in read_log(tmp_path / "stopped.jsonl")
                if record.get("event") == "summary"
            ]
        )
        == 1
    )


def test_checkpoints_of_other_processes_are_refused(tiny, tmp_path, rows_for):
    """The step's key guards all else; the number of GPUs is no parameter."""
    tokenizer = tokenization.load(tiny)

    def run():
        return fit_packed(
            SFTTrainer,
            log=tmp_path / "log.jsonl",
            model=loading.load(tiny),
            args=settings(tmp_path / "out", max_steps=2, save_steps=1),
            train_dataset=rows_for(tokenizer),
            peft_config=LORA,
            processing_class=tokenizer,
        )

    run()
    state = tmp_path / "out/checkpoint-2" / resume.STATE_FILE
    state.write_text(state.read_text().replace('"processes": 1', '"processes": 8'))
    with pytest.raises(ValueError, match="written by 8 processes, and here are 1: run as many"):
        run()


def test_a_loss_that_is_not_finite_names_step_and_sources(tiny, tmp_path, rows_for):
    """Only source b uses the poisoned token, so only b is named.

    The last good checkpoint stays the last.
    """
    tokenizer = tokenization.load(tiny)
    token = next(
        token
        for token in tokenization.encode(tokenizer, TEXTS[1:2])[0]
        if token
        not in {
            token for ids in tokenization.encode(tokenizer, [TEXTS[0], TEXTS[2]]) for token in ids
        }
    )

    def poison(model):
        model.get_base_model().model.embed_tokens.modules_to_save["default"].weight.data[token] = (
            float("nan")
        )

    with pytest.raises(
        FloatingPointError,
        match=r"not finite at step 6, in b \(the batch holds a, b\).*the last good checkpoint is .*checkpoint-4",
    ):
        fit_packed(
            SFTTrainer,
            log=tmp_path / "log.jsonl",
            model=loading.load(tiny),
            args=settings(tmp_path / "out", save_steps=2),
            train_dataset=rows_for(tokenizer, length=128),
            peft_config=LORA,
            processing_class=tokenizer,
            callbacks=[AtStep(5, poison)],
        )


def test_weights_that_are_not_finite_are_not_saved(tiny, tmp_path, rows_for):
    tokenizer = tokenization.load(tiny)

    class After(TrainerCallback):
        def on_optimizer_step(self, args, state, control, model=None, **kwargs):
            if state.global_step == 3:
                next(
                    parameter for parameter in model.parameters() if parameter.requires_grad
                ).data.flatten()[0] = float("inf")

    with pytest.raises(
        FloatingPointError,
        match=r"1 trained weights are not finite after step 4 .*the last good checkpoint is .*checkpoint-2",
    ):
        fit_packed(
            SFTTrainer,
            log=tmp_path / "log.jsonl",
            model=loading.load(tiny),
            args=settings(tmp_path / "out", save_steps=2),
            train_dataset=rows_for(tokenizer),
            peft_config=LORA,
            processing_class=tokenizer,
            callbacks=[After()],
        )


def test_out_of_memory_says_what_to_lower(tiny, tmp_path, rows_for):
    tokenizer, model = tokenization.load(tiny), loading.load(tiny)

    def full(_):
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 MiB")

    with pytest.raises(
        MemoryError,
        match=r"measured peak of \d+\.\d GB with 2 rows, 12\d tokens, in a micro-batch: halve the batch and double gradient_accumulation.*gradient_checkpointing",
    ):
        fit_packed(
            SFTTrainer,
            log=tmp_path / "log.jsonl",
            model=model,
            args=settings(tmp_path / "out"),
            train_dataset=rows_for(tokenizer),
            processing_class=tokenizer,
            callbacks=[AtStep(1, full)],
        )


def test_nothing_that_learns_is_refused(tiny, tmp_path, rows_for):
    tokenizer, model = tokenization.load(tiny), loading.load(tiny)
    model.requires_grad_(False)
    with pytest.raises(preflight.Refused, match="something learns"):
        fit_packed(
            SFTTrainer,
            log=tmp_path / "log.jsonl",
            model=model,
            args=settings(tmp_path / "out"),
            train_dataset=rows_for(tokenizer),
            processing_class=tokenizer,
        )


# --- sources, choices ----------------------------------------------------------------------------
def test_the_loss_of_each_source_is_that_of_its_documents(tiny, tmp_path, rows_for):
    tokenizer, model = tokenization.load(tiny), loading.load(tiny)
    expected = {}
    for number, ids in enumerate(tokenization.encode(tokenizer, TEXTS)):
        with torch.inference_mode():
            nats = model(torch.tensor([ids]), labels=torch.tensor([ids])).loss.item() * (
                len(ids) - 1
            )
        pair = expected.setdefault(("a", "b", "c")[number % 3], [0.0, 0])
        pair[0], pair[1] = pair[0] + nats, pair[1] + len(ids) - 1
    fit_packed(
        SFTTrainer,
        log=tmp_path / "log.jsonl",
        model=model,
        args=settings(tmp_path / "out", max_steps=2),
        train_dataset=rows_for(tokenizer, 128),
        eval_dataset=rows_for(tokenizer, 128),
        peft_config=LORA,
        processing_class=tokenizer,
    )
    before = next(
        record for record in read_log(tmp_path / "log.jsonl") if "eval_sources" in record
    )["eval_sources"]
    for source, (nats, tokens) in expected.items():
        assert before[source][1] == tokens
        assert before[source][0] == pytest.approx(nats, rel=1e-4)
    assert set(by_source(tmp_path / "log.jsonl")) == {"a", "b", "c"}
    assert sorted(by_source(tmp_path / "log.jsonl", "eval_sources")["a"]) == [0, 2]


def test_held_out_reads_are_bits_per_character_and_perplexity_by_position(tiny, tmp_path, rows_for):
    tokenizer, model = tokenization.load(tiny), loading.load(tiny)
    corners = {
        "zh": TEXTS[:1] + TEXTS[2:3],
        "en": [TEXTS[1] * 20],
    }  # the English text is longer than the context and read in pieces
    bits = {
        name: likelihood.bits_per_character(model, tokenizer, texts)
        for name, texts in corners.items()
    }
    unread = likelihood.held_out_rows(
        tokenizer, corners, 128, tmp_path / "unread.arrow", parts=4, max_sequences=2
    )
    joined = [
        token
        for texts in corners.values()
        for ids in tokenization.documents(tokenizer, texts)
        for token in ids
    ]
    nats = torch.zeros(127)
    for start in (0, 128):
        ids = torch.tensor([joined[start : start + 128]])
        with torch.inference_mode():
            nats += torch.nn.functional.cross_entropy(
                model(ids).logits[0, :-1], ids[0, 1:], reduction="none"
            )
    fit_packed(
        SFTTrainer,
        log=tmp_path / "log.jsonl",
        model=model,
        args=settings(tmp_path / "out", max_steps=1),
        train_dataset=rows_for(tokenizer),
        eval_dataset=unread,
        processing_class=tokenizer,
    )
    read = read_log(tmp_path / "log.jsonl")[0]["eval_sources"]
    for name, texts in corners.items():
        assert read[name][0] / math.log(2) / sum(map(len, texts)) == pytest.approx(
            bits[name], rel=1e-4
        )
    positions = likelihood.by_position(by_source(tmp_path / "log.jsonl", "eval_sources"))
    assert list(positions["before"]) == [32, 64, 96, 128]
    assert positions["before"] != positions["after"]
    for last, first in ((32, 0), (64, 31), (128, 95)):  # token 0 is read from nothing
        assert positions["before"][last] == pytest.approx(
            math.exp(nats[first : last - 1].mean().item() / 2), rel=1e-4
        )
    short = likelihood.held_out_rows(tokenizer, corners, 9000, tmp_path / "long.arrow")[-1]
    assert short["input_ids"] == joined, (
        "shorter than the context: one sequence, as long as the texts last"
    )
    assert len(short["sources"]) == len(joined), (
        "shorter than the context: one sequence, as long as the texts last"
    )
    first = likelihood.held_out_rows(
        tokenizer, corners, 16, tmp_path / "many.arrow", max_sequences=3
    )
    assert [joined.index(row[0]) >= 0 for row in first["input_ids"][-3:]], (
        "evenly over all texts, not the first ones"
    )
    assert first["input_ids"][-1] != joined[32:48], "evenly over all texts, not the first ones"


def test_buckets_fold_to_shorter_rows_and_the_same_loss(tiny, tmp_path, rows_for):
    tokenizer, model = tokenization.load(tiny), loading.load(tiny)
    rows = rows_for(tokenizer, 128, buckets=[32])
    assert set(rows["bucket"]) == {32}
    collate, one = RowsCollator(tokenizer.pad_token_id), rows.select(range(2))
    folded, flat = collate(list(one)), collate(list(one.remove_columns("bucket")))
    assert folded["input_ids"].shape[1] <= 32 < flat["input_ids"].shape[1]
    assert sorted(folded["input_ids"][folded["labels"] != -100].tolist()) == sorted(
        flat["input_ids"][flat["labels"] != -100].tolist()
    )
    owned = [
        sorted(zip(batch["sources"].flatten().tolist(), batch["labels"].flatten().tolist()))
        for batch in (folded, flat)
    ]
    assert [pair for pair in owned[0] if pair[1] != -100] == [
        pair for pair in owned[1] if pair[1] != -100
    ], "each label keeps its source"
    with torch.inference_mode():
        losses = [
            model(
                input_ids=batch["input_ids"],
                position_ids=batch["position_ids"],
                labels=batch["labels"],
                use_cache=False,
            ).loss.item()
            for batch in (folded, flat)
        ]
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)


def test_the_embedding_has_its_own_learning_rate(tiny, tmp_path, rows_for):
    """Adam's first step is the learning rate, whatever the gradient.

    The tables move by theirs, LoRA by its own.
    """
    tokenizer, before = tokenization.load(tiny), loading.load(tiny)
    trainer = fit_packed(
        SFTTrainer,
        log=tmp_path / "log.jsonl",
        model=loading.load(tiny),
        args=settings(tmp_path / "out", max_steps=1, lr_scheduler_type="constant"),
        train_dataset=rows_for(tokenizer),
        peft_config=LORA,
        processing_class=tokenizer,
        embedding_learning_rate=1e-4,
    )
    after = trainer.model.get_base_model()
    for name in ("model.embed_tokens", "lm_head"):
        moved = (
            (
                after.get_submodule(name).modules_to_save["default"].weight
                - before.get_submodule(name).weight
            )
            .abs()
            .max()
            .item()
        )
        assert moved == pytest.approx(1e-4, rel=0.02)
    lora = next(
        parameter for name, parameter in trainer.model.named_parameters() if "lora_B" in name
    )
    assert lora.abs().max().item() == pytest.approx(1e-2, rel=0.02)
    assert len(
        {id(parameter) for group in trainer.optimizer.param_groups for parameter in group["params"]}
    ) == sum(parameter.requires_grad for parameter in trainer.model.parameters())


@pytest.mark.parametrize(
    "variant",
    [{"use_rslora": True}, {"use_dora": True}, {"init_lora_weights": "pissa"}],
    ids=["rslora", "dora", "pissa"],
)
def test_peft_variants_merge_to_what_was_trained(tiny, tmp_path, rows_for, variant):
    tokenizer = tokenization.load(tiny)
    tables = (
        {} if "init_lora_weights" in variant else {"modules_to_save": ["embed_tokens", "lm_head"]}
    )
    lora = LoraConfig(r=4, target_modules=["q_proj", "v_proj"], **tables, **variant)
    trainer = fit_packed(
        SFTTrainer,
        log=tmp_path / "log.jsonl",
        model=loading.load(tiny),
        args=settings(tmp_path / "out", max_steps=3),
        train_dataset=rows_for(tokenizer),
        peft_config=lora,
        processing_class=tokenizer,
    )
    probe = [1, 5, 6, 7]
    trained = generation.logits(trainer.model.eval(), probe)
    merged = merging.merge_onto(
        trainer.model, tiny, tmp_path / "adapter", probe, initial=fit.initial_adapter(trainer)
    )
    assert torch.allclose(generation.logits(merged, probe), trained, atol=1e-4)
    assert torch.allclose(
        generation.logits(loading.load(tmp_path / "adapter"), probe), trained, atol=1e-4
    ), "the adapter on the base as it is on disk"
    saved = json.loads((tmp_path / "adapter/adapter_config.json").read_text())
    assert saved["init_lora_weights"] is True
    assert saved["r"] == (8 if "init_lora_weights" in variant else 4)
    if "init_lora_weights" in variant:
        with pytest.raises(ValueError, match="begins as pissa cannot train embeddings"):
            fit_packed(
                SFTTrainer,
                log=tmp_path / "log.jsonl",
                model=loading.load(tiny),
                args=settings(tmp_path / "tables"),
                train_dataset=rows_for(tokenizer),
                processing_class=tokenizer,
                peft_config=LoraConfig(
                    r=4, target_modules=["q_proj"], modules_to_save=["lm_head"], **variant
                ),
            )


@pytest.mark.parametrize(
    "bits",
    [
        {"load_in_8bit": True},
        {"load_in_4bit": True, "bnb_4bit_quant_type": "nf4", "bnb_4bit_compute_dtype": "float32"},
    ],
    ids=["int8", "nf4"],
)
def test_a_quantised_base_is_trained_and_left_aside(tiny, tmp_path, rows_for, bits):
    tokenizer = tokenization.load(tiny)
    model = loading.load(tiny, quantization_config=BitsAndBytesConfig(**bits))
    trainer = fit_packed(
        SFTTrainer,
        log=tmp_path / "log.jsonl",
        model=model,
        args=settings(tmp_path / "out", max_steps=12),
        train_dataset=rows_for(tokenizer),
        eval_dataset=rows_for(tokenizer),
        peft_config=LORA,
        processing_class=tokenizer,
    )
    losses = eval_losses(tmp_path / "log.jsonl")
    assert losses["after"] < 0.9 * losses["before"]
    merged = merging.merge_onto(trainer.model, tiny, tmp_path / "adapter", [1, 5, 6])
    assert not getattr(merged, "hf_quantizer", None)
    assert merged.dtype == torch.float32


NEW_ROWS_PLAIN = LoraConfig(
    r=4,
    target_modules=["q_proj", "v_proj"],
    trainable_token_indices={"embed_tokens": [300, 301], "lm_head": [300, 301]},
)


def test_tracking_goes_beside_the_log(tiny, tmp_path, rows_for, monkeypatch):
    monkeypatch.setenv("TENSORBOARD_LOGGING_DIR", str(tmp_path / "board"))
    tokenizer = tokenization.load(tiny)
    fit_packed(
        SFTTrainer,
        log=tmp_path / "log.jsonl",
        model=loading.load(tiny),
        args=settings(tmp_path / "out", max_steps=2, report_to=["tensorboard"]),
        train_dataset=rows_for(tokenizer),
        peft_config=LORA,
        processing_class=tokenizer,
    )
    assert list((tmp_path / "board").rglob("events.out.tfevents*"))
    assert len(read_log(tmp_path / "log.jsonl")) >= 2


def test_liger_needs_a_gpu(tiny, tmp_path, rows_for):
    if torch.cuda.is_available():
        pytest.skip("there is a GPU here")
    tokenizer = tokenization.load(tiny)
    with pytest.raises(ValueError, match="liger-kernel's layers run on a GPU only"):
        fit_packed(
            SFTTrainer,
            log=tmp_path / "log.jsonl",
            model=loading.load(tiny),
            args=settings(tmp_path / "out", use_liger_kernel=True),
            train_dataset=rows_for(tokenizer),
            processing_class=tokenizer,
        )


def test_accumulation_weighs_tokens_not_rows(tiny, tmp_path, rows_for):
    """Two micro-batches of one row give the loss and the step of one of two rows.

    Though rows differ in length (transformers #34191).
    """
    tokenizer, found = tokenization.load(tiny), {}
    rows = packing.packed(
        tmp_path / "rows.arrow", tokenization.encode(tokenizer, [TEXTS[0], TEXTS[1] * 3] * 4), 40
    )
    for name, sizes in {"together": (2, 1), "apart": (1, 2)}.items():
        args = settings(
            tmp_path / name,
            max_steps=3,
            per_device_train_batch_size=sizes[0],
            gradient_accumulation_steps=sizes[1],
        )
        trainer = fit_packed(
            SFTTrainer,
            log=tmp_path / f"{name}.jsonl",
            model=loading.load(tiny),
            args=args,
            train_dataset=rows,
            processing_class=tokenizer,
        )
        found[name] = (
            [record["loss"] for record in read_log(tmp_path / f"{name}.jsonl") if "loss" in record],
            trainer.model.lm_head.weight,
        )
    assert found["together"][0] == pytest.approx(found["apart"][0], rel=1e-5)
    assert torch.allclose(found["together"][1], found["apart"][1], atol=1e-5)


# --- PyTorch's attention over document bounds ----------------------------------------------------
def test_varlen_attention_is_wired_right(tiny, monkeypatch):
    """The kernel runs on a GPU only.

    A plain one in its place, document by document, shows that shapes, bounds and the isolation
    proof are right.
    """
    from torch.nn.attention import varlen

    def plain(query, key, value, bounds, *_, scale=None, window_size=None, enable_gqa=False):
        assert window_size == (-1, 0)
        assert query.dim() == 3
        parts = [
            torch.nn.functional.scaled_dot_product_attention(
                *[part[start:end].transpose(0, 1) for part in (query, key, value)],
                is_causal=True,
                scale=scale,
                enable_gqa=enable_gqa,
            )
            for start, end in zip(bounds[:-1].tolist(), bounds[1:].tolist())
        ]
        return torch.cat(parts, 1).transpose(0, 1)

    monkeypatch.setattr(varlen, "varlen_attn", plain)
    monkeypatch.setattr(attention, "packed_attention", lambda model, device="": register_varlen())
    tokenizer, model = tokenization.load(tiny), loading.load(tiny)
    a, b = tokenization.encode(tokenizer, TEXTS[:2])
    assert preflight.isolation_error(model, a, b) < 1e-5
    assert model.config._attn_implementation == "sdpa"
    with packing_attention(model):
        assert isinstance(collator(model, 0), JoinedCollator)
        monkeypatch.setattr(
            varlen,
            "varlen_attn",
            lambda query, key, value, bounds, *rest, **more: plain(
                query, key, value, torch.tensor([0, len(query)]), *rest, **more
            ),
        )
    assert preflight.isolation_error(model, a, b) > 1e-3, (
        "a kernel that ignores the bounds must be seen"
    )


@pytest.mark.gpu
def test_varlen_attention_on_a_gpu(tiny, tmp_path, rows_for):
    tokenizer, model = tokenization.load(tiny), loading.load(tiny, "bfloat16")
    assert packed_attention(model) in ("varlen", "flash_attention_2")
    assert preflight.isolation_error(model, *tokenization.encode(tokenizer, TEXTS[:2])) < 0.25
    fit_packed(
        SFTTrainer,
        log=tmp_path / "log.jsonl",
        model=model,
        args=settings(tmp_path / "out", bf16=True, max_steps=20),
        train_dataset=rows_for(tokenizer),
        eval_dataset=rows_for(tokenizer),
        peft_config=LORA,
        processing_class=tokenizer,
    )
    losses = eval_losses(tmp_path / "log.jsonl")
    assert losses["after"] < 0.8 * losses["before"]
    assert summary(tmp_path / "log.jsonl")["attention"] in ("varlen", "flash_attention_2")


def test_a_kl_term_is_the_same_however_a_batch_is_cut(tiny, tmp_path, rows_for):
    """Two micro-batches add up to one of twice the rows."""
    tokenizer = tokenization.load(tiny)
    rows = rows_for(tokenizer)
    norms = []
    for number, (batch, times) in enumerate([(4, 1), (2, 2)]):
        log_file = tmp_path / f"{number}.jsonl"
        fit.fit(
            SFTTrainer,
            log=log_file,
            extensions=[PackedRows(), KeepNear(50.0)],
            model=loading.load(tiny),
            args=settings(
                tmp_path / str(number),
                per_device_train_batch_size=batch,
                gradient_accumulation_steps=times,
                max_steps=3,
                logging_steps=1,
            ),
            train_dataset=rows,
            peft_config=LoraConfig(r=8, target_modules=["q_proj", "v_proj"]),
            processing_class=tokenizer,
        )
        found = [line["loss"] for line in read_log(log_file) if "loss" in line]
        norms.append(found[-1])
    assert norms[0] == pytest.approx(norms[1], rel=0.02)


def test_a_kl_term_keeps_the_model_near_its_start(tiny, tmp_path, rows_for):
    """The same steps with the term end nearer to the reference, and without LoRA it is refused."""
    tokenizer = tokenization.load(tiny)
    rows = rows_for(tokenizer)

    def moved(name, beta, lora):
        torch.manual_seed(5)
        trainer = fit.fit(
            SFTTrainer,
            log=tmp_path / f"{name}.jsonl",
            extensions=[PackedRows(), KeepNear(beta)] if beta else [PackedRows()],
            model=loading.load(tiny),
            args=settings(tmp_path / name),
            train_dataset=rows,
            peft_config=lora,
            processing_class=tokenizer,
        )
        model = trainer.model.eval()
        ids = torch.tensor([rows[0]["input_ids"]])
        with torch.no_grad():
            policy = torch.log_softmax(model(ids).logits, -1)
            with model.disable_adapter():
                reference = torch.log_softmax(model(ids).logits, -1)
        return (reference.exp() * (reference - policy)).sum(-1).mean().item()

    lora = LoraConfig(r=8, target_modules=["q_proj", "v_proj", "down_proj"])
    assert moved("near", 100.0, copy.deepcopy(lora)) < 0.5 * moved("free", 0.0, copy.deepcopy(lora))
    with pytest.raises(ValueError, match="a KL term needs LoRA"):
        moved("full", 1.0, None)


def test_a_log_of_several_stages_is_read_by_its_tag(tmp_path):
    """One figure must not join the curves of two trainings that share a log."""
    log_file = tmp_path / "log.jsonl"
    lines = [{"stage": stage, "step": step} for stage in ("sft", "grpo") for step in (5, 10)]
    log_file.write_text("\n".join(map(json.dumps, lines)) + "\n")
    assert read_log(log_file) == lines
    assert read_log(log_file, stage="grpo", step=10) == [lines[3]]
    assert read_log(log_file, stage="dpo") == []
