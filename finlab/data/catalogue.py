"""The catalogue of a recipe: everything it reads, where it comes from, and how much is here.

    entries = catalogue.of_recipe(recipe.load("zhilu-13b-open"))
    catalogue.fetch(entries, print)     # fetch what is missing, as far as it is on the hub

The cards are named in the parameters `*_cards`. The models are the base model and the models that
it is compared with. To find out what is here, no network is needed.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Any

from finlab import paths
from finlab.data import card_files, cards, hub, hub_models, hub_state
from finlab.data.card_schema import Card
from finlab.data.hub_errors import Report
from finlab.files import size_of, size_text
from finlab.run import licences
from finlab.run.recipe import Recipe

# Tokens per byte of text, measured on the available data with the 55,296 tokens of Chinese-LLaMA-2:
# Chinese 0.22 to 0.28, English 0.24 to 0.25. With the 32,000 tokens of LLaMA, Chinese text has
# twice as many tokens.
TOKENS_PER_BYTE = 0.25
MODEL_PARAMETERS = ("base", "candidates", "folders")
HUB_ID = re.compile(r"[\w.-]+/[\w.-]+")


@dataclass
class Entry:
    """One thing that a recipe reads.

    Attributes:
        name: Name of the card, or folder or hub id of the model.
        kind: The kind of the card (text, dialogue, exam ...), or `model`.
        place: Where it comes from, in words.
        licence: The licence, as its card states it; empty for a model that is not on this machine.
        state: `there`, `partly there`, `missing` or `not public`.
        bytes: Size of the data here, if `state` is `there`. For a card that is not complete, size
            of all its data. 0 if not known.
        tokens: How many tokens it holds; 0 if not known.
        counted: Whether the tokens were counted; if not, they are estimated from bytes.
        why: Why it is missing or not public, if there is more to say; else empty.
        card: The card; None for a model.
        steps: Names of the steps that read it.
        parameters: Names of the parameters that name it, such as `base` or `text_cards`.
    """

    name: str
    kind: str
    place: str
    licence: str
    state: str
    bytes: int
    tokens: float = 0.0
    counted: bool = False
    why: str = ""
    card: Card | None = None
    steps: list[str] = field(default_factory=list)
    parameters: set[str] = field(default_factory=set)

    @property
    def can_be_fetched(self) -> bool:
        """Return whether it is on the hub and not complete here."""
        return self.place.startswith("hub ") and self.state in ("missing", "partly there")

    @property
    def is_trained_from(self) -> bool:
        """Return whether a model is made from it: from text, dialogues, pairs, or the base."""
        if self.kind == "model":
            return "base" in self.parameters
        return self.kind not in ("exam", "question", "label")


def of_recipe(plan: Recipe) -> list[Entry]:
    """Return an entry for each card and model that a recipe reads, in the order of reading.

    Args:
        plan: The recipe.

    Raises:
        ValueError: A card is missing or not valid.
    """
    # If two steps read a card with different `max_bytes`, it has two folders in the cache, so it
    # has two entries.
    found: dict[tuple[str, float], Entry] = {}
    for step in plan.steps:
        limits = step.parameters.get("source_bytes", {})
        for name, value in step.parameters.items():
            for each in value if isinstance(value, list) else [value]:
                if name.endswith("_cards"):
                    card = cards.limited(cards.read(each), limits)
                    limit = card.spec.get("max_bytes", 0)
                    key = each, limit
                    if key not in found:
                        found[key] = _card_entry(card)
                elif name in MODEL_PARAMETERS and each:
                    key = each, 0
                    if key not in found:
                        found[key] = _model_entry(each)
                else:
                    continue
                found[key].parameters.add(name)
                if step.name not in found[key].steps:
                    found[key].steps.append(step.name)
    return list(found.values())


def fetch(entries: list[Entry], report: Report) -> None:
    """Fetch everything that is missing here and is on the hub.

    Args:
        entries: The entries from `of_recipe`.
        report: Called with lines about the progress.

    Raises:
        ValueError: An address is wrong, the user must ask for access, or the disk is too small.
        ConnectionError: The hub does not answer. What was fetched so far is kept.
    """
    for entry in entries:
        if not entry.can_be_fetched:
            continue
        if entry.card is None:
            hub_models.fetch(entry.name, report)
        else:
            hub.fetch(entry.card, report)


# --- one entry -----------------------------------------------------------------------------------
def _card_entry(card: Card) -> Entry:
    """Return the entry of a card; its `steps` are added later."""
    state, size, why = _state(card)
    entry = Entry(card.name, card.kind, _place(card), card.licence, state, size, why=why, card=card)
    entry.tokens, entry.counted = tokens_of(card, size)
    if state == "there" and card.spec["format"] == "hub":
        # All rows are here, so their real size is used, not the size of the dataset in the card.
        entry.tokens, entry.counted = size * TOKENS_PER_BYTE, False
    return entry


def _state(card: Card) -> tuple[str, int, str]:
    """Return (state, bytes, why) of a card, see `Entry`."""
    if "stand_in" in card.spec:
        return "not public", 0, f"the nearest that is public: {card.spec['stand_in']}"
    if "hub" in card.spec:
        held = hub_state.held(card)
        return held.state, held.bytes if held.state == "there" else held.wanted, ""
    try:
        return "there", sum(map(size_of, card_files.found(card))), ""
    except ValueError as error:
        return "missing", int(card.spec.get("bytes", 0)), str(error)


def _place(card: Card) -> str:
    """Return where the data of a card comes from, in words."""
    spec = card.spec
    if "stand_in" in spec:
        return "not public"
    if "hub" in spec:
        files = spec.get("data_files") or [spec[key] for key in ("config",) if key in spec]
        return f"hub {spec['hub']}{' ' if files else ''}{', '.join(files)}"
    root = spec.get("root")
    return {"closed_world": "finlab", "data_cards": "finlab"}.get(root or "", "FINLAB_DATA")


def tokens_of(card: Card, held_bytes: int = 0) -> tuple[float, bool]:
    """Return how many tokens a card holds, and whether they were counted.

    Counted tokens are the card's `tokens`, or the tokens in its table of statistics. Otherwise they
    are estimated from its bytes of text.

    Args:
        card: The card.
        held_bytes: Size of the data here, used if the card does not state a size.

    Returns:
        (tokens, True if they were counted); 0 tokens if no size is known.
    """
    spec = card.spec
    size = spec.get("text_bytes") or spec.get("bytes") or held_bytes
    limit = spec.get("max_bytes") or size
    share = min(1.0, limit / size) if size else 1.0
    if spec.get("tokens"):
        return spec["tokens"] * share, True
    counted = re.search(r"^\| tokens \| ([\d,]+) \|$", card.text, re.M)
    if counted:
        return float(counted[1].replace(",", "")), True
    return size * share * TOKENS_PER_BYTE, False


def _model_entry(name: str) -> Entry:
    """Return the entry of a model, which is in a folder or on the hub.

    Args:
        name: Path of the folder, or hub id.
    """
    try:
        local = paths.resolve(name)
    except ValueError as error:  # an environment variable in the path is not set
        return Entry(name, "model", "a folder", "", "missing", 0, why=str(error))
    if local.is_dir():
        licence = licences.licence_of_model(name) or "unknown"
        return Entry(name, "model", "a folder", licence, "there", size_of(local))
    if not HUB_ID.fullmatch(name):
        return Entry(name, "model", "a folder", "", "missing", 0, why=f"nothing stands at {name}")
    held = hub_models.held(name)
    licence = licences.licence_of_model(name)
    if held.state == "there":
        licence = licence or "unknown"
    return Entry(name, "model", f"hub {name}", licence, held.state, held.bytes)


# --- texts about entries -------------------------------------------------------------------------
def restrictions(entries: list[Entry]) -> list[str]:
    """Return a line for each card or base whose licence is unknown or forbids commercial use.

    Such a licence also concerns the model that is trained. Exams, questions, labels and models that
    are only compared are left out.

    Args:
        entries: The entries from `of_recipe`.
    """
    lines = []
    for entry in entries:
        if not entry.is_trained_from:
            continue
        if licences.forbids_commercial_use(entry.licence):
            lines.append(f"{entry.name}: {entry.licence} forbids commercial use of what it trains")
        elif entry.licence == "unknown":
            lines.append(f"{entry.name}: no licence is stated; ask its authors before you publish")
    return lines


def row(entry: Entry) -> dict[str, Any]:
    """Return an entry as a row of a table, with sizes as text such as 14.7 B."""
    cell = f"{entry.card.language}_{entry.card.domain}" if entry.card else ""
    mark = "" if entry.counted else "~"
    return {
        "name": entry.name,
        "kind": entry.kind,
        "corner": cell,
        "from": entry.place,
        "licence": entry.licence,
        "state": entry.state,
        "size": size_text(entry.bytes) if entry.bytes else "–",
        "tokens": f"{mark}{number_text(entry.tokens)}" if entry.tokens else "–",
        "read by": ", ".join(entry.steps),
    }


def number_text(value: float) -> str:
    """Return a large number as text with a unit (K, M, B or T), such as 14.7 B."""
    for unit, size in (("T", 1e12), ("B", 1e9), ("M", 1e6), ("K", 1e3)):
        if abs(value) >= size:
            return f"{value / size:.3g} {unit}"
    return f"{value:.3g}"
