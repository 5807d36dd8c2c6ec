"""The catalogue of a recipe: everything it reads, where from, and what of it is here.

    entries = catalogue.of_recipe(recipe.load("zhilu-13b-open"))
    catalogue.fetch(entries, print)     # what is missing and can be had

Cards are those of `*_cards` parameters; models are the base and what it is compared with. Asking
what is here needs no network.
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
from finlab.run.model_card import forbids_commercial_use
from finlab.run.recipe import Recipe

# Tokens in a byte of text, measured on the sets at hand with Chinese-LLaMA-2's 55,296 tokens:
# Chinese 0.22 to 0.28, English 0.24 to 0.25. With LLaMA's own 32,000, Chinese has twice as many.
TOKENS_PER_BYTE = 0.25
MODEL_PARAMETERS = ("base", "candidates", "folders")
HUB_ID = re.compile(r"[\w.-]+/[\w.-]+")


@dataclass
class Entry:
    """One thing that a recipe reads.

    Attributes:
        name: The card's name, or the model's folder or id.
        kind: What it is: text, dialogue, exam ..., or model.
        place: Where it comes from, in words.
        licence: As its card states it; empty for a model that is not here yet.
        state: there, partly there, missing, or not public.
        bytes: What is here; where nothing is, what will be downloaded; 0 where nobody knows.
        tokens: How many tokens it holds, 0 where nobody knows.
        counted: Whether somebody counted them; else they are estimated from bytes.
        why: Why it is missing, where there is a reason to tell.
        card: The card; None for a model.
        steps: The steps that read it.
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

    @property
    def can_be_fetched(self) -> bool:
        """Whether it is on the hub and not whole here."""
        return self.place.startswith("hub ") and self.state in ("missing", "partly there")


def of_recipe(plan: Recipe) -> list[Entry]:
    """Return what the steps of a recipe read, each once, in the order of reading.

    Args:
        plan: The recipe.

    Raises:
        ValueError: A card is missing or wrong.
    """
    # A card that two steps read up to different bytes is two folders of the cache, so two entries.
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
                if step.name not in found[key].steps:
                    found[key].steps.append(step.name)
    return list(found.values())


def fetch(entries: list[Entry], report: Report) -> None:
    """Bring what is missing and can be had.

    Args:
        entries: From `of_recipe`.
        report: Gets lines about the progress.

    Raises:
        ValueError: An address is wrong, one must ask for access, or the disk is too small.
        ConnectionError: The hub does not answer. What came so far is kept.
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
    """Return the entry of a card, whose steps are filled in later."""
    state, size, why = _state(card)
    entry = Entry(card.name, card.kind, _place(card), card.licence, state, size, why=why, card=card)
    entry.tokens, entry.counted = tokens_of(card, size)
    if state == "there" and card.spec["format"] == "hub":
        # All rows are here, so their own size counts, and not what the card says of the set.
        entry.tokens, entry.counted = size * TOKENS_PER_BYTE, False
    return entry


def _state(card: Card) -> tuple[str, int, str]:
    """Return a card's state, its bytes, and why it is missing.

    Args:
        card: The card.
    """
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
    """Return where a card's data come from, in words."""
    spec = card.spec
    if "stand_in" in spec:
        return "not public"
    if "hub" in spec:
        files = spec.get("data_files") or [spec[key] for key in ("config",) if key in spec]
        return f"hub {spec['hub']}{' ' if files else ''}{', '.join(files)}"
    root = spec.get("root")
    return {"closed_world": "finlab", "data_cards": "finlab"}.get(root or "", "FINLAB_DATA")


def tokens_of(card: Card, held_bytes: int = 0) -> tuple[float, bool]:
    """Return how many tokens a card holds, and whether somebody counted them.

    Args:
        card: Counted tokens are its `tokens`, or those of its table of statistics. Else they are
            estimated from its bytes of text.
        held_bytes: What is here, where the card does not say its size.
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
    """Return the entry of a model, which is a folder or on the hub."""
    try:
        local = paths.resolve(name)
    except ValueError as error:  # a variable in it is not set
        return Entry(name, "model", "a folder", "", "missing", 0, why=str(error))
    if local.is_dir():
        licence = hub_models.licence(str(local))
        return Entry(name, "model", "a folder", licence, "there", size_of(local))
    if not HUB_ID.fullmatch(name):
        return Entry(name, "model", "a folder", "", "missing", 0, why=f"nothing stands at {name}")
    held = hub_models.held(name)
    licence = hub_models.licence(name)
    return Entry(name, "model", f"hub {name}", licence, held.state, held.bytes)


# --- what to tell about all of them --------------------------------------------------------------
def restrictions(entries: list[Entry]) -> list[str]:
    """Return a line for each licence that binds what is trained: none stated, or no commerce.

    Args:
        entries: From `of_recipe`. Exams are not trained on.
    """
    lines = []
    for entry in entries:
        if entry.kind in ("exam", "question", "label"):
            continue
        if forbids_commercial_use(entry.licence):
            lines.append(f"{entry.name}: {entry.licence} forbids commercial use of what it trains")
        elif entry.licence == "unknown":
            lines.append(f"{entry.name}: no licence is stated; ask its authors before you publish")
    return lines


def row(entry: Entry) -> dict[str, Any]:
    """Return an entry as the row of a table, sizes as words."""
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
    """Return a large number in words, such as 14.7 B."""
    for unit, size in (("T", 1e12), ("B", 1e9), ("M", 1e6), ("K", 1e3)):
        if abs(value) >= size:
            return f"{value / size:.3g} {unit}"
    return f"{value:.3g}"
