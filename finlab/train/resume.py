"""Stop a training and resume it, with exactly the same weights and log as without the stop.

The key of a step covers code, data and parameters. If one of them changes, training starts again
from the beginning. Only the number of processes must be checked here: with one process for each
GPU, it is not a parameter.
"""

from __future__ import annotations

import contextlib
import json
import shutil
import signal
import threading
from collections.abc import Iterator
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any

import torch
from transformers import TrainerCallback

from finlab import files
from finlab.train.extensions import Extensions
from finlab.train.log import JsonlLogger

if TYPE_CHECKING:
    from transformers import Trainer, TrainerControl, TrainerState, TrainingArguments

STATE_FILE = "finlab.json"  # written last, so a checkpoint with this file is complete


# --- stopping ------------------------------------------------------------------------------------
class StopRequest:
    """A request to stop training at the end of the current step.

    Args:
        file: A path. When this file appears, every process stops. None uses no file.

    Attributes:
        wanted: Whether a stop is requested.
        interrupted: Whether it was requested by an interrupt (SIGINT).
    """

    def __init__(self, file: Path | None = None):
        self.wanted = False
        self.interrupted = False
        self.file = file

    def want(self, number: int = 0, frame: FrameType | None = None) -> None:
        """Request a stop; this can be a signal handler. A second interrupt stops at once."""
        if self.wanted and number == signal.SIGINT:
            raise KeyboardInterrupt("stopped at once: training goes on from its last checkpoint")
        self.wanted = True
        self.interrupted = self.interrupted or number == signal.SIGINT
        if self.file:
            self.file.touch()

    def asked(self, trainer: Trainer) -> bool:
        """Tell whether to stop; the answer is the same in all processes.

        Signals reach processes at different steps, but all processes must stop at the same step.

        Args:
            trainer: The trainer of these processes.
        """
        wanted = self.wanted or bool(self.file and self.file.exists())
        if trainer.args.world_size > 1:
            votes = torch.tensor(float(wanted), device=trainer.args.device)
            wanted = bool(trainer.accelerator.reduce(votes, "sum").item())
        self.wanted = wanted
        return wanted


@contextlib.contextmanager
def graceful_stop(file: Path | None = None) -> Iterator[StopRequest]:
    """Within this context, let SIGTERM or an interrupt stop training at the end of the step.

    An interrupt is the stop button of JupyterLab, or Ctrl-C. A second interrupt stops at once.

    Args:
        file: A path. When this file appears, training also stops. None uses no file.
    """
    stop = StopRequest(file)
    if threading.current_thread() is not threading.main_thread():
        yield stop  # only the main thread may handle signals
        return
    before = {}
    for number in (signal.SIGTERM, signal.SIGINT):
        before[number] = signal.signal(number, stop.want)
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


# --- checkpoints ---------------------------------------------------------------------------------
def last_checkpoint(folder: str | Path) -> str | None:
    """Return the newest checkpoint that was written completely, or None.

    Use `damage` to check whether it is still undamaged.
    """
    for path in _checkpoints(folder):
        if (path / STATE_FILE).exists():
            return str(path)
    return None


def _checkpoints(folder: str | Path) -> list[Path]:
    """Return the checkpoints in a folder, the newest first."""
    return sorted(Path(folder).glob("checkpoint-*"), key=_step_of, reverse=True)


def damage(checkpoint: Path) -> str:
    """Return what is missing or changed in a checkpoint; empty if it is undamaged."""
    try:
        record = files.read_json(checkpoint / STATE_FILE)
        sealed = record["files"]
    except (OSError, ValueError, KeyError, TypeError):
        return f"{STATE_FILE} is missing or broken"
    for name, (size, digest) in sealed.items():
        path = checkpoint / name
        if not path.is_file():
            return f"{name} is missing"
        if path.stat().st_size != size or files.file_digest(path) != digest:
            return f"{name} has another content"
    return ""


def seal(checkpoint: Path) -> dict[str, list]:
    """Flush the files of a checkpoint to the disk, and return {name: [bytes, hash]} of them."""
    sealed = {}
    for path in sorted(checkpoint.rglob("*")):
        if path.is_file() and path.name != STATE_FILE:
            files.flush_to_disk(path)
            name = path.relative_to(checkpoint).as_posix()
            sealed[name] = [path.stat().st_size, files.file_digest(path)]
    return sealed


def whole_checkpoint(folder: str | Path, keep_damaged: bool = False) -> str | None:
    """Return the newest undamaged checkpoint, or None.

    Newer damaged checkpoints are printed and deleted. If they stayed, they would count when the
    trainer deletes the oldest checkpoints.

    Args:
        folder: The output folder of the trainer.
        keep_damaged: Neither print nor delete damaged checkpoints. Processes that do not save use
            this.
    """
    for path in _checkpoints(folder):
        found = damage(path)
        if not found:
            return str(path)
        if not keep_damaged:
            print(f"{path.name} is not whole ({found}): it is left aside")
            shutil.rmtree(path)
    return None


def _step_of(checkpoint: str | Path) -> int:
    """Return the step in a checkpoint's name."""
    return int(Path(checkpoint).name.rpartition("-")[2])


def step_of(checkpoint: str | None) -> int:
    """Return the step of a checkpoint, 0 for None."""
    return _step_of(checkpoint) if checkpoint else 0


def require_same_processes(checkpoint: str, trainer: Trainer) -> None:
    """Raise an error if another number of processes wrote a checkpoint.

    A checkpoint has one random state for each process, so the number of processes must be the same.

    Args:
        checkpoint: Folder of the checkpoint.
        trainer: The trainer that will resume from it.
    """
    before = files.read_json(Path(checkpoint) / STATE_FILE)["processes"]
    here = trainer.args.world_size
    if before != here:
        raise ValueError(
            f"{checkpoint} was written by {before} processes, and here are {here}: run as many to "
            f"go on with it, or remove {Path(checkpoint).parent} to start again"
        )


class AllStepsDone(Exception):
    """Training was resumed after its last step, so nothing is left to train."""


class StepGuard(TrainerCallback):
    """Check each step: stop if the loss or weights are not finite, or if a stop is requested.

    It also saves the sums since the last log line. An exact resume needs them, and the trainer does
    not save them.

    Args:
        trainer: The trainer.
        logger: The logger of the trainer.
        extensions: The extensions of the trainer.
        stop: The request to stop.
    """

    def __init__(
        self,
        trainer: Trainer,
        logger: JsonlLogger,
        extensions: Extensions,
        stop: StopRequest,
    ):
        self.trainer = trainer
        self.logger = logger
        self.extensions = extensions
        self.stop = stop

    # --- watching ---
    def on_step_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Train no step after the last one.

        If training is resumed at its last step within an epoch, the trainer would train another
        step.

        Raises:
            AllStepsDone: All steps are done.
        """
        if state.global_step >= state.max_steps:
            raise AllStepsDone

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Check the loss, look for a request to stop, and check the weights before saving."""
        if not torch.isfinite(self.trainer._tr_loss):
            where = "".join(extension.describe_step() for extension in self.extensions)
            raise FloatingPointError(
                f"the loss is not finite at step {state.global_step}{where}: lower the learning "
                f"rate or look at these rows; {self._last()}"
            )
        for extension in self.extensions:
            extension.step_ended()
        if self.stop.asked(self.trainer):
            control.should_save = control.should_training_stop = True
        if control.should_save:
            self._check_weights(state.global_step)

    def _check_weights(self, step: int) -> None:
        """Raise an error if a trained weight is not finite, so that it is not saved.

        Raises:
            FloatingPointError: A weight is not finite. The error names it and the step.
        """
        bad = []
        for name, parameter in self.trainer.model.named_parameters():
            if not parameter.requires_grad:
                continue
            values = parameter.data
            if hasattr(values, "to_local"):  # FSDP2 shards parameters
                values = values.to_local()
            if not torch.isfinite(values).all():
                bad.append(name)
        if bad:
            raise FloatingPointError(
                f"{len(bad)} trained weights are not finite after step {step} (the first: "
                f"{bad[0]}): lower the learning rate or max_grad_norm; {self._last()}"
            )

    def _last(self) -> str:
        """Say where the last good checkpoint is, for error messages."""
        checkpoint = last_checkpoint(self.trainer.args.output_dir)
        if checkpoint is None:
            return "no checkpoint was saved yet"
        return f"the last good checkpoint is {checkpoint}"

    # --- saving and restoring ---
    def on_save(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Write the state file of a checkpoint."""
        trainer = self.trainer
        # Every process takes part in these sums, whether it saves or not.
        sums = [extension.state() for extension in self.extensions]
        loss = trainer.accelerator.reduce(trainer._tr_loss.detach().clone(), "mean").item()
        trainer.accelerator.wait_for_everyone()
        if not args.should_save:
            return
        record = {
            "processes": args.world_size,
            "loss": loss,
            "last_logged": trainer._globalstep_last_logged,
            "evaluated": self.logger.evaluated,
            "metrics": dict(getattr(trainer, "_metrics", {}).get("train", {})),
            "extensions": sums,
        }
        folder = Path(args.output_dir) / f"checkpoint-{state.global_step}"
        record["files"] = seal(folder)
        files.write_text(folder / STATE_FILE, json.dumps(record), sync=True)

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Restore the values in the state file if training resumes from a checkpoint."""
        if not state.global_step:
            return
        folder = Path(args.output_dir) / f"checkpoint-{state.global_step}"
        record = files.read_json(folder / STATE_FILE)
        trainer = self.trainer
        trainer._tr_loss.fill_(record["loss"])
        trainer._globalstep_last_logged = record["last_logged"]
        self.logger.evaluated = record["evaluated"]
        for name, values in record["metrics"].items():
            trainer._metrics["train"][name] = list(values)
        for extension, state_before in zip(self.extensions, record["extensions"], strict=True):
            extension.restore(state_before)
