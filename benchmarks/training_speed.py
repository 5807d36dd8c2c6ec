"""How fast pretraining is: `fit`, compared with a bare PyTorch loop and with plain TRL.

    # on this machine's CPU, a few minutes; writes notebooks/results/training.json
    python -m benchmarks.training_speed
    # on a GPU: Llama-2-7B, 13B and Qwen2.5-7B shapes; writes notebooks/results/training-gpu.json
    python -m benchmarks.training_speed gpu
    # measure the document lengths again from the real texts (FINLAB_DATA)
    python -m benchmarks.training_speed lengths

Documents are random tokens with the lengths of the real corpus (lengths.json: 1,000 quantiles of
Llama's tokens per document in the nine real sources). Weights are random. Each job runs in its own
process. Tokens per second count real tokens, never padding.
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
from typing import Any

import torch

from finlab import paths
from finlab.data import cards, packing
from finlab.models import attention, sentencepieces, tokenization
from finlab.models.embeddings import embedding_settings
from finlab.run import environment
from finlab.train import collate, costs, fit, log, meter, shapes, throughput
from finlab.train.shapes import ModelShape

LENGTHS = Path(__file__).with_name("lengths.json")
TEXTS = (
    "laws_zh",
    "cfbenchmark_zh",
    "fincuge_finese_zh",
    "fincuge_finnl_zh",
    "cmrc2018_zh",
    "wiki_en",
    "c4_en",
    "finterms_en",
    "tatqa_en",
)
ROUNDS = 3  # runs of each way; the speed of a shared machine drifts, so the median counts


# The shape, and the number of vocabulary rows that an extension added.
SHAPES = {
    # A 7B, an eighth as wide and half as deep.
    "small": (ModelShape(16, 512, 8, 8, 64, 1376, 3520), 1472),
    "Llama-2-7B": (shapes.of_model("hfl/chinese-alpaca-2-7b"), 23296),
    "Llama-2-13B": (shapes.of_model("hfl/chinese-alpaca-2-13b"), 23296),
    "Qwen2.5-7B": (shapes.of_model("Qwen/Qwen2.5-7B"), 400),
}
PLANS = {
    "cpu": {"dtype": "float32", "length": 1024, "batch": 2, "tokens": 10_000, "rank": 16},
    "gpu": {"dtype": "bfloat16", "length": 4096, "batch": 1, "tokens": 400_000, "rank": 64},
}


# --- what is trained -----------------------------------------------------------------------------
def measure_lengths() -> None:
    """Write 1,000 quantiles of the tokens per document in the real texts."""
    texts = [
        row["text"] for source in cards.load_all(TEXTS, "text").values() for row in source.rows
    ]
    tokenizer = sentencepieces.fast(paths.resolve("$FINLAB_DATA/tokenizers/llama-32000.model"))
    sizes = sorted(len(ids) for ids in tokenization.encode(tokenizer, texts))
    quantiles = [sizes[round(place * (len(sizes) - 1) / 999)] for place in range(1000)]
    LENGTHS.write_text(json.dumps(quantiles) + "\n")


def documents(count: int, vocabulary: int, longest: int) -> list[list[int]]:
    """Return documents of about `count` random tokens in all, with the real lengths.

    They are cut at `longest`, since TRL's padded batches cannot split them.
    """
    rng = random.Random(1)
    lengths = json.loads(LENGTHS.read_text())
    found = []
    while count > 0:
        size = min(rng.choice(lengths), longest)
        inner = [rng.randrange(3, vocabulary) for _ in range(size - 2)]
        found.append([1, *inner, 2])
        count -= size
    return found


def training_args(folder: Path, plan: dict[str, Any], **changes: Any):
    """Return TRL's arguments for one pass over rows of tokens."""
    from trl import SFTConfig

    values = {
        "output_dir": str(folder / "out"),
        "num_train_epochs": 1,
        "per_device_train_batch_size": plan["batch"],
        "learning_rate": 1e-4,
        "logging_steps": 5,
        "save_strategy": "no",
        "bf16": plan["dtype"] == "bfloat16",
        "gradient_checkpointing": plan.get("checkpointing", False),
        "report_to": "none",
        "dataloader_pin_memory": False,
        "max_length": None,
        "train_sampling_strategy": "sequential",
        "dataset_kwargs": {"skip_prepare_dataset": True},
    }
    return SFTConfig(**{**values, **changes})


def adapter(model, new: int, rank: int, embeddings: str):
    """Return the LoRA, with embeddings trained as a recipe says; `new` of their rows are new."""
    from peft import LoraConfig

    vocabulary = model.config.vocab_size
    return LoraConfig(
        r=rank,
        lora_alpha=2 * rank,
        target_modules=list(costs.ALL_TARGETS),
        task_type="CAUSAL_LM",
        **embedding_settings(model, embeddings, vocabulary - new, vocabulary),
    )


# --- three ways to train -------------------------------------------------------------------------
def ours(model, lora, found: list[list[int]], plan: dict[str, Any], folder: Path) -> dict:
    """Train on packed rows with `fit`."""
    from trl import SFTTrainer

    fit.fit(
        SFTTrainer,
        log=folder / "log.jsonl",
        extensions=[collate.PackedRows(), log.SourceLoss(), meter.TokenMeter()],
        model=model,
        args=training_args(folder, plan),
        train_dataset=packing.packed(folder / "rows.arrow", found, plan["length"]),
        peft_config=lora,
        processing_class=throughput.words(model.config.vocab_size),
    )
    account = log.summary(folder / "log.jsonl")
    told = {name: account[name] for name in ("mfu", "attention", "flops_per_token")}
    return {"seconds": account["train_seconds"], **told}


def bare(model, lora, found: list[list[int]], plan: dict[str, Any], folder: Path) -> dict:
    """Train on packed rows with the shortest possible loop."""
    from peft import get_peft_model

    rows = packing.packed(folder / "rows.arrow", found, plan["length"])
    adapted = get_peft_model(model, lora).train()
    learning = [parameter for parameter in adapted.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(learning, lr=1e-4)
    make_batch = collate.RowsCollator(0)
    began = time.perf_counter()
    for start in range(0, len(rows), plan["batch"]):
        places = range(start, min(start + plan["batch"], len(rows)))
        batch = make_batch([rows[place] for place in places])
        batch = {name: value.to(model.device) for name, value in batch.items()}
        adapted(**batch, use_cache=False).loss.backward()
        torch.nn.utils.clip_grad_norm_(learning, 1.0)
        optimizer.step()
        optimizer.zero_grad()
    return {"seconds": time.perf_counter() - began}


def padded(model, lora, found: list[list[int]], plan: dict[str, Any], folder: Path) -> dict:
    """Train with plain TRL: documents in order, padded to the longest one of their batch.

    On average, the documents of a batch fill the same rows.
    """
    from datasets import Dataset
    from trl import SFTTrainer

    tokens = sum(map(len, found))
    batch = max(1, round(plan["batch"] * plan["length"] * len(found) / tokens))
    changes: dict[str, Any] = {"per_device_train_batch_size": batch}
    if model.device.type == "cuda":
        # TRL's default; padded rows would not fit without it.
        changes["gradient_checkpointing"] = True
    trainer = SFTTrainer(
        model=model,
        args=training_args(folder, plan, **changes),
        train_dataset=Dataset.from_list([{"input_ids": ids} for ids in found]),
        peft_config=lora,
        processing_class=throughput.words(model.config.vocab_size),
    )
    began = time.perf_counter()
    trainer.train()
    return {"seconds": time.perf_counter() - began, "documents_in_a_batch": batch}


WAYS = {"ours": ours, "bare": bare, "padded": padded}


def job(way: str, name: str, plan: dict[str, Any], embeddings: str, share: float) -> dict:
    """Train once over the documents in one way.

    Args:
        way: One of WAYS.
        name: One of SHAPES.
        plan: One of PLANS.
        embeddings: full, new_rows or none.
        share: Share of the plan's tokens.

    Returns:
        {tokens, seconds, tokens_per_second, peak_bytes, ...}.
    """
    shape, new = SHAPES[name]
    found = documents(round(plan["tokens"] * share), shape.vocabulary, plan["length"])
    torch.manual_seed(0)
    backend = attention.choose_attention(plan["dtype"])
    config = throughput.config_of(shape, plan["length"])
    model = throughput.random_model(config, plan["dtype"], backend)
    lora = adapter(model, new, plan["rank"], embeddings)
    tokens = sum(map(len, found))
    with tempfile.TemporaryDirectory() as folder:
        told = WAYS[way](model, lora, found, plan, Path(folder))
    return {
        "tokens": tokens,
        "tokens_per_second": tokens / told["seconds"],
        "peak_bytes": environment.peak_bytes(),
        **told,
    }


def measured(*arguments: Any) -> dict:
    """Run one job in its own process and return its result."""
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.training_speed", "job", json.dumps(arguments)],
        capture_output=True,
        text=True,
    )
    if done.returncode:
        raise RuntimeError(f"{arguments}: {done.stderr[-2000:]}")
    return json.loads(done.stdout.splitlines()[-1])


# --- the two programs ----------------------------------------------------------------------------
def cpu() -> dict:
    """Measure the small shape in all ways, and how `fit` grows with the tokens."""
    plan = PLANS["cpu"]
    turns = []
    for _ in range(ROUNDS):
        turns.append({way: measured(way, "small", plan, "full", 1.0) for way in WAYS})
    middle = {}
    for way in WAYS:
        by_seconds = sorted((turn[way] for turn in turns), key=lambda row: row["seconds"])
        middle[way] = by_seconds[ROUNDS // 2]
    slower = [turn["ours"]["seconds"] / turn["bare"]["seconds"] for turn in turns]
    faster = []
    for turn in turns:
        faster.append(turn["ours"]["tokens_per_second"] / turn["padded"]["tokens_per_second"])
    sizes = []
    for share in (0.5, 1.0, 2.0, 4.0):
        row = measured("ours", "small", plan, "full", share)
        sizes.append({"tokens": row["tokens"], "seconds": row["seconds"]})
    return {
        "ways": middle,
        "ours_against_bare": statistics.median(slower) - 1,
        "ours_against_padded": statistics.median(faster),
        "sizes": sizes,
        "plan": plan,
    }


def gpu() -> dict:
    """Measure the published shapes, with the embeddings trained in three ways."""
    plan = PLANS["gpu"]
    small = torch.cuda.get_device_properties(0).total_memory < 120e9
    rows = []
    for shape in ("Llama-2-7B", "Qwen2.5-7B", "Llama-2-13B"):
        # Activations of 13B and 4,096 tokens need more than 80 GB.
        fits = {**plan, "checkpointing": shape.endswith("13B") and small}
        for embeddings in ("none", "new_rows", "full"):
            row = {"shape": shape, "embeddings": embeddings, **fits}
            row["ours"] = measured("ours", shape, fits, embeddings, 1.0)
            row["padded"] = measured("padded", shape, plan, embeddings, 0.2)
            speeds = [row[way]["tokens_per_second"] for way in ("ours", "padded")]
            row["ours_against_padded"] = speeds[0] / speeds[1]
            rows.append(row)
            print(row, flush=True)
    return {"rows": rows, "plan": plan}


def main() -> None:
    """Do what the command line says."""
    what = (sys.argv[1:] or ["cpu"])[0]
    if what == "job":
        print(json.dumps(job(*json.loads(sys.argv[2]))))
        return
    if what == "lengths":
        measure_lengths()
        return
    found = {"cpu": cpu, "gpu": gpu}[what]()
    record = {
        "command": "python -m benchmarks.training_speed" + (" gpu" if what == "gpu" else ""),
        "device": f"{environment.device()}, {platform.machine()}",
        "versions": environment.versions(),
        "git_commit": environment.git_commit(),
        "finished": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
        **found,
    }
    path = paths.NOTEBOOKS / "results" / ("training-gpu.json" if what == "gpu" else "training.json")
    path.write_text(json.dumps(record, indent=1) + "\n")
    print(path)


if __name__ == "__main__":
    main()
