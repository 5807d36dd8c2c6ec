"""How fast pretraining is: `fit` against a bare PyTorch loop on the same packed rows.

Against plain TRL with padded batches.

    # on this machine's CPU, a few minutes; writes notebooks/results/training.json
    python -m benchmarks.training_speed
    # on a GPU: Llama-2-7B, 13B and Qwen2.5-7B shapes; writes notebooks/results/training-gpu.json
    python -m benchmarks.training_speed gpu
    # measure the document lengths anew from the real texts (FINLAB_DATA)
    python -m benchmarks.training_speed lengths

Documents are random tokens with the lengths of the real corpus (lengths.json: 1,000 quantiles of
Llama's tokens per document in the nine real sources). Weights are random. Each job runs in a
process of its own. Tokens per second count real tokens, never padding.
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

from finlab import paths
from finlab.data import cards, packing
from finlab.models import attention, sentencepieces, tokenization
from finlab.models.embeddings import embedding_settings
from finlab.run import environment
from finlab.train import collate, fit, log, meter

LENGTHS = Path(__file__).with_name("lengths.json")
LORA = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
SHAPES = {  # layers, width, inner width, heads, key-value heads, rows of embeddings, of them new
    "small": (
        16,
        512,
        1376,
        8,
        8,
        3520,
        1472,
    ),  # a 7B with 23,296 new rows, an eighth as wide and half as deep
    "Llama-2-7B": (32, 4096, 11008, 32, 32, 55296, 23296),
    "Llama-2-13B": (40, 5120, 13824, 40, 40, 55296, 23296),
    "Qwen2.5-7B": (28, 3584, 18944, 28, 4, 152064, 400),
}
PLANS = {
    "cpu": {"dtype": "float32", "length": 1024, "batch": 2, "tokens": 10_000, "rank": 16},
    "gpu": {"dtype": "bfloat16", "length": 4096, "batch": 1, "tokens": 400_000, "rank": 64},
}


def measure_lengths() -> None:

    names = [
        "laws_zh",
        "cfbenchmark_zh",
        "fincuge_finese_zh",
        "fincuge_finnl_zh",
        "cmrc2018_zh",
        "wiki_en",
        "c4_en",
        "finterms_en",
        "tatqa_en",
    ]
    texts = [
        row["text"] for source in cards.load_all(names, "text").values() for row in source.rows
    ]
    sizes = sorted(
        map(
            len,
            tokenization.encode(
                sentencepieces.fast(paths.resolve("$FINLAB_DATA/tokenizers/llama-32000.model")),
                texts,
            ),
        )
    )
    LENGTHS.write_text(
        json.dumps([sizes[round(place * (len(sizes) - 1) / 999)] for place in range(1000)]) + "\n"
    )


def documents(count: int, rows: int, longest: int) -> list[list[int]]:
    """Return documents of about `count` tokens, with the real lengths.

    They are cut at `longest`, since TRL's padded batches cannot split them.
    """
    rng, sizes, found = random.Random(1), json.loads(LENGTHS.read_text()), []
    while count > 0:
        size = min(rng.choice(sizes), longest)
        found.append([1, *(rng.randrange(3, rows) for _ in range(size - 2)), 2])
        count -= size
    return found


def model(shape: str, dtype: str) -> object:
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    layers, width, inner, heads, keys, rows, _ = SHAPES[shape]
    config = LlamaConfig(
        vocab_size=rows,
        hidden_size=width,
        intermediate_size=inner,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        num_key_value_heads=keys,
        max_position_embeddings=4096,
        attn_implementation=attention.choose_attention(dtype),
        pad_token_id=0,
    )
    torch.manual_seed(0)
    with torch.device("cuda" if torch.cuda.is_available() else "cpu"):
        return LlamaForCausalLM(config).to(getattr(torch, dtype))


def settings(folder: Path, plan: dict, **more) -> object:
    from trl import SFTConfig

    return SFTConfig(
        **{
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
            **more,
        }
    )


def adapter(base: object, shape: str, rank: int, embeddings: str) -> object:
    from peft import LoraConfig

    rows, new = SHAPES[shape][5:]
    return LoraConfig(
        r=rank,
        lora_alpha=2 * rank,
        target_modules=LORA,
        task_type="CAUSAL_LM",
        **embedding_settings(base, embeddings, rows - new, rows),
    )


def job(way: str, shape: str, plan: dict, embeddings: str, share: float) -> dict:
    """Train once over the documents in one way.

    Return {tokens, seconds, tokens_per_second, peak_bytes, ...}.
    """
    import torch
    from datasets import Dataset
    from peft import get_peft_model
    from transformers import PreTrainedTokenizerFast
    from trl import SFTTrainer

    found, base = (
        documents(round(plan["tokens"] * share), SHAPES[shape][5], plan["length"]),
        model(shape, plan["dtype"]),
    )
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=_words(), pad_token="<pad>", eos_token="</s>", bos_token="<s>"
    )
    lora, tokens = adapter(base, shape, plan["rank"], embeddings), sum(map(len, found))
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        rows = packing.packed(folder / "rows.arrow", found, plan["length"])
        if way == "ours":
            fit.fit(
                SFTTrainer,
                log=folder / "log.jsonl",
                extensions=[collate.PackedRows(), log.SourceLoss(), meter.TokenMeter()],
                model=base,
                args=settings(folder, plan),
                train_dataset=rows,
                peft_config=lora,
                processing_class=tokenizer,
            )
            account = log.summary(folder / "log.jsonl")
            seconds = account["train_seconds"]
            more = {name: account[name] for name in ("mfu", "attention", "flops_per_token")}
        elif way == "bare":
            adapted = get_peft_model(base, lora).train()
            learning = [parameter for parameter in adapted.parameters() if parameter.requires_grad]
            optimizer, make_batch = torch.optim.AdamW(learning, lr=1e-4), collate.RowsCollator(0)
            began = time.perf_counter()
            for start in range(0, len(rows), plan["batch"]):
                batch = make_batch(
                    [rows[place] for place in range(start, min(start + plan["batch"], len(rows)))]
                )
                adapted(
                    **{key: value.to(base.device) for key, value in batch.items()}, use_cache=False
                ).loss.backward()
                torch.nn.utils.clip_grad_norm_(learning, 1.0)
                optimizer.step()
                optimizer.zero_grad()
            seconds, more = time.perf_counter() - began, {}
        else:  # plain TRL: documents as they come, padded to the longest of the batch; as many documents as fill the same rows on average
            batch = max(1, round(plan["batch"] * plan["length"] * len(found) / tokens))
            data = Dataset.from_list([{"input_ids": ids} for ids in found])
            more = (
                {"gradient_checkpointing": True} if base.device.type == "cuda" else {}
            )  # TRL's default; padded rows would not fit without
            trainer = SFTTrainer(
                model=base,
                args=settings(folder, plan, per_device_train_batch_size=batch, **more),
                train_dataset=data,
                peft_config=lora,
                processing_class=tokenizer,
            )
            began = time.perf_counter()
            trainer.train()
            seconds, more = time.perf_counter() - began, {"documents_in_a_batch": batch}
    return {
        "tokens": tokens,
        "seconds": seconds,
        "tokens_per_second": tokens / seconds,
        "peak_bytes": environment.peak_bytes(),
        **more,
    }


def _words() -> object:
    from tokenizers import Tokenizer, models

    return Tokenizer(models.WordLevel({"<pad>": 0, "<s>": 1, "</s>": 2}, unk_token="<pad>"))


def measured(*arguments: object) -> dict:
    """Run one job in a process of its own and return what it says."""
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.training_speed", "job", json.dumps(arguments)],
        capture_output=True,
        text=True,
    )
    if done.returncode:
        raise RuntimeError(f"{arguments}: {done.stderr[-2000:]}")
    return json.loads(done.stdout.splitlines()[-1])


def cpu() -> dict:
    plan, rounds = PLANS["cpu"], 3
    turns = [
        {way: measured(way, "small", plan, "full", 1.0) for way in ("ours", "bare", "padded")}
        for _ in range(rounds)
    ]  # in turn, since a shared machine drifts
    middle = {
        way: sorted((turn[way] for turn in turns), key=lambda row: row["seconds"])[rounds // 2]
        for way in turns[0]
    }
    return {
        "ways": middle,
        "ours_against_bare": statistics.median(
            turn["ours"]["seconds"] / turn["bare"]["seconds"] for turn in turns
        )
        - 1,
        "ours_against_padded": statistics.median(
            turn["ours"]["tokens_per_second"] / turn["padded"]["tokens_per_second"]
            for turn in turns
        ),
        "sizes": [
            {"tokens": row["tokens"], "seconds": row["seconds"]}
            for row in (
                measured("ours", "small", plan, "full", share) for share in (0.5, 1.0, 2.0, 4.0)
            )
        ],
        "plan": plan,
    }


def gpu() -> dict:
    import torch

    plan, rows = PLANS["gpu"], []
    small = torch.cuda.get_device_properties(0).total_memory < 120e9
    for shape in ("Llama-2-7B", "Qwen2.5-7B", "Llama-2-13B"):
        for embeddings in ("none", "new_rows", "full"):
            fits = plan | {
                "checkpointing": shape.endswith("13B") and small
            }  # activations of 13B and 4,096 tokens need more than 80 GB
            row = {
                "shape": shape,
                "embeddings": embeddings,
                **fits,
                "ours": measured("ours", shape, fits, embeddings, 1.0),
            }
            row["padded"] = measured("padded", shape, plan, embeddings, 0.2)
            rows.append(
                row
                | {
                    "ours_against_padded": row["ours"]["tokens_per_second"]
                    / row["padded"]["tokens_per_second"]
                }
            )
            print(row, flush=True)
    return {"rows": rows, "plan": plan}


def main() -> None:
    what = (sys.argv[1:] or ["cpu"])[0]
    if what == "job":
        print(json.dumps(job(*json.loads(sys.argv[2]))))
        return
    if what == "lengths":
        measure_lengths()
        return

    found = {"cpu": cpu, "gpu": gpu}[what]()
    device = f"{environment.device()}, {platform.machine()}"
    command = "python -m benchmarks.training_speed" + (" gpu" if what == "gpu" else "")
    record = {
        "command": command,
        "device": device,
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
