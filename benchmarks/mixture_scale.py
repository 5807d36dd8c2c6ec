"""Draw and pack a corpus of hundreds of millions of documents, as columns.

    python -m benchmarks.mixture_scale              # 366 million documents, 243 billion tokens
    python -m benchmarks.mixture_scale 20000000     # fewer; writes nothing

That is the size of Golden-GPT's published table. The 27 sources have random documents of real
lengths. The result goes to notebooks/results/mixture.json.
"""

from __future__ import annotations

import json
import resource
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy

from finlab import paths
from finlab.data import mixture, packing
from finlab.data.columns import Documents
from finlab.run import environment

GOLDEN = 366_000_000  # documents
SOURCES = 27
ROW_LENGTH = 4096
BLOCK = 20_000_000  # documents made at once


def documents(count: int) -> Documents:
    """Return random documents in the four cells.

    Args:
        count: The number of documents.
    """
    rng = numpy.random.default_rng(0)
    names = []
    for number in range(SOURCES):
        domain, language = mixture.CELLS[number % 4]
        names.append((f"{domain}_{language}_{number}", mixture.label((domain, language))))
    names.sort()
    tokens = numpy.empty(count, numpy.int32)
    codes = numpy.empty(count, numpy.int16)
    for first in range(0, count, BLOCK):
        last = min(count, first + BLOCK)
        drawn = rng.lognormal(6.0, 1.0, last - first)
        tokens[first:last] = numpy.clip(drawn, 8, 60_000).astype(numpy.int32)
        codes[first:last] = rng.integers(0, SOURCES, last - first)
    return Documents(tokens, codes, [name for name, _ in names], [cell for _, cell in names])


def run(count: int) -> dict[str, Any]:
    """Draw and pack, and return the time and memory that it took.

    Args:
        count: The number of documents.
    """
    held = documents(count)
    total = int(held.tokens.sum(dtype=numpy.int64))
    weights = {source: 1.0 + number % 5 for number, source in enumerate(held.sources)}
    homes = dict(zip(held.sources, held.cells, strict=True))
    plan = mixture.by_weight(int(total * 0.98), weights, homes)
    began = time.perf_counter()
    orders, realised = mixture.draw(held, plan, seed=17, max_epochs=4.0)
    drawn = time.perf_counter()
    rows = packing.pack_phases(held.tokens, orders, ROW_LENGTH, seed=17)
    packed = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        rows.save(Path(folder))
        size = sum(path.stat().st_size for path in Path(folder).iterdir())
    return {
        "documents": count,
        "tokens_there": total,
        "tokens_drawn": realised[0]["tokens"],
        "rows": len(rows),
        "fill": packing.packing_efficiency(rows, ROW_LENGTH),
        "draw_seconds": drawn - began,
        "pack_seconds": packed - drawn,
        "plan_bytes": size,
        "peak_bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
    }


def main() -> None:
    """Measure, print, and keep the result of the full size."""
    count = int(sys.argv[1]) if sys.argv[1:] else GOLDEN
    found = run(count)
    print(json.dumps(found, indent=1))
    if count == GOLDEN:
        record = {
            "command": "python -m benchmarks.mixture_scale",
            "device": environment.device(),
            "versions": environment.versions(),
            "git_commit": environment.git_commit(),
            "finished": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
            **found,
        }
        path = paths.NOTEBOOKS / "results" / "mixture.json"
        path.write_text(json.dumps(record, indent=1) + "\n")


if __name__ == "__main__":
    main()
