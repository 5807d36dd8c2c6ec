"""How fast instruction tuning is.

Packed dialogues against padded batches, and rendering and tokenising against TRL's own preparation.

    # on this machine's CPU, about ten minutes; writes notebooks/results/sft.json
    python -m benchmarks.sft_speed
    # measure the dialogues' lengths anew from the real ShareGPT file (FINLAB_DATA)
    python -m benchmarks.sft_speed lengths

Packed against padded: random tokens with the lengths of the real ShareGPT dialogues
(dialogue_lengths.json: 500 pairs of tokens and learnt tokens under Chinese-LLaMA-2's tokenizer and
ZhiLu's template), cut at 1,024. Preparation: 100,000 invented dialogues of one to three exchanges
under a SentencePiece vocabulary learnt from them; TRL prepares the first 10,000. Each job runs in a
process of its own.
"""

import json
import platform
import random
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from benchmarks import training_speed
from finlab import paths
from finlab.closed_world import talks
from finlab.data import cards, packing, templates
from finlab.models import sentencepieces, vocabulary
from finlab.run import environment
from finlab.train import collate, fit, log, meter

LENGTHS = Path(__file__).with_name("dialogue_lengths.json")
PLAN = {"dtype": "float32", "length": 1024, "batch": 2, "tokens": 12_000, "rank": 16}
DIALOGUES, TRL_DIALOGUES = 100_000, 10_000


def measure_lengths() -> None:

    tokenizer = sentencepieces.fast(
        paths.resolve("$FINLAB_DATA/tokenizers/chinese-llama-2-55296/tokenizer.model")
    )
    tokenizer.chat_template = templates.chat_template("zhilu")
    rows = templates.encode(tokenizer, [row["messages"] for row in cards.load("sharegpt_zh").rows])
    sizes = sorted(
        (len(row["labels"]), int((row["labels"] != templates.IGNORE).sum())) for row in rows
    )
    LENGTHS.write_text(
        json.dumps([sizes[round(place * (len(sizes) - 1) / 499)] for place in range(500)]) + "\n"
    )


def dialogues(count: int, rows: int, longest: int) -> list[dict]:
    """Return rows {input_ids, labels} of about `count` tokens.

    The first part of each is not learnt.
    """
    rng, sizes, found = random.Random(1), json.loads(LENGTHS.read_text()), []
    while count > 0:
        size, learnt = rng.choice(sizes)
        cut = min(size, longest)
        grey = max(2, round(cut * (1 - learnt / size)))
        ids = [1, *(rng.randrange(3, rows) for _ in range(cut - 2)), 2]
        found.append({"input_ids": ids, "labels": [-100] * grey + ids[grey:]})
        count -= cut
    return found


def training_job(way: str) -> dict:
    from datasets import Dataset
    from transformers import PreTrainedTokenizerFast
    from trl import SFTTrainer

    shape = "small"
    base, found = (
        training_speed.model(shape, PLAN["dtype"]),
        dialogues(PLAN["tokens"], training_speed.SHAPES[shape][5], PLAN["length"]),
    )
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=training_speed._words(),
        pad_token="<pad>",
        eos_token="</s>",
        bos_token="<s>",
    )
    lora, tokens = (
        training_speed.adapter(base, shape, PLAN["rank"], "none"),
        sum(len(row["input_ids"]) for row in found),
    )
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        if way == "packed":
            rows = packing.packed(
                folder / "rows.arrow",
                [row["input_ids"] for row in found],
                PLAN["length"],
                [row["labels"] for row in found],
            )
            fit.fit(
                SFTTrainer,
                log=folder / "log.jsonl",
                extensions=[collate.PackedRows(), log.SourceLoss(), meter.TokenMeter()],
                model=base,
                args=training_speed.settings(folder, PLAN),
                train_dataset=rows,
                peft_config=lora,
                processing_class=tokenizer,
            )
            seconds = log.summary(folder / "log.jsonl")["train_seconds"]
        else:
            batch = max(
                1, round(PLAN["batch"] * PLAN["length"] * len(found) / tokens)
            )  # as many as fill the same rows on average
            args = training_speed.settings(folder, PLAN, per_device_train_batch_size=batch)
            trainer = SFTTrainer(
                model=base,
                args=args,
                train_dataset=Dataset.from_list(found),
                peft_config=lora,
                processing_class=tokenizer,
            )
            began = time.perf_counter()
            trainer.train()
            seconds = time.perf_counter() - began
    return {
        "tokens": tokens,
        "dialogues": len(found),
        "seconds": seconds,
        "tokens_per_second": tokens / seconds,
        "peak_bytes": environment.peak_bytes(),
    }


def invented(count: int) -> list[list[dict]]:
    """Return dialogues of one to three exchanges about the closed world, no two alike."""

    exchanges = [(row["instruction"], row["output"]) for row in talks.dialogues()["alpaca"]]
    rng, found = random.Random(2), []
    for number in range(count):
        picked = [exchanges[rng.randrange(len(exchanges))] for _ in range(rng.choice([1, 1, 2, 3]))]
        found.append(
            [
                turn
                for place, (question, answer) in enumerate(picked)
                for turn in (
                    {
                        "role": "user",
                        "content": f"第{number}号问题：{question}" if not place else question,
                    },
                    {"role": "assistant", "content": answer * rng.randint(1, 6)},
                )
            ]
        )
    return found


def preparation_job(way: str) -> dict:
    from datasets import Dataset
    from transformers import LlamaConfig, LlamaForCausalLM
    from trl import SFTConfig, SFTTrainer

    talks = invented(DIALOGUES if way == "ours" else TRL_DIALOGUES)
    texts = [turn["content"] for messages in talks[:5000] for turn in messages]
    tokenizer, _ = vocabulary.extend(sentencepieces.fast(sentencepieces.train(texts, 4000)), [])
    tokenizer.chat_template = templates.chat_template("zhilu")
    if way == "ours":
        began = time.perf_counter()
        rows = templates.encode(tokenizer, talks)
        seconds, tokens = time.perf_counter() - began, sum(len(row["input_ids"]) for row in rows)
    else:
        base = LlamaForCausalLM(
            LlamaConfig(
                vocab_size=len(tokenizer),
                hidden_size=8,
                intermediate_size=8,
                num_hidden_layers=1,
                num_attention_heads=1,
                pad_token_id=tokenizer.pad_token_id,
            )
        )
        with tempfile.TemporaryDirectory() as name:
            args = SFTConfig(
                output_dir=name,
                assistant_only_loss=True,
                max_length=None,
                report_to="none",
                bf16=False,
                dataset_num_proc=2 if way == "trl, two processes" else None,
            )
            data, taken = Dataset.from_dict({"messages": talks}), []
            prepare = SFTTrainer._prepare_dataset

            def timed(self: object, *arguments: object, **keywords: object) -> object:
                began = time.perf_counter()
                made = prepare(self, *arguments, **keywords)
                taken.append(time.perf_counter() - began)
                return made

            SFTTrainer._prepare_dataset = timed
            trainer = SFTTrainer(
                model=base, args=args, train_dataset=data, processing_class=tokenizer
            )
            seconds, tokens = taken[0], sum(map(len, trainer.train_dataset["input_ids"]))
            ours = templates.encode(tokenizer, talks[:200])
            prepared = trainer.train_dataset[:200]
            assert [row["input_ids"].tolist() for row in ours] == prepared["input_ids"], (
                "the same tokens"
            )
            assert [row["labels"].tolist() for row in ours] == prepared["labels"], (
                "the same tokens learnt"
            )
    return {
        "dialogues": len(talks),
        "tokens": tokens,
        "seconds": seconds,
        "dialogues_per_second": len(talks) / seconds,
        "peak_bytes": environment.peak_bytes(),
    }


def measured(kind: str, way: str) -> dict:
    """Run one job in a process of its own and return what it says."""
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.sft_speed", kind, way], capture_output=True, text=True
    )
    if done.returncode:
        raise RuntimeError(f"{kind} {way}: {done.stderr[-2000:]}")
    return json.loads(done.stdout.splitlines()[-1])


def main() -> None:
    what = sys.argv[1:] or ["all"]
    if what[0] in ("training", "preparation"):
        print(
            json.dumps({"training": training_job, "preparation": preparation_job}[what[0]](what[1]))
        )
        return
    if what[0] == "lengths":
        measure_lengths()
        return

    turns = [
        {way: measured("training", way) for way in ("packed", "padded")} for _ in range(3)
    ]  # in turn, since a shared machine drifts
    middle = {
        way: sorted((turn[way] for turn in turns), key=lambda row: row["seconds"])[1]
        for way in turns[0]
    }
    ways = {way: measured("preparation", way) for way in ("ours", "trl", "trl, two processes")}
    record = {
        "command": "python -m benchmarks.sft_speed",
        "device": f"{environment.device()}, {platform.machine()}",
        "versions": environment.versions(),
        "git_commit": environment.git_commit(),
        "finished": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
        "plan": PLAN,
        "training": middle,
        "packed_against_padded": statistics.median(
            turn["packed"]["tokens_per_second"] / turn["padded"]["tokens_per_second"]
            for turn in turns
        ),
        "preparation": ways,
    }
    path = paths.NOTEBOOKS / "results" / "sft.json"
    path.write_text(json.dumps(record, indent=1) + "\n")
    print(path)


if __name__ == "__main__":
    main()
