"""How fast instruction tuning is.

It compares packed dialogues with padded batches, and rendering and tokenising with TRL's own
preparation.

    # on this machine's CPU, about ten minutes; writes notebooks/results/sft.json
    python -m benchmarks.sft_speed
    # measure the dialogues' lengths again from the real ShareGPT file (FINLAB_DATA)
    python -m benchmarks.sft_speed lengths

Packed against padded: random tokens with the lengths of the real ShareGPT dialogues
(dialogue_lengths.json: 500 pairs of tokens and learnt tokens under Chinese-LLaMA-2's tokenizer and
ZhiLu's template), cut at 1,024. Preparation: 100,000 invented dialogues of one to three exchanges,
with a SentencePiece vocabulary learnt from them; TRL prepares the first 10,000. Each job runs in
its own process.
"""

from __future__ import annotations

import json
import platform
import random
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from transformers import LlamaConfig, LlamaForCausalLM
from trl import SFTConfig, SFTTrainer

from benchmarks import training_speed
from finlab import paths
from finlab.closed_world import talks
from finlab.data import cards, packing, templates
from finlab.models import attention, sentencepieces, vocabulary
from finlab.run import environment
from finlab.train import collate, fit, log, meter, throughput

LENGTHS = Path(__file__).with_name("dialogue_lengths.json")
PLAN = {"dtype": "float32", "length": 1024, "batch": 2, "tokens": 12_000, "rank": 16}
DIALOGUES = 100_000
TRL_DIALOGUES = 10_000  # fewer, since TRL takes longer
COMPARED = 200  # number of dialogues with tokens that must be the same in both
ROUNDS = 3  # runs of each way; the speed of a shared machine drifts, so the median counts


# --- training ------------------------------------------------------------------------------------
def measure_lengths() -> None:
    """Write 500 quantiles of the tokens, and of the learnt tokens, of the real dialogues."""
    folder = "$FINLAB_DATA/tokenizers/chinese-llama-2-55296/tokenizer.model"
    tokenizer = sentencepieces.fast(paths.resolve(folder))
    tokenizer.chat_template = templates.chat_template("zhilu")
    rows = templates.encode(tokenizer, [row["messages"] for row in cards.load("sharegpt_zh").rows])
    sizes = []
    for row in rows:
        sizes.append((len(row["labels"]), int((row["labels"] != templates.IGNORE).sum())))
    sizes.sort()
    quantiles = [sizes[round(place * (len(sizes) - 1) / 499)] for place in range(500)]
    LENGTHS.write_text(json.dumps(quantiles) + "\n")


def dialogues(count: int, rows: int, longest: int) -> list[dict]:
    """Return rows {input_ids, labels} of about `count` tokens; their first part is not learnt.

    Args:
        count: Tokens in all.
        rows: Rows of the vocabulary.
        longest: A dialogue is cut at this number of tokens.
    """
    rng = random.Random(1)
    sizes = json.loads(LENGTHS.read_text())
    found = []
    while count > 0:
        size, learnt = rng.choice(sizes)
        cut = min(size, longest)
        grey = max(2, round(cut * (1 - learnt / size)))
        ids = [1, *(rng.randrange(3, rows) for _ in range(cut - 2)), 2]
        found.append({"input_ids": ids, "labels": [-100] * grey + ids[grey:]})
        count -= cut
    return found


def packed(model, lora, found: list[dict], folder: Path) -> float:
    """Train on packed rows with `fit`; return the seconds."""
    tokens = [row["input_ids"] for row in found]
    labels = [row["labels"] for row in found]
    fit.fit(
        SFTTrainer,
        log=folder / "log.jsonl",
        extensions=[collate.PackedRows(), log.SourceLoss(), meter.TokenMeter()],
        model=model,
        args=training_speed.training_args(folder, PLAN),
        train_dataset=packing.packed(folder / "rows.arrow", tokens, PLAN["length"], labels),
        peft_config=lora,
        processing_class=throughput.words(model.config.vocab_size),
    )
    return log.summary(folder / "log.jsonl")["train_seconds"]


def padded(model, lora, found: list[dict], folder: Path) -> float:
    """Train with plain TRL on padded batches; return the seconds.

    On average, the dialogues of a batch fill the same rows.
    """
    tokens = sum(len(row["input_ids"]) for row in found)
    batch = max(1, round(PLAN["batch"] * PLAN["length"] * len(found) / tokens))
    trainer = SFTTrainer(
        model=model,
        args=training_speed.training_args(folder, PLAN, per_device_train_batch_size=batch),
        train_dataset=Dataset.from_list(found),
        peft_config=lora,
        processing_class=throughput.words(model.config.vocab_size),
    )
    began = time.perf_counter()
    trainer.train()
    return time.perf_counter() - began


def training_job(way: str) -> dict:
    """Train once over the dialogues.

    Args:
        way: `packed` or `padded`.
    """
    shape, new = training_speed.SHAPES["small"]
    found = dialogues(PLAN["tokens"], shape.vocabulary, PLAN["length"])
    torch.manual_seed(0)
    config = throughput.config_of(shape, PLAN["length"])
    backend = attention.choose_attention(PLAN["dtype"])
    model = throughput.random_model(config, PLAN["dtype"], backend)
    lora = training_speed.adapter(model, new, PLAN["rank"], "none")
    with tempfile.TemporaryDirectory() as folder:
        train = {"packed": packed, "padded": padded}[way]
        seconds = train(model, lora, found, Path(folder))
    tokens = sum(len(row["input_ids"]) for row in found)
    return {
        "tokens": tokens,
        "dialogues": len(found),
        "seconds": seconds,
        "tokens_per_second": tokens / seconds,
        "peak_bytes": environment.peak_bytes(),
    }


# --- preparation ---------------------------------------------------------------------------------
def invented(count: int) -> list[list[dict]]:
    """Return dialogues of one to three exchanges about the closed world; no two are equal."""
    exchanges = [(row["instruction"], row["output"]) for row in talks.dialogues()["alpaca"]]
    rng = random.Random(2)
    found = []
    for number in range(count):
        messages = []
        for place in range(rng.choice([1, 1, 2, 3])):
            question, answer = rng.choice(exchanges)
            if place == 0:
                question = f"第{number}号问题：{question}"
            messages.append({"role": "user", "content": question})
            messages.append({"role": "assistant", "content": answer * rng.randint(1, 6)})
        found.append(messages)
    return found


def prepared_by_trl(tokenizer, messages: list[list[dict]], processes: int | None) -> dict:
    """Let TRL render and tokenise dialogues; return {seconds, tokens}.

    Args:
        tokenizer: A tokenizer with a chat template.
        messages: The dialogues.
        processes: The value of TRL's `dataset_num_proc`.
    """
    sizes = {"hidden_size": 8, "intermediate_size": 8}
    sizes |= {"num_hidden_layers": 1, "num_attention_heads": 1}
    pad = tokenizer.pad_token_id
    base = LlamaForCausalLM(LlamaConfig(vocab_size=len(tokenizer), pad_token_id=pad, **sizes))
    taken = []
    prepare = SFTTrainer._prepare_dataset

    def timed(self: object, *arguments: object, **keywords: object) -> object:
        began = time.perf_counter()
        made = prepare(self, *arguments, **keywords)
        taken.append(time.perf_counter() - began)
        return made

    SFTTrainer._prepare_dataset = timed
    with tempfile.TemporaryDirectory() as folder:
        args = SFTConfig(
            output_dir=folder,
            assistant_only_loss=True,
            max_length=None,
            report_to="none",
            bf16=False,
            dataset_num_proc=processes,
        )
        data = Dataset.from_dict({"messages": messages})
        trainer = SFTTrainer(model=base, args=args, train_dataset=data, processing_class=tokenizer)
    rows = trainer.train_dataset
    ours = templates.encode(tokenizer, messages[:COMPARED])
    same = [row["input_ids"].tolist() for row in ours] == rows[:COMPARED]["input_ids"]
    assert same, "the same tokens"
    same = [row["labels"].tolist() for row in ours] == rows[:COMPARED]["labels"]
    assert same, "the same tokens learnt"
    return {"seconds": taken[0], "tokens": sum(map(len, rows["input_ids"]))}


def preparation_job(way: str) -> dict:
    """Render and tokenise invented dialogues once.

    Args:
        way: `ours`, `trl` or `trl, two processes`.
    """
    messages = invented(DIALOGUES if way == "ours" else TRL_DIALOGUES)
    texts = [turn["content"] for dialogue in messages[:5000] for turn in dialogue]
    tokenizer, _ = vocabulary.extend(sentencepieces.fast(sentencepieces.train(texts, 4000)), [])
    tokenizer.chat_template = templates.chat_template("zhilu")
    if way == "ours":
        began = time.perf_counter()
        rows = templates.encode(tokenizer, messages)
        seconds = time.perf_counter() - began
        told = {"seconds": seconds, "tokens": sum(len(row["input_ids"]) for row in rows)}
    else:
        processes = 2 if way == "trl, two processes" else None
        told = prepared_by_trl(tokenizer, messages, processes)
    return {
        "dialogues": len(messages),
        **told,
        "dialogues_per_second": len(messages) / told["seconds"],
        "peak_bytes": environment.peak_bytes(),
    }


# --- the program ---------------------------------------------------------------------------------
JOBS = {"training": training_job, "preparation": preparation_job}


def measured(kind: str, way: str) -> dict:
    """Run one job in its own process and return its result."""
    command = [sys.executable, "-m", "benchmarks.sft_speed", kind, way]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"{kind} {way}: {done.stderr[-2000:]}")
    return json.loads(done.stdout.splitlines()[-1])


def trained() -> dict[str, Any]:
    """Train in both ways in turn, and return the median of each and their ratio."""
    turns = []
    for _ in range(ROUNDS):
        turns.append({way: measured("training", way) for way in ("packed", "padded")})
    middle, ratios = {}, []
    for way in turns[0]:
        by_seconds = sorted((turn[way] for turn in turns), key=lambda row: row["seconds"])
        middle[way] = by_seconds[ROUNDS // 2]
    for turn in turns:
        ratios.append(turn["packed"]["tokens_per_second"] / turn["padded"]["tokens_per_second"])
    return {"training": middle, "packed_against_padded": statistics.median(ratios)}


def main() -> None:
    """Do what the command line says: one job, the lengths, or everything."""
    what = sys.argv[1:] or ["all"]
    if what[0] in JOBS:
        print(json.dumps(JOBS[what[0]](what[1])))
        return
    if what[0] == "lengths":
        measure_lengths()
        return
    ways = ("ours", "trl", "trl, two processes")
    record = {
        "command": "python -m benchmarks.sft_speed",
        "device": f"{environment.device()}, {platform.machine()}",
        "versions": environment.versions(),
        "git_commit": environment.git_commit(),
        "plan": PLAN,
        **trained(),
        "preparation": {way: measured("preparation", way) for way in ways},
        "finished": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
    }
    path = paths.NOTEBOOKS / "results" / "sft.json"
    path.write_text(json.dumps(record, indent=1) + "\n")
    print(path)


if __name__ == "__main__":
    main()
