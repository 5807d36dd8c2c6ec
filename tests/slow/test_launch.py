"""Several processes on a CPU.

A job has the curve of one process, stops, resumes, says what failed.
"""

import math
import os
import signal
import socket
import subprocess
import sys
import time

import datasets
import psutil
import pytest
import torch
from peft import LoraConfig
from trl import GRPOConfig, GRPOTrainer, SFTConfig, SFTTrainer

from finlab import paths
from finlab.data import columns, packing, planned, templates
from finlab.models import loading, merging, tokenization
from finlab.models.sampling import Budget
from finlab.train import fit, resume, rollouts
from finlab.train.collate import PackedRows
from finlab.train.log import SourceLoss, eval_losses, read_log, summary
from finlab.train.meter import TokenMeter
from finlab.train.reward import functions

TEXTS = [
    text * (1 + number % 3)
    for number, text in enumerate(
        [
            "澄江重工总部位于临江市。",
            "The head office is in Linjiang.",
            "问题：谁是董事长？\n答案：沈怀瑾。",
        ]
        * 13
    )
][:37]
ADAPTERS = {
    "full": {"modules_to_save": ["embed_tokens", "lm_head"]},
    "new_rows": {
        "trainable_token_indices": {"embed_tokens": [300, 301, 310], "lm_head": [300, 301, 310]}
    },
}


def job(tiny, folder, way, name, processes=2, learn="full", **more):
    """Train on an odd number of rows of several lengths.

    The global batch is four rows, however many processes share it.
    """
    tokenizer = tokenization.load(tiny)
    tokens = tokenization.encode(tokenizer, TEXTS)
    encoded = datasets.Dataset.from_dict(
        {
            "source": [("a", "b", "c")[number % 3] for number in range(len(tokens))],
            "domain": ["finance"] * len(tokens),
            "language": ["zh"] * len(tokens),
            "tokens": list(map(len, tokens)),
            "input_ids": tokens,
        }
    )
    documents = columns.from_dataset(encoded)
    plan = packing.pack(documents.tokens, 48)
    rows = planned.rows(folder / f"{name}.arrow", plan, encoded, documents)
    rows = rows.select(
        range(len(rows) - 1 + len(rows) % 2)
    )  # odd: no two processes can share them evenly
    args = SFTConfig(
        **{
            "output_dir": str(folder / name),
            "num_train_epochs": 1,
            "per_device_train_batch_size": 1 if way else 2,
            "gradient_accumulation_steps": 2,
            "learning_rate": 1e-2,
            "logging_steps": 1,
            "save_steps": 3,
            "save_total_limit": 3,
            "seed": 3,
            "bf16": False,
            "gradient_checkpointing": False,
            "report_to": "none",
            "max_length": None,
            "per_device_eval_batch_size": 2,
            "train_sampling_strategy": "sequential",
            "dataloader_pin_memory": False,
            "dataset_kwargs": {"skip_prepare_dataset": True},
            **more,
        }
    )
    lora = (
        LoraConfig(r=4, target_modules=["q_proj", "v_proj"], **ADAPTERS[learn])
        if learn != "all"
        else None
    )
    log = folder / f"{name}.jsonl"
    trainer = fit.fit(
        SFTTrainer,
        log=log,
        extensions=[PackedRows(), SourceLoss(), TokenMeter()],
        model=loading.load(tiny),
        args=args,
        train_dataset=rows,
        eval_dataset=rows,
        peft_config=lora,
        processing_class=tokenizer,
        launch=way,
        processes=processes,
    )
    return trainer, log


def curve(log):
    return [
        (record["loss"], record["grad_norm"], record["sources"])
        for record in read_log(log)
        if "sources" in record
    ]


def agree(one, other, ours, theirs):
    """Losses, gradient norms and sums by source agree to 1e-4.

    Weights agree up to what Adam makes of gradients near zero.
    """
    first, second = curve(one), curve(other)
    assert len(first) == len(second) >= 5
    for (loss, norm, sources), (loss_, norm_, sources_) in zip(first, second, strict=True):
        assert loss_ == pytest.approx(loss, rel=1e-4)
        assert norm_ == pytest.approx(norm, rel=1e-3)
        assert set(sources) == set(sources_)
        assert all(
            sources_[name] == pytest.approx(pair, rel=1e-4) for name, pair in sources.items()
        )
    reads = [
        [record["eval_sources"] for record in read_log(log) if "eval_sources" in record]
        for log in (one, other)
    ]
    losses = [
        [record["eval_loss"] for record in read_log(log) if "eval_loss" in record]
        for log in (one, other)
    ]
    assert losses[1] == pytest.approx(losses[0], rel=1e-4), "silent rows must not count"
    assert len(reads[0]) == len(reads[1]) == 2
    assert all(b[name] == pytest.approx(a[name], rel=1e-4) for a, b in zip(*reads) for name in a)
    for (name, weight), (_, weight_) in zip(
        ours.named_parameters(), theirs.named_parameters(), strict=True
    ):
        assert torch.allclose(weight, weight_, atol=2e-3), name


@pytest.mark.parametrize(
    ("way", "learn"), [("ddp", "full"), ("fsdp2", "full"), ("fsdp2", "new_rows"), ("fsdp2", "all")]
)
def test_two_processes_have_the_curve_of_one(tiny, tmp_path, way, learn):
    one, log = job(tiny, tmp_path, "", "one", learn=learn)
    two, other = job(tiny, tmp_path, way, "two", learn=learn)
    agree(log, other, one.model, two.model)
    account = summary(other)
    assert account["processes"] == 2
    assert account["tokens"] == summary(log)["tokens"]
    assert two.state.global_step == one.state.global_step
    if learn == "all":
        assert (
            loading.parameter_counts(two.model)["trainable"]
            == loading.parameter_counts(one.model)["trainable"]
        )
    else:
        merged = merging.merge_onto(two.model, tiny, tmp_path / "adapter", [1, 5, 6, 7])
        assert merged.lm_head.weight.shape == (384, 64)


def test_fsdp2_in_bfloat16_adds_up_in_float32(tiny, tmp_path):
    one, log = job(tiny, tmp_path, "", "one", bf16=True, use_cpu=True)
    two, other = job(tiny, tmp_path, "fsdp2", "two", bf16=True, use_cpu=True)
    first, second = ([loss for loss, _, _ in curve(each)] for each in (log, other))
    assert second == pytest.approx(first, rel=2e-2)
    assert any(torch.tensor(loss).bfloat16().item() != loss for loss in second)


def test_preferences_in_two_processes(tiny, tmp_path):
    """DPO under DDP begins at ln 2 and ends as in one process; FSDP2 is refused."""
    from datasets import Dataset
    from trl import DPOConfig, DPOTrainer

    tokenizer = tokenization.load(tiny)
    tokenizer.chat_template = templates.chat_template("plain")
    pairs = Dataset.from_list(
        [
            {
                "prompt": [{"role": "user", "content": f"问题{number}"}],
                "chosen": [{"role": "assistant", "content": "临江市"}],
                "rejected": [{"role": "assistant", "content": "沈怀瑾"}],
            }
            for number in range(8)
        ]
    )

    def go(way):
        args = DPOConfig(
            output_dir=str(tmp_path / f"out{way}"),
            num_train_epochs=1,
            per_device_train_batch_size=1 if way else 2,
            per_device_eval_batch_size=2,
            learning_rate=1e-2,
            logging_steps=1,
            seed=3,
            bf16=False,
            gradient_checkpointing=False,
            report_to="none",
            dataloader_pin_memory=False,
            save_steps=2,
        )
        fit.fit(
            DPOTrainer,
            log=tmp_path / f"{way}.jsonl",
            model=loading.load(tiny),
            args=args,
            train_dataset=pairs,
            eval_dataset=pairs,
            peft_config=LoraConfig(r=4, target_modules=["q_proj", "v_proj"]),
            processing_class=tokenizer,
            launch=way,
            processes=2,
        )
        return eval_losses(tmp_path / f"{way}.jsonl")

    one, two = go(""), go("ddp")
    assert two["before"] == pytest.approx(math.log(2), abs=1e-4)
    assert two["after"] == pytest.approx(one["after"], rel=0.05)
    assert two["after"] < 0.65
    with pytest.raises(ValueError, match="under FSDP2 only packed rows can be trained"):
        go("fsdp2")


@pytest.mark.parametrize("way", ["zero2", "zero3"])
def test_deepspeed(tiny, tmp_path, way):
    """Both ZeRO configs against one process; `pip install -e '.[cluster]'` brings DeepSpeed."""
    pytest.importorskip("deepspeed", reason="deepspeed is not installed")
    one, log = job(tiny, tmp_path, "", "one")
    two, other = job(tiny, tmp_path, way, "two")
    agree(log, other, one.model, two.model)


def test_two_machines_find_each_other(tiny, tmp_path, monkeypatch):
    """A stand-in for srun starts the job once for each machine, with Slurm's variables."""
    srun = tmp_path / "srun"
    srun.write_text(
        '#!/bin/sh\nSLURM_NODEID=1 "$@" & \nSLURM_NODEID=0 "$@"; status=$?\nwait\nexit $status\n'
    )
    srun.chmod(0o755)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    one, log = job(tiny, tmp_path, "", "one")
    for name, value in {
        "FINLAB_LAUNCH": str(srun),
        "SLURM_NNODES": "2",
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
    }.items():
        monkeypatch.setenv(name, value)
    two, other = job(tiny, tmp_path, "ddp", "two", processes=1)
    agree(log, other, one.model, two.model)
    assert summary(other)["processes"] == 2


def test_what_fails_there_is_said_here(tiny, tmp_path, monkeypatch):
    monkeypatch.setenv("SLURM_NNODES", "2")
    with pytest.raises(ValueError, match="this job has 2 machines: export FINLAB_LAUNCH"):
        job(tiny, tmp_path, "ddp", "none")
    monkeypatch.delenv("SLURM_NNODES")
    with pytest.raises(
        ValueError, match="no accelerate config 'horovod': choose one of ddp, fsdp2, zero2, zero3"
    ):
        job(tiny, tmp_path, "horovod", "none")
    with pytest.raises(
        FloatingPointError,
        match=r"the loss is not finite at step \d, in [abc, ]+ \(the batch holds [abc, ]+\)",
    ):
        job(tiny, tmp_path, "ddp", "wild", learning_rate=1e30, max_grad_norm=0.0)


STARTED = """
import sys
from pathlib import Path
from tests.slow.test_launch import job
job(Path(sys.argv[1]), Path(sys.argv[2]), "ddp", "two", max_steps=150, save_steps=40)
"""


@pytest.mark.parametrize("kill", [signal.SIGTERM, signal.SIGKILL])
def test_a_stopped_job_leaves_no_process_and_goes_on(tiny, tmp_path, kill):
    """Its ranks save at the step's end and stop; the rerun has the curve of one go."""
    command = [sys.executable, "-c", STARTED, str(tiny), str(tmp_path)]
    begun = subprocess.Popen(
        command, cwd=paths.ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
    )
    log, deadline = tmp_path / "two.jsonl", time.time() + 120
    while len(read_log(log)) < 4:
        assert time.time() < deadline, begun.stderr.read()[-2000:]
        assert begun.poll() is None, begun.stderr.read()[-2000:]
        time.sleep(0.1)
    os.kill(begun.pid, kill)
    _, said = begun.communicate(timeout=60)
    assert kill == signal.SIGKILL or "stopped after step" in said
    while any(
        str(tmp_path / "two") in " ".join(process.info["cmdline"] or [])
        for process in psutil.process_iter(["cmdline"])
    ):
        assert time.time() < deadline, "processes outlived the job"
        time.sleep(0.2)
    assert resume.last_checkpoint(tmp_path / "two")
    assert not (tmp_path / "two/trained").exists()
    job(tiny, tmp_path, "ddp", "two", max_steps=150, save_steps=40)
    assert summary(log)["resumed_at"] > 0
    _, whole = job(tiny, tmp_path, "", "whole", max_steps=150, save_steps=40)
    assert [loss for loss, _, _ in curve(log)] == pytest.approx(
        [loss for loss, _, _ in curve(whole)], rel=1e-3
    )


def test_reinforcement_in_two_processes(chat_model, tmp_path):
    """Completions are drawn in both; the policy is one, and comes back here."""
    tokenizer = tokenization.load(chat_model)
    questions = ["什么是A股？", "好", "谁？", "恒信银行在哪里？"] * 4
    gold = '{"kind": "number", "answer": "62"}'
    rows = {"prompt": [[{"role": "user", "content": each}] for each in questions]}
    prompts = [templates.prompt_ids(tokenizer, prompt) for prompt in rows["prompt"][:2]]
    watched = rollouts.HeldOutAnswers(questions[:2], prompts, [gold] * 2, Budget(6), every=2)
    trainer = fit.fit(
        GRPOTrainer,
        log=tmp_path / "log.jsonl",
        extensions=[rollouts.SameReference(), watched],
        launch="ddp",
        processes=2,
        model=loading.load(chat_model, place=False),
        args=GRPOConfig(
            output_dir=str(tmp_path / "job"),
            per_device_train_batch_size=4,
            num_generations=4,
            max_completion_length=8,
            learning_rate=1e-3,
            beta=0.01,
            shuffle_dataset=False,
            logging_steps=1,
            report_to="none",
            bf16=False,
            gradient_checkpointing=False,
        ),
        train_dataset=datasets.Dataset.from_dict({**rows, "gold": [gold] * len(questions)}),
        reward_funcs=functions.build(["formed", "short"], 4, 8),
        processing_class=tokenizer,
    )
    records = [record for record in read_log(tmp_path / "log.jsonl") if "reward" in record]
    # Two questions a step, one in each process.
    assert len(records) == records[-1]["total_steps"] == 24
    assert abs(records[0]["kl"]) < 1e-5
    assert sum("held_out" in record for record in records) == 12
    assert summary(tmp_path / "log.jsonl")["processes"] == 2
    before = loading.load(chat_model).get_output_embeddings().weight
    assert not torch.equal(trainer.model.get_output_embeddings().weight, before)
