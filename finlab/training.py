"""Training over TRL: packed rows, preflight, a log on disk, resume, the loss of each source. The config objects stay TRL's and PEFT's own.

    trainer = training.fit(SFTTrainer, log=run.log, model=base, args=SFTConfig(...), train_dataset=rows, peft_config=LoraConfig(...))
    training.summary(run.log)      # {tokens, seconds, tokens_per_second, mfu, hfu, peak_bytes, ...}

With `launch` the same objects are written to a job file and `accelerate launch` runs the same function in several processes (see launch.py).
"""

from __future__ import annotations

import contextlib
import copy
import functools
import itertools
import json
import math
import os
import pickle
import shutil
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace

import torch
from transformers import PrinterCallback, ProgressCallback, TrainerCallback
from trl.trainer.sft_trainer import DataCollatorForLanguageModeling

from finlab import chat, launch, meter, mixture, runs
from finlab import model as models


class Refused(ValueError):
    """A preflight check failed, so training does not start."""


# --- rows to batches ------------------------------------------------------------------------------------------------
def _by_token(example: dict) -> list[int]:
    """Return the source of each token of a row, whose `sources` are given by document or by token."""
    if len(example["sources"]) == len(example["input_ids"]):
        return example["sources"]
    return [source for source, size in zip(example["sources"], example["seq_lengths"], strict=True) for _ in range(size)]


@dataclass
class PackedRows:
    """Collate packed rows without letting documents see each other, under SDPA.

    input_ids (rows, length) int64; position_ids restart at each document, and there is no attention mask: transformers then
    builds a block-diagonal mask per row. Labels of first tokens are -100, since what stands before them is another document. Rows of
    one bucket are folded to that bucket's length first, since the mask is quadratic in it. `sources`, where rows have them, come per token.
    """

    pad_token_id: int

    def __call__(self, examples: list[dict]) -> dict[str, torch.Tensor]:
        width = max(example.get("bucket", 0) for example in examples)
        if 0 < width < max(len(example["input_ids"]) for example in examples):
            examples = _fold(examples, width)
        length = max(len(example["input_ids"]) for example in examples)

        def padded(values: list[int], filler: int) -> list[int]:
            return list(values) + [filler] * (length - len(values))

        positions = []
        for example in examples:
            sizes = [*example["seq_lengths"], length - sum(example["seq_lengths"])]
            positions.append([position for size in sizes for position in range(size)])
        labels = torch.tensor([padded(example["labels"], chat.IGNORE) for example in examples])
        position_ids = torch.tensor(positions)
        labels[position_ids == 0] = chat.IGNORE
        ids = torch.tensor([padded(example["input_ids"], self.pad_token_id) for example in examples])
        batch = {"input_ids": ids, "labels": labels, "position_ids": position_ids}
        if "sources" in examples[0]:
            batch["sources"] = torch.tensor([padded(_by_token(example), 0) for example in examples])
        return batch


def _fold(examples: list[dict], width: int) -> list[dict]:
    """Return the documents of rows, packed anew into rows of `width` tokens."""
    documents = []
    for example in examples:
        for number, (start, size) in enumerate(_spans(example)):
            document = {name: example[name][start:start + size] for name in ("input_ids", "labels")} | {"seq_lengths": [size]}
            documents.append(document | ({"sources": [example["sources"][number]]} if "sources" in example else {}))
    groups = mixture.bins([document["seq_lengths"][0] for document in documents], width)
    return [{name: [value for item in group for value in documents[item][name]] for name in documents[0]} for group in groups]


@dataclass
class JoinedRows(DataCollatorForLanguageModeling):
    """TRL's padding-free collator, which joins the rows of a batch into one and gives their documents' bounds; `sources` come along per token."""

    padding_free: bool = True

    def torch_call(self, examples: list[dict]) -> dict:
        batch = super().torch_call(examples)
        if "sources" in examples[0]:
            batch["sources"] = torch.tensor([[source for example in examples for source in _by_token(example)]])
        return batch


def collator(network: object, pad_token_id: int) -> Callable:
    """Return what makes batches of packed rows for a model's attention: joined rows where it takes documents' bounds, else rows apart."""
    return PackedRows(pad_token_id) if network.config._attn_implementation in ("sdpa", "eager") else JoinedRows(pad_token_id)


@contextlib.contextmanager
def packing(network: object, device: str = "") -> Iterator[str]:
    """Let a model use the attention for packed rows meanwhile; give its name (see `model.packed_attention`)."""
    own, chosen = network.config._attn_implementation, models.packed_attention(network, device)
    if chosen != own:
        network.set_attn_implementation(chosen)
    try:
        yield chosen
    finally:
        if chosen != own:
            network.set_attn_implementation(own)


# --- preflight ------------------------------------------------------------------------------------------------------
@dataclass(frozen=True)
class Check:
    """One preflight check: its name, whether it holds, and what was found."""

    name: str
    ok: bool
    found: str


def isolation_error(network: object, first: list[int], second: list[int]) -> float:
    """Return the largest difference between a document's logits packed behind another and alone: 0 means isolated.

    Packed goes through the collator and the attention that training uses, alone through the model as it is.
    """
    was_training = network.training
    network.eval()
    row = {"input_ids": first + second, "labels": first + second, "seq_lengths": [len(first), len(second)]}
    with torch.inference_mode():
        alone = network(input_ids=torch.tensor([second], device=network.device), use_cache=False).logits[0].float()
        with packing(network):
            batch = collator(network, 0)([row])
            batch = {name: value.to(network.device) if torch.is_tensor(value) else value for name, value in batch.items() if name != "labels"}
            packed = network(**batch, use_cache=False).logits[0, len(first):].float()
    network.train(was_training)
    return (packed - alone).abs().max().item()


def preflight(network: object, tokenizer: object, rows: list[dict], limit: int = 2000) -> list[Check]:
    """Check what others found out too late; rows are {input_ids, labels, seq_lengths}. Looks at the first `limit` rows.

    The checks and the threads they come from are listed in the README.
    """
    rows = [dict(row) for _, row in zip(range(limit), rows)]
    pad, eos, bos = tokenizer.pad_token_id, tokenizer.eos_token_id, tokenizer.bos_token_id
    checks = []

    def check(name: str, ok: bool, found: object) -> None:
        checks.append(Check(name, bool(ok), str(found)))

    check("weights are float32 or bfloat16", network.dtype in (torch.float32, torch.bfloat16), network.dtype)
    check("the pad token is not the end token", pad is not None and pad != eos, f"pad {pad}, end {eos}")
    table, head = network.get_input_embeddings().weight, network.get_output_embeddings().weight
    check("the model has a row for every token", table.shape[0] >= len(tokenizer), f"{table.shape[0]} rows, {len(tokenizer)} tokens")
    tied = bool(network.config.tie_word_embeddings)
    check("tied tables are one table", not tied or head is table, ("tied" if head is table else "apart") + f", the config says {'tied' if tied else 'untied'}")
    longest, context = max(len(row["input_ids"]) for row in rows), network.config.max_position_embeddings
    check("rows fit the context", max(max(row["seq_lengths"]) for row in rows) <= context, f"longest row {longest}, context {context}")
    check("row lengths add up", all(sum(row["seq_lengths"]) == len(row["input_ids"]) == len(row["labels"]) for row in rows), f"{len(rows)} rows")
    highest = max(max(row["input_ids"]) for row in rows)
    check("every token has a row", highest < table.shape[0], f"highest token {highest}, {table.shape[0]} rows")
    empty = sum(all(label == chat.IGNORE for label in row["labels"]) for row in rows)
    check("every row has a supervised token", empty == 0, f"{empty} rows without")
    documents = [(row["input_ids"][start:start + size], row["labels"][start:start + size]) for row in rows for start, size in _spans(row)]
    ended = chat.shares([{"labels": labels} for ids, labels in documents if eos in ids], eos)["eos_supervised_share"]
    whole = sum(eos in ids for ids, _ in documents)
    check("every end token is supervised", whole and ended == 1, f"{ended:.1%} of the answers in {whole} documents")
    dialogues = [ids for ids, labels in documents if chat.IGNORE in labels[1:]]
    cut = sum(eos not in ids[-4:] for ids in dialogues)
    check("no answer's end is cut away", cut == 0, f"{cut} of {len(dialogues)} dialogues")
    if dialogues and tokenizer.chat_template:
        check("a prompt has the same tokens in training and in use", chat.same_prompt(tokenizer), "the template's generation prompt")
    doubled = sum(len(ids) > 1 and ids[0] == ids[1] == bos for ids, _ in documents)
    check("no document begins with two BOS", doubled == 0, f"{doubled} documents")
    pair = sorted((ids for ids, _ in documents if len(ids) > 3), key=len)[:2]
    if len(pair) == 2 and highest < table.shape[0]:
        error, allowed = isolation_error(network, *pair), 1e-3 if network.dtype == torch.float32 else 0.25
        check("packed documents do not see each other", error <= allowed, f"logits differ by {error:.1e}, allowed {allowed}")
    return checks


def _spans(row: dict) -> list[tuple[int, int]]:
    return list(zip(itertools.accumulate(row["seq_lengths"], initial=0), row["seq_lengths"]))


def require(checks: list[Check]) -> list[Check]:
    """Return the checks if all hold; raise Refused with those that do not."""
    failed = [f"{check.name} ({check.found})" for check in checks if not check.ok]
    if failed:
        raise Refused("training does not start: it must hold that " + "; ".join(failed))
    return checks


# --- the reference of DPO -------------------------------------------------------------------------------------------
def _with_references(trainer_class: type, folder: Path) -> type:
    """Return a DPO trainer class that keeps the reference's log-probabilities in `folder`, in a Parquet file for each key.

    The key is of all that they depend on: the token ids of the pairs, max_length, ld_alpha, the reference's weights (SHA-256), dtype and attention.
    TRL's own key leaves out the last two and forgets rows that lie in memory.
    """
    import hashlib

    import pyarrow.parquet
    from datasets import Dataset, concatenate_datasets, load_from_disk

    class Cached(trainer_class):
        references: dict[str, Path] = {}

        def _precompute_ref_logps(self, dataset: Dataset, name: str, batch_size: int) -> Dataset:
            model, ids = self.ref_model or self.model, ("prompt_ids", "chosen_ids", "rejected_ids")
            base = model.get_base_model() if hasattr(model, "get_base_model") else model
            if not Path(base.name_or_path).is_dir():
                raise ValueError(f"the reference '{base.name_or_path}' is not a folder, so its weights have no hash to keep its log-probabilities by: "
                                 "load the model from a folder, or leave `references` out")
            settings = [self.args.max_length, self.args.truncation_mode, self.ld_alpha, str(base.dtype), self.args.bf16, base.config._attn_implementation]
            key = hashlib.sha256(json.dumps([models.fingerprint(base.name_or_path), settings]).encode())
            for row in dataset.select_columns(list(ids)):
                key.update(json.dumps([row[column] for column in ids]).encode())
            file = folder / f"{key.hexdigest()[:32]}.parquet"
            if not file.exists():
                work = folder / f"{file.stem}.work"  # rows on a disk that all processes see: TRL's cache of rows in memory is each one's own
                if self.accelerator.is_main_process:
                    dataset.select_columns(list(ids)).save_to_disk(str(work))
                self.accelerator.wait_for_everyone()
                made = super()._precompute_ref_logps(load_from_disk(str(work)), name, batch_size)
                if self.accelerator.is_main_process:
                    columns = {side: made[side][:] for side in ("ref_chosen_logps", "ref_rejected_logps")}
                    pyarrow.parquet.write_table(pyarrow.table(columns), file.with_suffix(".draft"))
                    file.with_suffix(".draft").rename(file)
                self.accelerator.wait_for_everyone()
                shutil.rmtree(work, ignore_errors=True)
            self.references = self.references | {name: file}
            return concatenate_datasets([dataset, Dataset(pyarrow.parquet.read_table(file))], axis=1)

    Cached.__name__ = Cached.__qualname__ = trainer_class.__name__
    return Cached


# --- the log --------------------------------------------------------------------------------------------------------
def read_log(log: Path) -> list[dict]:
    """Return the records of a log.jsonl; a last line that a kill cut short is left out."""
    records = []
    for line in Path(log).read_text(encoding="utf-8").splitlines() if Path(log).exists() else []:
        try:
            records.append(json.loads(line))
        except json.JSONDecodeError:
            break
    return records


def summary(log: Path) -> dict:
    """Return the last summary that `fit` wrote into a log."""
    return next(record for record in reversed(read_log(log)) if record.get("event") == "summary")


def eval_losses(log: Path, name: str = "eval_loss", **tag: object) -> dict[str, float]:
    """Return {before, after} of an evaluated quantity from a log, for lines that carry `tag`."""
    values = [record[name] for record in read_log(log) if name in record and all(record.get(key) == value for key, value in tag.items())]
    if len(values) < 2:
        raise ValueError(f"{log} holds {len(values)} values of {name}: one before and one after training are needed")
    return {"before": values[0], "after": values[-1]}


def by_source(log: Path, name: str = "sources") -> dict[str, dict[int, float]]:
    """Return {source: {step: nats per supervised token}} from a log: of training (`sources`) or of evaluation (`eval_sources`)."""
    found: dict[str, dict[int, float]] = {}
    for record in read_log(log):
        for source, (nats, tokens) in record.get(name, {}).items():
            found.setdefault(source, {})[record["step"]] = nats / tokens
    return found


def show_progress(text: str, handle: list) -> None:
    """Keep one line of progress under a notebook's cell; `handle` is an empty list that this fills."""
    from IPython import get_ipython
    from IPython.display import display

    if get_ipython() is None:
        return
    bundle = {"text/plain": text}
    if handle:
        handle[0].update(bundle, raw=True)
    else:
        handle.append(display(bundle, raw=True, display_id=True))


class _Tally:
    """Sum the loss of each source on the device, without a pass of its own: the fused head gives log-probabilities by token.

    It stands in front of the model's forward and takes `sources` (rows, length) out of the batch. Sums are {train, eval} tensors (sources, 2)
    of nats and supervised tokens since they were last taken.
    """

    def __init__(self, trainer: object):
        base = trainer.model.get_base_model() if hasattr(trainer.model, "get_base_model") else trainer.model
        sets = {"train": trainer.train_dataset, "eval": trainer.eval_dataset}
        named = {mode: "sources" in rows.column_names for mode, rows in sets.items() if rows is not None}
        self.names = {mode: sets[mode].features["sources"].feature.names if known else [""] for mode, known in named.items()}
        self.sums = {mode: torch.zeros(len(names), 2, dtype=torch.float64, device=trainer.args.device) for mode, names in self.names.items()}
        self.step = torch.zeros_like(self.sums["train"])  # of this step alone
        self.trainer, forward = trainer, base.forward

        @functools.wraps(forward)
        def tallied(*arguments, sources=None, **keywords):
            out = forward(*arguments, **keywords)
            mode = "train" if base.training else "eval"
            if mode in self.sums and getattr(out, "log_probs", None) is not None:
                self.add(mode, sources, out)
            return out

        base.forward = tallied

    @torch.no_grad()
    def add(self, mode: str, sources: torch.Tensor | None, out: object) -> None:
        sources = torch.zeros_like(out.label_mask, dtype=torch.long).reshape(-1) if sources is None else sources[:, 1:].reshape(-1)
        pairs = torch.stack([-out.log_probs.detach().reshape(-1), out.label_mask.reshape(-1)], 1).double()
        part = torch.zeros_like(self.sums[mode]).index_add_(0, sources, pairs)
        self.sums[mode] += part
        if mode == "train":
            self.step += part

    def take(self, mode: str) -> dict[str, list[float]]:
        """Return {source: [nats, tokens]} over all processes, sources without tokens left out, and begin anew; rows without sources have one, named ''."""
        total = self.trainer.accelerator.reduce(self.sums[mode].clone(), "sum").tolist()
        self.sums[mode].zero_()
        return {name: pair for name, pair in zip(self.names[mode], total, strict=True) if pair[1]}


def row_sizes(rows: object) -> tuple[object, object]:
    """Return the tokens of each packed row and of each document, as NumPy arrays, without reading the tokens."""
    import numpy

    column = rows.select_columns("seq_lengths").with_format("arrow")[:]["seq_lengths"].combine_chunks()
    bounds, sizes = column.offsets.to_numpy(), column.flatten().to_numpy()
    sums = numpy.concatenate([[0], sizes.cumsum()])
    bounds = bounds - bounds[0]
    return sums[bounds[1:]] - sums[bounds[:-1]], sizes


class _Meter:
    """Tokens, FLOPs and memory of the steps done: tokens are those of the rows, padding is not counted."""

    def __init__(self, trainer: object, rows: object):
        self.trainer = trainer
        self.rows, sizes = row_sizes(rows)  # without the silent rows of `_fill_up`
        mean_length = float((sizes.astype(float) ** 2).sum() / max(sizes.sum(), 1))
        self.flops = meter.flops_per_token(trainer.model, mean_length)
        self.hardware = meter.flops_per_token(trainer.model, mean_length, recompute=trainer.args.gradient_checkpointing)
        self.peak = meter.peak_flops("bfloat16" if trainer.args.bf16 else "float32") * trainer.args.world_size
        self.sums = self.rows.cumsum()

    def tokens(self, step: int) -> int:
        """Return the tokens of all steps up to `step`; exact where rows are read in order, and at the end of every epoch."""
        state, args = self.trainer.state, self.trainer.args
        steps = -(-len(self.rows) // self.per_step())
        epochs, rest = divmod(step, steps)
        if args.max_steps <= 0 and step >= state.max_steps:
            return round(state.max_steps / steps * int(self.sums[-1]))
        return int(epochs * self.sums[-1] + (self.sums[min(rest * self.per_step(), len(self.rows)) - 1] if rest else 0))

    def per_step(self) -> int:
        args = self.trainer.args
        return args.train_batch_size * args.gradient_accumulation_steps * args.world_size

    def measure(self, tokens: int, seconds: float) -> dict:
        """Return {tokens_per_second, mfu, hfu, peak_bytes} of so many tokens in so many seconds."""
        rate = tokens / max(seconds, 1e-9)
        return {"tokens_per_second": rate, "mfu": rate * self.flops / self.peak, "hfu": rate * self.hardware / self.peak, "peak_bytes": meter.peak_bytes()}


class _Keeper(TrainerCallback):
    """Write each logged step as a JSON line, stop on a loss that is not finite or on SIGTERM, and save what makes a resume exact."""

    def __init__(self, trainer: object, rows: object, log: Path, tag: dict, job: dict, stop: _Stop):
        self.trainer, self.log, self.tag, self.job, self.stop, self.handle = trainer, Path(log), tag, job, stop, []
        self.tally, self.meter = (_Tally(trainer), _Meter(trainer, rows)) if "seq_lengths" in rows.column_names else (None, None)
        self.began = self.first = self.evaluated = None
        self.evaluating, evaluate = 0.0, trainer.evaluate

        def timed(*arguments: object, **keywords: object) -> dict:
            began = time.perf_counter()
            try:
                return evaluate(*arguments, **keywords)
            finally:
                self.evaluating += time.perf_counter() - began

        trainer.evaluate = timed

    def write(self, record: dict) -> None:
        if not self.trainer.args.should_save:
            return
        with open(self.log, "a", encoding="utf-8") as file:
            file.write(json.dumps(self.tag | record, ensure_ascii=False) + "\n")

    def on_train_begin(self, args, state, control, **kwargs) -> None:
        self.began, self.first = time.perf_counter(), state.global_step
        if state.global_step:
            self.restore(json.loads((Path(args.output_dir) / f"checkpoint-{state.global_step}" / "finlab.json").read_text(encoding="utf-8")))
        if args.should_save:
            kept = [record for record in read_log(self.log) if {k: record.get(k) for k in self.tag} != self.tag or self.holds(record, state.global_step)]
            draft = self.log.with_suffix(".draft")
            draft.write_text("".join(json.dumps(record, ensure_ascii=False) + "\n" for record in kept), encoding="utf-8")
            draft.rename(self.log)

    def holds(self, record: dict, step: int) -> bool:
        """Tell whether a line was written before the checkpoint of `step`: the last reading and the summary come after the last checkpoint."""
        late = record.get("event") == "summary" or "eval_loss" in record and self.evaluated != step or "train_runtime" in record
        return record.get("step", 0) < step or record.get("step", 0) == step and not late

    def on_log(self, args, state, control, logs=None, **kwargs) -> None:
        logs = logs or {}
        record = {"step": state.global_step, "total_steps": state.max_steps}
        kept = [name for name in logs if not name.endswith("num_tokens")]  # which counts padding
        record |= {name: logs[name] for name in kept if isinstance(logs[name], (int, float)) and math.isfinite(logs[name])}
        if self.tally and "loss" in logs:
            sources = self.tally.take("train")
            record |= {"sources": sources} if "" not in sources else {}
        if "eval_loss" in logs:
            self.evaluated = state.global_step
        if self.tally and "eval_loss" in logs:  # the trainer's is a mean of batch means, whatever they hold
            sources = self.tally.take("eval")
            nats, tokens = (sum(pair[place] for pair in sources.values()) for place in (0, 1))
            record |= {"eval_loss": nats / max(tokens, 1)} | ({"eval_sources": sources} if "" not in sources else {})
        done = state.global_step - (self.first or 0)
        if self.began and done > 0 and "loss" in record:
            elapsed = time.perf_counter() - self.began - self.evaluating
            record |= {"seconds": elapsed, "seconds_left": elapsed / done * (state.max_steps - state.global_step)}
            text = f"step {state.global_step}/{state.max_steps} · loss {record['loss']:.3f} · {elapsed:.0f} s, {record['seconds_left']:.0f} s left"
            if self.meter:
                tokens = self.meter.tokens(state.global_step)
                record |= {"tokens": tokens} | self.meter.measure(tokens - self.meter.tokens(self.first), elapsed)
                text += f" · {record['tokens_per_second']:,.0f} tokens/s, MFU {record['mfu']:.0%}"
            show_progress(text, self.handle)
        self.write(record)

    def on_step_end(self, args, state, control, **kwargs) -> None:
        if not torch.isfinite(self.trainer._tr_loss):
            raise FloatingPointError(f"the loss is not finite at step {state.global_step}{self.sources_of_step()}: lower the learning rate or look at "
                                     f"these rows; {self.last()}")
        if self.tally:
            self.tally.step.zero_()
        if self.stop.asked(self.trainer):
            control.should_save = control.should_training_stop = True
        if control.should_save:
            learning = [(name, parameter.data) for name, parameter in self.trainer.model.named_parameters() if parameter.requires_grad]
            local = [(name, values.to_local() if hasattr(values, "to_local") else values) for name, values in learning]  # FSDP2 shares parameters out
            bad = [name for name, values in local if not torch.isfinite(values).all()]
            if bad:
                raise FloatingPointError(f"{len(bad)} trained weights are not finite after step {state.global_step} (the first: {bad[0]}): lower the "
                                         f"learning rate or max_grad_norm; {self.last()}")

    def sources_of_step(self) -> str:
        if not self.tally:
            return ""
        pairs = {name: pair for name, pair in zip(self.tally.names["train"], self.tally.step.tolist(), strict=True) if pair[1] or not math.isfinite(pair[0])}
        bad = [name for name, pair in pairs.items() if not math.isfinite(pair[0])]
        return f", in {', '.join(bad)} (the batch holds {', '.join(pairs)})" if any(bad) else ""

    def last(self) -> str:
        found = last_checkpoint(self.trainer.args.output_dir)
        return f"the last good checkpoint is {found}" if found else "no checkpoint was saved yet"

    def on_save(self, args, state, control, **kwargs) -> None:
        """Save what the trainer does not: what it has summed up since its last log line. Written last, so that it marks a whole checkpoint."""
        sums = {mode: self.trainer.accelerator.reduce(values.clone(), "sum").tolist() for mode, values in (self.tally.sums if self.tally else {}).items()}
        loss = self.trainer.accelerator.reduce(self.trainer._tr_loss.detach().clone(), "mean").item()
        self.trainer.accelerator.wait_for_everyone()
        if not args.should_save:
            return
        trainer = self.trainer
        record = {"job": self.job, "loss": loss, "last_logged": trainer._globalstep_last_logged, "sums": sums, "evaluated": self.evaluated,
                  "metrics": dict(getattr(trainer, "_metrics", {}).get("train", {}))}
        folder = Path(args.output_dir) / f"checkpoint-{state.global_step}"
        (folder / "finlab.json.draft").write_text(json.dumps(record), encoding="utf-8")
        (folder / "finlab.json.draft").rename(folder / "finlab.json")

    def restore(self, record: dict) -> None:
        trainer = self.trainer
        self.evaluated = record["evaluated"]
        trainer._tr_loss.fill_(record["loss"])
        trainer._globalstep_last_logged = record["last_logged"]
        if record["metrics"]:
            trainer._metrics["train"].update({name: list(values) for name, values in record["metrics"].items()})
        if trainer.accelerator.is_main_process:
            for mode, values in record["sums"].items():
                self.tally.sums[mode] += torch.tensor(values, dtype=torch.float64, device=trainer.args.device)


class _Stop:
    """Take SIGTERM during training as a wish to stop at the next step's end; `file`, where it appears, says the same to every process."""

    def __init__(self, file: Path | None = None):
        self.wanted, self.file = False, file

    def __enter__(self) -> _Stop:
        if threading.current_thread() is threading.main_thread():
            self.before = signal.signal(signal.SIGTERM, self.want)
        return self

    def __exit__(self, *_: object) -> None:
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, self.before)

    def want(self, *_: object) -> None:
        self.wanted = True
        if self.file:
            self.file.touch()

    def asked(self, trainer: object) -> bool:
        wanted = self.wanted or bool(self.file and self.file.exists())
        if trainer.args.world_size > 1:  # signals reach processes at different steps; all must stop at the same one
            wanted = bool(trainer.accelerator.reduce(torch.tensor(float(wanted), device=trainer.args.device), "sum").item())
        self.wanted = wanted
        return wanted


def last_checkpoint(folder: str | Path) -> str | None:
    """Return the newest complete checkpoint of `fit`, or None; one that a kill cut short is passed over (finlab.json is written last)."""
    found = sorted(Path(folder).glob("checkpoint-*"), key=lambda path: int(path.name.rpartition("-")[2]), reverse=True)
    return next((str(path) for path in found if (path / "finlab.json").exists()), None)


SAME = ("learning_rate", "lr_scheduler_type", "warmup_steps", "weight_decay", "adam_beta1", "adam_beta2", "max_grad_norm", "num_train_epochs",
        "max_steps", "seed", "data_seed", "bf16", "optim", "lr_scheduler_kwargs", "train_sampling_strategy", "gradient_accumulation_steps",
        "per_device_train_batch_size", "world_size")


def _job(trainer: object, embedding_learning_rate: float) -> dict:
    """Return what makes a job the same: the model's shape, a sample of rows, the adapter's settings and the arguments that decide the steps.

    Written into every checkpoint, in words that an error can show.
    """
    import hashlib

    def digest(value: object) -> str:
        return hashlib.sha256(json.dumps(value, sort_keys=True, default=str).encode()).hexdigest()[:16]

    def short(value: object) -> str:
        text = str(sorted(map(str, value)) if isinstance(value, set) else value)
        return text if len(text) < 200 else digest(text)

    rows, config = trainer.train_dataset, trainer.model.config
    places = sorted({round(number * (len(rows) - 1) / 15) for number in range(16)})
    adapter = {f"adapter's {name}": short(value) for each in getattr(trainer.model, "peft_config", {}).values() for name, value in each.to_dict().items()
               if name not in ("base_model_name_or_path", "peft_version", "revision", "inference_mode")}
    text = [rows[place].get("input_ids", rows[place]) for place in places]
    shape = f"{config.model_type} {config.hidden_size} x {config.num_hidden_layers}, {config.vocab_size} tokens"
    return {"model": shape, "rows": f"{len(rows)} rows {digest(text)}", **adapter,
            "embedding_learning_rate": embedding_learning_rate, **{name: str(getattr(trainer.args, name)) for name in SAME}}


def _same_job(checkpoint: str, job: dict) -> None:
    before = json.loads((Path(checkpoint) / "finlab.json").read_text(encoding="utf-8"))["job"]
    other = [f"{name} was {before.get(name)}, is {job.get(name)}" for name in sorted({*before, *job}) if before.get(name) != job.get(name)]
    if other:
        raise ValueError(f"{checkpoint} belongs to another job ({'; '.join(other)}): set these back to go on with it, "
                         f"or remove {Path(checkpoint).parent} to begin anew")


def _fill_up(rows: object, multiple: int) -> object:
    """Return rows made up to a multiple with rows that teach nothing, so that several processes share them without repeating any."""
    from datasets import Dataset, concatenate_datasets

    missing = -len(rows) % multiple
    if not missing:
        return rows
    silent = {"input_ids": [0, 0], "labels": [chat.IGNORE] * 2, "seq_lengths": [2], "sources": [0], "bucket": 0}
    more = Dataset.from_list([{name: silent[name] for name in rows.column_names}] * missing, features=rows.features)
    return concatenate_datasets([rows, more])


def _whole_head(trainer: object) -> None:
    """Gather the head before each forward under FSDP2, where it is shared out by itself (as PEFT's wrappers make it).

    TRL's fused head multiplies by the weight from outside the head: shared out it fails, or its gradients stay those of one process
    without a word (trl 1.16, add_fused_lm_head). Raises ValueError for adapters on tied tables, which accelerate would take apart.
    """
    from torch.distributed.fsdp import FSDPModule, MixedPrecisionPolicy

    adapted = hasattr(trainer.model, "get_base_model")
    base = trainer.model.get_base_model() if adapted else trainer.model
    tables = adapted and any(config.modules_to_save or getattr(config, "trainable_token_indices", None) for config in trainer.model.peft_config.values())
    if tables and base.config.tie_word_embeddings:
        raise ValueError("under FSDP2 PEFT cannot train tied embeddings: set train_embeddings to none, train in full (lora_rank 0), "
                         "or launch with ddp or zero2")
    if trainer.args.bf16:  # accelerate would add gradients up, and hand the losses on, in bfloat16
        policy = MixedPrecisionPolicy(param_dtype=torch.bfloat16, reduce_dtype=torch.float32, output_dtype=torch.float32)
        trainer.accelerator.state.fsdp_plugin.mixed_precision_policy = policy
    forward = base.forward

    @functools.wraps(forward)
    def gathered(*arguments, **keywords):
        head = base.get_output_embeddings()
        if isinstance(head, FSDPModule):
            head.unshard()
        out = forward(*arguments, **keywords)
        if isinstance(head, FSDPModule) and not torch.is_grad_enabled():
            head.reshard()
        return out

    base.forward = gathered


def _own_rate(trainer: object, rate: float) -> None:
    """Give the embedding and the head a learning rate of their own; the scheduler scales both alike."""
    create = trainer.create_optimizer

    def with_rate(*arguments: object) -> object:
        optimizer = create(*arguments)
        network = trainer.model
        tables = {id(parameter) for table in (network.get_input_embeddings(), network.get_output_embeddings()) for parameter in table.parameters()}
        for group in list(optimizer.param_groups):
            chosen = [parameter for parameter in group["params"] if id(parameter) in tables]
            if chosen:
                group["params"] = [parameter for parameter in group["params"] if id(parameter) not in tables]
                optimizer.add_param_group({**group, "params": chosen, "lr": rate})
        optimizer.param_groups[:] = [group for group in optimizer.param_groups if group["params"]]
        return optimizer

    trainer.create_optimizer = with_rate


@contextlib.contextmanager
def _enough_memory(args: object, rows: object) -> Iterator[None]:
    """Turn an out-of-memory error into a sentence that says what was used and what to lower."""
    try:
        yield
    except RuntimeError as error:
        if not (isinstance(error, torch.OutOfMemoryError) or "allocate memory" in str(error) or "not enough memory" in str(error)):
            raise
        longest = max(map(len, rows[: min(len(rows), 64)]["input_ids"])) if "input_ids" in rows.column_names else 0
        tokens = f", {args.per_device_train_batch_size * longest:,} tokens," if longest else ""
        how = "" if args.gradient_checkpointing else ", or set gradient_checkpointing"
        peak, batch = meter.peak_bytes() / 1e9, args.per_device_train_batch_size
        fewer = "halve the batch and double gradient_accumulation, or shorten the rows" if batch > 1 else "shorten the rows"
        raise MemoryError(f"out of memory at a measured peak of {peak:.1f} GB with {batch} rows{tokens} in a micro-batch: {fewer}{how}; "
                          "finished checkpoints stay") from error


def fit(trainer_class: Callable, *, log: Path, tag: dict | None = None, embedding_learning_rate: float = 0.0, launch: str = "", processes: int = 0,
        references: Path | None = None, stop_file: Path | None = None, **arguments: object) -> object:
    """Build the trainer, resume it where it stopped, train, log to disk; return the trainer.

    `arguments` go to the trainer as they are (model, args, train_dataset, eval_dataset, peft_config, ...). Rows with
    `seq_lengths` are kept apart by position ids, and the loss of each of their `sources` is logged. Trained weights are kept in float32 (bf16
    computes under autocast). `tag` is added to each log line. With an eval_dataset the loss before and after training is logged too, and
    between as `args.eval_strategy` says. `embedding_learning_rate` is that of the embedding and the head (0: the same). `references` is
    the folder that keeps DPO's reference log-probabilities between jobs (with `args.precompute_ref_log_probs`); the trainer's `references`
    are then its files {train, eval}, a row for each pair. SIGTERM, or
    `stop_file` when it appears, saves a checkpoint at the step's end and raises KeyboardInterrupt. `launch` names an accelerate config in
    notebooks/accelerate: the job then runs in `processes` processes on each machine (0: one for each GPU), and what is returned holds
    the trained model, the arguments and the trainer's state.

    Raises FloatingPointError when the loss is not finite, MemoryError when memory does not suffice, Refused when nothing learns, and
    ValueError when there is nothing to evaluate on or the checkpoints are another job's.
    """
    rows, args, network = arguments["train_dataset"], arguments["args"], arguments["model"]
    packed = "seq_lengths" in rows.column_names
    if arguments.get("eval_dataset") is not None and not len(arguments["eval_dataset"]):
        raise ValueError("there are no held-out rows to evaluate on: raise held_out_share, or give more data")
    if args.use_liger_kernel and not torch.cuda.is_available():
        raise ValueError("liger-kernel's layers run on a GPU only: set liger to false here")
    if launch:
        settings = {"log": Path(log).resolve(), "tag": tag, "embedding_learning_rate": embedding_learning_rate,
                    "references": references and Path(references).resolve()}
        return _launched(trainer_class, launch, processes, settings, arguments)
    args.logging_nan_inf_filter = False  # else transformers hides a loss that is not finite
    with contextlib.ExitStack() as stack:
        stack.enter_context(_enough_memory(args, rows))
        if packed:
            stack.enter_context(packing(network, args.device.type))
            arguments["data_collator"] = collator(network, arguments["processing_class"].pad_token_id)
            args.remove_unused_columns = False  # else the sources of the rows are dropped
            for name, batch in (("train_dataset", args.per_device_train_batch_size), ("eval_dataset", args.per_device_eval_batch_size)):
                if arguments.get(name) is not None and args.world_size > 1:
                    arguments[name] = _fill_up(arguments[name], args.world_size * batch)
        if references and args.precompute_ref_log_probs:
            trainer_class = _with_references(trainer_class, Path(references))
        trainer = trainer_class(**arguments)
        if not any(parameter.requires_grad for parameter in trainer.model.parameters()):
            raise Refused("training does not start: it must hold that something learns (no parameter requires a gradient)")
        for parameter in trainer.model.parameters():  # steps smaller than bfloat16 can hold would be lost (DeepSpeed keeps float32 copies itself)
            if parameter.requires_grad and not trainer.is_deepspeed_enabled:
                parameter.data = parameter.data.float()
        head = trainer.model.get_output_embeddings()
        if not hasattr(head, "bias"):  # TRL's fused head asks for it, and PEFT's wrapper of single rows hides it
            head.bias = None
        if trainer.is_fsdp_enabled:
            if not packed:
                raise ValueError("under FSDP2 only packed rows can be trained (TRL's DPO head fails there): launch with ddp or zero2")
            _whole_head(trainer)
        if embedding_learning_rate:
            _own_rate(trainer, embedding_learning_rate)
        for callback in (PrinterCallback, ProgressCallback):
            trainer.remove_callback(callback)
        stop = stack.enter_context(_Stop(stop_file))
        keeper = _Keeper(trainer, rows, log, tag or {}, _job(trainer, embedding_learning_rate), stop)
        trainer.add_callback(keeper)
        checkpoint = last_checkpoint(args.output_dir)
        if args.should_save:  # half-written ones would count when the trainer drops the oldest
            for cut in Path(args.output_dir).glob("checkpoint-*"):
                shutil.rmtree(cut) if not (cut / "finlab.json").exists() else None
        if checkpoint:
            _same_job(checkpoint, keeper.job)
        elif getattr(trainer.model, "peft_config", None) and args.should_save:
            _save_initial(trainer)
        return _train(trainer, keeper, checkpoint)


def _train(trainer: object, keeper: _Keeper, checkpoint: str | None) -> object:
    began = time.perf_counter()
    trainer.args.eval_on_start = trainer.eval_dataset is not None and checkpoint is None
    before = int(checkpoint.rpartition("-")[2]) if checkpoint else 0
    started = time.perf_counter()
    trainer.train(resume_from_checkpoint=checkpoint)
    seconds = time.perf_counter() - started - keeper.evaluating
    step = trainer.state.global_step
    if keeper.stop.wanted and step < trainer.state.max_steps:
        raise KeyboardInterrupt(f"stopped by SIGTERM after step {step} of {trainer.state.max_steps}; the checkpoint is saved, run it again to go on")
    if trainer.eval_dataset is not None and keeper.evaluated != step:
        trainer.evaluate()
    record = {"event": "summary", "attention": trainer.model.config._attn_implementation, "processes": trainer.args.world_size, "step": step,
              "steps_here": step - before, "resumed_at": before, "train_seconds": seconds, "wall_seconds": time.perf_counter() - began}
    if keeper.meter:
        tokens = keeper.meter.tokens(step)
        record |= {"tokens": tokens, "flops_per_token": keeper.meter.flops, **keeper.meter.measure(tokens - keeper.meter.tokens(before), seconds)}
    keeper.write(record)
    return trainer


def _save_initial(trainer: object) -> None:
    """Keep the adapter as it begins where its start changes the base (PiSSA and its kind): without it the trained one fits no base on disk."""
    for config in trainer.model.peft_config.values():
        start = str(getattr(config, "init_lora_weights", True))
        if start in ("True", "False", "gaussian"):
            continue
        if config.modules_to_save or config.trainable_token_indices:
            raise ValueError(f"a LoRA that begins as {start} cannot train embeddings beside it (PEFT's conversion to a plain LoRA would drop them): "
                             "set train_embeddings to none, or leave the start out")
        trainer.model.save_pretrained(Path(trainer.args.output_dir) / "initial", save_embedding_layers=False)


def initial_adapter(trainer: object) -> Path | None:
    """Return the folder of the adapter as it began, where `fit` had to keep it, for `model.merge_onto`; else None."""
    folder = Path(trainer.args.output_dir) / "initial"
    return folder if folder.is_dir() else None


def footprint(trainer: object) -> dict:
    """Return what training holds beside the model, {trainable, state_bytes, adapter_bytes}: gradients and Adam's moments, and a saved adapter."""
    learning = [parameter for parameter in trainer.model.parameters() if parameter.requires_grad]
    moments = [value for state in trainer.optimizer.state.values() for value in state.values() if torch.is_tensor(value)]
    folder = Path(trainer.args.output_dir) / "adapter"
    trainer.model.save_pretrained(folder, save_embedding_layers=False)  # those that learn are saved all the same
    return {"trainable": sum(parameter.numel() for parameter in learning), "state_bytes": sum(tensor.nbytes for tensor in [*learning, *moments]),
            "adapter_bytes": (folder / "adapter_model.safetensors").stat().st_size}


# --- many processes -------------------------------------------------------------------------------------------------
def _launched(trainer_class: Callable, way: str, processes: int, settings: dict, arguments: dict) -> object:
    """Run a job in several processes and return {model, args, state}; its errors are raised here as they were there."""
    args, network, lora = arguments["args"], arguments["model"], arguments.get("peft_config")
    config = launch.find(way)
    if lora is not None and isinstance(lora.init_lora_weights, str) and lora.init_lora_weights != "gaussian":
        raise ValueError(f"a LoRA that begins as {lora.init_lora_weights} changes its base: train it in one process, or begin with zeros")
    folder = Path(args.output_dir).resolve()
    fields = {name: value for name, value in vars(args).items() if name in args.__dataclass_fields__ and args.__dataclass_fields__[name].init}
    fields["ddp_find_unused_parameters"] = False
    if not torch.cuda.is_available():
        fields |= {"ddp_backend": "gloo", "use_cpu": not launch.deepspeed(config)}
    job = {"trainer_class": trainer_class, "settings": settings, "args": (type(args), fields), "source": network.name_or_path,
           "dtype": str(network.dtype).rpartition(".")[2], "config": copy.deepcopy(network.config),
           "quantised": {"quantization_config": network.config.quantization_config} if getattr(network, "hf_quantizer", None) else {},
           "learning": [name for name, parameter in network.named_parameters() if parameter.requires_grad],
           "data": {name: value for name, value in arguments.items() if name not in ("args", "model")}}
    job["config"].__dict__.pop("quantization_config", None)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "job.pickle").write_bytes(pickle.dumps(job))
    handle, began = [], time.time()
    for name in ("stop", "failed.json"):
        (folder / name).unlink(missing_ok=True)
    with _Stop(folder / "stop"):
        failed = launch.run(folder, config, processes, lambda: show_progress(f"{way} · {runs.progress_text(settings['log'], time.time() - began)}", handle))
    if failed:
        kinds = {kind.__name__: kind for kind in (ValueError, Refused, FloatingPointError, MemoryError, KeyboardInterrupt)}
        known = failed["kind"] in kinds
        said = failed["message"] if known else f"{failed['kind']}: {failed['message']} (all of it: {folder / 'launch.log'})"
        raise kinds.get(failed["kind"], RuntimeError)(said)
    return _result(folder / "trained", network, args, job)


def _result(trained: Path, network: object, args: object, job: dict) -> object:
    from peft import PeftModel
    from transformers import TrainerState

    state = TrainerState.load_from_json(str(trained / "trainer_state.json"))
    if (trained / "adapter_config.json").exists():
        network = PeftModel.from_pretrained(network, str(trained), is_trainable=True)
    else:
        network = models.load(trained, job["dtype"], place=False)
        for name, parameter in network.named_parameters():
            parameter.requires_grad_(name in job["learning"])
    files = json.loads((trained / "references.json").read_text(encoding="utf-8"))
    return SimpleNamespace(model=network, args=args, state=state, references={name: Path(file) for name, file in files.items()})


def _see_each_other(args: object) -> None:
    """Raise RuntimeError where accelerate did not take the processes together: it would train as many models, each alone."""
    from accelerate.state import PartialState
    from accelerate.utils import DistributedType

    if os.environ.get("ACCELERATE_USE_FSDP") == "true" and PartialState().distributed_type == DistributedType.MULTI_CPU:
        PartialState._shared_state["distributed_type"] = DistributedType.MULTI_GPU  # accelerate 1.15 leaves FSDP out on a CPU
    started = int(os.environ.get("WORLD_SIZE", 1))
    if args.world_size != started:
        raise RuntimeError(f"of {started} processes {args.world_size} see each other: check the accelerate config")


def _run_rank(folder: Path) -> None:
    """Run one process of a job; the first that fails says why in failed.json, and rank 0 leaves the result in `trained`."""
    runs.quiet()
    if torch.cuda.is_available():
        torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", 0)))
    try:
        job = pickle.loads((folder / "job.pickle").read_bytes())
        kind, fields = job["args"]
        args = kind(**fields)
        _see_each_other(args)
        here = {"attn_implementation": models.attention(job["dtype"])}
        here |= {"device_map": {"": torch.cuda.current_device()}} if job["quantised"] and torch.cuda.is_available() else {}
        network = models.load(job["source"], job["dtype"], place=False, config=job["config"], **job["quantised"], **here)
        for name, parameter in network.named_parameters():
            parameter.requires_grad_(name in job["learning"])
        trainer = fit(job["trainer_class"], **job["settings"], stop_file=folder / "stop", model=network, args=args, **job["data"])
        trainer.save_model(str(folder / "trained"))
        if args.should_save:
            trainer.state.save_to_json(str(folder / "trained" / "trainer_state.json"))
            (folder / "trained" / "references.json").write_text(json.dumps(getattr(trainer, "references", {}), default=str), encoding="utf-8")
    except (Exception, KeyboardInterrupt) as error:
        with contextlib.suppress(FileExistsError), open(folder / "failed.json", "x", encoding="utf-8") as file:
            json.dump({"kind": type(error).__name__, "message": str(error)}, file)
        if not isinstance(error, KeyboardInterrupt):
            raise


if __name__ == "__main__":  # one process of a job, started by accelerate; the functions are those of the module, not of this script
    from finlab import training

    launch.die_with_parent()
    training._run_rank(Path(sys.argv[1]))
