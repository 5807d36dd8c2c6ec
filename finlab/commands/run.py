"""`finlab run` and `finlab recipes`: run a recipe, and list the recipes."""

from __future__ import annotations

import argparse
import os
import shlex
import signal
import sys
import threading
from pathlib import Path
from types import FrameType

import psutil

from finlab import paths
from finlab.commands import checks
from finlab.run import keys, recipe, staleness
from finlab.run.manifests import read_manifest
from finlab.run.parameters import SET_BY_RUNNER
from finlab.run.reports import page, results
from finlab.run.runner import StepFailed, StopFlag, chosen_steps, execute


def add(commands: argparse._SubParsersAction) -> None:
    """Add the subcommands of this module to the parser."""
    run = commands.add_parser(
        "run", help="run a recipe; finished steps whose inputs have not changed are kept"
    )
    add_recipe(run)
    run.add_argument("--from", dest="first", default="", metavar="STEP", help="start at this step")
    run.add_argument("--to", dest="last", default="", metavar="STEP", help="end with this step")
    run.add_argument("--only", default="", metavar="STEP", help="run this step alone")
    run.add_argument(
        "--run-dir",
        default="",
        metavar="DIR",
        help="where the run is kept (default runs/<recipe>)",
    )
    run.add_argument(
        "--accept",
        action="append",
        default=[],
        metavar="STEP",
        help="keep the result of this step although it is stale, with a mark in the report",
    )
    run.add_argument(
        "--force", action="store_true", help="run although tokens or memory seem not to suffice"
    )
    run.add_argument(
        "--dry-run", action="store_true", help="check everything, say what would run; run nothing"
    )
    run.add_argument(
        "--all", action="store_true", help="with --dry-run: print every value, defaults too"
    )
    run.set_defaults(function=_run)
    listing = commands.add_parser("recipes", help="list the recipes")
    listing.set_defaults(function=_list_recipes)


def add_recipe(parser: argparse.ArgumentParser) -> None:
    """Add the arguments that name a recipe and replace its values."""
    parser.add_argument("recipe", help="a name from `finlab recipes`, or a YAML file")
    parser.add_argument(
        "--set",
        dest="overrides",
        action="append",
        default=[],
        metavar="STEP.PARAMETER=VALUE",
        help="replace a value (may be repeated)",
    )


# --- finlab run ----------------------------------------------------------------------------------
def _run(arguments: argparse.Namespace) -> int:
    """Run a recipe, print its results, and return the exit status."""
    stop = StopFlag()
    _pass_on_stops(stop)
    plan = recipe.load(arguments.recipe, arguments.overrides)
    for each in plan.steps:
        keys.check_paths(each.parameters, each.name)
    chosen = chosen_steps(plan, arguments.first, arguments.last, arguments.only)
    run_dir = _run_dir(plan, arguments.run_dir)
    if arguments.dry_run:
        return _dry_run(plan, chosen, run_dir, arguments.all)
    if not arguments.force:
        waiting = [each for each in chosen if read_manifest(run_dir / each.name) is None]
        checks.require_feasible(plan, waiting, run_dir)
    for name in arguments.accept:
        _accept(plan, name, run_dir)
    resume = shlex.join(["finlab", *arguments.words])
    print(f"{plan.name}: {len(plan.steps)} steps in {run_dir}", flush=True)
    try:
        execute(plan, run_dir, chosen, stop, arguments.overrides)
    except StepFailed as error:
        print(f"{error}\n  resume: {resume}", file=sys.stderr)
        return 1
    except KeyboardInterrupt as error:
        reason = str(error) or "stopped"
        print(f"{reason}; finished steps are kept, resume: {resume}", file=sys.stderr)
        return 130
    written = page.write(run_dir)
    print(f"\n{results.text_table(run_dir)}\nreport: {written}")
    return 0


def _run_dir(plan: recipe.Recipe, given: str) -> Path:
    """Return the folder of a run.

    Args:
        plan: The recipe.
        given: Folder from the command line; empty for runs/<recipe>.
    """
    if not given:
        return paths.ROOT / "runs" / plan.name
    run_dir = Path(given).expanduser().resolve()
    if "?" in str(run_dir):
        raise ValueError(f"a run folder cannot have ? in its name: '{run_dir}'")
    return run_dir


def _accept(plan: recipe.Recipe, name: str, run_dir: Path) -> None:
    """Keep a stale step, and say why it was stale.

    Args:
        plan: The recipe.
        name: Name of the step.
        run_dir: The run's folder.
    """
    [wanted] = chosen_steps(plan, only=name)
    reasons = staleness.accept(wanted, run_dir)
    if not reasons:
        print(f"{name}: nothing has changed, so there is nothing to accept")
    for reason in reasons:
        print(f"{name}: accepted although {reason}")


def _dry_run(
    plan: recipe.Recipe, chosen: list[recipe.Step], run_dir: Path, everything: bool
) -> int:
    """Print what a run would do; return 2 if it would stop with an error, else 0.

    Args:
        plan: The recipe.
        chosen: The steps that the run would consider.
        run_dir: The run's folder.
        everything: Also print values that are defaults.
    """
    print(f"{plan.name} ({plan.path})")
    shown = "all values; * marks" if everything else "--all prints every value; * marks"
    print(f"{shown} those that differ from the notebook's default")
    for each in chosen:
        print(f"\n{each.name}: {each.notebook}")
        for name, value in each.parameters.items():
            if name in SET_BY_RUNNER or not (everything or name in each.changed):
                continue
            mark = "*" if name in each.changed else " "
            print(f"  {mark} {name} = {value!r}")
    print(f"\nin {run_dir}:")
    for each in staleness.forecast(chosen, run_dir):
        does = "runs" if each.runs else "kept"
        print(f"  {each.step:<12} {does}  {'; '.join(each.reasons[:3])}".rstrip())
    return checks.print_all(plan, chosen, run_dir)


def _pass_on_stops(stop: StopFlag) -> None:
    """Pass SIGTERM and Ctrl-C on to the kernel of the running step.

    In the kernel, training then saves a checkpoint at the end of its training step and stops. Other
    code ends at once. A second signal stops everything at once. The first Ctrl-C does not raise
    KeyboardInterrupt here, because it could be raised inside a callback of the event loop that
    waits for the kernel, and get lost there.

    Args:
        stop: Counts the signals.
    """

    def stopped(number: int, frame: FrameType | None) -> None:
        stop.signals += 1
        children = psutil.Process().children()
        kernels = [child for child in children if "ipykernel" in " ".join(child.cmdline())]
        if stop.signals > 1 or not kernels:
            raise KeyboardInterrupt
        # A signal may arrive inside print(), and print() must not be called again then.
        os.write(2, b"stopping: a step that trains saves a checkpoint; once more stops at once\n")
        for kernel in kernels:
            kernel.terminate()

    if threading.current_thread() is threading.main_thread():
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, stopped)


# --- finlab recipes ------------------------------------------------------------------------------
def _list_recipes(arguments: argparse.Namespace) -> int:
    """Print every recipe with the comment in its first line."""
    for path in sorted(paths.RECIPES.glob("*.yaml")):
        first_line = path.read_text(encoding="utf-8").splitlines()[0]
        print(f"{path.stem:<20} {first_line.lstrip('# ')}")
    return 0
