"""`finlab slurm`: print the Slurm job script of a recipe."""

from __future__ import annotations

import argparse
import shlex

from finlab.commands.run import add_recipe
from finlab.run import recipe

SCRIPT = """#!/bin/bash
#SBATCH --job-name={name}
#SBATCH --nodes={nodes} --ntasks-per-node=1 --gpus-per-node={gpus}
#SBATCH --time={hours}:00:00
#SBATCH --requeue
# A quarter of an hour before the limit: save and stop. Submit the same script again to go on.
#SBATCH --signal=B:TERM@900

# One finlab runs on the first machine and starts the ranks on all of them, so the run folder,
# FINLAB_DATA, FINLAB_CACHE and HF_HOME must lie on a file system that all machines share.
export MASTER_ADDR=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1)
export MASTER_PORT=29500
export FINLAB_LAUNCH="srun --kill-on-bad-exit=1"
exec {command}
"""


def add(commands: argparse._SubParsersAction) -> None:
    """Add the subcommand of this module to the parser."""
    slurm = commands.add_parser("slurm", help="print the Slurm job script of a recipe")
    add_recipe(slurm)
    slurm.add_argument("--nodes", type=int, default=1, help="machines (default 1)")
    slurm.add_argument(
        "--gpus",
        type=int,
        default=None,
        help="GPUs of each machine (default 8, or 1 where no step starts several processes)",
    )
    slurm.add_argument("--hours", type=int, default=24, help="the limit of the job (default 24)")
    slurm.add_argument("--run-dir", default="", metavar="DIR", help="where the run is kept")
    slurm.set_defaults(function=_slurm)


def _slurm(arguments: argparse.Namespace) -> int:
    """Print the job script."""
    plan = recipe.load(arguments.recipe, arguments.overrides)
    if arguments.gpus is None:
        arguments.gpus = 8 if any(step.parameters.get("launch") for step in plan.steps) else 1
    for name in ("nodes", "gpus", "hours"):
        if getattr(arguments, name) < 1:
            raise ValueError(f"--{name} {getattr(arguments, name)}: write 1 or more")
    words = ["finlab", "run", arguments.recipe]
    for override in arguments.overrides:
        words += ["--set", override]
    if arguments.run_dir:
        words += ["--run-dir", arguments.run_dir]
    script = SCRIPT.format(
        name=plan.name,
        nodes=arguments.nodes,
        gpus=arguments.gpus,
        hours=arguments.hours,
        command=shlex.join(words),
    )
    print(script, end="")
    return 0
