"""Start and finish a step of a run.

    run = start_step("03_lora_pretraining", globals())
    ...
    run.finish({"tokens": 120_000, ...}, headline=Headline(lines=[...]))

The two calls are the same if a person runs the notebook in JupyterLab, or if papermill or
`finlab run` runs it. The folder `runs/<name>/<step>/` then has

    03_lora_pretraining.ipynb    the executed notebook
    metrics.json                 what the step measured
    log.jsonl                    one line for each logged training step
    artifact/                    what later steps read
    manifest.json                key, parameters, inputs, versions, device, seconds, peak memory

The manifest is written last, by rename. So a step with a manifest is complete.
"""

from __future__ import annotations

import platform
import shutil
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from finlab import files, paths
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
from finlab.run.licences import licence_of_model
from finlab.run.manifests import is_current, read_manifest, require_whole, upstream_manifests


# --- a started step ------------------------------------------------------------------------------
@dataclass
class Run:
    """A started step: the folders that it reads and writes, and how to finish it.

    Attributes:
        notebook: Name of the notebook.
        step: Name of the step.
        parameters: All parameter values, by name.
        folder: The folder of the step.
        key: The step's key, from `step_key`.
        upstream: {step: manifest} of the steps that this step reads.
        resumed: Whether the step resumes from the checkpoints of an earlier run that ended early.
        recorder: Records the output of the notebook; None if papermill keeps it.
        started: When the step started, in seconds since 1970.
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
        """The folder that later steps read."""
        return self.folder / "artifact"

    @property
    def checkpoints(self) -> Path:
        """The folder of the checkpoints; it is deleted when the step finishes."""
        return self.folder / "checkpoints"

    @property
    def log(self) -> Path:
        """The file of the training log."""
        return self.folder / "log.jsonl"

    def read(self, step: str) -> Path:
        """Return the artifact folder of a step that this step reads.

        Args:
            step: Name of the other step.

        Raises:
            ValueError: No `*_from` parameter names this other step.
        """
        if step not in self.upstream:
            raise ValueError(
                f"step '{self.step}' does not declare that it reads '{step}': "
                "name it in a parameter that ends in _from"
            )
        return self.folder.parent / step / "artifact"

    def cost(self) -> dict[str, Any]:
        """Return the cost of the step so far: seconds, memory, disk, and the device."""
        return {
            "seconds": round(time.time() - self.started, 1),
            "peak GB": environment.peak_bytes() / 1e9,
            "GB left on disk": files.size_of(self.artifact) / 1e9,
            "device": environment.device(),
        }

    def finish(self, metrics: dict[str, Any], headline: Headline | None = None) -> dict[str, Any]:
        """Write metrics and manifest, keep the notebook, delete checkpoints, and print a summary.

        Args:
            metrics: What the step measured. It must be JSON without NaN.
            headline: What the first page of the report says about the step; None says nothing.

        Returns:
            The metrics, with the fields of the headline.
        """
        if headline:
            metrics = {**metrics, **headline.save(self.folder)}
        files.write_json(self.folder / "metrics.json", metrics)
        licences, base, base_licence = self._licences(), self._base(), self._base_licence()
        model_card.write(
            self.artifact,
            self.step,
            base,
            licences,
            base_licence=base_licence,
            recipe=self._recipe(),
            parameters=self.parameters,
            made_with=environment.versions(),
            device=environment.device(),
        )
        manifest = self._manifest(metrics)
        manifest |= {"licences": licences, "base": base, "base_licence": base_licence}
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
        """Return a text that says what is complete, where it is, its cost, and what comes next.

        Args:
            manifest: Manifest of the finished step.
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
        """Return {card: licence} of all data that this step and its upstream steps train on."""
        found = {}
        for manifest in self.upstream.values():
            found |= manifest.get("licences", {})
        for card in model_card.trained_cards(self.parameters):
            found[card] = card_licence(card)
        return found

    def _recipe(self) -> str:
        """Return the name of the run's recipe; empty if the notebook runs without a recipe."""
        begun = self.folder.parent / "run.json"
        return files.read_json(begun).get("recipe", "") if begun.exists() else ""

    def _base(self) -> str:
        """Return the folder or hub id of the base that this step's models come from."""
        return self.parameters.get("base") or self._inherited("base")

    def _base_licence(self) -> str:
        """Return the licence that the base's own card states; empty if it is not known."""
        base = self.parameters.get("base")
        return licence_of_model(base) if base else self._inherited("base_licence")

    def _inherited(self, name: str) -> str:
        """Return the first value of a field in the upstream steps' manifests; empty for none."""
        stated = [manifest.get(name, "") for manifest in self.upstream.values()]
        return next(filter(None, stated), "")

    def _manifest(self, metrics: dict[str, Any]) -> dict[str, Any]:
        keys = {name: manifest["key"] for name, manifest in self.upstream.items()}
        edited = self.recorder.edited() if self.recorder else {}
        return {
            # If a person edited code cells without saving them, the result may differ, so the key
            # must differ too.
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
    """Start a step with the parameters of a notebook.

    If an earlier run of the step ended early and the key is still the same, the step resumes from
    its checkpoints. Otherwise the folder is cleared. A complete result is never deleted. If a new
    result replaces it, the old one is kept as `<step>.previous`, `<step>.previous2` and so on.

    Args:
        notebook: Name of the notebook, such as `03_lora_pretraining`.
        variables: The `globals()` of the notebook, which contain its parameters.

    Raises:
        ValueError: A parameter has the wrong type.
        NotReady: A step that this step reads is not finished, or is damaged.
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
        # The user may fix the problem in another kernel, which must not wait for this one.
        for held in (*needs, values["step"]):
            locks.release(run_dir / held)
        raise
    environment.quiet()
    environment.seed_all(values.get("seed", 0))
    run.recorder = recording.start(notebook, values)
    return run


def _begin(notebook: str, values: dict[str, Any], run_dir: Path, needs: list[str]) -> Run:
    """Lock the folders of a step and of the steps that it reads, and prepare the step's folder.

    Args:
        notebook: Name of the notebook.
        values: All parameter values, by name.
        run_dir: The run's folder.
        needs: Names of the steps that this step reads.
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
    # Under papermill the step always runs: `finlab run` has already decided that it must.
    if recording.by_hand() and not values.get("rerun"):
        _keep_finished(folder, key)
    # The kernel of a killed run may need some seconds to end.
    locks.hold(folder, seconds=20)
    resumed = _prepare_folder(folder, key)
    return Run(notebook, name, values, folder, key, upstream, resumed)


def _keep_finished(folder: Path, key: str) -> None:
    """Raise an error if a step is finished and would give the same result again.

    Args:
        folder: The step's folder.
        key: The key that the step would have now.

    Raises:
        AlreadyFinished: The step is finished and nothing has changed.
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
    """Clear a step's locked folder; return whether its checkpoints are kept for a resume.

    Args:
        folder: The step's folder.
        key: The key of the step that starts now. Checkpoints are kept if they have the same key.
    """
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
    """Return a free path `<step>.previous...` for a result that a new one replaces."""
    number = 1
    while True:
        path = folder.with_name(f"{folder.name}.previous{'' if number == 1 else number}")
        if not path.exists():
            return path
        number += 1
