"""Write and read the log of a training: a file with one JSON line for each logged step.

    {"step": 20, "total_steps": 687, "loss": 3.1, "sources": {"cw_news": [812.5, 260]}, ...}

`sources` has [nats, supervised tokens] of each source since the last line.
"""

from __future__ import annotations

import functools
import math
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas
import torch
from transformers import TrainerCallback

from finlab import files
from finlab.run import environment
from finlab.train.extensions import Extension, Extensions

if TYPE_CHECKING:
    from transformers import Trainer, TrainerControl, TrainerState, TrainingArguments


# --- reading -------------------------------------------------------------------------------------
def read_log(log: Path, **tag: Any) -> list[dict[str, Any]]:
    """Return the records of a log.jsonl; an incomplete last line is left out.

    Args:
        log: The file. A missing file has no records.
        **tag: Return only records with this field and value, such as stage="stage1".
    """
    found = []
    for record in files.read_jsonl(log):
        if all(record.get(key) == value for key, value in tag.items()):
            found.append(record)
    return found


def summary(log: Path) -> dict[str, Any]:
    """Return the last summary that `fit` wrote into a log.

    Args:
        log: The log file.

    Returns:
        A record with tokens, seconds, speed and peak memory of the training.
    """
    return next(each for each in reversed(read_log(log)) if each.get("event") == "summary")


def eval_losses(log: Path, name: str = "eval_loss", **tag: Any) -> dict[str, float]:
    """Return {before, after}: the first and last logged value of an evaluated quantity.

    Args:
        log: The log file.
        name: Name of the quantity in the log.
        **tag: Use only records with this field and value, such as stage="stage1".

    Raises:
        ValueError: The log holds fewer than two values.
    """
    values = []
    for record in read_log(log, **tag):
        if name in record:
            values.append(record[name])
    if len(values) < 2:
        raise ValueError(
            f"{log} holds {len(values)} values of {name}: "
            "one before and one after training are needed"
        )
    return {"before": values[0], "after": values[-1]}


def by_source(log: Path, name: str = "sources") -> dict[str, dict[int, float]]:
    """Return {source: {step: nats per supervised token}}.

    Args:
        log: The log file.
        name: `sources` for the training loss, `eval_sources` for the loss on held-out rows.
    """
    found: dict[str, dict[int, float]] = {}
    for record in read_log(log):
        for source, (nats, tokens) in record.get(name, {}).items():
            found.setdefault(source, {})[record["step"]] = nats / tokens
    return found


def held_out_bits(log: Path, characters: dict[str, int]) -> pandas.DataFrame:
    """Return the loss on held-out text at each evaluation.

    Args:
        log: The log file.
        characters: {corner: number of characters of its held-out text}. A corner is a source name
            in `eval_sources`.

    Returns:
        A row for each corner and evaluation: corner, step, bits_per_character, nats_per_token.
    """
    rows = []
    for record in read_log(log):
        sources = record.get("eval_sources", {})
        for corner in characters:
            if corner not in sources:
                continue
            nats, tokens = sources[corner]
            row = {
                "corner": corner,
                "step": record["step"],
                "bits_per_character": nats / math.log(2) / characters[corner],
                "nats_per_token": nats / tokens,
            }
            rows.append(row)
    return pandas.DataFrame(rows)


def show_progress(text: str, handle: list) -> None:
    """Show or update one line of progress under a notebook's cell.

    Args:
        text: The line.
        handle: A list that keeps the display between calls; empty before the first call.
    """
    from IPython import get_ipython
    from IPython.display import display

    if get_ipython() is None:
        return
    bundle = {"text/plain": text}
    if handle:
        handle[0].update(bundle, raw=True)
    else:
        handle.append(display(bundle, raw=True, display_id=True))


# --- the loss of each source ---------------------------------------------------------------------
class SourceLoss(Extension):
    """Log the mean loss over tokens and the loss of each source, without an extra pass.

    TRL's fused head gives the log-probability of each token. They are summed on the device for each
    of the `sources` of packed rows. The evaluation loss also becomes the mean over tokens. The
    trainer's own evaluation loss is a mean of batch means, even if the batches have different
    numbers of tokens. Rows without sources count under one name, "".
    """

    def attach(self, trainer: Trainer) -> None:
        """Wrap the model's forward, and remove `sources` from the batches that it gets."""
        self.trainer = trainer
        device = trainer.args.device
        self.names: dict[str, list[str]] = {}
        self.sums: dict[str, torch.Tensor] = {}  # {train, eval}: [sources, 2] nats and tokens
        for mode in ("train", "eval"):
            rows = getattr(trainer, f"{mode}_dataset")
            if rows is None:
                continue
            names = [""]
            if "sources" in rows.column_names:
                names = rows.features["sources"].feature.names
            self.names[mode] = names
            self.sums[mode] = torch.zeros(len(names), 2, dtype=torch.float64, device=device)
        self.step = torch.zeros_like(self.sums["train"])  # sums of the present step
        self._wrap_forward(trainer.model)

    def _wrap_forward(self, model: torch.nn.Module) -> None:
        """Make the model's forward also add up the loss of each source.

        Args:
            model: The model, with or without an adapter.
        """
        if hasattr(model, "get_base_model"):
            model = model.get_base_model()
        forward = model.forward

        @functools.wraps(forward)
        def counted(*arguments: Any, sources: torch.Tensor | None = None, **keywords: Any) -> Any:
            out = forward(*arguments, **keywords)
            mode = "train" if model.training else "eval"
            if mode in self.sums and getattr(out, "log_probs", None) is not None:
                self._add(mode, sources, out.log_probs, out.label_mask)
            return out

        model.forward = counted

    @torch.no_grad()
    def _add(
        self,
        mode: str,
        sources: torch.Tensor | None,
        log_probs: torch.Tensor,
        label_mask: torch.Tensor,
    ) -> None:
        """Add the losses of a batch to the sums of their sources.

        Args:
            mode: `train` or `eval`.
            sources: Number of the source of each token, [rows, length]; None means source 0.
            log_probs: Log-probability of each next token, [rows, length - 1].
            label_mask: 1 where a label counts, else 0, [rows, length - 1].
        """
        if sources is None:
            numbers = torch.zeros_like(label_mask, dtype=torch.long).reshape(-1)
        else:
            numbers = sources[:, 1:].reshape(-1)
        nats = -log_probs.detach().reshape(-1)
        pairs = torch.stack([nats, label_mask.reshape(-1)], dim=1).double()
        part = torch.zeros_like(self.sums[mode]).index_add_(0, numbers, pairs)
        self.sums[mode] += part
        if mode == "train":
            self.step += part

    def take(self, mode: str) -> dict[str, list[float]]:
        """Return the sums over all processes, and reset them.

        Args:
            mode: `train` or `eval`.

        Returns:
            {source: [nats, tokens]}; sources without tokens are left out.
        """
        total = self.trainer.accelerator.reduce(self.sums[mode].clone(), "sum").tolist()
        self.sums[mode].zero_()
        return {name: pair for name, pair in zip(self.names[mode], total, strict=True) if pair[1]}

    def log_fields(self, logs: dict[str, Any]) -> dict[str, Any]:
        """Return the fields of a log line.

        They are `sources` for a training loss, and `eval_loss` and `eval_sources` for an
        evaluation.
        """
        fields: dict[str, Any] = {}
        if "loss" in logs:
            sources = self.take("train")
            if "" not in sources:
                fields["sources"] = sources
        if "eval_loss" in logs:
            sources = self.take("eval")
            nats = sum(pair[0] for pair in sources.values())
            tokens = sum(pair[1] for pair in sources.values())
            fields["eval_loss"] = nats / max(tokens, 1)
            if "" not in sources:
                fields["eval_sources"] = sources
        return fields

    def step_ended(self) -> None:
        """Reset the sums of one step."""
        self.step.zero_()

    def describe_step(self) -> str:
        """Return which sources of the last step have a loss that is not finite."""
        held, bad = [], []
        for name, (nats, tokens) in zip(self.names["train"], self.step.tolist(), strict=True):
            finite = math.isfinite(nats)
            if tokens or not finite:
                held.append(name)
            if not finite:
                bad.append(name)
        if not bad or bad == [""]:  # rows without sources have the name ""
            return ""
        return f", in {', '.join(bad)} (the batch holds {', '.join(held)})"

    def state(self) -> dict[str, Any]:
        """Return the sums since the last log line, over all processes."""
        sums = {}
        for mode, values in self.sums.items():
            sums[mode] = self.trainer.accelerator.reduce(values.clone(), "sum").tolist()
        return sums

    def restore(self, state: dict[str, Any]) -> None:
        """Add the saved sums on the main process only, because they are summed over processes."""
        if not self.trainer.accelerator.is_main_process:
            return
        for mode, values in state.items():
            sums = torch.tensor(values, dtype=torch.float64, device=self.trainer.args.device)
            self.sums[mode] += sums


# --- writing -------------------------------------------------------------------------------------
class JsonlLogger(TrainerCallback):
    """Write each logged step as a JSON line, and show progress under the cell.

    Args:
        trainer: The trainer.
        log: The log file.
        tag: Fields to add to each line.
        extensions: The extensions of the trainer. They add fields to the lines.
    """

    def __init__(self, trainer: Trainer, log: Path, tag: dict[str, Any], extensions: Extensions):
        self.trainer = trainer
        self.log = Path(log)
        self.tag = tag
        self.extensions = extensions
        self.began: float | None = None
        self.first_step = 0
        self.evaluated: int | None = None  # step of the last evaluation on held-out rows
        self.display: list = []
        self.evaluating = 0.0  # seconds spent on evaluation
        self._time_evaluation()

    def _time_evaluation(self) -> None:
        """Measure the seconds of evaluation, because they do not count as training."""
        evaluate = self.trainer.evaluate

        def timed(*arguments: Any, **keywords: Any) -> dict[str, float]:
            began = time.perf_counter()
            try:
                return evaluate(*arguments, **keywords)
            finally:
                self.evaluating += time.perf_counter() - began

        self.trainer.evaluate = timed

    def write(self, record: dict[str, Any]) -> None:
        """Append a record to the log, only in the process that saves."""
        if self.trainer.args.should_save:
            files.append_jsonl(self.log, self.tag | record)

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Delete the lines that were written after the checkpoint at which training resumes."""
        self.began = time.perf_counter()
        self.first_step = state.global_step
        if not args.should_save:
            return
        kept = []
        for record in read_log(self.log):
            other_tag = any(record.get(key) != value for key, value in self.tag.items())
            if other_tag or self._stands(record, state.global_step):
                kept.append(record)
        files.write_jsonl(self.log, kept)

    def _stands(self, record: dict[str, Any], step: int) -> bool:
        """Tell whether a line was written before the checkpoint of a step, so that it is kept.

        The last evaluation and the summary are written after the last checkpoint.

        Args:
            record: A line of the log.
            step: Step of the checkpoint.
        """
        if record.get("step", 0) != step:
            return record.get("step", 0) < step
        if record.get("event") == "summary" or "train_runtime" in record:
            return False
        return "eval_loss" not in record or self.evaluated == step

    def on_log(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        logs: dict[str, Any] | None = None,
        **kwargs: Any,
    ) -> None:
        """Write what the trainer logs, with the fields of the extensions."""
        logs = logs or {}
        record = {"step": state.global_step, "total_steps": state.max_steps}
        for name, value in logs.items():
            counts_padding = name.endswith("num_tokens")
            if not counts_padding and isinstance(value, (int, float)) and math.isfinite(value):
                record[name] = value
        for extension in self.extensions:
            record |= extension.log_fields(logs)
        if "eval_loss" in logs:
            self.evaluated = state.global_step
        steps_here = state.global_step - self.first_step
        if self.began and steps_here > 0 and "loss" in record:
            elapsed = time.perf_counter() - self.began - self.evaluating
            left = state.max_steps - state.global_step
            record |= {"seconds": elapsed, "seconds_left": elapsed / steps_here * left}
            for extension in self.extensions:
                record |= extension.speed(self.first_step, state.global_step, elapsed)
            show_progress(_progress_line(record, self.tag), self.display)
        self.write(record)


def _progress_line(record: dict[str, Any], tag: dict[str, Any]) -> str:
    """Return a record as the line of progress under a cell.

    Args:
        record: A record of the log.
        tag: Fields that tell apart several trainings; their values begin the line.
    """
    which = "".join(f"{value} · " for value in tag.values())
    text = (
        f"{which}step {record['step']}/{record['total_steps']} · loss {record['loss']:.3f}"
        f" · {record['seconds']:.0f} s, {record['seconds_left']:.0f} s left"
    )
    if "tokens_per_second" in record:
        text += f" · {record['tokens_per_second']:,.0f} tokens/s"
    if "mfu" in record and environment.has_gpu():
        text += f", MFU {record['mfu']:.0%}"
    return text
