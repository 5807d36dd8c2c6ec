"""Write the model card of every model in a run: how it was made, licences, scores.

If a licence forbids commercial use of data, this also applies to models trained on the data. So the
manifest of a step lists the licences of all data cards that its models were trained on, and the
README.md of each model lists them too. The sections have the same order as in the Hub's template.
Scores are known only after a later step, so `complete` adds them when a model is published.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from finlab import files
from finlab.run.licences import forbids_commercial_use

# Cards in these parameters are used to score or question a model, not to train it.
NOT_TRAINED_ON = ("exam_cards", "question_cards", "customer_cards")
MODEL_FILES = ("config.json", "adapter_config.json")
PLACES = ("/", ".", "~", "$")  # a value that begins with one of these is a path
EVALUATION = "07_evaluation"
NO_ADVICE = "Nothing that it says is investment advice."
USES = (
    f"For research on Chinese finance language models. {NO_ADVICE} Do not let it decide on credit, "
    "trades or insurance, and have people check what reaches a customer."
)
RISKS = (
    "It makes up facts, figures and sources with confidence, most of all about what it never read "
    "and about what happened after its data ended."
)
# {config file: Python code that loads the model}.
CODE = {
    "config.json": (
        "from transformers import AutoModelForCausalLM, AutoTokenizer\n\n"
        'model = AutoModelForCausalLM.from_pretrained("{name}")\n'
        'tokenizer = AutoTokenizer.from_pretrained("{name}")'
    ),
    "adapter_config.json": (
        "from peft import PeftModel\n\n"
        'model = PeftModel.from_pretrained(base, "{name}")  # base: the model named above'
    ),
}


@dataclass(frozen=True)
class Facts:
    """The content of a model card.

    Attributes:
        title: Title of the card, such as `dpo/model`.
        base: Folder or hub id of the base; empty for finlab's tiny base.
        licences: {card: licence} of all data that the model was trained on.
        base_licence: The licence that the base's own card states; empty if it is not known.
        recipe: Name of the recipe; empty if it is not known.
        parameters: Parameters of the step that made the model, by name.
        made_with: {package: version}.
        device: The device on which the model was made.
        kind: config.json for a model, adapter_config.json for an adapter.
        scores: Records of the evaluation step, from `statistics.scores`.
        by_verdict: {all, clean, contaminated: {n, accuracy}} from the evaluation step.
        quantised: What the quantize step measured for this format; empty for other models.
    """

    title: str
    base: str
    licences: dict[str, str]
    base_licence: str = ""
    recipe: str = ""
    parameters: dict[str, Any] = field(default_factory=dict)
    made_with: dict[str, str] = field(default_factory=dict)
    device: str = ""
    kind: str = MODEL_FILES[0]
    scores: list[dict[str, Any]] = field(default_factory=list)
    by_verdict: dict[str, dict[str, Any]] = field(default_factory=dict)
    quantised: dict[str, Any] = field(default_factory=dict)


def trained_cards(parameters: dict[str, Any]) -> list[str]:
    """Return the names of the cards that a step trains on, from its `*_cards` parameters."""
    found: list[str] = []
    for name, value in parameters.items():
        if name.endswith("_cards") and name not in NOT_TRAINED_ON:
            found += value
    return list(dict.fromkeys(found))


def write(
    artifact: Path, step: str, base: str, licences: dict[str, str], **more: Any
) -> list[Path]:
    """Write the card of every model in a step's artifact.

    Args:
        artifact: The step's artifact folder.
        step: Name of the step.
        base: Folder or hub id of the base; empty for finlab's tiny base.
        licences: {card: licence} of all data that the step's models were trained on.
        **more: Other fields of `Facts`.

    Returns:
        The files that were written.
    """
    written = []
    for name in MODEL_FILES:
        for path in sorted(artifact.rglob(name)):
            card = path.parent / "README.md"
            if card in written:
                continue
            facts = Facts(f"{step}/{path.parent.name}", base, licences, kind=name, **more)
            files.write_text(card, text(facts))
            written.append(card)
    return written


def model_name(folder: Path) -> str:
    """Return the name of a model as the evaluation step uses it.

    Args:
        folder: Folder of the model. runs/smoke/dpo/artifact/model has the name `dpo`, and
            .../sft/artifact/stage1 has the name `sft/stage1`. A model outside a run has the name of
            its folder.
    """
    step_folder = _step_folder(folder)
    if step_folder is None:
        return folder.resolve().name
    inner = folder.resolve().relative_to(step_folder / "artifact").parts
    names = [step_folder.name]
    names += [part for part in inner if part != "model"]
    return "/".join(names)


def _step_folder(folder: Path) -> Path | None:
    """Return the folder of the step that a model belongs to; None outside a run."""
    for parent in folder.resolve().parents:
        if parent.name == "artifact":
            return parent.parent
    return None


# --- a card with scores, for publishing ----------------------------------------------------------
def complete(folder: Path, repository: str = "") -> str:
    """Return the card of a finished model, with the scores that its run has measured.

    Args:
        folder: Folder of the model, in a run.
        repository: owner/name on the hub, used as the title; empty uses step and folder.

    Raises:
        ValueError: The folder is not in a finished step of a run.
    """
    folder = folder.resolve()
    step_folder = _step_folder(folder)
    if step_folder is None:
        raise ValueError(f"{folder} is not in the artifact of a run's step")
    manifest = _read(step_folder / "manifest.json")
    if not {"parameters", "key", "versions"} <= set(manifest):
        raise ValueError(f"step {step_folder.name} of {step_folder.parent} is not finished")
    scores, verdicts = _scores(step_folder.parent, manifest, model_name(folder))
    kind = next(each for each in reversed(MODEL_FILES) if (folder / each).exists())
    facts = Facts(
        title=repository or f"{step_folder.name}/{folder.name}",
        base=manifest.get("base", ""),
        licences=manifest.get("licences", {}),
        base_licence=manifest.get("base_licence", ""),
        recipe=_read(step_folder.parent / "run.json").get("recipe", ""),
        parameters=manifest["parameters"],
        made_with=manifest["versions"],
        device=manifest["device"],
        kind=kind,
        scores=scores,
        by_verdict=verdicts,
        quantised=_quantised(step_folder, folder.name),
    )
    return text(facts)


def _quantised(step_folder: Path, name: str) -> dict[str, Any]:
    """Return what the quantize step measured for a format, with the loss of accuracy.

    Args:
        step_folder: Folder of the step that made the model.
        name: Name of the format, such as `awq4`.

    Returns:
        The measures; empty if the step did not measure this format.
    """
    metrics = _read(step_folder / "metrics.json")
    if not isinstance(metrics.get(name), dict):
        return {}
    found = {"format": name, **metrics[name]}
    if name in metrics.get("paired", {}):
        found["paired"] = metrics["paired"][name]
    return found


def _read(path: Path) -> dict[str, Any]:
    """Return the content of a JSON file; empty if the file does not exist.

    Raises:
        ValueError: The file is damaged.
    """
    try:
        return files.read_json(path) if path.exists() else {}
    except ValueError:
        raise ValueError(f"{path} is damaged: run the step again") from None


def _scores(run: Path, manifest: dict, name: str) -> tuple[list[dict], dict[str, dict]]:
    """Return (scores, accuracies by verdict) of a model from the run's evaluation.

    Args:
        run: The run's folder.
        manifest: Manifest of the step that made the model.
        name: Name of the model in the evaluation.

    Returns:
        Both empty if the model was not evaluated, or was made again after the evaluation.
    """
    for path in sorted(run.glob("*/manifest.json")):
        other = _read(path)
        read = other.get("inputs", {}).get("steps", {})
        if other.get("notebook") != EVALUATION or read.get(manifest["step"]) != manifest["key"]:
            continue
        metrics = _read(path.parent / "metrics.json")
        scores = [row for row in metrics.get("scores", []) if row["model"] == name]
        return scores, metrics.get("by_verdict", {}).get(name, {})
    return [], {}


# --- the text ------------------------------------------------------------------------------------
def text(facts: Facts) -> str:
    """Return a model card as Markdown, with the Hub's metadata at the top."""
    lines = [f"# {facts.title}", "", _made_from(facts), ""]
    lines += ["## Uses", "", USES, ""]
    lines += ["## Bias, risks and limitations", "", RISKS, "", *_terms(facts)]
    lines += ["## How to get started", "", "```python"]
    lines += [CODE[facts.kind].format(name=facts.title), "```", ""]
    lines += ["## Training data", "", "| card | licence |", "|---|---|"]
    lines += [f"| {name} | {each} |" for name, each in sorted(facts.licences.items())]
    lines += ["", *_procedure(facts), *_evaluation(facts)]
    front = yaml.safe_dump(_metadata(facts), allow_unicode=True, sort_keys=False)
    return "\n".join([f"---\n{front}---", *lines]).rstrip() + "\n"


def _made_from(facts: Facts) -> str:
    """Return the sentence that says what a model was made from."""
    by = f", recipe `{facts.recipe}`" if facts.recipe else ""
    base = facts.base or "a tiny base of finlab"
    if facts.base and not _is_hub_id(facts.base):
        base = f"{Path(facts.base).name}, a model of its authors' own"
    return f"Made from {base} with finlab{by}."


def _is_hub_id(base: str) -> bool:
    """Tell whether the name of a base is a hub id and not a folder on this machine."""
    return base.count("/") == 1 and not base.startswith(PLACES) and not Path(base).is_dir()


def _metadata(facts: Facts) -> dict[str, Any]:
    """Return the metadata for the Hub: licence, base, language, scores."""
    stated = [facts.base_licence, *facts.licences.values()]
    forbidding = [each for each in stated if forbids_commercial_use(each)]
    found: dict[str, Any] = {"license": forbidding[0].lower() if forbidding else "other"}
    if not forbidding:
        found |= {"license_name": "base-and-data-terms", "license_link": "README.md"}
    if _is_hub_id(facts.base):
        found["base_model"] = facts.base
    found |= {"language": ["zh", "en"], "pipeline_tag": "text-generation", "tags": ["finlab"]}
    found["library_name"] = "peft" if facts.kind == MODEL_FILES[1] else "transformers"
    if facts.scores:
        results = [_result(score) for score in facts.scores]
        found["model-index"] = [{"name": facts.title, "results": results}]
    return found


def _result(score: dict[str, Any]) -> dict[str, Any]:
    """Return a score in the form that the Hub needs."""
    name = f"accuracy, {score['shots']}-shot, prompt {score['prompt']}"
    metric = {"type": "accuracy", "value": round(score["accuracy"], 4), "name": name}
    dataset = {"name": score["benchmark"], "type": score["benchmark"]}
    return {"task": {"type": "text-generation"}, "dataset": dataset, "metrics": [metric]}


def _terms(facts: Facts) -> list[str]:
    """Return the lines about the terms of the licences of the base and of the data."""
    lines = ["## Licence and terms", ""]
    for name, each in facts.licences.items():
        if forbids_commercial_use(each):
            lines.append(
                f"**No commercial use**: it was trained on {name}, whose licence is {each}."
            )
            lines.append("")
    for name, each in facts.licences.items():
        if each == "unknown":
            lines += [f"{name} states no licence: ask its authors before you publish this model."]
            lines.append("")
    of_base = f", {facts.base_licence}," if facts.base_licence else ""
    if forbids_commercial_use(facts.base_licence):
        lines += [f"**No commercial use**: the licence of its base is {facts.base_licence}.", ""]
    return [*lines, f"The licence of the base{of_base} holds too.", ""]


def _procedure(facts: Facts) -> list[str]:
    """Return the lines about how a model was made."""
    if not facts.parameters:
        return []
    lines = ["## Training procedure", "", "| parameter | value |", "|---|---|"]
    for name, value in facts.parameters.items():
        if not name.endswith(("_cards", "_dir", "_from")) and _may_be_shown(value):
            lines.append(f"| {name} | {value} |")
    versions = ", ".join(f"{name} {version}" for name, version in facts.made_with.items())
    return [*lines, "", f"Made on {facts.device or 'an unknown device'} with {versions}.", ""]


def _rounding(found: dict[str, Any]) -> list[str]:
    """Return the lines about the accuracy that quantization has cost; empty if not quantised."""
    if not found:
        return []
    lines = [f"Quantised as {found['format']}: {found['bytes']:,} bytes of weights."]
    if "paired" in found:
        lost = found["paired"]
        lines.append(
            f"On {lost['n']} exam questions its accuracy is {found['accuracy']:.3f}, "
            f"{lost['difference']:+.3f} [{lost['ci_low']:+.3f}, {lost['ci_high']:+.3f}] beside the "
            "full model."
        )
    return [*lines, ""]


def _may_be_shown(value: Any) -> bool:
    """Tell whether to show a parameter's value: it is not empty and has no path or URL."""
    text = str(value)
    places = "://" in text or text.startswith(PLACES) or ".jsonl" in text
    return value not in ("", None, [], {}) and not places


def _evaluation(facts: Facts) -> list[str]:
    """Return the lines about a model's scores, and how many exam items are in its training text."""
    lines = ["## Evaluation", ""]
    lines += _rounding(facts.quantised)
    if not facts.scores:
        return [*lines, "Not scored in this run, or not since it was made again."]
    lines += [
        "| exam | shots | accuracy | 95% interval | items | prompt |",
        "|---|---|---|---|---|---|",
    ]
    for score in facts.scores:
        interval = f"{score['ci_low']:.3f} to {score['ci_high']:.3f}"
        lines.append(
            f"| {score['benchmark']} | {score['shots']} | {score['accuracy']:.3f} | {interval} "
            f"| {score['n']} | {score['prompt']} |"
        )
    seen = facts.by_verdict.get("contaminated", {}).get("n", 0)
    of = facts.by_verdict.get("all", {}).get("n", 0)
    if of:
        clean = facts.by_verdict.get("clean", {}).get("accuracy")
        lines += ["", f"{seen} of {of} items stand in the training text, in words or nearly."]
        if seen and clean is not None:
            lines.append(f"Without them the accuracy is {clean:.3f}.")
    return lines
