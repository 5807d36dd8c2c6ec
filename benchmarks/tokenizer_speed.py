"""How fast and how large the tokenizer step is.

It measures training pieces, merging, growing a 13B's tables, encoding, and training embeddings.

    # about a quarter of an hour on two cores; writes notebooks/results/tokenizer.json
    python -m benchmarks.tokenizer_speed

Text is 100 MB made of sentences from the real Chinese sources (FINLAB_DATA, see corpus_speed). Each
job has its own process, so its peak memory is its own. The three ways to train embeddings run on a
Llama with the proportions of a 7B with 23,296 new rows (head to body, new rows to old), with TRL's
own loss. For speed, all three run in turn, step by step, in one process; for memory, each runs
alone.
"""

import json
import platform
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from benchmarks import corpus_speed
from finlab import paths
from finlab.models import embeddings, loading, sentencepieces, tokenization, vocabulary
from finlab.run import environment

OLD, NEW, WIDTH, INNER, LAYERS = (
    2048,
    1472,
    512,
    1376,
    16,
)  # an eighth as wide as a 7B, which has 32,000 + 23,296 rows, 4,096, 11,008 and 32
WAYS = ("none", "new_rows", "full")


def texts(path: Path) -> list[str]:
    return [row["text"] for row in corpus_speed.rows(path)]


def pieces(path: Path, kind: str) -> dict:
    """Learn 20,000 pieces.

    They are unigram or BPE pieces of SentencePiece, or merges on top of minimind's 6,400 byte-level
    tokens.
    """
    from transformers import PreTrainedTokenizerFast

    found = texts(path)
    begun = time.time()
    if kind == "byte-level":
        base = PreTrainedTokenizerFast(
            tokenizer_file=str(paths.resolve("$FINLAB_DATA/tokenizers/minimind-6400.json"))
        )
        count = len(vocabulary.extend(base, vocabulary.learn(base, found, 20000, True, 0.9995))[1])
    else:
        count = len(sentencepieces.pieces(sentencepieces.train(found, 20000, kind, 0.9995)))
    return {"pieces": count, "seconds": time.time() - begun}


def grow(path: Path, dtype: str) -> dict:
    """Merge Chinese-LLaMA-2's pieces into Llama's and grow the tables.

    The tables grow from 32,000 x 5,120 to 55,296 x 5,120. The body has one thin layer.
    """
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    folder = paths.resolve("$FINLAB_DATA/tokenizers")
    torch.set_default_dtype(getattr(torch, dtype))
    model = LlamaForCausalLM(
        LlamaConfig(
            vocab_size=32000,
            hidden_size=5120,
            intermediate_size=1024,
            num_hidden_layers=1,
            num_attention_heads=40,
        )
    )
    begun = time.time()
    base = sentencepieces.fast(folder / "llama-32000.model")
    grown, _ = vocabulary.extend(
        base, sentencepieces.pieces(folder / "chinese-llama-2-55296/tokenizer.model"), ""
    )
    model = embeddings.resize_vocabulary(model, base, grown)
    return {
        "rows": list(model.get_input_embeddings().weight.shape),
        "seconds": time.time() - begun,
    }


def encode(path: Path, kind: str) -> dict:
    """Encode 20 MB with Llama and Chinese-LLaMA's pieces.

    Compare our encode, the library's encode_batch and its call, and SentencePiece.
    """
    import sentencepiece

    folder = paths.resolve("$FINLAB_DATA/tokenizers")
    found, size = [], 0
    for text in texts(path):
        if size < 20e6:
            found.append(text)
            size += len(text.encode())
    new = sentencepieces.pieces(folder / "chinese_sp-20000.model")
    tokenizer, _ = vocabulary.extend(sentencepieces.fast(folder / "llama-32000.model"), new)
    slow = sentencepiece.SentencePieceProcessor(
        model_proto=sentencepieces.merge(folder / "llama-32000.model", new)
    )
    ways = {
        "encode": lambda: tokenization.encode(tokenizer, found),
        "encode_batch": lambda: tokenizer.backend_tokenizer.encode_batch(
            found, add_special_tokens=False
        ),
        "call": lambda: tokenizer(found, add_special_tokens=False),
        "sentencepiece": lambda: slow.encode(found),
    }
    rates = {}
    for name, way in ways.items():
        seconds = []
        for _ in range(3):
            begun = time.time()
            way()
            seconds.append(time.time() - begun)
        rates[name] = size / 1e6 / min(seconds)
    return {"megabytes_per_second": rates}


def trained(way: str) -> tuple:
    import torch
    from peft import LoraConfig, get_peft_model
    from transformers import LlamaConfig, LlamaForCausalLM
    from trl.trainer.utils import add_fused_lm_head

    torch.manual_seed(0)
    model = LlamaForCausalLM(
        LlamaConfig(
            vocab_size=OLD + NEW,
            hidden_size=WIDTH,
            intermediate_size=INNER,
            num_hidden_layers=LAYERS,
            num_attention_heads=8,
            tie_word_embeddings=False,
        )
    )
    adapted = get_peft_model(
        model,
        LoraConfig(
            r=16,
            target_modules="all-linear",
            task_type="CAUSAL_LM",
            **embeddings.embedding_settings(model, way, OLD, OLD + NEW),
        ),
    )
    if not hasattr(adapted.get_output_embeddings(), "bias"):
        adapted.get_output_embeddings().bias = None
    add_fused_lm_head(adapted.get_base_model(), outputs=("log_probs", "entropy", "is_top1"))
    return adapted, torch.optim.AdamW(
        [parameter for parameter in adapted.parameters() if parameter.requires_grad], lr=1e-3
    )


def step(adapted: object, optimizer: object, ids: object) -> float:
    begun = time.perf_counter()
    adapted(input_ids=ids, labels=ids, fused_lm_head=True).loss.backward()
    optimizer.step()
    optimizer.zero_grad()
    return time.perf_counter() - begun


def train_embeddings(path: Path, kind: str) -> dict:
    """Train `kind` for a few steps, to measure its memory and its checkpoint.

    Or train all three ways in turn, to measure their speed.
    """
    import torch

    ids = torch.randint(0, OLD + NEW, (4, 256), generator=torch.Generator().manual_seed(1))
    if kind != "speed":
        adapted, optimizer = trained(kind)
        for _ in range(3):
            step(adapted, optimizer, ids)
        with tempfile.TemporaryDirectory() as folder:
            adapted.save_pretrained(folder, save_embedding_layers=False)
            return {
                "trainable": loading.parameter_counts(adapted)["trainable"],
                "adapter_bytes": (Path(folder) / "adapter_model.safetensors").stat().st_size,
            }
    made, seconds = {way: trained(way) for way in WAYS}, {way: [] for way in WAYS}
    for _ in range(27):
        for way in WAYS:
            seconds[way].append(step(*made[way], ids))
    ratios = {
        way: [one / other for one, other in zip(seconds[way][2:], seconds["none"][2:], strict=True)]
        for way in WAYS
    }
    return {
        way: {
            "tokens_per_second": ids.numel() / statistics.median(seconds[way][2:]),
            "slower_than_none": statistics.median(ratios[way]) - 1,
            "quartiles": [value - 1 for value in statistics.quantiles(ratios[way])],
        }
        for way in WAYS
    }


JOBS = {
    "pieces": (pieces, ("unigram", "bpe", "byte-level")),
    "grow": (grow, ("float32", "bfloat16")),
    "encode": (encode, ("llama",)),
    "embeddings": (embeddings, (*WAYS, "speed")),
}


def measured(job: str, path: Path, kind: str) -> dict:
    """Run one job in its own process; return its result and its peak memory."""
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.tokenizer_speed", job, str(path), kind],
        capture_output=True,
        text=True,
    )
    if done.returncode:
        raise RuntimeError(f"{job} {kind}: {done.stderr[-2000:]}")
    return json.loads(done.stdout.splitlines()[-1])


def main() -> None:
    if len(sys.argv) > 1:
        job, path, kind = sys.argv[1:]
        found = JOBS[job][0](Path(path), kind)
        print(
            json.dumps(
                found | {"peak_bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024}
            )
        )
        return

    record = {
        "command": "python -m benchmarks.tokenizer_speed",
        "device": f"{environment.device()}, {platform.machine()}",
        "versions": environment.versions(),
        "git_commit": environment.git_commit(),
        "finished": time.strftime("%Y-%m-%d"),
        "megabytes": 100,
    }
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "text.jsonl"
        corpus_speed.make(path, record["megabytes"])
        for job, (_, kinds) in JOBS.items():
            record[job] = {}
            for kind in kinds:
                record[job][kind] = measured(job, path, kind)
                print(job, kind, json.dumps(record[job][kind]), flush=True)
    (paths.NOTEBOOKS / "results/tokenizer.json").write_text(
        json.dumps(record, ensure_ascii=False, indent=1) + "\n", encoding="utf-8"
    )


if __name__ == "__main__":
    main()
