"""Run a recipe with papermill: steps in order, one progress line, short failure messages.

The result of a step is kept if its key has not changed. A step that ended early is resumed.
"""

from __future__ import annotations

import errno
import logging
from pathlib import Path
from typing import Any

from finlab import files, paths
from finlab.run import integrity, locks, recipe, recording
from finlab.run.keys import data_fingerprints, step_key
from finlab.run.manifests import is_current, read_manifest, upstream_manifests
from finlab.run.parameters import SET_BY_RUNNER
from finlab.run.progress import Progress

BASE_NOTEBOOK = "00_base_model"


class StepFailed(RuntimeError):
    """A step did not finish; the message says what a person needs to know to fix it."""


class StopFlag:
    """Whether the run was asked to stop by SIGTERM or Ctrl-C.

    Attributes:
        signals: How many such signals have arrived.
    """

    def __init__(self) -> None:
        self.signals = 0

    def __bool__(self) -> bool:
        return self.signals > 0


# --- failures ------------------------------------------------------------------------------------
def _failed_cells(notebook: Path) -> list[str]:
    """Describe the failed cells of an executed notebook, with the last lines of their output."""
    try:
        import nbformat  # imported here because it takes half a second

        cells = nbformat.read(notebook, 4).cells
    except (OSError, ValueError):  # papermill could not write it, as on a full disk
        return []
    lines = []
    for number, cell in enumerate(cells, 1):
        outputs = cell.get("outputs", [])
        errors = [output for output in outputs if output.output_type == "error"]
        status = cell.metadata.get("papermill", {}).get("status")
        if not errors and status not in ("failed", "running"):
            continue
        first_line = (cell.source.strip().splitlines() or [""])[0]
        lines.append(f"  cell {number}: {first_line[:100]}")
        printed = [output.text for output in outputs if output.output_type == "stream"]
        lines += [f"  | {line[:200]}" for line in "".join(printed).strip().splitlines()[-4:]]
        lines += [f"  {error.ename}: {error.evalue}" for error in errors]
    return lines


def describe_failure(notebook: Path, error: Exception) -> str:
    """Return what a person needs to know about a step that failed.

    Args:
        notebook: The executed notebook, with the cells that ran.
        error: The error that papermill raised.
    """
    lines = _failed_cells(notebook)
    if type(error).__name__ == "DeadKernelError":
        lines.append("  the kernel died: out of memory or killed from outside")
    if not any(": " in line for line in lines[1:]):
        message = str(error).strip().splitlines() or [""]
        lines.append(f"  {type(error).__name__}: {message[-1]}")
    full = getattr(error, "errno", None) == errno.ENOSPC
    if full or any("No space left on device" in line for line in lines):
        lines.append(
            f"  the disk that holds {notebook.parent} is full: free some space, then resume"
        )
    lines.append(f"  notebook: {notebook}")
    return "\n".join(lines)


# --- running -------------------------------------------------------------------------------------
def _run_notebook(step: recipe.Step, run_dir: Path, head: str, stop: StopFlag) -> None:
    """Run the notebook of a step with papermill, and keep the executed copy.

    The copy is kept in the step's folder. Papermill writes to a draft outside this folder, because
    the step clears the folder when it starts.

    Args:
        step: The step to run.
        run_dir: The run's folder.
        head: Text at the beginning of the step's lines on the terminal.
        stop: Says whether the run was asked to stop.

    Raises:
        StepFailed: The step did not finish.
        KeyboardInterrupt: The step was stopped.
    """
    import papermill

    # Papermill warns that annotated parameters are unknown. The recipe has checked their names, so
    # the warning is turned off.
    logging.getLogger("papermill").setLevel(logging.ERROR)
    folder = run_dir / step.name
    folder.mkdir(parents=True, exist_ok=True)
    draft = _draft(run_dir, step)
    output = folder / f"{step.notebook}.ipynb"
    values = {name: step.parameters[name] for name in step.changed}
    values |= {"run_dir": str(run_dir), "step": step.name}
    progress = Progress(head, folder / "log.jsonl")
    progress.start()
    try:
        with recording.left_to_papermill():
            papermill.execute_notebook(
                _plain_path(step.path),
                _plain_path(draft),
                parameters=values,
                kernel_name="python3",
                cwd=str(paths.NOTEBOOKS),
                progress_bar=False,
                log_output=False,
                autosave_cell_every=15,
                extra_arguments=["--log-level=50"],
            )
    except BaseException as error:
        progress.end("failed" if isinstance(error, Exception) else "stopped")
        if draft.exists():
            folder.mkdir(exist_ok=True)
            draft.replace(output)
        if _was_stopped(error, stop):
            raise KeyboardInterrupt(getattr(error, "evalue", "")) from None
        raise StepFailed(f"step '{step.name}' failed\n{describe_failure(output, error)}") from None
    draft.replace(output)
    manifest = read_manifest(folder)
    if manifest is None:
        progress.end("failed")
        raise StepFailed(
            f"step '{step.name}' failed\n"
            "  the notebook ended without run.finish(...), so the step is not complete\n"
            f"  notebook: {output}"
        )
    gigabytes = manifest["peak_bytes"] / 1e9
    progress.end(f"done in {manifest['seconds']:.0f} s, peak {gigabytes:.1f} GB")


def _plain_path(path: Path) -> str:
    """Return a path with braces doubled, because papermill replaces text in braces."""
    return str(path).replace("{", "{{").replace("}", "}}")


def _draft(run_dir: Path, step: recipe.Step) -> Path:
    return run_dir / f".{step.name}.ipynb"


def _was_stopped(error: BaseException, stop: StopFlag) -> bool:
    """Tell whether a step ended because a person stopped it, and not because of a failure."""
    if not isinstance(error, Exception):
        return True
    if getattr(error, "ename", "") == "KeyboardInterrupt":
        return True
    # A kernel that was told to end may end within a cell or before the first one. Papermill raises
    # different errors for that.
    return bool(stop) and type(error).__name__ != "PapermillExecutionError"


def execute(
    plan: recipe.Recipe,
    run_dir: Path,
    chosen: list[recipe.Step],
    stop: StopFlag | None = None,
    overrides: list[str] | None = None,
) -> None:
    """Run the steps of a recipe in order, and keep those whose key has not changed.

    Args:
        plan: The recipe.
        run_dir: The run's folder.
        chosen: The steps to run, from `chosen_steps`.
        stop: Set from outside to stop after the running step; None never stops.
        overrides: The `step.parameter=value` strings of the command line. They are saved in
            run.json for `finlab status`.

    Raises:
        ValueError: A step that must be finished is not, or data is missing. Then no step has run.
        Busy: Another run works in the folder.
        StepFailed: A step did not finish.
        KeyboardInterrupt: The run was stopped.
    """
    stop = StopFlag() if stop is None else stop
    _check_inputs(plan, chosen, run_dir)
    _check_context(plan, chosen, run_dir)
    names = [step.name for step in plan.steps]
    with locks.holding(run_dir):
        begun = {"recipe": plan.name, "file": str(plan.path), "overrides": overrides or []}
        files.write_json(run_dir / "run.json", begun)
        for step in chosen:
            place = f"[{names.index(step.name) + 1}/{len(names)}]"
            head = f"{place} {step.name:<10} {step.notebook:<24}"
            kept = _unchanged(step, run_dir)
            if kept:
                print(f"{head} unchanged, kept ({kept['seconds']:.0f} s when it ran)", flush=True)
                continue
            _check_context(plan, chosen, run_dir)
            _run_notebook(step, run_dir, head, stop)
            if stop:  # the step ended before the signal could stop it
                raise KeyboardInterrupt(f"stopped after step '{step.name}'")


def _check_context(plan: recipe.Recipe, chosen: list[recipe.Step], run_dir: Path) -> None:
    """Raise an error early if training rows are longer than the base's context.

    The context comes from the config of the base that the recipe names, or of the base that the
    base step has made. If a step extends the context with its parameter `context`, the longer
    context applies to this step and the later ones.

    Args:
        plan: The recipe.
        chosen: The steps that will run.
        run_dir: The run's folder.

    Raises:
        ValueError: The rows of a chosen step are longer than the context.
    """
    context = 0
    for step in plan.steps:
        values = step.parameters
        if step.notebook == BASE_NOTEBOOK:
            folder = run_dir / step.name / "artifact" / "model"
            if values.get("base"):
                folder = paths.resolve(values["base"])
            context = _context_of(folder) or (0 if values.get("base") else values["context"])
            continue
        context = max(context, values.get("context", 0))
        if step not in chosen:
            continue
        for name in ("row_length", "max_length", "trial_length"):
            if context and values.get(name, 0) > context:
                raise ValueError(
                    f"step '{step.name}': {name} is {values[name]:,} tokens, and the context of "
                    f"the base is {context:,}: set {step.name}.{name} to {context} or less, "
                    "or lengthen the context in pretraining"
                )


def _context_of(folder: Path) -> int:
    """Return the context of the model in a folder, in tokens; 0 if it is not known."""
    try:
        config = files.read_json(folder / "config.json")
        return int(config.get("max_position_embeddings") or 0)
    except (OSError, ValueError, TypeError, AttributeError):
        return 0


def chosen_steps(
    plan: recipe.Recipe, first: str = "", last: str = "", only: str = ""
) -> list[recipe.Step]:
    """Return the steps of a recipe that the command line selects.

    Args:
        plan: The recipe.
        first: Name of the step to start with; empty for the recipe's first step.
        last: Name of the step to end with; empty for the recipe's last step.
        only: Name of the only step to run; empty for all steps.

    Raises:
        ValueError: The recipe has no such step, `last` comes before `first`, or `only` is given
            together with them.
    """
    names = [step.name for step in plan.steps]
    for option, value in (("--from", first), ("--to", last), ("--only", only)):
        if value and value not in names:
            raise ValueError(
                f"{option} {value}: the recipe has no such step; it has {', '.join(names)}"
            )
    if only and (first or last):
        raise ValueError("--only runs one step: leave --from and --to out")
    if only:
        return [plan.steps[names.index(only)]]
    begin = names.index(first) if first else 0
    end = names.index(last) if last else len(names) - 1
    if end < begin:
        raise ValueError(
            f"--to {last} comes before --from {first}: the steps are {', '.join(names)}"
        )
    return plan.steps[begin : end + 1]


def _check_inputs(plan: recipe.Recipe, chosen: list[recipe.Step], run_dir: Path) -> None:
    """Raise an error if inputs or data of the chosen steps are missing, before anything runs.

    Args:
        plan: The recipe.
        chosen: The steps that will run.
        run_dir: The run's folder.

    Raises:
        ValueError: A step that is read and will not run is not as the recipe says, or data is
            missing.
    """
    made = {step.name for step in chosen}
    for step in chosen:
        for need in step.needs:
            if need not in made:
                _check_upstream(plan, need, step.name, run_dir)
        data_fingerprints(step.parameters)


def _check_upstream(plan: recipe.Recipe, need: str, step: str, run_dir: Path) -> None:
    """Raise an error if a step that is read but will not run is not as the recipe says.

    Args:
        plan: The recipe.
        need: Name of the step that is read.
        step: Name of the step that reads it.
        run_dir: The run's folder.

    Raises:
        ValueError: The step `need` is not finished, is damaged, or has other parameter values.
    """
    manifest = read_manifest(run_dir / need)
    if manifest is None:
        raise ValueError(
            f"step '{step}' reads step '{need}', which is not finished in {run_dir}: "
            f"start with --from {need}"
        )
    found = integrity.damaged_step(run_dir / need, manifest)
    if found:
        raise ValueError(
            f"step '{step}' reads step '{need}', which was finished and is damaged since: {found}: "
            f"start with --from {need}"
        )
    wanted = next(each.parameters for each in plan.steps if each.name == need)
    for name, value in wanted.items():
        if name in SET_BY_RUNNER or manifest["parameters"].get(name) == value:
            continue
        raise ValueError(
            f"step '{step}' reads step '{need}', which was made with {name} = "
            f"{manifest['parameters'].get(name)!r} and not {value!r}: start with --from {need}, "
            f"or set {need}.{name} so"
        )


def _unchanged(step: recipe.Step, run_dir: Path) -> dict[str, Any] | None:
    """Return the manifest of a step if it need not run again, else None.

    Args:
        step: The step, with the parameter values that it would run with now.
        run_dir: The run's folder.
    """
    manifest = read_manifest(run_dir / step.name)
    upstream = upstream_manifests(run_dir, step.name, step.parameters)
    if manifest is None:
        return None
    # If the process was killed after the manifest was written, the notebook is still a draft.
    draft = _draft(run_dir, step)
    output = run_dir / step.name / f"{step.notebook}.ipynb"
    if draft.exists() and not output.exists():
        draft.replace(output)
    keys = {name: found["key"] for name, found in upstream.items()}
    parameters = step.parameters | {"run_dir": str(run_dir)}
    key = step_key(step.notebook, parameters, keys)
    if not is_current(manifest, key):
        return None
    found = integrity.damaged_step(run_dir / step.name, manifest)
    if found:
        print(f"step '{step.name}' was finished and is damaged since ({found}): it runs again")
        return None
    return manifest
