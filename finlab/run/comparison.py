"""Compare two runs: their parameters and their measured results.

Scores of exams have confidence intervals. If two intervals do not overlap, the difference is not
due to chance. If they overlap, the difference may still be real: notebook 07 compares models item
by item.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from finlab import files
from finlab.run.manifests import is_previous, read_manifest
from finlab.run.parameters import SET_BY_RUNNER

# Fields that identify a score.
SCORE_NAME = ("model", "benchmark", "set", "setting", "by", "k")
TELLS_NOTHING = ("seconds", "peak_bytes", "tokens_per_second", "mfu", "hfu", "resumed_at")


def _finished(run_dir: Path) -> dict[str, dict[str, Any]]:
    """Return {step: manifest} of the finished steps of a run."""
    found = {}
    for folder in sorted(run_dir.glob("*/")):
        manifest = read_manifest(folder)
        if manifest is not None and not is_previous(folder):
            found[folder.name] = manifest
    if not found:
        raise ValueError(f"{run_dir} holds no finished step, so there is nothing to compare")
    return found


def parameters(one: Path, other: Path) -> list[dict[str, Any]]:
    """Return a row for each parameter that differs between two runs.

    Args:
        one: Folder of the first run.
        other: Folder of the second run.

    Returns:
        Rows {step, parameter, one, other}. A step that only one run has finished is one row.

    Raises:
        ValueError: A run has no finished step.
    """
    first, second = _finished(one), _finished(other)
    rows = []
    for step in dict.fromkeys([*first, *second]):
        if step not in first or step not in second:
            has = ["finished" if step in each else "–" for each in (first, second)]
            rows.append({"step": step, "parameter": "(the step)", "one": has[0], "other": has[1]})
            continue
        had, has = first[step]["parameters"], second[step]["parameters"]
        for name in dict.fromkeys([*had, *has]):
            if name not in SET_BY_RUNNER and had.get(name) != has.get(name):
                values = {"one": _shown(had.get(name)), "other": _shown(has.get(name))}
                rows.append({"step": step, "parameter": name, **values})
    return rows


def _shown(value: Any) -> str:
    """Return a parameter's value as text of at most 60 characters."""
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


def results(one: Path, other: Path) -> list[dict[str, Any]]:
    """Return a row for each number that two runs measured differently.

    Args:
        one: Folder of the first run.
        other: Folder of the second run.

    Returns:
        Rows {step, quantity, one, other, difference, apart}. `apart` is "yes" if the two intervals
        do not overlap, else "no". It is empty if a number has no interval.
    """
    rows = []
    second = _finished(other)
    for step in _finished(one):
        if step not in second:
            continue
        before = dict(_numbers(files.read_json(one / step / "metrics.json")))
        after = dict(_numbers(files.read_json(other / step / "metrics.json")))
        for name, (value, low, high) in before.items():
            if name not in after or after[name][0] == value:
                continue
            new, new_low, new_high = after[name]
            row = {"step": step, "quantity": name, "one": value, "other": new}
            row["difference"] = new - value
            row["apart"] = ""
            if low is not None and new_low is not None:
                row["one"] = f"{value:.3f} [{low:.3f}, {high:.3f}]"
                row["other"] = f"{new:.3f} [{new_low:.3f}, {new_high:.3f}]"
                row["apart"] = "yes" if new_low > high or new_high < low else "no"
            rows.append(row)
    return rows


Number = tuple[float, float | None, float | None]  # (value, low and high end of its interval)


def _numbers(value: Any, name: str = "") -> Iterator[tuple[str, Number]]:
    """Yield the name and value of every number in a step's metrics.

    Args:
        value: The metrics, or a part of them.
        name: Name of this part; empty for the whole metrics.

    Yields:
        (name, number). A name is, for example, `stage2.eval_loss.after`.
    """
    if isinstance(value, bool) or name.rpartition(".")[2] in TELLS_NOTHING:
        return
    if isinstance(value, int | float):
        yield name, (float(value), None, None)
    elif _is_score(value):
        labels = [str(value[key]) for key in SCORE_NAME if value.get(key)]
        parts = [name, *labels] if name else labels
        yield " ".join(parts), (value["accuracy"], value["ci_low"], value["ci_high"])
    elif isinstance(value, dict):
        for key, part in value.items():
            yield from _numbers(part, f"{name}.{key}" if name else str(key))
    elif isinstance(value, list) and value and all(_is_score(part) for part in value):
        for part in value:
            # A score that names its model or exam does not need the name of its list.
            yield from _numbers(part, "" if "benchmark" in part or "model" in part else name)


def _is_score(value: Any) -> bool:
    return isinstance(value, dict) and "ci_low" in value and "accuracy" in value
