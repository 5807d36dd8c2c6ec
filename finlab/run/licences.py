"""What licences say: of data as their cards state it, of models as their own cards do.

licence_of_model("Qwen/Qwen3-8B")      # apache-2.0, once the model is in the hub's cache
commercial_use("cc-by-nc-4.0")         # forbidden
"""

from __future__ import annotations

import re
from pathlib import Path

import yaml

from finlab import paths

FORBIDDING = re.compile(r"\bnc\b|non-?commercial|research")
PERMISSIVE = re.compile(
    r"apache-2\.0|mit|bsd(-[23]-clause)?|cc0-1\.0|cc-by(-sa)?-[234]\.0|odc-by|odbl|pddl|unlicense"
    r"|cdla-permissive-[12]\.0"
)


def forbids_commercial_use(licence: str) -> bool:
    """Tell whether a licence, in the hub's words, forbids commercial use."""
    return bool(FORBIDDING.search(licence.lower()))


def commercial_use(licence: str) -> str:
    """Return what a licence, in the hub's words, says about commercial use.

    Returns:
        `forbidden`, `allowed`, or `see licence` for a licence that is not known here.
    """
    if forbids_commercial_use(licence):
        return "forbidden"
    return "allowed" if PERMISSIVE.fullmatch(licence.lower()) else "see licence"


def licence_of_model(name: str) -> str:
    """Return the licence that a model's own card states; empty if there is no card or licence.

    Args:
        name: A folder, or a hub id, whose card is looked for in the hub's cache.
    """
    import huggingface_hub
    from huggingface_hub.repocard import metadata_load

    local = paths.resolve(name)
    try:
        card = local / "README.md"
        if not local.is_dir():
            card = huggingface_hub.try_to_load_from_cache(name, "README.md")
        if not isinstance(card, (str, Path)):
            return ""
        stated = metadata_load(card) or {}
    except (OSError, ValueError, yaml.YAMLError):
        return ""
    licence = stated.get("license_name") or stated.get("license") or ""
    return ", ".join(licence) if isinstance(licence, list) else str(licence)
