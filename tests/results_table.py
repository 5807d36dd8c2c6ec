"""Write what a run measured to notebooks/results/, and the README's table from it.

    python -m tests.results_table runs/smoke runs/real-tiny
"""

import json
import sys
from pathlib import Path

from finlab import recipe, report

RESULTS = recipe.NOTEBOOKS / "results"
KEPT = ("characters per token, zh_finance", "characters per token, en", "bits per character", "evaluation loss", "answers that end", "loss at step 0",
        "held-out reward accuracy", "int8", "nf4", "gptq4", "full", "accuracy, ")


def write(run_dir: Path) -> Path:
    """Write the main results of a run with its command, versions and device."""
    steps = report._steps(run_dir)
    manifests = [found for found, _, _ in steps]
    record = {"command": f"finlab run {run_dir.name}", "device": manifests[-1]["device"], "versions": manifests[-1]["versions"],
              "git_commit": manifests[-1]["git_commit"], "finished": manifests[-1]["finished"], "seconds": sum(found["seconds"] for found in manifests),
              "peak_bytes": max(found["peak_bytes"] for found in manifests), "rows": report.rows(run_dir)}
    RESULTS.mkdir(exist_ok=True)
    path = RESULTS / f"{run_dir.name}.json"
    path.write_text(json.dumps(record, ensure_ascii=False, indent=1) + "\n", encoding="utf-8")
    return path


def markdown() -> str:
    """Return the README's tables from the results files."""
    text = ""
    for name in ("smoke", "real-tiny"):
        found = json.loads((RESULTS / f"{name}.json").read_text(encoding="utf-8"))
        text += f"`{found['command']}` on {found['device']}: {found['seconds']:.0f} s of notebooks, peak {found['peak_bytes'] / 1e9:.1f} GB.\n\n| {name} | quantity | value |\n|---|---|---|\n"
        text += "".join(f"| {step} | {quantity} | {value} |\n" for step, quantity, value in found["rows"] if quantity.startswith(KEPT)) + "\n"
    return text


def main() -> None:
    for folder in sys.argv[1:]:
        write(recipe.ROOT / folder)
    path = recipe.ROOT / "README.md"
    head, rest = path.read_text(encoding="utf-8").split("<!-- results:begin -->\n")
    path.write_text(f"{head}<!-- results:begin -->\n{markdown()}<!-- results:end -->{rest.split('<!-- results:end -->')[1]}", encoding="utf-8")


if __name__ == "__main__":
    main()
