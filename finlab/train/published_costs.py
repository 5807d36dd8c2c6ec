"""Compare the cost model with figures that others have published."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from finlab import yaml_text
from finlab.train import costs, shapes
from finlab.train.costs import Setup

FILE = Path(__file__).with_name("costs_published.yaml")
FP8_SPEED = 2.0  # FLOP/s of FP8 divided by FLOP/s of bf16, on Hopper
CONTEXT = 2048  # assumed tokens in an answering model's cache; the published figures do not say


def comparison() -> list[dict[str, Any]]:
    """Return a row for each published figure.

    Returns:
        Rows {what, source, unit, published, model, error %}. `model` is the cost model's value in
        GB or tokens/s.
    """
    rows = []
    for entry in yaml_text.parse(yaml_text.read_text(FILE), FILE.name):
        value = _predicted(entry)
        rows.append(
            {
                "what": entry["what"],
                "source": entry["source"],
                "unit": "tokens/s" if entry["kind"] == "speed" else "GB",
                "published": f"{entry['value']:,}",
                "model": f"{value:,.0f}" if value >= 1000 else f"{value:.1f}",
                "error %": 100 * (value / entry["value"] - 1),
            }
        )
    return rows


def _predicted(entry: dict[str, Any]) -> float:
    """Return the cost model's value for a published figure.

    Args:
        entry: A record of costs_published.yaml.

    Returns:
        GB for memory, tokens per second for speed.
    """
    shape = shapes.of_model(entry["model"])
    if entry["kind"] == "answering":
        whole = entry.get("whole_logits", False)
        return costs.answering(shape, entry["form"], CONTEXT, whole_logits=whole).total / 1e9
    values = dict(entry["setup"])
    values["lora_targets"] = tuple(values.get("lora_targets", costs.ALL_TARGETS))
    setup = Setup(**values)
    if entry["kind"] == "memory":
        return costs.memory(shape, setup).total / 1e9
    rate = costs.tokens_per_second(shape, setup, shapes.gpu(entry["gpu"]))
    return rate * (FP8_SPEED if entry.get("fp8") else 1.0)
