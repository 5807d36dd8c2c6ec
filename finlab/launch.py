"""Start one machine's share of a training job: `accelerate launch` with what the environment says of the other machines.

    python -m finlab.launch JOB_FOLDER ACCELERATE_CONFIG PROCESSES

`training.fit(launch=...)` runs this once, or, where FINLAB_LAUNCH is set, behind that command: `srun --ntasks-per-node=1` runs it on
every machine of a Slurm job. The job folder lies on a file system that all machines see.
"""

from __future__ import annotations

import ctypes
import os
import signal
import socket
import sys


def die_with_parent() -> None:
    """Ask Linux for a SIGTERM when the parent process ends: no job outlives the notebook that began it."""
    ctypes.CDLL(None).prctl(1, signal.SIGTERM)  # PR_SET_PDEATHSIG


def _gpus() -> int:
    import torch

    return max(torch.cuda.device_count(), 1)


def rendezvous(processes: int) -> list[str]:
    """Return what accelerate must know of the machines, from the environment: Slurm's or torchrun's names, else this machine alone."""
    each = processes or _gpus()
    machines = int(os.environ.get("SLURM_NNODES") or os.environ.get("NNODES") or 1)
    if machines == 1:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            return ["--num_processes", str(each), "--num_machines", "1", "--main_process_port", str(free.getsockname()[1])]
    rank, address = os.environ.get("SLURM_NODEID") or os.environ.get("NODE_RANK"), os.environ.get("MASTER_ADDR")
    if rank is None or not address:
        raise ValueError(f"{machines} machines need to find each other: export MASTER_ADDR (the first machine's name), "
                         "and NODE_RANK where Slurm does not set SLURM_NODEID")
    return ["--num_processes", str(each * machines), "--num_machines", str(machines), "--machine_rank", rank, "--main_process_ip", address,
            "--main_process_port", os.environ.get("MASTER_PORT", "29500")]


def main(folder: str, config: str, processes: str) -> None:
    """Become `accelerate launch` for a job."""
    die_with_parent()  # kept over the exec
    command = [sys.executable, "-m", "accelerate.commands.launch", "--config_file", config, *rendezvous(int(processes)), "-m", "finlab.training", folder]
    os.execv(command[0], command)


if __name__ == "__main__":
    try:
        main(*sys.argv[1:])
    except ValueError as error:
        sys.exit(f"finlab: {error}")
