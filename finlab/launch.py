"""Run a training job in several processes, on one machine or more: the notebook's side, and each machine's share of it.

    failed = launch.run(folder, launch.find("fsdp2"), processes=8, meanwhile=show)   # in the notebook's process
    python -m finlab.launch JOB_FOLDER ACCELERATE_CONFIG PROCESSES                   # on each machine: becomes `accelerate launch`

`training.fit(launch=...)` writes the job and calls `run`, which starts the second line once, or, where FINLAB_LAUNCH is set, behind that
command: `srun --ntasks-per-node=1` starts it on every machine of a Slurm job. The job folder lies on a file system that all machines see.
"""

from __future__ import annotations

import ctypes
import json
import os
import shlex
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

from finlab import recipe

CONFIGS = recipe.NOTEBOOKS / "accelerate"


def find(name: str) -> Path:
    """Return an accelerate config by name. Raises ValueError for another name, and for a Slurm job of several machines without FINLAB_LAUNCH."""
    path = CONFIGS / f"{name}.yaml"
    if not path.exists():
        raise ValueError(f"there is no accelerate config '{name}': choose one of {', '.join(sorted(path.stem for path in CONFIGS.glob('*.yaml')))}")
    if machines() > 1 and not os.environ.get("FINLAB_LAUNCH"):
        raise ValueError(f"this job has {machines()} machines: export FINLAB_LAUNCH='srun --kill-on-bad-exit=1' to train on all of them")
    return path


def deepspeed(config: Path) -> bool:
    """Tell whether an accelerate config is one of DeepSpeed's."""
    return "distributed_type: DEEPSPEED" in config.read_text(encoding="utf-8")


def run(folder: Path, config: Path, processes: int, meanwhile: Callable) -> dict | None:
    """Run the job in `folder` in several processes, calling `meanwhile` twice a second; return None, or {kind, message} of what failed.

    A process that fails leaves failed.json; what they print is in launch.log.
    """
    command = [*shlex.split(os.environ.get("FINLAB_LAUNCH", "")), sys.executable, "-m", "finlab.launch", str(folder), str(config), str(processes)]
    with open(folder / "launch.log", "w", encoding="utf-8") as said:
        child = subprocess.Popen(command, stdout=said, stderr=subprocess.STDOUT, cwd=recipe.ROOT)
        try:
            while child.poll() is None:
                time.sleep(0.5)
                meanwhile()
        finally:
            child.terminate()  # after an interrupt; one that has ended does not mind
            child.wait()
    if (folder / "failed.json").exists():
        return json.loads((folder / "failed.json").read_text(encoding="utf-8"))
    if child.returncode:
        lines = [line for line in (folder / "launch.log").read_text(encoding="utf-8").splitlines() if line.strip()]
        said = f"{config.stem} ended with status {child.returncode}: {' | '.join(lines[-3:])[:600]} (all of it: {folder / 'launch.log'})"
        return {"kind": "RuntimeError", "message": said}
    return None


def die_with_parent() -> None:
    """Ask Linux for a SIGTERM when the parent process ends: no job outlives the notebook that began it."""
    ctypes.CDLL(None).prctl(1, signal.SIGTERM)  # PR_SET_PDEATHSIG


def world(name: str, processes: int = 0) -> int:
    """Return how many processes a job has in all: one where no config is named, else `processes` (0: one for each GPU) on each machine (see `find`)."""
    if not name:
        return 1
    find(name)
    return (processes or _gpus()) * (machines() if os.environ.get("FINLAB_LAUNCH") else 1)


def machines() -> int:
    """Return how many machines the environment speaks of, in Slurm's name or torchrun's."""
    return int(os.environ.get("SLURM_NNODES") or os.environ.get("NNODES") or 1)


def _gpus() -> int:
    """Return how many GPUs this machine has, those that finlab hides from a notebook's own process included; at least 1."""
    environment = {name: value for name, value in os.environ.items() if name != "CUDA_VISIBLE_DEVICES" or not os.environ.get("FINLAB_ONE_GPU")}
    done = subprocess.run([sys.executable, "-c", "import torch; print(torch.cuda.device_count())"], env=environment, capture_output=True, text=True)
    return max(int(done.stdout or 0), 1)


def rendezvous(each: int) -> list[str]:
    """Return what accelerate must know of the machines, each with so many processes: Slurm's or torchrun's variables, else this machine alone."""
    if machines() == 1:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            return ["--num_processes", str(each), "--num_machines", "1", "--main_process_port", str(free.getsockname()[1])]
    rank, address = os.environ.get("SLURM_NODEID") or os.environ.get("NODE_RANK"), os.environ.get("MASTER_ADDR")
    if rank is None or not address:
        raise ValueError(f"{machines()} machines need to find each other: export MASTER_ADDR (the first machine's name), "
                         "and NODE_RANK where Slurm does not set SLURM_NODEID")
    return ["--num_processes", str(each * machines()), "--num_machines", str(machines()), "--machine_rank", rank, "--main_process_ip", address,
            "--main_process_port", os.environ.get("MASTER_PORT", "29500")]


def main(folder: str, config: str, processes: str) -> None:
    """Become `accelerate launch` for a job, with all GPUs in sight and the host's cores shared out."""
    import torch

    die_with_parent()  # kept over the exec
    os.chdir(recipe.ROOT)  # where DeepSpeed's configs are named from
    each = int(processes) or _gpus()
    if os.environ.pop("FINLAB_ONE_GPU", ""):
        del os.environ["CUDA_VISIBLE_DEVICES"]
    os.environ.setdefault("OMP_NUM_THREADS", str(max(1, (os.cpu_count() or 1) // each)))
    if not (torch.cuda.is_available() or deepspeed(Path(config))):
        os.environ["ACCELERATE_USE_CPU"] = "true"  # else accelerate's processes would not see each other
    command = [sys.executable, "-m", "accelerate.commands.launch", "--config_file", config, *rendezvous(each), "-m", "finlab.training", folder]
    os.execv(command[0], command)


if __name__ == "__main__":
    try:
        main(*sys.argv[1:])
    except ValueError as error:
        sys.exit(f"finlab: {error}")
