"""Training over TRL: packed rows, preflight, a log on disk, resume. The config objects stay TRL's and PEFT's own.

    trainer = training.fit(SFTTrainer, log=run.log, model=base, args=SFTConfig(...), train_dataset=rows, peft_config=LoraConfig(...))
    training.summary(run.log)      # {tokens, seconds, tokens_per_second, mfu, ...}
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from transformers import PrinterCallback, ProgressCallback, TrainerCallback
from trl.trainer.sft_trainer import DataCollatorForLanguageModeling

from finlab import chat, meter


class Refused(ValueError):
    """A preflight check failed, so training does not start."""


@dataclass
class PackedRows:
    """Collate packed rows without letting documents see each other, under SDPA.

    input_ids (rows, length) int64; position_ids restart at each document, and there is no attention mask: transformers then
    builds a block-diagonal mask per row. Labels of first tokens are -100, since what stands before them is another document.
    TRL's own padding-free collator joins all rows into one, which flash-attn wants and which costs SDPA quadratic time.
    """

    pad_token_id: int

    def __call__(self, examples: list[dict]) -> dict[str, torch.Tensor]:
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
        return {"input_ids": ids, "labels": labels, "position_ids": position_ids}


# --- preflight ------------------------------------------------------------------------------------------------------
@dataclass(frozen=True)
class Check:
    """One preflight check: its name, whether it holds, and what was found."""

    name: str
    ok: bool
    found: str


def isolation_error(model: object, first: list[int], second: list[int]) -> float:
    """Return the largest difference between a document's logits packed behind another and alone: 0 means isolated."""
    was_training = model.training
    model.eval()
    ids = torch.tensor([first + second], device=model.device)
    positions = torch.tensor([[*range(len(first)), *range(len(second))]], device=model.device)
    with torch.inference_mode():
        packed = model(input_ids=ids, position_ids=positions, use_cache=False).logits[0, len(first):].float()
        alone = model(input_ids=torch.tensor([second], device=model.device), use_cache=False).logits[0].float()
    model.train(was_training)
    return (packed - alone).abs().max().item()


def preflight(model: object, tokenizer: object, rows: list[dict], limit: int = 2000) -> list[Check]:
    """Check what others found out too late; rows are {input_ids, labels, seq_lengths}. Looks at the first `limit` rows.

    The checks and the threads they come from are listed in the README.
    """
    rows = [dict(row) for _, row in zip(range(limit), rows)]
    pad, eos, bos = tokenizer.pad_token_id, tokenizer.eos_token_id, tokenizer.bos_token_id
    checks = []

    def check(name: str, ok: bool, found: object) -> None:
        checks.append(Check(name, bool(ok), str(found)))

    check("weights are float32 or bfloat16", model.dtype in (torch.float32, torch.bfloat16), model.dtype)
    check("the pad token is not the end token", pad is not None and pad != eos, f"pad {pad}, end {eos}")
    vocabulary = model.get_input_embeddings().weight.shape[0]
    check("the model has a row for every token", vocabulary >= len(tokenizer), f"{vocabulary} rows, {len(tokenizer)} tokens")
    longest, context = max(len(row["input_ids"]) for row in rows), model.config.max_position_embeddings
    check("rows fit the context", max(max(row["seq_lengths"]) for row in rows) <= context, f"longest row {longest}, context {context}")
    check("row lengths add up", all(sum(row["seq_lengths"]) == len(row["input_ids"]) == len(row["labels"]) for row in rows), f"{len(rows)} rows")
    empty = sum(all(label == chat.IGNORE for label in row["labels"]) for row in rows)
    check("every row has a supervised token", empty == 0, f"{empty} rows without")
    documents = [(row["input_ids"][start:start + size], row["labels"][start:start + size]) for row in rows for start, size in _spans(row)]
    whole = [{"labels": labels} for ids, labels in documents if eos in ids]
    ended = chat.shares(whole, eos)["eos_supervised_share"]
    check("every end token is supervised", whole and ended == 1, f"{ended:.1%} of the answers in {len(whole)} documents")
    doubled = sum(len(ids) > 1 and ids[0] == ids[1] == bos for ids, _ in documents)
    check("no document begins with two BOS", doubled == 0, f"{doubled} documents")
    pair = sorted((ids for ids, _ in documents if len(ids) > 3), key=len)[:2]
    if len(pair) == 2:
        error, allowed = isolation_error(model, *pair), 1e-3 if model.dtype == torch.float32 else 0.25
        check("packed documents do not see each other", error <= allowed, f"logits differ by {error:.1e}, allowed {allowed}")
    return checks


def _spans(row: dict) -> list[tuple[int, int]]:
    start, spans = 0, []
    for size in row["seq_lengths"]:
        spans.append((start, size))
        start += size
    return spans


def require(checks: list[Check]) -> list[Check]:
    """Return the checks if all hold; raise Refused with those that do not."""
    failed = [f"{check.name} ({check.found})" for check in checks if not check.ok]
    if failed:
        raise Refused("training does not start: it must hold that " + "; ".join(failed))
    return checks


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


class _Log(TrainerCallback):
    """Write each logged step as a JSON line, and keep one line of progress under the cell."""

    def __init__(self, log: Path, tag: dict):
        self.log, self.tag, self.handle = Path(log), tag, None

    def write(self, record: dict) -> None:
        with open(self.log, "a", encoding="utf-8") as file:
            file.write(json.dumps(self.tag | record, ensure_ascii=False) + "\n")

    def show(self, text: str) -> None:
        from IPython import get_ipython
        from IPython.display import display

        if get_ipython() is None:
            return
        bundle = {"text/plain": text}
        if self.handle is None:
            self.handle = display(bundle, raw=True, display_id=True)
        else:
            self.handle.update(bundle, raw=True)

    def on_train_begin(self, args, state, control, **kwargs) -> None:
        self.began, self.first = time.perf_counter(), state.global_step
        kept = [record for record in read_log(self.log) if {k: record.get(k) for k in self.tag} != self.tag or record.get("step", 0) <= state.global_step]
        self.log.write_text("".join(json.dumps(record, ensure_ascii=False) + "\n" for record in kept), encoding="utf-8")

    def on_log(self, args, state, control, logs=None, **kwargs) -> None:
        record = {"step": state.global_step, "total_steps": state.max_steps}
        record |= {name: value for name, value in (logs or {}).items() if isinstance(value, (int, float)) and math.isfinite(value)}
        bad = [name for name, value in (logs or {}).items() if name == "loss" and not math.isfinite(value)]
        done = state.global_step - getattr(self, "first", 0)
        if done > 0 and "loss" in record:
            elapsed = time.perf_counter() - self.began
            record |= {"seconds": elapsed, "seconds_left": elapsed / done * (state.max_steps - state.global_step)}
            self.show(f"step {state.global_step}/{state.max_steps} · loss {record['loss']:.3f} · {elapsed:.0f} s, {record['seconds_left']:.0f} s left")
        self.write(record)
        if bad:
            raise FloatingPointError(f"the loss is not finite at step {state.global_step}: lower the learning rate; "
                                     f"the last checkpoint is in {args.output_dir}")


def last_checkpoint(folder: str | Path) -> str | None:
    """Return the newest complete checkpoint of a trainer, or None; one that a kill cut short is passed over.

    transformers writes trainer_state.json last.
    """
    found = sorted(Path(folder).glob("checkpoint-*"), key=lambda path: int(path.name.rpartition("-")[2]), reverse=True)
    for path in found:
        try:
            json.loads((path / "trainer_state.json").read_text(encoding="utf-8"))
            return str(path)
        except (OSError, ValueError):
            continue
    return None


def fit(trainer_class: Callable, *, log: Path, tag: dict | None = None, **arguments: object) -> object:
    """Build the trainer, resume it where it stopped, train, log to disk; return the trainer.

    `arguments` go to the trainer as they are (model, args, train_dataset, eval_dataset, peft_config, ...). Rows with
    `seq_lengths` are kept apart by position ids. Trained weights are kept in float32 (bf16 computes under autocast). `tag` is added
    to each log line. With an eval_dataset the loss before and after training is logged too. Raises FloatingPointError when the loss
    is not finite, ValueError when there is nothing to evaluate on.
    """
    rows = arguments["train_dataset"]
    packed = "seq_lengths" in rows.column_names
    if arguments.get("eval_dataset") is not None and not len(arguments["eval_dataset"]):
        raise ValueError("there are no held-out rows to evaluate on: raise held_out_share, or give more data")
    if packed:  # flash-attn wants one joined row, SDPA rows apart; both know documents by their position ids
        pad = arguments["processing_class"].pad_token_id
        flash = arguments["model"].config._attn_implementation != "sdpa"
        arguments["data_collator"] = DataCollatorForLanguageModeling(pad, padding_free=True) if flash else PackedRows(pad)
    arguments["args"].logging_nan_inf_filter = False  # else transformers hides a loss that is not finite
    trainer = trainer_class(**arguments)
    for parameter in trainer.model.parameters():  # steps smaller than bfloat16 can hold would be lost
        if parameter.requires_grad:
            parameter.data = parameter.data.float()
    head = trainer.model.get_output_embeddings()
    if not hasattr(head, "bias"):  # TRL's fused head asks for it, and PEFT's wrapper of single rows hides it
        head.bias = None
    for callback in (PrinterCallback, ProgressCallback):
        trainer.remove_callback(callback)
    writer = _Log(log, tag or {})
    trainer.add_callback(writer)
    checkpoint = last_checkpoint(trainer.args.output_dir)
    began, before = time.perf_counter(), 0
    if trainer.eval_dataset is not None and checkpoint is None:
        trainer.evaluate()
    if checkpoint:
        before = json.loads((Path(checkpoint) / "trainer_state.json").read_text(encoding="utf-8"))["global_step"]
    started = time.perf_counter()
    trainer.train(resume_from_checkpoint=checkpoint)
    seconds = time.perf_counter() - started
    if trainer.eval_dataset is not None:
        trainer.evaluate()
    steps = trainer.state.global_step - before
    record = {"event": "summary", "step": trainer.state.global_step, "steps_here": steps, "resumed_at": before, "train_seconds": seconds,
              "wall_seconds": time.perf_counter() - began}
    if packed:
        record |= _throughput(trainer, rows, steps, seconds)
    writer.write(record)
    return trainer


def _throughput(trainer: object, rows: object, steps: int, seconds: float) -> dict:
    lengths = [size for sizes in rows["seq_lengths"] for size in sizes]
    per_step = trainer.args.train_batch_size * trainer.args.gradient_accumulation_steps * trainer.args.world_size
    tokens_per_row = sum(lengths) / len(rows)
    rate = steps * per_step * tokens_per_row / max(seconds, 1e-9)
    mean_length = sum(size * size for size in lengths) / max(sum(lengths), 1)
    flops = meter.flops_per_token(trainer.model, mean_length)
    dtype = "bfloat16" if trainer.args.bf16 else "float32"
    tokens = round(trainer.state.epoch * sum(lengths))  # an epoch's last step may hold fewer rows than the others
    return {"tokens": tokens, "tokens_per_second": rate, "flops_per_token": flops, "mfu": rate * flops / meter.peak_flops(dtype)}


def footprint(trainer: object) -> dict:
    """Return what training holds beside the model, {trainable, state_bytes, adapter_bytes}: gradients and Adam's moments, and a saved adapter."""
    learning = [parameter for parameter in trainer.model.parameters() if parameter.requires_grad]
    moments = [value for state in trainer.optimizer.state.values() for value in state.values() if torch.is_tensor(value)]
    folder = Path(trainer.args.output_dir) / "adapter"
    trainer.model.save_pretrained(folder, save_embedding_layers=False)  # those that learn are saved all the same
    return {"trainable": sum(parameter.numel() for parameter in learning), "state_bytes": sum(tensor.nbytes for tensor in [*learning, *moments]),
            "adapter_bytes": (folder / "adapter_model.safetensors").stat().st_size}


def eval_losses(log: Path, name: str = "eval_loss", **tag: object) -> dict[str, float]:
    """Return {before, after} of an evaluated quantity from a log, for lines that carry `tag`."""
    values = [record[name] for record in read_log(log) if name in record and all(record.get(key) == value for key, value in tag.items())]
    if len(values) < 2:
        raise ValueError(f"{log} holds {len(values)} values of {name}: one before and one after training are needed")
    return {"before": values[0], "after": values[-1]}
