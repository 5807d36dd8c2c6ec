"""The model card beside every model of a run: from what it was made, and what that forbids.

A licence that forbids commercial use binds whatever was trained on the data. So the licences of all
cards behind a step stand in its manifest, and in the README.md of each of its models.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from finlab import files

# Cards that score a model, or are asked of it, are not trained on.
NOT_TRAINED_ON = ("exam_cards", "question_cards", "customer_cards")
MODEL_FILES = ("config.json", "adapter_config.json")


def forbids_commercial_use(licence: str) -> bool:
    """Tell whether a licence, in the hub's words, forbids commercial use."""
    return "-nc" in licence.lower()


def trained_cards(parameters: dict[str, Any]) -> list[str]:
    """Return the cards that a step trains on, by its `*_cards` parameters."""
    found: list[str] = []
    for name, value in parameters.items():
        if name.endswith("_cards") and name not in NOT_TRAINED_ON:
            found += value
    return list(dict.fromkeys(found))


def write(artifact: Path, step: str, base: str, licences: dict[str, str]) -> list[Path]:
    """Write the card of every model in a step's artifact.

    Args:
        artifact: Its folder.
        step: The step's name.
        base: The base's folder or hub id; empty for the tiny one.
        licences: {card: licence} of all data behind the step.

    Returns:
        The files.
    """
    written = []
    for name in MODEL_FILES:
        for path in sorted(artifact.rglob(name)):
            card = path.parent / "README.md"
            if card not in written:
                files.write_text(card, _text(f"{step}/{path.parent.name}", base, licences))
                written.append(card)
    return written


def _text(title: str, base: str, licences: dict[str, str]) -> str:
    """Return a model card.

    Args:
        title: Which model it is.
        base: What it was made from.
        licences: {card: licence}.
    """
    forbidding = {name: each for name, each in licences.items() if forbids_commercial_use(each)}
    unknown = [name for name, each in licences.items() if each == "unknown"]
    licence = next(iter(forbidding.values()), "other").lower()
    front = ["---", f"license: {licence}"]
    if licence == "other":
        front.append("license_name: that of the base and of the data")
    if base and not base.startswith(("/", ".", "~", "$")):
        front.append(f"base_model: {base}")
    front += ["tags: [finlab]", "---"]
    lines = [f"# {title}", "", f"Made from {base or 'a tiny base of finlab'} with finlab.", ""]
    lines += ["## Licence and terms", ""]
    for name, each in forbidding.items():
        lines.append(f"**No commercial use**: it was trained on {name}, whose licence is {each}.")
        lines.append("")
    for name in unknown:
        lines += [f"{name} states no licence: ask its authors before you publish this model.", ""]
    lines += ["The licence of the base holds too.", "", "## Data", ""]
    lines += ["| card | licence |", "|---|---|"]
    lines += [f"| {name} | {each} |" for name, each in sorted(licences.items())]
    lines += ["", "## Uses and limits", ""]
    lines.append("For research. Nothing that it says is investment advice.")
    return "\n".join([*front, *lines]) + "\n"
