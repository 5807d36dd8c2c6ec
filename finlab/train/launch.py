"""Run a training job in several processes, on one machine or more.

    notebook:      run_job(...) writes the job and starts, on each machine,
    each machine:  python -m finlab.train.launch JOB_FOLDER ACCELERATE_CONFIG PROCESSES
                   which becomes `accelerate launch` and starts
    each process:  python -m finlab.train.rank JOB_FOLDER

If FINLAB_LAUNCH is set, its command is put before the command for each machine. For example,
`srun --ntasks-per-node=1` starts it on every machine of a Slurm job. The job folder must be on a
file system that all machines share.
"""

from __future__ import annotations

import copy
import ctypes
import os
import shlex
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import torch

from finlab import files, paths
from finlab.models import adapters, loading
from finlab.run import progress
from finlab.train import job_file, log, resume
from finlab.train.preflight import Refused

if TYPE_CHECKING:
    from transformers import PreTrainedModel, Trainer, TrainingArguments

SET_PDEATHSIG = 1  # prctl's PR_SET_PDEATHSIG
# Errors of a process that are raised in the notebook with the same class.
KNOWN_ERRORS = (ValueError, Refused, FloatingPointError, MemoryError, KeyboardInterrupt)


# --- the accelerate config and the machines ------------------------------------------------------
def find(name: str) -> Path:
    """Return an accelerate config by name.

    Args:
        name: Name of a file in notebooks/accelerate without `.yaml`, such as `ddp`.

    Raises:
        ValueError: There is no such config, or the job has several machines and FINLAB_LAUNCH is
            not set.
    """
    folder = paths.ACCELERATE_CONFIGS
    path = folder / f"{name}.yaml"
    if not path.exists():
        known = ", ".join(sorted(path.stem for path in folder.glob("*.yaml")))
        raise ValueError(f"there is no accelerate config '{name}': choose one of {known}")
    if machines() > 1 and not os.environ.get("FINLAB_LAUNCH"):
        raise ValueError(
            f"this job has {machines()} machines: export FINLAB_LAUNCH='srun "
            "--kill-on-bad-exit=1' to train on all of them"
        )
    return path


def is_deepspeed(config: Path) -> bool:
    """Tell whether an accelerate config uses DeepSpeed."""
    return "distributed_type: DEEPSPEED" in config.read_text(encoding="utf-8")


def world(name: str, processes: int = 0) -> int:
    """Return how many processes a job has on all machines together.

    Args:
        name: Name of the accelerate config; empty means only this process.
        processes: Number of processes on each machine; 0 means one for each GPU.
    """
    if not name:
        return 1
    find(name)
    each = processes or gpu_count()
    return each * machines() if os.environ.get("FINLAB_LAUNCH") else each


def machines() -> int:
    """Return the number of machines, from the environment variables of Slurm or torchrun."""
    return int(os.environ.get("SLURM_NNODES") or os.environ.get("NNODES") or 1)


def gpu_count() -> int:
    """Return this machine's number of GPUs, at least 1.

    finlab hides all GPUs but one from a notebook's process. They count here too, so a new process
    counts them.
    """
    environment = dict(os.environ)
    if environment.get("FINLAB_ONE_GPU"):
        environment.pop("CUDA_VISIBLE_DEVICES", None)
    command = [sys.executable, "-c", "import torch; print(torch.cuda.device_count())"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    return max(int(done.stdout or 0), 1)


def rendezvous(processes: int) -> list[str]:
    """Return the options of `accelerate launch` that describe the machines.

    They come from the environment variables of Slurm or torchrun. Without these variables, there is
    only this machine.

    Args:
        processes: Number of processes on each machine.

    Raises:
        ValueError: There are several machines, and MASTER_ADDR or the machine's rank is not set.
    """
    count = machines()
    if count == 1:
        port = str(_free_port())
        return [
            *("--num_processes", str(processes)),
            *("--num_machines", "1"),
            *("--main_process_port", port),
        ]
    rank = os.environ.get("SLURM_NODEID") or os.environ.get("NODE_RANK")
    address = os.environ.get("MASTER_ADDR")
    if rank is None or not address:
        raise ValueError(
            f"{count} machines need to find each other: export MASTER_ADDR (the first machine's "
            "name), and NODE_RANK where Slurm does not set SLURM_NODEID"
        )
    return [
        *("--num_processes", str(processes * count)),
        *("--num_machines", str(count)),
        *("--machine_rank", rank),
        *("--main_process_ip", address),
        *("--main_process_port", os.environ.get("MASTER_PORT", "29500")),
    ]


def _free_port() -> int:
    """Return a free TCP port of this machine."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]


# --- the notebook's side -------------------------------------------------------------------------
def run_job(
    trainer_class: type[Trainer],
    launch: str,
    processes: int,
    settings: dict[str, Any],
    arguments: dict[str, Any],
) -> SimpleNamespace:
    """Run a job in several processes. An error of a process is raised again here.

    Args:
        trainer_class: A trainer class of TRL or transformers.
        launch: Name of the accelerate config.
        processes: Number of processes on each machine; 0 means one for each GPU.
        settings: The other arguments of `fit`: log, tag and extensions.
        arguments: Arguments to build the trainer with.

    Returns:
        An object with `model`, `args`, `state` and `references` of the trained trainer.
    """
    args, model = arguments["args"], arguments["model"]
    config = find(launch)
    _refuse_changing_start(arguments.get("peft_config"))
    folder = Path(args.output_dir).resolve()
    folder.mkdir(parents=True, exist_ok=True)
    job = _describe_job(trainer_class, config, settings, arguments)
    signature = job_file.write(folder, job)
    for name in ("stop", "failed.json"):
        (folder / name).unlink(missing_ok=True)
    display: list = []
    began = time.time()

    def show_progress() -> None:
        text = progress.progress_text(settings["log"], time.time() - began)
        log.show_progress(f"{launch} · {text}", display)

    with resume.graceful_stop(folder / "stop"):
        failure = run(folder, config, processes, show_progress, signature)
    (folder / job_file.NAME).unlink(missing_ok=True)
    if failure:
        _raise(failure, folder)
    return _load_result(folder / "trained", model, args, job)


def _refuse_changing_start(peft_config: Any) -> None:
    """Raise an error if an adapter's initialization changes the base.

    Each process would change its own copy of the base.
    """
    start = adapters.changing_start(peft_config)
    if start:
        raise ValueError(
            f"a LoRA that begins as {start} changes its base: "
            "train it in one process, or begin with zeros"
        )


def _describe_job(
    trainer_class: type[Trainer],
    config: Path,
    settings: dict[str, Any],
    arguments: dict[str, Any],
) -> dict[str, Any]:
    """Return what each process needs to build the same trainer.

    Args:
        trainer_class: A trainer class of TRL or transformers.
        config: File of the accelerate config.
        settings: The other arguments of `fit`: log, tag and extensions.
        arguments: Arguments to build the trainer with.
    """
    args, model = arguments["args"], arguments["model"]
    fields = {}
    for name, declared in args.__dataclass_fields__.items():
        if declared.init and name in vars(args):
            fields[name] = getattr(args, name)
    # TRL's GRPOConfig computes each of these two from the other one and the number of processes. It
    # raises an error if both are given.
    steps = fields.pop("steps_per_generation", None)
    if steps in (None, args.gradient_accumulation_steps):
        fields.pop("generation_batch_size", None)
    fields["ddp_find_unused_parameters"] = False
    fields["hub_token"] = None  # never write an access token into a file
    if not torch.cuda.is_available():
        fields["ddp_backend"] = "gloo"
        fields["use_cpu"] = not is_deepspeed(config)
    quantised = {}
    if getattr(model, "hf_quantizer", None):
        quantised["quantization_config"] = model.config.quantization_config
    model_config = copy.deepcopy(model.config)
    model_config.__dict__.pop("quantization_config", None)
    data = {name: value for name, value in arguments.items() if name not in ("args", "model")}
    learning = [name for name, weight in model.named_parameters() if weight.requires_grad]
    return {
        "trainer_class": trainer_class,
        "settings": settings,
        "args": (type(args), fields),
        "source": model.name_or_path,
        "dtype": str(model.dtype).rpartition(".")[2],
        "config": model_config,
        "quantised": quantised,
        "learning": learning,
        "data": data,
    }


def run(
    folder: Path,
    config: Path,
    processes: int,
    meanwhile: Callable[[], None],
    signature: str = "",
) -> dict[str, str] | None:
    """Run the job in a folder in several processes.

    The output of the processes goes to launch.log. A process that fails writes failed.json.

    Args:
        folder: Folder of the job.
        config: File of the accelerate config.
        processes: Number of processes on each machine; 0 means one for each GPU.
        meanwhile: A function that is called twice a second.
        signature: Hash of the job, from `job_file.write`.

    Returns:
        None if the job succeeded, else {kind, message} of the error.
    """
    command = [
        *shlex.split(os.environ.get("FINLAB_LAUNCH", "")),
        sys.executable,
        "-m",
        "finlab.train.launch",
        str(folder),
        str(config),
        str(processes),
    ]
    log_file = folder / "launch.log"
    with open(log_file, "w", encoding="utf-8") as output:
        child = subprocess.Popen(
            command,
            stdout=output,
            stderr=subprocess.STDOUT,
            cwd=paths.ROOT,
            env=os.environ | {job_file.SIGNATURE: signature},
            # An interrupt reaches the whole process group of a kernel. The job must not get it,
            # because it is stopped by the file `stop`.
            start_new_session=True,
        )
        try:
            while child.poll() is None:
                time.sleep(0.5)
                meanwhile()
        finally:
            child.terminate()  # after an interrupt; no effect if the job has ended
            child.wait()
    if (folder / "failed.json").exists():
        return files.read_json(folder / "failed.json")
    if not child.returncode:
        return None
    lines = log_file.read_text(encoding="utf-8").splitlines()
    last = " | ".join([line for line in lines if line.strip()][-3:])
    message = f"{config.stem} ended with status {child.returncode}: {last[:600]}"
    return {"kind": "RuntimeError", "message": f"{message} (all of it: {log_file})"}


def _raise(failure: dict[str, str], folder: Path) -> None:
    """Raise the error of a process, with its class if that is one of KNOWN_ERRORS.

    Args:
        failure: {kind, message}: class name and message of the error.
        folder: Folder of the job, which has the output.
    """
    for kind in KNOWN_ERRORS:
        if kind.__name__ == failure["kind"]:
            raise kind(failure["message"])
    raise RuntimeError(
        f"{failure['kind']}: {failure['message']} (all of it: {folder / 'launch.log'})"
    )


def _load_result(
    trained: Path, model: PreTrainedModel, args: TrainingArguments, job: dict[str, Any]
) -> SimpleNamespace:
    """Load what rank 0 has saved: the trained model, the trainer's state, DPO's references."""
    from peft import PeftModel
    from transformers import TrainerState

    state = TrainerState.load_from_json(str(trained / "trainer_state.json"))
    if (trained / "adapter_config.json").exists():
        model = PeftModel.from_pretrained(model, str(trained), is_trainable=True)
    else:
        model = loading.load(trained, job["dtype"], place=False)
        for name, parameter in model.named_parameters():
            parameter.requires_grad_(name in job["learning"])
    references = files.read_json(trained / "references.json")
    references = {name: Path(path) for name, path in references.items()}
    return SimpleNamespace(model=model, args=args, state=state, references=references)


# --- each machine's side -------------------------------------------------------------------------
def die_with_parent() -> None:
    """Ask Linux for a SIGTERM when the parent process ends, so a job ends with its notebook."""
    ctypes.CDLL(None).prctl(SET_PDEATHSIG, signal.SIGTERM)


def main(folder: str, config: str, processes: str) -> None:
    """Replace this process with `accelerate launch` for a job.

    All GPUs become visible, and the CPU cores are divided among the processes.

    Args:
        folder: Folder of the job.
        config: File of the accelerate config.
        processes: Number of processes on this machine; 0 means one for each GPU.
    """
    die_with_parent()  # this stays in effect after the exec
    os.chdir(paths.ROOT)  # paths of DeepSpeed's configs are relative to this folder
    each = int(processes) or gpu_count()
    if os.environ.pop("FINLAB_ONE_GPU", ""):
        del os.environ["CUDA_VISIBLE_DEVICES"]
    threads = max(1, (os.cpu_count() or 1) // each)
    os.environ.setdefault("OMP_NUM_THREADS", str(threads))
    if not torch.cuda.is_available() and not is_deepspeed(Path(config)):
        # Without this, the processes of accelerate would not find each other.
        os.environ["ACCELERATE_USE_CPU"] = "true"
    command = [sys.executable, "-m", "accelerate.commands.launch", "--config_file", config]
    command += rendezvous(each)
    command += ["-m", "finlab.train.rank", folder]
    os.execv(command[0], command)


if __name__ == "__main__":
    try:
        main(*sys.argv[1:])
    except ValueError as error:
        sys.exit(f"finlab: {error}")
