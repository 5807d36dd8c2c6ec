"""Train with any trainer of TRL, and add extensions, a log on disk and exact resume.

    trainer = fit(
        SFTTrainer,
        log=run.log,
        extensions=[PackedRows(), SourceLoss(), TokenMeter()],
        model=model,
        args=SFTConfig(...),
        train_dataset=rows,
        peft_config=LoraConfig(...),
        processing_class=tokenizer,
    )
    summary(run.log)      # {tokens, train_seconds, tokens_per_second, mfu, hfu, peak_bytes, ...}

The trainer and its config are classes of TRL. With `launch` the same objects are written to a job
file, and `accelerate launch` runs `fit` in several processes (see launch.py and rank.py).
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from transformers import PrinterCallback, ProgressCallback

from finlab.models import adapters
from finlab.run import environment
from finlab.train import launch as launching
from finlab.train import patches, resume
from finlab.train.extensions import Extensions
from finlab.train.log import JsonlLogger
from finlab.train.preflight import Refused

if TYPE_CHECKING:
    from datasets import Dataset
    from transformers import Trainer, TrainingArguments


def fit(
    trainer_class: type[Trainer],
    *,
    log: Path,
    tag: dict[str, Any] | None = None,
    extensions: Extensions = (),
    launch: str = "",
    processes: int = 0,
    stop_file: Path | None = None,
    **arguments: Any,
) -> Trainer:
    """Build a trainer, resume it where it stopped, train, and log to disk.

    With an eval_dataset, the evaluation loss is logged before and after training, and during it as
    `args.eval_strategy` says. After SIGTERM or an interrupt, training saves a checkpoint at the end
    of the step and stops.

    Args:
        trainer_class: A trainer class of TRL or transformers.
        log: The log file.
        tag: Fields to add to each line of the log; None adds none.
        extensions: Extensions of the trainer, such as PackedRows().
        launch: Name of an accelerate config in notebooks/accelerate; empty trains in this process.
        processes: With `launch`, the number of processes on each machine; 0 means one for each GPU.
        stop_file: A path. When this file appears, training stops as after SIGTERM.
        **arguments: Arguments of the trainer, passed on unchanged: model, args, train_dataset,
            eval_dataset, peft_config, processing_class, ...

    Returns:
        The trainer. With `launch`, an object with the trained `model`, `args`, `state` and
        `references`.

    Raises:
        ValueError: There are no held-out rows in eval_dataset, or the checkpoints were written by
            another number of processes.
        Refused: No parameter requires a gradient.
        FloatingPointError: The loss or the weights are not finite.
        MemoryError: There is not enough memory.
        KeyboardInterrupt: Training was stopped; the checkpoint is saved.
    """
    args, rows = arguments["args"], arguments["train_dataset"]
    _check_arguments(args, arguments.get("eval_dataset"))
    if launch:
        settings = {"log": Path(log).resolve(), "tag": tag, "extensions": list(extensions)}
        return launching.run_job(trainer_class, launch, processes, settings, arguments)
    with contextlib.ExitStack() as stack:
        stack.enter_context(explain_out_of_memory(args, rows))
        for extension in extensions:
            stack.enter_context(extension.training(arguments))
        stop = stack.enter_context(resume.graceful_stop(stop_file))
        trainer = build(trainer_class, arguments, extensions)
        logger = JsonlLogger(trainer, log, tag or {}, extensions)
        # The guard is added first because it restores values that the logger needs.
        trainer.add_callback(resume.StepGuard(trainer, logger, extensions, stop))
        trainer.add_callback(logger)
        return _train(trainer, logger, extensions, stop)


def _check_arguments(args: TrainingArguments, eval_dataset: Dataset | None) -> None:
    """Raise an error for an empty evaluation set, or for liger-kernel without a GPU.

    Args:
        args: The arguments of the trainer.
        eval_dataset: Held-out rows; None if there is no evaluation.
    """
    if eval_dataset is not None and not len(eval_dataset):
        raise ValueError(
            "there are no held-out rows to evaluate on: raise held_out_share, or give more data"
        )
    if args.use_liger_kernel and not torch.cuda.is_available():
        raise ValueError("liger-kernel's layers run on a GPU only: set liger to false here")


def build(
    trainer_class: type[Trainer], arguments: dict[str, Any], extensions: Extensions = ()
) -> Trainer:
    """Build a trainer with its extensions.

    Args:
        trainer_class: A trainer class of TRL or transformers.
        arguments: Arguments to build the trainer with. Extensions change them in place.
        extensions: The extensions to add.

    Raises:
        Refused: No parameter requires a gradient.
    """
    patches.show_infinite_losses(arguments["args"])
    for extension in extensions:
        extension.examine(arguments["train_dataset"])
    for extension in extensions:
        extension.prepare(arguments)
        trainer_class = extension.extend_class(trainer_class)
    trainer = trainer_class(**arguments)
    if not any(parameter.requires_grad for parameter in trainer.model.parameters()):
        raise Refused(
            "training does not start: it must hold that something learns "
            "(no parameter requires a gradient)"
        )
    patches.keep_trained_weights_in_float32(trainer)
    patches.give_head_a_bias(trainer.model)
    patches.gather_head_under_fsdp2(trainer)
    for callback in (PrinterCallback, ProgressCallback):
        trainer.remove_callback(callback)  # the logger shows progress
    for extension in extensions:
        extension.attach(trainer)
    return trainer


def _train(
    trainer: Trainer, logger: JsonlLogger, extensions: Extensions, stop: resume.StopRequest
) -> Trainer:
    """Train a built trainer from its last checkpoint, and write the summary."""
    began = time.perf_counter()
    checkpoint = _checkpoint_to_resume(trainer)
    from_step = resume.step_of(checkpoint)
    # Do not call `trainer.evaluate()` before `train()`: the model would then not be wrapped in DDP,
    # and each process would train its own model.
    trainer.args.eval_on_start = trainer.eval_dataset is not None and checkpoint is None
    started = time.perf_counter()
    with contextlib.suppress(resume.AllStepsDone):
        trainer.train(resume_from_checkpoint=checkpoint)
    seconds = time.perf_counter() - started - logger.evaluating
    step = trainer.state.global_step
    if stop.wanted and step < trainer.state.max_steps:
        raise KeyboardInterrupt(
            f"stopped after step {step} of {trainer.state.max_steps}; the checkpoint is saved in "
            f"{trainer.args.output_dir}: run it again to go on from there"
        )
    if trainer.eval_dataset is not None and logger.evaluated != step:
        trainer.evaluate()
    record = {
        "event": "summary",
        "attention": trainer.model.config._attn_implementation,
        "processes": trainer.args.world_size,
        "step": step,
        "steps_here": step - from_step,
        "resumed_at": from_step,
        "train_seconds": seconds,
        "wall_seconds": time.perf_counter() - began,
    }
    for extension in extensions:
        record |= extension.speed(from_step, step, seconds) | extension.summary()
    logger.write(record)
    if stop.interrupted:  # in the last step, or while it was evaluated
        raise KeyboardInterrupt(
            "stopped behind the last step of this training: run it again to go on from there"
        )
    return trainer


def _checkpoint_to_resume(trainer: Trainer) -> str | None:
    """Return the checkpoint to resume from, after checking it; None to start from step 0."""
    folder = trainer.args.output_dir
    trainer.accelerator.wait_for_everyone()
    checkpoint = resume.whole_checkpoint(folder, keep_damaged=not trainer.args.should_save)
    trainer.accelerator.wait_for_everyone()
    if checkpoint:
        resume.require_same_processes(checkpoint, trainer)
    elif trainer.args.should_save:
        _save_initial_adapter(trainer)
    return checkpoint


# --- adapters that change their base -------------------------------------------------------------
def _save_initial_adapter(trainer: Trainer) -> None:
    """Save the initial adapter if its initialization changes the base (such as PiSSA).

    Without this copy, the trained adapter would not fit any base on disk.
    """
    for config in getattr(trainer.model, "peft_config", {}).values():
        start = adapters.changing_start(config)
        if not start:
            continue
        if config.modules_to_save or config.trainable_token_indices:
            raise ValueError(
                f"a LoRA that begins as {start} cannot train embeddings beside it (PEFT's "
                "conversion to a plain LoRA would drop them): set train_embeddings to none, "
                "or leave the start out"
            )
        folder = Path(trainer.args.output_dir) / "initial"
        trainer.model.save_pretrained(folder, save_embedding_layers=False)


def initial_adapter(trainer: Trainer) -> Path | None:
    """Return the folder of the initial adapter if `fit` has saved it, else None.

    `merging.merge_onto` needs it: for an adapter that changed its base, the difference from the
    initial adapter is merged.
    """
    folder = Path(trainer.args.output_dir) / "initial"
    return folder if folder.is_dir() else None


# --- memory --------------------------------------------------------------------------------------
@contextlib.contextmanager
def explain_out_of_memory(args: TrainingArguments, rows: Dataset) -> Iterator[None]:
    """Turn an out-of-memory error into a MemoryError that says what was used and what to lower."""
    try:
        yield
    except RuntimeError as error:
        message = str(error)
        out_of_memory = isinstance(error, torch.OutOfMemoryError)
        if not out_of_memory and not any(
            words in message for words in ("allocate memory", "not enough memory")
        ):
            raise
        raise MemoryError(_memory_advice(args, rows)) from error


def _memory_advice(args: TrainingArguments, rows: Dataset) -> str:
    """Return the error message for an out-of-memory error.

    Args:
        args: The arguments of the trainer.
        rows: The training rows.
    """
    batch = args.per_device_train_batch_size
    tokens = ""
    if "input_ids" in rows.column_names:
        longest = max(map(len, rows[: min(len(rows), 64)]["input_ids"]))
        tokens = f", {batch * longest:,} tokens," if longest else ""
    fewer = "shorten the rows"
    if batch > 1:
        fewer = "halve the batch and double gradient_accumulation, or shorten the rows"
    checkpointing = "" if args.gradient_checkpointing else ", or set gradient_checkpointing"
    peak = environment.peak_bytes() / 1e9
    return (
        f"out of memory at a measured peak of {peak:.1f} GB with {batch} rows{tokens} in a "
        f"micro-batch: {fewer}{checkpointing}; finished checkpoints stay"
    )
