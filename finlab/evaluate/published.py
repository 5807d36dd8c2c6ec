"""Published scores of the five systems and others, to compare ours with."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml


def published_scores(benchmarks: set[str]) -> list[dict[str, Any]]:
    """Return the published scores on benchmarks, from `published.yaml`.

    Returns:
        Rows {system, benchmark, split, shots, score (percent), source, compare}, and `contaminated`
        where a system was trained on the benchmark.
    """
    path = Path(__file__).parent / "published.yaml"
    lines = yaml.safe_load(path.read_text(encoding="utf-8"))
    return [line for line in lines if line["benchmark"] in benchmarks]
