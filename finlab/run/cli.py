"""The `finlab` command: run a recipe, list the recipes, check a run, write its report."""

from __future__ import annotations

import argparse
import errno
import shlex
import signal
import sys
import threading
from pathlib import Path
from types import FrameType

import psutil

from finlab import paths
from finlab.run import recipe, report, status, step
from finlab.run.parameters import SET_BY_RUNNER
from finlab.run.runner import StepFailed, StopFlag, execute


def _parser() -> argparse.ArgumentParser:
    """Return the parser of the command line."""
    parser = argparse.ArgumentParser(
        prog="finlab", description="Run recipes of notebooks and report on them."
    )
    commands = parser.add_subparsers(dest="command", required=True)
    run = commands.add_parser(
        "run", help="run a recipe; finished steps whose inputs have not changed are kept"
    )
    run.add_argument("recipe", help="a name from `finlab recipes`, or a YAML file")
    run.add_argument("--from", dest="first", default="", metavar="STEP", help="start at this step")
    run.add_argument("--only", default="", metavar="STEP", help="run this step alone")
    run.add_argument(
        "--set",
        dest="overrides",
        action="append",
        default=[],
        metavar="STEP.PARAMETER=VALUE",
        help="replace a value (may be repeated)",
    )
    run.add_argument(
        "--run-dir",
        default="",
        metavar="DIR",
        help="where the run is kept (default runs/<recipe>)",
    )
    run.add_argument(
        "--dry-run", action="store_true", help="check and print every value; run nothing"
    )
    commands.add_parser("recipes", help="list the recipes")
    write_report = commands.add_parser("report", help="write the HTML report of a run")
    write_report.add_argument("run", help="a run folder, or the name of one under runs/")
    check = commands.add_parser("status", help="say which steps of a run are finished and whole")
    check.add_argument("run", help="a run folder, or the name of one under runs/")
    check.add_argument(
        "--verify", action="store_true", help="hash every file; else sizes and times are compared"
    )
    return parser


# --- finlab run ----------------------------------------------------------------------------------
def _print_plan(plan: recipe.Recipe) -> None:
    """Print the steps of a recipe with what they set, without running any."""
    print(f"{plan.name} ({plan.path})")
    print("* marks values that differ from the notebook's default")
    for each in plan.steps:
        print(f"\n{each.name}: {each.notebook}")
        for name, value in each.parameters.items():
            if name not in SET_BY_RUNNER:
                mark = "*" if name in each.changed else " "
                print(f"  {mark} {name} = {value!r}")


def _run(arguments: argparse.Namespace, command: list[str], stop: StopFlag) -> int:
    """Run a recipe, print its results, and return the exit status."""
    plan = recipe.load(arguments.recipe, arguments.overrides)
    for each in plan.steps:
        step.check_paths(each.parameters, each.name)
    if arguments.dry_run:
        _print_plan(plan)
        return 0
    run_dir = paths.ROOT / "runs" / plan.name
    if arguments.run_dir:
        run_dir = Path(arguments.run_dir).expanduser().resolve()
        if "?" in str(run_dir):
            raise ValueError(f"a run folder cannot have ? in its name: '{run_dir}'")
    resume = shlex.join(["finlab", *command])
    print(f"{plan.name}: {len(plan.steps)} steps in {run_dir}", flush=True)
    try:
        execute(plan, run_dir, arguments.first, arguments.only, stop)
    except StepFailed as error:
        print(f"{error}\n  resume: {resume}", file=sys.stderr)
        return 1
    except KeyboardInterrupt as error:
        reason = str(error) or "stopped"
        print(f"{reason}; finished steps are kept, resume: {resume}", file=sys.stderr)
        return 130
    page = report.write(run_dir)
    print(f"\n{report.text_table(run_dir)}\nreport: {page}")
    return 0


def _pass_on_sigterm(stop: StopFlag) -> None:
    """Pass SIGTERM on to the kernel of the running step.

    There training saves a checkpoint at the end of its step, and anything else ends. A second
    SIGTERM stops at once.
    """

    def terminated(number: int, frame: FrameType | None) -> None:
        stop.signals += 1
        children = psutil.Process().children()
        kernels = [child for child in children if "ipykernel" in " ".join(child.cmdline())]
        if stop.signals > 1 or not kernels:
            raise KeyboardInterrupt
        for kernel in kernels:
            kernel.terminate()

    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, terminated)


# --- the other commands --------------------------------------------------------------------------
def _list_recipes() -> int:
    """Print every recipe with the comment at its head."""
    for path in sorted(paths.RECIPES.glob("*.yaml")):
        first_line = path.read_text(encoding="utf-8").splitlines()[0]
        print(f"{path.stem:<16} {first_line.lstrip('# ')}")
    return 0


def _find_run(name: str) -> Path:
    """Return the folder of a run.

    Args:
        name: A folder, or the name of one under runs/.
    """
    for folder in (Path(name).expanduser(), paths.ROOT / "runs" / name):
        if folder.is_dir():
            return folder
    raise ValueError(
        f"there is no run '{name}': give a run folder, or a name under {paths.ROOT / 'runs'}"
    )


def _print_status(run_dir: Path, verify: bool) -> int:
    """Print the state of each step; return 1 where one is not finished and whole.

    Args:
        run_dir: The run's folder.
        verify: Hash every file.
    """
    states = status.states(run_dir, verify)
    if not states:
        raise ValueError(f"{run_dir} holds no step of a run")
    width = max(len(name) for name in states)
    for name, state in states.items():
        print(f"{name:<{width}}  {state}")
    return int(any(state != status.FINISHED for state in states.values()))


def _describe_os_error(error: OSError) -> str:
    if error.errno == errno.ENOSPC:
        place = error.filename or "the run folder"
        return (
            f"{error.strerror}: the disk is full at {place}: "
            "free some space and run the command again"
        )
    if error.strerror is None:
        return str(error)
    return f"{error.strerror}: {error.filename}"


def main(arguments: list[str] | None = None) -> int:
    """Run the `finlab` command.

    Args:
        arguments: The words after `finlab`; None takes them from the command line.

    Returns:
        The exit status: 0, 1 for a failure, 2 for bad input, 130 when stopped.
    """
    command = list(sys.argv[1:] if arguments is None else arguments)
    parsed = _parser().parse_args(command)
    stop = StopFlag()
    _pass_on_sigterm(stop)
    try:
        if parsed.command == "run":
            return _run(parsed, command, stop)
        if parsed.command == "recipes":
            return _list_recipes()
        if parsed.command == "status":
            return _print_status(_find_run(parsed.run), parsed.verify)
        print(f"report: {report.write(_find_run(parsed.run))}")
        return 0
    except ValueError as error:
        print(f"finlab: {error}", file=sys.stderr)
        return 2
    except OSError as error:
        print(f"finlab: {_describe_os_error(error)}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("finlab: stopped", file=sys.stderr)
        return 130
