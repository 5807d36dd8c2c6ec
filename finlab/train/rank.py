"""Run one process of a training job that `accelerate launch` starts in several processes.

python -m finlab.train.rank JOB_FOLDER
"""

from __future__ import annotations

import contextlib
import json
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from finlab import files
from finlab.models import attention, loading
from finlab.run import environment
from finlab.train import fit, job_file, launch, patches

if TYPE_CHECKING:
    from transformers import PreTrainedModel, TrainingArguments


def require_all_processes(args: TrainingArguments) -> None:
    """Raise an error if accelerate has not connected all processes.

    Otherwise each process would silently train its own model.
    """
    started = int(os.environ.get("WORLD_SIZE", 1))
    if args.world_size != started:
        raise RuntimeError(
            f"of {started} processes {args.world_size} see each other: check the accelerate config"
        )


def _load_model(job: dict[str, Any]) -> PreTrainedModel:
    """Load the model of a job, in the same state as in the notebook."""
    options = dict(job["quantised"])
    if options and torch.cuda.is_available():
        options["device_map"] = {"": torch.cuda.current_device()}
    model = loading.load(
        job["source"],
        job["dtype"],
        place=False,
        config=job["config"],
        attn_implementation=attention.choose_attention(job["dtype"]),
        **options,
    )
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(name in job["learning"])
    return model


def run_rank(folder: Path) -> None:
    """Run one process of a job.

    Rank 0 saves the result in the folder `trained`. The first process that fails writes its error
    into failed.json.

    Args:
        folder: Folder of the job.
    """
    environment.quiet()
    if torch.cuda.is_available():
        torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", 0)))
    try:
        job = job_file.read(folder)
        args_class, fields = job["args"]
        args = args_class(**fields)
        patches.use_fsdp_on_cpu()
        require_all_processes(args)
        trainer = fit.fit(
            job["trainer_class"],
            **job["settings"],
            stop_file=folder / "stop",
            model=_load_model(job),
            args=args,
            **job["data"],
        )
        trained = folder / "trained"
        trainer.save_model(str(trained))
        if args.should_save:
            trainer.state.save_to_json(str(trained / "trainer_state.json"))
            references = getattr(trainer, "references", {})
            references = {name: str(path) for name, path in references.items()}
            files.write_json(trained / "references.json", references)
    except (Exception, KeyboardInterrupt) as error:
        failure = {"kind": type(error).__name__, "message": str(error)}
        with contextlib.suppress(FileExistsError):
            with open(folder / "failed.json", "x", encoding="utf-8") as file:
                json.dump(failure, file)
        if not isinstance(error, KeyboardInterrupt):
            raise


if __name__ == "__main__":
    launch.die_with_parent()
    run_rank(Path(sys.argv[1]))
