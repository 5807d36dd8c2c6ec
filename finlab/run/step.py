"""One step of a run: its start, its finish, and the key that says whether to run it.

    run = start_step("03_lora_pretraining", globals())
    ...
    run.finish({"tokens": 120_000, ...})

The two calls are the same whether a person runs the notebook in JupyterLab, papermill runs it, or
`finlab run` does. `runs/<name>/<step>/` then holds

    03_lora_pretraining.ipynb    the executed notebook
    metrics.json                 what the step measured
    log.jsonl                    one line for each logged training step
    artifact/                    what later steps read
    manifest.json                key, parameters, inputs, versions, device, seconds, peak memory

The manifest is written last, by rename: where it stands, the step is complete.
"""

from __future__ import annotations

import platform
import shutil
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from finlab import files, paths
from finlab.run import code, environment, integrity, locks, model_card, recipe
from finlab.run.parameters import SET_BY_RUNNER, cells_of, check, declared_parameters

# Set by finlab.data.cards: `run` knows data cards by their fingerprint and their licence alone.
_card_fingerprint: Callable[[str], str] | None = None
_card_licence: Callable[[str], str] | None = None


def use_cards(fingerprint: Callable[[str], str], licence: Callable[[str], str]) -> None:
    """Say how a data card, given by name, is fingerprinted, and what its licence is."""
    global _card_fingerprint, _card_licence
    _card_fingerprint, _card_licence = fingerprint, licence


# --- the key -------------------------------------------------------------------------------------
def data_fingerprints(parameters: dict[str, Any]) -> dict[str, str]:
    """Return {name or path: fingerprint} of the data that a step's parameters name.

    Data are the cards of `*_cards` parameters, and the files and folders that other values name.

    Raises:
        ValueError: A card is wrong, or a named file or folder is not there.
    """
    found = {}
    for name, value in parameters.items():
        if name.endswith("_cards"):
            for card in value:
                found[card] = _card_fingerprint(card)
        elif isinstance(value, list):
            found |= _listed_files(value)
        elif isinstance(value, str) and name not in SET_BY_RUNNER:
            found |= _named_file(name, value)
    return found


def _listed_files(values: list[Any]) -> dict[str, str]:
    found = {}
    for value in values:
        if isinstance(value, str) and "/" in value and paths.resolve(value).exists():
            path = paths.resolve(value)
            found[str(path)] = files.fingerprint([path])
    return found


def _named_file(name: str, value: str) -> dict[str, str]:
    """Return the fingerprint of a file or folder; a hub id such as `owner/name` has none."""
    must_exist = value.startswith(("$", "/", ".", "~"))
    if name.endswith("_file"):
        must_exist = bool(value)
    elif "/" not in value:
        return {}
    if not value:
        return {}
    path = paths.resolve(value)
    if path.exists():
        return {value: files.fingerprint([path])}
    if must_exist:
        raise ValueError(f"parameter '{name}': there is nothing at {path}: correct the path")
    return {}


def check_paths(parameters: dict[str, Any], step: str) -> None:
    """Refuse a parameter that names a file or folder which is not there, before anything runs.

    Args:
        parameters: All values of a step.
        step: Its name, for errors.
    """
    for name, value in parameters.items():
        for each in value if isinstance(value, list) else [value]:
            if isinstance(each, str) and name not in SET_BY_RUNNER and "\n" not in each:
                try:
                    _named_file(name, each)
                except ValueError as error:
                    raise ValueError(f"step '{step}', {error}") from None


def step_key(notebook: str, parameters: dict[str, Any], upstream: dict[str, str]) -> str:
    """Return the key of a step: equal keys mean equal results, so the step need not run again.

    Args:
        notebook: The notebook's name. Its code counts, and the code of finlab behind it.
        parameters: All parameter values. The folder of the run does not count.
        upstream: {step: key} of the steps that it reads.
    """
    values = {name: value for name, value in parameters.items() if name != "run_dir"}
    return files.digest(
        notebook, code_behind(notebook), values, upstream, data_fingerprints(parameters)
    )


def code_behind(notebook: str) -> dict[str, str]:
    """Return {file: hash} of a notebook's own cells and of the code of finlab behind them.

    Args:
        notebook: The notebook's name.
    """
    path = paths.NOTEBOOKS / f"{notebook}.ipynb"
    sources = [cell["source"] for cell in cells_of(path)]
    own = {f"notebooks/{notebook}.ipynb": files.digest(sources)[:16]}
    return own | code.code_parts("\n".join(sources))


def read_manifest(folder: Path) -> dict[str, Any] | None:
    """Return the manifest of a complete step, or None; a broken one counts as none."""
    try:
        manifest = files.read_json(folder / "manifest.json")
        return manifest if manifest["key"] and manifest["inputs"]["steps"] is not None else None
    except (OSError, ValueError, KeyError, TypeError):
        return None


def upstream_manifests(run_dir: Path, step: str, parameters: dict[str, Any]) -> dict[str, dict]:
    """Return {step: manifest} of the steps that a step reads.

    Args:
        run_dir: The run.
        step: The step that reads, for errors.
        parameters: Its values.

    Raises:
        ValueError: One of them is not finished.
    """
    found = {}
    for need in recipe.needs(parameters):
        manifest = read_manifest(run_dir / need)
        if manifest is None:
            raise ValueError(
                f"step '{step}' reads step '{need}', which is not finished in {run_dir}: "
                f"run it first, for example `finlab run smoke --run-dir {run_dir} --only {need}`, "
                "or Run All of its notebook"
            )
        earlier = integrity.outdated(run_dir, manifest, read_manifest)
        if earlier:
            raise ValueError(
                f"step '{step}' reads step '{need}', which was made from an earlier '{earlier}' "
                f"than the one in {run_dir}: run '{need}' again first (--from {need})"
            )
        found[need] = manifest
    return found


def require_whole(run_dir: Path, upstream: dict[str, dict]) -> None:
    """Refuse to read steps whose files are no longer those that they left.

    Args:
        run_dir: The run.
        upstream: {step: manifest} of the steps that are to be read.
    """
    for name, manifest in upstream.items():
        found = integrity.damaged_step(run_dir / name, manifest, thorough=True)
        if found:
            raise ValueError(
                f"step '{name}' in {run_dir} was finished and is damaged since: {found}: "
                f"run it again (--from {name})"
            )


# --- a started step ------------------------------------------------------------------------------
@dataclass
class Run:
    """A started step: where it reads, where it writes, and how it ends.

    Attributes:
        notebook: The notebook's name.
        step: The step's name.
        parameters: All parameter values.
        folder: The folder of the step.
        key: The step's key, from `step_key`.
        upstream: {step: manifest} of the steps that it reads.
        resumed: Whether it goes on from the checkpoints of a run that died.
        started: When it started, in seconds since 1970.
    """

    notebook: str
    step: str
    parameters: dict[str, Any]
    folder: Path
    key: str
    upstream: dict[str, dict]
    resumed: bool
    started: float = field(default_factory=time.time)

    @property
    def artifact(self) -> Path:
        """The folder of what later steps read."""
        return self.folder / "artifact"

    @property
    def checkpoints(self) -> Path:
        """The folder of what a rerun needs; it is deleted when the step finishes."""
        return self.folder / "checkpoints"

    @property
    def log(self) -> Path:
        """The file of the training log."""
        return self.folder / "log.jsonl"

    def read(self, step: str) -> Path:
        """Return the artifact folder of a step that this one reads."""
        if step not in self.upstream:
            raise ValueError(
                f"step '{self.step}' does not declare that it reads '{step}': "
                "name it in a parameter that ends in _from"
            )
        return self.folder.parent / step / "artifact"

    def finish(self, metrics: dict[str, Any]) -> dict[str, Any]:
        """Write metrics and manifest, drop the checkpoints and release the folder.

        Args:
            metrics: What the step measured; it must be JSON without NaN.

        Returns:
            The metrics.
        """
        files.write_json(self.folder / "metrics.json", metrics)
        licences = self._licences()
        model_card.write(
            self.artifact,
            self.step,
            self._base(),
            licences,
            recipe=self._recipe(),
            parameters=self.parameters,
            made_with=environment.versions(),
            device=environment.device(),
        )
        manifest = self._manifest(metrics) | {"licences": licences, "base": self._base()}
        files.write_json(self.folder / "manifest.json", manifest, sync=True)
        shutil.rmtree(self.checkpoints, ignore_errors=True)
        locks.release(self.folder)
        for name in self.upstream:
            locks.release(self.folder.parent / name)
        return metrics

    def _licences(self) -> dict[str, str]:
        """Return {card: licence} of all data that this step and those behind it train on."""
        found = {}
        for manifest in self.upstream.values():
            found |= manifest.get("licences", {})
        for card in model_card.trained_cards(self.parameters):
            found[card] = _card_licence(card)
        return found

    def _recipe(self) -> str:
        """Return the name of the recipe that runs; empty in a notebook that is run by itself."""
        begun = self.folder.parent / "run.json"
        return files.read_json(begun).get("recipe", "") if begun.exists() else ""

    def _base(self) -> str:
        """Return the folder or hub id of the base that this step's models come from."""
        named = [manifest.get("base", "") for manifest in self.upstream.values()]
        return self.parameters.get("base") or next(filter(None, named), "")

    def _manifest(self, metrics: dict[str, Any]) -> dict[str, Any]:
        keys = {name: manifest["key"] for name, manifest in self.upstream.items()}
        return {
            "key": self.key,
            "notebook": self.notebook,
            "step": self.step,
            "parameters": self.parameters,
            "inputs": {"steps": keys, "data": data_fingerprints(self.parameters)},
            "code": code_behind(self.notebook),
            "versions": environment.versions(),
            "python": platform.python_version(),
            "git_commit": environment.git_commit(),
            "device": environment.device(),
            "attention": metrics.get("attention"),
            "seconds": round(time.time() - self.started, 1),
            "peak_bytes": environment.peak_bytes(),
            "seed": self.parameters.get("seed"),
            "artifact": integrity.seal(self.artifact),
            "finished": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
        }

    def _repr_html_(self) -> str:
        versions = [f"{name} {version}" for name, version in environment.versions().items()]
        resumes = "yes, from the last checkpoint" if self.resumed else "no, from the start"
        facts = {
            "step": f"{self.step} ({self.notebook})",
            "folder": self.folder,
            "device": environment.device(),
            "seed": self.parameters.get("seed"),
            "reads": ", ".join(self.upstream) or "nothing upstream",
            "resumes": resumes,
            "versions": ", ".join(versions),
        }
        left = "style='text-align:left'"
        rows = [
            f"<tr><th {left}>{name}</th><td {left}>{value}</td></tr>"
            for name, value in facts.items()
        ]
        return f"<table>{''.join(rows)}</table>"


def start_step(notebook: str, variables: dict[str, Any]) -> Run:
    """Start a step from a notebook's own parameters.

    A step that died goes on from its checkpoints if its key is still the same; else its folder is
    cleared. A complete result that is replaced is kept once, as `<step>.previous`.

    Args:
        notebook: The notebook's name, such as `03_lora_pretraining`.
        variables: The notebook's `globals()`, which hold its parameters.

    Raises:
        ValueError: A parameter has the wrong type, or a step that it reads is not finished.
        Busy: Another process works in the step's folder.
    """
    declarations = declared_parameters(notebook)
    parameters = {name: variables[name] for name in declarations}
    check(parameters, declarations, notebook)
    run_dir = paths.resolve(parameters["run_dir"])
    name = parameters["step"]
    for need in recipe.needs(parameters):
        if (run_dir / need).is_dir():
            locks.hold(run_dir / need, seconds=20, shared=True)
    upstream = upstream_manifests(run_dir, name, parameters)
    require_whole(run_dir, upstream)
    keys = {need: manifest["key"] for need, manifest in upstream.items()}
    key = step_key(notebook, parameters, keys)
    folder = run_dir / name
    # The kernel of a killed run needs a moment to notice and end.
    locks.hold(folder, seconds=20)
    resumed = _prepare_folder(folder, key)
    environment.quiet()
    environment.seed_all(parameters.get("seed", 0))
    return Run(notebook, name, parameters, folder, key, upstream, resumed)


def _prepare_folder(folder: Path, key: str) -> bool:
    """Clear a held folder for a step with this key; return whether its checkpoints stay."""
    key_file = folder / "key"
    complete = read_manifest(folder) is not None
    same_key = key_file.exists() and key_file.read_text() == key
    resumed = not complete and same_key and (folder / "checkpoints").is_dir()
    if complete:
        previous = folder.with_name(f"{folder.name}.previous")
        shutil.rmtree(previous, ignore_errors=True)
        locks.release(folder)
        folder.rename(previous)
        locks.hold(folder)
    stays = {".lock"}
    if resumed:
        stays |= {"checkpoints", "log.jsonl"}
    for child in folder.iterdir():
        if child.name in stays:
            continue
        if child.is_dir():
            shutil.rmtree(child)
        else:
            child.unlink()
    (folder / "artifact").mkdir()
    key_file.write_text(key)
    return resumed
