"""Train with any trainer of TRL, and what it lacks: extensions, a log on disk, exact resume.

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

The trainer and its config are TRL's own. With `launch` the same objects are written to a job file,
and `accelerate launch` runs the same function in several processes (see launch.py and rank.py).
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

    With an eval_dataset the loss before and after training is logged, and between as
    `args.eval_strategy` says. SIGTERM or an interrupt saves a checkpoint at the end of the step.

    Args:
        trainer_class: A trainer of TRL or transformers.
        log: The file of the log.
        tag: Added to each line of the log.
        extensions: What the trainer lacks, such as PackedRows().
        launch: An accelerate config in notebooks/accelerate; empty trains in this process.
        processes: With `launch`, on each machine; 0 for one a GPU.
        stop_file: Where it appears, training stops as by SIGTERM.
        **arguments: For the trainer as they are: model, args, train_dataset, eval_dataset,
            peft_config, processing_class, ...

    Returns:
        The trainer; with `launch` what holds the trained model, the arguments and the trainer's
        state.

    Raises:
        ValueError: There is nothing to evaluate on, or the checkpoints are of another number of
            processes.
        Refused: Nothing learns.
        FloatingPointError: The loss or the weights are not finite.
        MemoryError: Memory does not suffice.
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
        # The guard comes first: it restores what the logger then needs.
        trainer.add_callback(resume.StepGuard(trainer, logger, extensions, stop))
        trainer.add_callback(logger)
        return _train(trainer, logger, extensions, stop)


def _check_arguments(args: TrainingArguments, eval_dataset: Dataset | None) -> None:
    """Refuse settings under which a log or a resume would be wrong.

    Args:
        args: The trainer's arguments.
        eval_dataset: Held-out rows, if any.
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
        trainer_class: A trainer of TRL or transformers.
        arguments: What it is built from. Extensions change these in place.
        extensions: The extensions.

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
    # Not `trainer.evaluate()` before `train()`: that leaves DDP unwrapped, and ranks train apart.
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
    """Return the checkpoint to go on from, once it is known to fit; None to begin."""
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
    """Keep an adapter as it begins, where its start changes the base (PiSSA and its kind).

    Without it the trained adapter would fit no base on disk.
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
    """Return the folder of the adapter as it began, where `fit` had to keep it, else None.

    `merging.merge_onto` needs it: an adapter that changed its base is merged as a difference.
    """
    folder = Path(trainer.args.output_dir) / "initial"
    return folder if folder.is_dir() else None


# --- memory --------------------------------------------------------------------------------------
@contextlib.contextmanager
def explain_out_of_memory(args: TrainingArguments, rows: Dataset) -> Iterator[None]:
    """Turn an out-of-memory error into a sentence: what was used, and what to lower."""
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
    """Return what was used when memory ran out, and what to lower.

    Args:
        args: The trainer's arguments.
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
