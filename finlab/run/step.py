"""One step of a run: its start, its finish, and the key that says whether to run it.

    run = start_step("03_lora_pretraining", globals())
    ...
    run.finish({"tokens": 120_000, ...}, headline=Headline(lines=[...]))

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
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from finlab import files, paths
from finlab.data import hub_models
from finlab.run import (
    environment,
    integrity,
    locks,
    model_card,
    parameters,
    recipe,
    recording,
    refusals,
)
from finlab.run.headline import Headline
from finlab.run.keys import card_licence, code_behind, data_fingerprints, step_key
from finlab.run.manifests import is_current, read_manifest, require_whole, upstream_manifests


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
        recorder: Notes what the notebook shows, where nobody else keeps it.
        started: When it started, in seconds since 1970.
    """

    notebook: str
    step: str
    parameters: dict[str, Any]
    folder: Path
    key: str
    upstream: dict[str, dict]
    resumed: bool
    recorder: recording.Recorder | None = None
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

    def cost(self) -> dict[str, Any]:
        """Return what the step has taken up to now: seconds, memory, disk, and on which device."""
        return {
            "seconds": round(time.time() - self.started, 1),
            "peak GB": environment.peak_bytes() / 1e9,
            "GB left on disk": files.size_of(self.artifact) / 1e9,
            "device": environment.device(),
        }

    def finish(self, metrics: dict[str, Any], headline: Headline | None = None) -> dict[str, Any]:
        """Write metrics and manifest, keep the notebook, drop checkpoints, say what is next.

        Args:
            metrics: What the step measured; it must be JSON without NaN.
            headline: What the first page of the report shall say of it.

        Returns:
            The metrics.
        """
        if headline:
            metrics = {**metrics, **headline.save(self.folder)}
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
        print(self._farewell(manifest))
        if self.recorder:
            self.recorder.folder = self.folder
        return metrics

    def _farewell(self, manifest: dict[str, Any]) -> str:
        """Say what is complete, where it lies, what it took, and what comes next.

        Args:
            manifest: Of the finished step.
        """
        seconds, gigabytes = manifest["seconds"], manifest["peak_bytes"] / 1e9
        text = (
            f"Step '{self.step}' is complete: {seconds:.0f} s, at most {gigabytes:.1f} GB, "
            f"in {self.folder}."
        )
        later = [name for name in parameters.notebook_names() if name > self.notebook]
        if later:
            text += f" Next: {later[0]}."
        if self.recorder:
            text += " Shut this kernel down (Kernel menu) to give its memory back."
        return text

    def _licences(self) -> dict[str, str]:
        """Return {name: licence} of the data that this step and those behind it train on.

        The base is among them where its own card states a licence.
        """
        found = {}
        for manifest in self.upstream.values():
            found |= manifest.get("licences", {})
        for card in model_card.trained_cards(self.parameters):
            found[card] = card_licence(card)
        base = self.parameters.get("base", "")
        stated = hub_models.licence(base) if base else ""
        if stated:
            found[Path(base).name if paths.resolve(base).is_dir() else base] = stated
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
        edited = self.recorder.edited() if self.recorder else {}
        return {
            # Code that ran and does not stand in the notebook's file makes another result.
            "key": files.digest(self.key, edited) if edited else self.key,
            "edited": sorted(edited),
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
    cleared. A complete result is never deleted: one that is replaced stays beside the new one, as
    `<step>.previous`, `<step>.previous2` and so on.

    Args:
        notebook: The notebook's name, such as `03_lora_pretraining`.
        variables: The notebook's `globals()`, which hold its parameters.

    Raises:
        ValueError: A parameter has the wrong type.
        NotReady: A step that it reads is not finished, or is damaged.
        AlreadyFinished: The step is finished, nothing has changed, and `rerun` is not set.
        Busy: Another process works in the step's folder.
    """
    refusals.show_as_sentences()
    declarations = parameters.declared_parameters(notebook)
    values = {name: variables[name] for name in declarations}
    parameters.check(values, declarations, notebook)
    run_dir = paths.resolve(values["run_dir"])
    needs = recipe.needs(values)
    try:
        run = _begin(notebook, values, run_dir, needs)
    except BaseException:
        # Whoever mends what was refused, in another kernel, must not wait for this one.
        for held in (*needs, values["step"]):
            locks.release(run_dir / held)
        raise
    environment.quiet()
    environment.seed_all(values.get("seed", 0))
    run.recorder = recording.start(notebook, values)
    return run


def _begin(notebook: str, values: dict[str, Any], run_dir: Path, needs: list[str]) -> Run:
    """Hold the folders of a step and of those that it reads, and prepare its own.

    Args:
        notebook: Its name.
        values: Of its parameters.
        run_dir: The run.
        needs: The steps that it reads.
    """
    name = values["step"]
    for need in needs:
        if (run_dir / need).is_dir():
            locks.hold(run_dir / need, seconds=20, shared=True)
    upstream = upstream_manifests(run_dir, name, values)
    require_whole(run_dir, upstream)
    keys = {need: manifest["key"] for need, manifest in upstream.items()}
    key = step_key(notebook, values, keys)
    folder = run_dir / name
    # Whoever starts papermill wants the step to run, and `finlab run` has decided already.
    if recording.by_hand() and not values.get("rerun"):
        _keep_finished(folder, key)
    # The kernel of a killed run needs a moment to notice and end.
    locks.hold(folder, seconds=20)
    resumed = _prepare_folder(folder, key)
    return Run(notebook, name, values, folder, key, upstream, resumed)


def _keep_finished(folder: Path, key: str) -> None:
    """Refuse to run a step again that is finished and would give the same result.

    Args:
        folder: The step's.
        key: The key that it would have now.
    """
    manifest = read_manifest(folder)
    if manifest is None or not is_current(manifest, key):
        return
    if integrity.damaged_step(folder, manifest):
        return
    raise refusals.AlreadyFinished(
        f"Step '{folder.name}' is finished already ({manifest['finished'][:16]}) and nothing has "
        f"changed: its result in {folder} is kept, and Run All stops here. "
        "To run it all the same, set rerun = True in the first code cell."
    )


def _prepare_folder(folder: Path, key: str) -> bool:
    """Clear a held folder for a step with this key; return whether its checkpoints stay."""
    key_file = folder / "key"
    complete = read_manifest(folder) is not None
    same_key = key_file.exists() and key_file.read_text() == key
    resumed = not complete and same_key and (folder / "checkpoints").is_dir()
    if complete:
        locks.release(folder)
        folder.rename(_place_of_previous(folder))
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


def _place_of_previous(folder: Path) -> Path:
    """Return where a result goes that a new one replaces; nothing lies there yet."""
    number = 1
    while True:
        path = folder.with_name(f"{folder.name}.previous{'' if number == 1 else number}")
        if not path.exists():
            return path
        number += 1
