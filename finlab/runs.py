"""Runs: start and finish a step inside a notebook, drive a recipe with papermill, resume, and the `finlab` command.

In a notebook, the same two calls whether a person runs it in JupyterLab, papermill runs it, or `finlab run` does:

    run = runs.start("03_lora_pretraining", globals())
    ...
    run.finish({"tokens": 120_000, ...})

`runs/<name>/<step>/` then holds the executed notebook, metrics.json, log.jsonl, artifact/ and manifest.json. The manifest is
written last, by rename: where it stands, the step is complete.
"""

from __future__ import annotations

import argparse
import errno
import fcntl
import hashlib
import importlib.metadata
import importlib.util
import json
import logging
import os
import platform
import random
import shlex
import shutil
import signal
import subprocess
import sys
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path

from finlab import cards, recipe
from finlab.meter import peak_bytes

VERSIONS = ("torch", "transformers", "trl", "peft", "accelerate", "datasets", "bitsandbytes", "gptqmodel", "lm_eval", "daft", "numpy", "papermill")
_locks: dict[Path, object] = {}


class Busy(ValueError):
    """Another process works in this folder."""


def path(value: str) -> Path:
    """Return a path from a parameter: variables expanded, relative paths taken from the repository root.

    Raises ValueError when a variable in it (such as FINLAB_DATA) is not set.
    """
    text = os.path.expandvars(value)
    if "$" in text:
        raise ValueError(f"the path '{value}' uses a variable that is not set: export FINLAB_DATA=/folder/with/the/data and run again")
    return Path(text) if os.path.isabs(text) else recipe.ROOT / text


def lock(folder: Path, seconds: float = 0, shared: bool = False) -> None:
    """Hold the folder for this process until it ends; wait up to `seconds` for another holder, then raise Busy.

    Readers hold it `shared`: many may read, nobody may replace it meanwhile.
    """
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / ".lock"
    if file in _locks:
        if shared:
            return
        unlock(folder)
    handle, deadline = open(file, "a+"), time.time() + seconds
    while True:
        try:
            fcntl.flock(handle, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)
            break
        except OSError:
            if time.time() >= deadline:
                handle.seek(0)
                holder = handle.read().strip() or "another process"
                raise Busy(f"{folder} is in use by {holder}: wait for it or stop it, or choose another folder (--run-dir)") from None
            time.sleep(0.2)
    _locks[file] = handle
    if shared:
        return
    handle.truncate(0)
    handle.write(f"process {os.getpid()}")
    handle.flush()


def unlock(folder: Path) -> None:
    """Release a folder held by `lock`."""
    handle = _locks.pop(folder / ".lock", None)
    if handle:
        handle.close()


def _hash(*parts: object) -> str:
    return hashlib.sha256(json.dumps(parts, sort_keys=True, ensure_ascii=False, default=str).encode()).hexdigest()


def data_fingerprints(parameters: dict) -> dict[str, str]:
    """Return {what: fingerprint} of the data that parameters name: cards (`*_cards`) and existing files or folders."""
    result = {}
    for name, value in parameters.items():
        if name.endswith("_cards"):
            result |= {card: cards.read(card).fingerprint() for card in value}
        elif isinstance(value, list):
            files = [path(each) for each in value if isinstance(each, str) and "/" in each]
            result |= {str(file): cards.fingerprint_files([file]) for file in files if file.exists()}
        elif isinstance(value, str) and name not in recipe.SET_BY_RUNNER and (name.endswith("_file") and value or "/" in value):
            if path(value).exists():
                result[value] = cards.fingerprint_files([path(value)])
            elif name.endswith("_file") or value.startswith(("$", "/", ".", "~")):
                raise ValueError(f"parameter '{name}': there is nothing at {path(value)}: correct the path")
    return result


def step_key(notebook: str, parameters: dict, upstream: dict[str, str]) -> str:
    """Return the key of a step: equal keys mean equal results, so the step need not run again.

    Hashes the notebook's code, its parameters (not the folder it writes to), the keys of the steps it reads, the sources of
    finlab, and the data its cards and paths name.
    """
    import nbformat

    cells = nbformat.read(recipe.NOTEBOOKS / f"{notebook}.ipynb", 4).cells
    code = [cell.source for cell in cells if cell.cell_type == "code"]
    package = Path(__file__).parent
    files = [file for file in sorted(package.rglob("*")) if file.suffix in (".py", ".jinja", ".json", ".yaml")]
    sources = {str(file.relative_to(package)): file.read_text(encoding="utf-8") for file in files}
    values = {name: value for name, value in parameters.items() if name != "run_dir"}
    return _hash(notebook, code, values, upstream, sources, data_fingerprints(parameters))


def manifest(folder: Path) -> dict | None:
    """Return the manifest of a complete step, or None."""
    file = folder / "manifest.json"
    return json.loads(file.read_text(encoding="utf-8")) if file.exists() else None


def _upstream(run_dir: Path, step: str, parameters: dict) -> dict[str, dict]:
    result = {}
    for need in recipe.needs(parameters):
        found = manifest(run_dir / need)
        if found is None:
            raise ValueError(f"step '{step}' reads step '{need}', which is not finished in {run_dir}: run it first, for example "
                             f"`finlab run smoke --run-dir {run_dir} --only {need}`, or Run All of its notebook")
        result[need] = found
    return result


def quiet() -> None:
    """Turn the libraries' progress bars and advice off, and clear what their imports said: in a notebook it is rubble.

    PEFT imports GPTQModel when it attaches an adapter; imported here, its banner goes with the rest.
    """
    from transformers.utils import logging as transformers_logging

    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()
    if "datasets" in sys.modules:
        import datasets

        datasets.disable_progress_bars()
        datasets.utils.logging.set_verbosity_error()
    if "finlab.model" in sys.modules and importlib.util.find_spec("gptqmodel"):
        import gptqmodel  # noqa: F401
        from logbar import LogBar

        LogBar.shared().setLevel(logging.ERROR)
    for name in ("torchao", "bitsandbytes", "lm_eval", "lm-eval", "httpx", "matplotlib.font_manager", "accelerate", "optimum"):
        logging.getLogger(name).setLevel(logging.ERROR)
    if "IPython" in sys.modules and sys.modules["IPython"].get_ipython() is not None:
        from IPython.display import clear_output

        clear_output()


def seed_all(seed: int) -> None:
    """Seed Python, NumPy and PyTorch, whichever are loaded."""
    random.seed(seed)
    if "numpy" in sys.modules:
        sys.modules["numpy"].random.seed(seed)
    if "torch" in sys.modules:
        sys.modules["torch"].manual_seed(seed)


def device() -> str:
    """Return the device this process computes on, in words."""
    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_available():
        return f"{torch.cuda.device_count()} x {torch.cuda.get_device_name()}"
    return f"CPU, {os.cpu_count()} cores"


def git_commit() -> str:
    """Return the commit of the repository, marked `+changes` when the work tree differs from it; `unknown` outside git."""
    command = ["git", "-C", str(recipe.ROOT)]
    commit = subprocess.run([*command, "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=False)
    if commit.returncode:
        return "unknown"
    dirty = subprocess.run([*command, "status", "--porcelain"], capture_output=True, text=True, check=False).stdout.strip()
    return commit.stdout.strip() + ("+changes" if dirty else "")


@dataclass
class Run:
    """A started step: where it reads, where it writes, and how it ends."""

    notebook: str
    step: str
    parameters: dict
    folder: Path
    key: str
    upstream: dict[str, dict]
    resumed: bool
    started: float = field(default_factory=time.time)

    @property
    def artifact(self) -> Path:
        return self.folder / "artifact"

    @property
    def checkpoints(self) -> Path:
        return self.folder / "checkpoints"

    @property
    def log(self) -> Path:
        return self.folder / "log.jsonl"

    def read(self, step: str) -> Path:
        """Return the artifact folder of an upstream step."""
        if step not in self.upstream:
            raise ValueError(f"step '{self.step}' does not declare that it reads '{step}': name it in a parameter that ends in _from")
        return self.folder.parent / step / "artifact"

    def finish(self, metrics: dict) -> dict:
        """Write metrics.json, then manifest.json by rename, drop the checkpoints, release the folder; return the metrics."""
        text = json.dumps(metrics, ensure_ascii=False, indent=1, allow_nan=False)
        (self.folder / "metrics.json").write_text(text, encoding="utf-8")
        record = {
            "key": self.key, "notebook": self.notebook, "step": self.step, "parameters": self.parameters,
            "inputs": {"steps": {name: found["key"] for name, found in self.upstream.items()}, "data": data_fingerprints(self.parameters)},
            "versions": versions(), "python": platform.python_version(), "git_commit": git_commit(), "device": device(),
            "attention": metrics.get("attention"),
            "seconds": round(time.time() - self.started, 1), "peak_bytes": peak_bytes(), "seed": self.parameters.get("seed"),
            "finished": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
        }
        draft = self.folder / "manifest.json.draft"
        with open(draft, "w", encoding="utf-8") as file:
            json.dump(record, file, ensure_ascii=False, indent=1)
            file.flush()
            os.fsync(file.fileno())
        draft.rename(self.folder / "manifest.json")
        shutil.rmtree(self.checkpoints, ignore_errors=True)
        for folder in (self.folder, *(self.folder.parent / name for name in self.upstream)):
            unlock(folder)
        return metrics

    def _repr_html_(self) -> str:
        rows = {"step": f"{self.step} ({self.notebook})", "folder": self.folder, "device": device(), "seed": self.parameters.get("seed"),
                "reads": ", ".join(self.upstream) or "nothing upstream", "resumes": "yes, from the last checkpoint" if self.resumed else "no, from the start",
                "versions": ", ".join(f"{name} {version}" for name, version in versions().items())}
        lines = (f"<tr><th style='text-align:left'>{name}</th><td style='text-align:left'>{value}</td></tr>" for name, value in rows.items())
        return f"<table>{''.join(lines)}</table>"


def versions() -> dict[str, str]:
    """Return {package: version} of the packages that decide results."""
    result = {}
    for name in VERSIONS:
        try:
            result[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            pass
    return result


def start(notebook: str, variables: dict) -> Run:
    """Start a step from a notebook's own parameters and return its Run.

    A step that died is resumed if its key is the same; else its folder is cleared. A complete result that this replaces is
    kept once, as `<step>.previous`.
    Raises ValueError for a parameter of the wrong type, an upstream step that is not finished, and a folder in use.
    """
    declarations = recipe.declared(notebook)
    parameters = {name: variables[name] for name in declarations}
    recipe.check(parameters, declarations, notebook)
    run_dir, step = path(parameters["run_dir"]), parameters["step"]
    for need in recipe.needs(parameters):
        if (run_dir / need).is_dir():
            lock(run_dir / need, seconds=20, shared=True)
    upstream = _upstream(run_dir, step, parameters)
    key = step_key(notebook, parameters, {name: found["key"] for name, found in upstream.items()})
    folder = run_dir / step
    lock(folder, seconds=20)  # the kernel of a killed run needs a moment to notice and end
    key_file = folder / "key"
    complete = manifest(folder) is not None
    resumed = not complete and key_file.exists() and key_file.read_text() == key and (folder / "checkpoints").is_dir()
    if complete:
        previous = run_dir / f"{step}.previous"
        shutil.rmtree(previous, ignore_errors=True)
        unlock(folder)
        folder.rename(previous)
        lock(folder)
    for child in folder.iterdir():
        if child.name == ".lock" or resumed and child.name in ("checkpoints", "log.jsonl"):
            continue
        shutil.rmtree(child) if child.is_dir() else child.unlink()
    (folder / "artifact").mkdir()
    key_file.write_text(key)
    quiet()
    seed_all(parameters.get("seed", 0))
    return Run(notebook, step, parameters, folder, key, upstream, resumed)


# --- the runner ------------------------------------------------------------------------------------------------------
class StepFailed(RuntimeError):
    """A step did not finish; the message is what a person needs to act."""


def _gigabytes(count: float) -> str:
    return f"{count / 1e9:.1f} GB"


def _last_record(log: Path, since: float) -> dict:
    try:
        if log.stat().st_mtime < since:  # the log of an earlier run of this step
            return {}
        with open(log, "rb") as file:
            file.seek(max(0, log.stat().st_size - 4096))
            return json.loads(file.read().decode("utf-8", "ignore").strip().splitlines()[-1])
    except (OSError, ValueError, IndexError):
        return {}


def progress_text(log: Path, seconds: float) -> str:
    """Return a step's progress in words, from the last line of its log.jsonl."""
    record = _last_record(log, time.time() - seconds)
    if not record.get("total_steps"):
        return f"{seconds:.0f} s"
    text = f"{seconds:.0f} s · step {record['step']}/{record['total_steps']}"
    if "loss" in record:
        text += f" · loss {record['loss']:.3f}"
    return text + (f" · {record['seconds_left']:.0f} s left in training" if "seconds_left" in record else "")


class _Progress(threading.Thread):
    """Keep one line about the running step on a terminal; write a plain line each minute elsewhere."""

    def __init__(self, head: str, log: Path):
        super().__init__(daemon=True)
        self.head, self.log, self.began, self.ended = head, log, time.time(), threading.Event()
        self.live = sys.stdout.isatty()

    def run(self) -> None:
        said = 0.0
        while not self.ended.wait(1):
            seconds = time.time() - self.began
            if self.live:
                print(f"\r\033[K{self.head} {progress_text(self.log, seconds)}", end="", flush=True)
            elif seconds - said >= 60:
                said = seconds
                print(f"{self.head} {progress_text(self.log, seconds)}", flush=True)

    def end(self, text: str) -> None:
        self.ended.set()
        self.join()
        print(("\r\033[K" if self.live else "") + f"{self.head} {text}", flush=True)


def _failure(notebook_path: Path, error: Exception) -> str:
    """Say which cell failed, with the last lines of its output."""
    import nbformat

    lines = []
    try:
        cells = nbformat.read(notebook_path, 4).cells
    except (OSError, ValueError):  # papermill could not write it: a full disk
        cells = []
    for number, cell in enumerate(cells, 1):
        outputs = cell.get("outputs", [])
        running = cell.metadata.get("papermill", {}).get("status") in ("failed", "running")
        if running or any(output.output_type == "error" for output in outputs):
            lines.append(f"  cell {number}: {(cell.source.strip().splitlines() or [''])[0][:100]}")
            text = "".join(output.text for output in outputs if output.output_type == "stream").strip().splitlines()[-4:]
            lines += [f"  | {line[:200]}" for line in text]
            lines += [f"  {output.ename}: {output.evalue}" for output in outputs if output.output_type == "error"]
    if type(error).__name__ == "DeadKernelError":
        lines.append("  the kernel died: out of memory or killed from outside")
    if not any(": " in line for line in lines[1:]):
        lines.append(f"  {type(error).__name__}: {str(error).strip().splitlines()[-1] if str(error).strip() else ''}")
    if any("No space left on device" in line for line in lines) or getattr(error, "errno", None) == errno.ENOSPC:
        lines.append(f"  the disk that holds {notebook_path.parent} is full: free some space, then resume")
    lines.append(f"  notebook: {notebook_path}")
    return "\n".join(lines)


def _execute(step: recipe.Step, run_dir: Path, head: str) -> dict:
    import papermill

    folder = run_dir / step.name
    folder.mkdir(parents=True, exist_ok=True)
    output = folder / f"{step.notebook}.ipynb"
    values = {name: step.parameters[name] for name in step.changed} | {"run_dir": str(run_dir), "step": step.name}
    draft = run_dir / f".{step.name}.ipynb"
    progress = _Progress(head, folder / "log.jsonl")
    progress.start()
    try:
        papermill.execute_notebook(str(step.path), str(draft), parameters=values, kernel_name="python3", cwd=str(recipe.NOTEBOOKS),
                                   progress_bar=False, log_output=False, autosave_cell_every=15, extra_arguments=["--log-level=40"])
    except BaseException as error:
        progress.end("failed" if isinstance(error, Exception) else "stopped")
        if draft.exists():
            folder.mkdir(exist_ok=True)
            draft.replace(output)
        stopped = getattr(error, "ename", "") == "KeyboardInterrupt" or _stopping and type(error).__name__ == "DeadKernelError"
        if not isinstance(error, Exception) or stopped:
            raise KeyboardInterrupt(getattr(error, "evalue", "")) from None
        raise StepFailed(_failure(output, error)) from None
    draft.replace(output)
    found = manifest(folder)
    if found is None:
        progress.end("failed")
        raise StepFailed(f"  the notebook ended without run.finish(...), so the step is not complete\n  notebook: {output}")
    progress.end(f"done in {found['seconds']:.0f} s, peak {_gigabytes(found['peak_bytes'])}")
    return found


def execute(plan: recipe.Recipe, run_dir: Path, first: str = "", only: str = "") -> None:
    """Run the steps of a recipe in order, skipping those whose key has not changed.

    Raises ValueError before anything runs when a step that must be there is not, Busy when another run works in the folder, and
    StepFailed when a step does not finish.
    """
    names = [step.name for step in plan.steps]
    for option, value in (("--from", first), ("--only", only)):
        if value and value not in names:
            raise ValueError(f"{option} {value}: the recipe has no such step; it has {', '.join(names)}")
    chosen = [step for step in plan.steps if (step.name == only if only else names.index(step.name) >= names.index(first or names[0]))]
    made = {step.name for step in chosen}
    for step in chosen:
        for need in step.needs:
            if need not in made and manifest(run_dir / need) is None:
                raise ValueError(f"step '{step.name}' reads step '{need}', which is not finished in {run_dir}: start with --from {need}")
        data_fingerprints(step.parameters)  # a missing card or data file is refused before anything runs
    lock(run_dir)
    try:
        for step in chosen:
            head = f"[{names.index(step.name) + 1}/{len(names)}] {step.name:<10} {step.notebook:<24}"
            done, upstream = manifest(run_dir / step.name), _upstream(run_dir, step.name, step.parameters)
            parameters = step.parameters | {"run_dir": str(run_dir)}
            draft = run_dir / f".{step.name}.ipynb"
            output = run_dir / step.name / f"{step.notebook}.ipynb"
            if done and draft.exists() and not output.exists():  # a kill between the manifest and the notebook's last move
                draft.replace(output)
            if done and done["key"] == step_key(step.notebook, parameters, {name: found["key"] for name, found in upstream.items()}):
                print(f"{head} unchanged, kept ({done['seconds']:.0f} s when it ran)", flush=True)
                continue
            try:
                _execute(step, run_dir, head)
            except StepFailed as error:
                raise StepFailed(f"step '{step.name}' failed\n{error}") from None
            if _stopping:  # the step ended before the signal could stop it
                raise KeyboardInterrupt(f"stopped by SIGTERM after step '{step.name}'")
    finally:
        unlock(run_dir)


# --- the command -----------------------------------------------------------------------------------------------------
def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="finlab", description="Run recipes of notebooks and report on them.")
    commands = parser.add_subparsers(dest="command", required=True)
    run = commands.add_parser("run", help="run a recipe; finished steps whose inputs have not changed are kept")
    run.add_argument("recipe", help="a name from `finlab recipes`, or a YAML file")
    run.add_argument("--from", dest="first", default="", metavar="STEP", help="start at this step")
    run.add_argument("--only", default="", metavar="STEP", help="run this step alone")
    run.add_argument("--set", dest="sets", action="append", default=[], metavar="STEP.PARAMETER=VALUE", help="replace a value (may be repeated)")
    run.add_argument("--run-dir", default="", metavar="DIR", help="where the run is kept (default runs/<recipe>)")
    run.add_argument("--dry-run", action="store_true", help="check and print every value; run nothing")
    commands.add_parser("recipes", help="list the recipes")
    report_command = commands.add_parser("report", help="write the HTML report of a run")
    report_command.add_argument("run", help="a run folder, or the name of one under runs/")
    return parser


def _print_plan(plan: recipe.Recipe) -> None:
    print(f"{plan.name} ({plan.path})\n* marks values that differ from the notebook's default")
    for step in plan.steps:
        print(f"\n{step.name}: {step.notebook}")
        for name, value in step.parameters.items():
            if name not in recipe.SET_BY_RUNNER:
                print(f"  {'*' if name in step.changed else ' '} {name} = {value!r}")


def _run(arguments: argparse.Namespace, command: list[str]) -> int:
    from finlab import report

    plan = recipe.load(arguments.recipe, arguments.sets)
    if arguments.dry_run:
        _print_plan(plan)
        return 0
    run_dir = Path(arguments.run_dir).resolve() if arguments.run_dir else recipe.ROOT / "runs" / plan.name
    resume = shlex.join(["finlab", *command])
    print(f"{plan.name}: {len(plan.steps)} steps in {run_dir}", flush=True)
    try:
        execute(plan, run_dir, arguments.first, arguments.only)
    except StepFailed as error:
        print(f"{error}\n  resume: {resume}", file=sys.stderr)
        return 1
    except KeyboardInterrupt as error:
        print(f"{error or 'stopped'}; finished steps are kept, resume: {resume}", file=sys.stderr)
        return 130
    page = report.write(run_dir)
    print(f"\n{report.text_table(run_dir)}\nreport: {page}")
    return 0


_stopping: list[int] = []  # signals received


def _terminated(number: int, _: object) -> None:
    """Pass SIGTERM on to the kernel, where training saves a checkpoint at the end of its step and anything else ends; the second time, stop at once."""
    import psutil

    _stopping.append(number)
    kernels = [child for child in psutil.Process().children() if "ipykernel" in " ".join(child.cmdline())]
    if len(_stopping) > 1 or not kernels:
        raise KeyboardInterrupt
    for kernel in kernels:
        kernel.terminate()


def main(arguments: list[str] | None = None) -> int:
    """Run the `finlab` command and return its exit status: 0, 1 for a failure, 2 for bad input, 130 when stopped."""
    command = list(sys.argv[1:] if arguments is None else arguments)
    parsed = _parser().parse_args(command)
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, _terminated)
    try:
        if parsed.command == "run":
            return _run(parsed, command)
        if parsed.command == "recipes":
            for file in sorted(recipe.RECIPES.glob("*.yaml")):
                print(f"{file.stem:<16} {file.read_text(encoding='utf-8').splitlines()[0].lstrip('# ')}")
            return 0
        from finlab import report

        folder = next((folder for folder in (Path(parsed.run), recipe.ROOT / "runs" / parsed.run) if folder.is_dir()), None)
        if folder is None:
            raise ValueError(f"there is no run '{parsed.run}': give a run folder, or a name under {recipe.ROOT / 'runs'}")
        print(f"report: {report.write(folder)}")
        return 0
    except ValueError as error:
        print(f"finlab: {error}", file=sys.stderr)
        return 2
    except OSError as error:
        full = f": the disk is full at {error.filename or 'the run folder'}: free some space and run the command again" if error.errno == errno.ENOSPC else ""
        print(f"finlab: {error.strerror}{full or ': ' + str(error.filename)}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("finlab: stopped", file=sys.stderr)
        return 130


if __name__ == "__main__":
    sys.exit(main())
