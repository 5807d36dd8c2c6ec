"""What keeps a chat model from forgetting while it learns to reason: several ways compared.

    finlab run smoke --run-dir RUN
    python -m benchmarks.forgetting_ways RUN

Each way learns the same chains with the same LoRA, and reads the same number of tokens: only
chains; chains with replayed text; a KL term to the model at its start; and merges of the adapter of
chains with an adapter of text (linear, TIES, DARE, by PEFT). What is gained: the loss on held-out
chains and the share of right answers. What is lost: bits per character of held-out text. For all
ways, the rows of the tokens in chains (digits, signs, marks) come from notebook 10: a frozen head
knows hardly any digit, and adapters with their own rows cannot be merged. It writes
notebooks/results/forgetting_ways.json, in about ten minutes on two cores.
"""

from __future__ import annotations

import copy
import platform
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import pandas
import torch
from peft import LoraConfig, PeftModel
from trl import SFTConfig, SFTTrainer

from benchmarks.tables import write_results
from finlab.data import cards, packing, templates
from finlab.evaluate import likelihood, statistics
from finlab.evaluate.reasoning import chains, problems, scores
from finlab.models import embeddings, loading, tokenization
from finlab.models.sampling import Budget
from finlab.run import environment
from finlab.train.collate import PackedRows
from finlab.train.extensions import KeepNear
from finlab.train.fit import fit

HELD_OUT = 200
TOKENS = 300_000
ROW = 256
REPLAY = 0.2
BETA = 0.5
DENSITY = 0.5
TEXTS = 60
LORA = LoraConfig(
    r=64,
    lora_alpha=128,
    target_modules=["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"],
    task_type="CAUSAL_LM",
)


class Bench:
    """The start, the data and the measures that all ways share.

    Args:
        run: A run with the steps corpus, sft and reasoning.
        work: A folder for models and adapters.
    """

    def __init__(self, run: Path, work: Path):
        self.work = work
        source = run / "sft/artifact/model"
        taught = run / "reasoning/artifact/sft/model"
        self.tokenizer = tokenization.load(taught)
        model = loading.load(source)
        embeddings.resize_vocabulary(model, tokenization.load(source), self.tokenizer)
        self.start = work / "start"
        asked, _ = problems.load(cards.load_all(["cw_arithmetic"], "question"))
        rows = chains.of_cards(asked)
        kept = chains.sift(rows, chains.Rules(min_steps=2))
        talks = chains.dialogues(rows, kept)
        self.unseen = [rows[place].problem for place in kept.of(chains.KEPT)[:HELD_OUT]]
        encoded = templates.encode(self.tokenizer, talks)
        self.unseen_rows = encoded[:HELD_OUT]
        self.chains = [(row["input_ids"], row["labels"]) for row in encoded[HELD_OUT:]]
        _copy_rows(loading.load(taught), model, [labels for _, labels in self.chains])
        model.save_pretrained(self.start)
        size = sum(len(ids) for ids, _ in self.chains)
        replayed = tokenization.replay_documents(
            self.tokenizer, run / "corpus/artifact/train", float(size), 1
        )
        self.texts = [(ids, ids) for ids in replayed]
        held = pandas.read_parquet(run / "corpus/artifact/held_out").sort_values("number")
        self.corners = {}
        for (language, domain), part in held.groupby(["language", "domain"]):
            self.corners[f"{language}_{domain}"] = part.text.tolist()[:TEXTS]

    def rows(self, documents: list[tuple], name: str) -> Any:
        """Return packed rows of TOKENS tokens; documents are repeated as often as needed."""
        size = sum(len(ids) for ids, _ in documents)
        times = -(-TOKENS // size)
        repeated = (documents * times)[: len(documents) * TOKENS // size]
        tokens, labels = zip(*repeated)
        return packing.packed(self.work / f"{name}.arrow", list(tokens), ROW, list(labels))

    def train(self, name: str, documents: list[tuple], extensions: tuple = ()) -> Path:
        """Train an adapter, and return its folder."""
        args = SFTConfig(
            output_dir=str(self.work / name),
            num_train_epochs=1,
            learning_rate=1e-3,
            per_device_train_batch_size=4,
            warmup_steps=10,
            save_strategy="no",
            report_to="none",
            bf16=False,
            gradient_checkpointing=False,
            max_length=None,
            dataset_kwargs={"skip_prepare_dataset": True},
            seed=1,
        )
        trainer = fit(
            SFTTrainer,
            log=self.work / f"{name}.jsonl",
            extensions=[PackedRows(), *extensions],
            model=loading.load(self.start),
            args=args,
            train_dataset=self.rows(documents, name),
            peft_config=copy.deepcopy(LORA),
            processing_class=self.tokenizer,
        )
        trainer.save_model(str(self.work / name))
        return self.work / name

    def measure(self, way: str, model: Any, seconds: float) -> dict[str, Any]:
        """Return what a model has gained and lost."""
        model.eval()
        nats = []
        for row in self.unseen_rows:
            found = likelihood.answer_log_probs(model, [_as_pair(row)])[0]["chosen"]
            nats.append(-found / int((row["labels"] != templates.IGNORE).sum()))
        low, high = statistics.bootstrap(nats)
        answered = scores.answer(model, self.tokenizer, self.unseen, Budget(48))
        right = scores.accuracy(answered)
        row = {"way": way, "seconds": seconds, "chain_nats": sum(nats) / len(nats)}
        row |= {"chain_low": low, "chain_high": high, "accuracy": right["accuracy"]}
        row |= {"accuracy_low": right["ci_low"], "accuracy_high": right["ci_high"]}
        for corner, texts in self.corners.items():
            each = [likelihood.bits_per_character(model, self.tokenizer, [t]) for t in texts]
            low, high = statistics.bootstrap(each)
            row[corner] = {"bits": sum(each) / len(each), "low": low, "high": high}
        print(row, flush=True)
        return row


def _copy_rows(taught: Any, model: Any, labels: list) -> None:
    """Give a model the rows of the tokens that occur in chains.

    Args:
        taught: The model that has learnt them.
        model: The model that gets them.
        labels: The labels of the chains; -100 is not learnt.
    """
    tokens = sorted({int(token) for row in labels for token in row if token >= 0})
    for name in ("get_input_embeddings", "get_output_embeddings"):
        source, target = getattr(taught, name)().weight, getattr(model, name)().weight
        with torch.no_grad():
            target[tokens] = source[tokens]


def _as_pair(row: dict) -> dict[str, list[int]]:
    """Return a chain as one side of a pair, so that its likelihood can be read."""
    ids = row["input_ids"].tolist()
    begin = int((row["labels"] != templates.IGNORE).argmax())
    return {"prompt_ids": ids[:begin], "chosen_ids": ids[begin:], "rejected_ids": ids[begin:]}


def main(run: Path) -> None:
    """Train and measure every way."""
    with tempfile.TemporaryDirectory() as folder:
        bench = Bench(run, Path(folder))
        rows = [bench.measure("before", loading.load(bench.start), 0.0)]
        share = int(len(bench.texts) * REPLAY)
        ways = {
            "chains alone": (bench.chains, ()),
            "replay of text, 1 in 6": (bench.chains + bench.texts[:share], ()),
            f"KL to the start, beta {BETA}": (bench.chains, (KeepNear(BETA),)),
            "text alone": (bench.texts, ()),
        }
        adapters = {}
        for name, (documents, extensions) in ways.items():
            began = time.perf_counter()
            adapters[name] = bench.train(
                name.split(",")[0].replace(" ", "_"), documents, extensions
            )
            seconds = time.perf_counter() - began
            model = PeftModel.from_pretrained(loading.load(bench.start), adapters[name])
            rows.append(bench.measure(name, model, seconds))
        rows += merged(bench, adapters["chains alone"], adapters["text alone"])
    record = {
        "command": "python -m benchmarks.forgetting_ways RUN",
        "device": f"{environment.device()}, {platform.machine()}",
        "versions": environment.versions(),
        "git_commit": environment.git_commit(),
        "finished": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
        "tokens": TOKENS,
        "held_out": HELD_OUT,
        "rows": rows,
    }
    write_results("forgetting_ways", record)


def merged(bench: Bench, learnt: Path, text: Path) -> list[dict[str, Any]]:
    """Return what merges of two adapters have gained and lost."""
    rows = []
    for way, options in {
        "linear": {"combination_type": "linear"},
        "TIES": {"combination_type": "ties", "density": DENSITY},
        "DARE": {"combination_type": "dare_linear", "density": DENSITY},
    }.items():
        model = PeftModel.from_pretrained(loading.load(bench.start), learnt, adapter_name="chains")
        model.load_adapter(text, adapter_name="text")
        model.add_weighted_adapter(["chains", "text"], [0.7, 0.3], "merged", **options)
        model.set_adapter("merged")
        rows.append(bench.measure(f"merged, {way}, 0.7 and 0.3", model, 0.0))
    return rows


if __name__ == "__main__":
    main(Path(sys.argv[1]))
