"""Run the things to try at the end of each notebook, and keep the results.

    python -m benchmarks.exercises runs/smoke [00 03.2 ...]

Needs a finished smoke run. The run is not changed: each try works in a copy. All tries together
take about forty minutes on two cores. The figures go to notebooks/results/exercises.json, and from
there into docs/exercises.md (`python -m benchmarks.tables`).
"""

from __future__ import annotations

import shutil
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.tables import RESULTS, write_results
from finlab import files
from finlab.run import environment

STEP_OF = {
    "00": "base",
    "01": "corpus",
    "02": "tokenizer",
    "03": "pretrain",
    "04": "sft",
    "05": "dpo",
    "06": "quantize",
    "07": "evaluate",
    "08": "knowledge",
    "10": "reasoning",
}


@dataclass(frozen=True)
class Exercise:
    """A thing to try.

    Attributes:
        name: Notebook and number, such as `03.1`.
        settings: The values to try, each a list of `parameter=value`; [] is the smoke run itself.
        quantities: {what is reported: its place in the metrics, as `a.b.c`}.
        then: A step that runs afterwards; its metrics are read instead.
    """

    name: str
    settings: list[list[str]]
    quantities: dict[str, str]
    then: str = ""

    @property
    def step(self) -> str:
        """The step that runs with other values."""
        return STEP_OF[self.name[:2]]


BITS = "bits_per_character"
EXERCISES = [
    Exercise(
        "00.1",
        [["epochs=1"], [], ["epochs=12"]],
        {"bits per character, held out": f"{BITS}.after"},
    ),
    Exercise(
        "00.2",
        [["vocab_size=600"], [], ["vocab_size=3000"]],
        {"characters per token": "chars_per_token", "bits per character": f"{BITS}.after"},
    ),
    Exercise(
        "01.1",
        [["near_threshold=0.6"], [], ["near_threshold=1.0"]],
        {"tokens dropped as near copies": "near", "tokens kept": "kept"},
    ),
    Exercise(
        "01.2",
        [[], ["keep_other_figures=false"]],
        {"tokens dropped as near copies": "near", "tokens kept": "kept"},
    ),
    Exercise("01.3", [["general_shares=[0.95]", "max_epochs=2"]], {}),
    Exercise(
        "02.1",
        [[], ["piece_type=char"]],
        {
            "characters per token, zh_finance": "chars_per_token.zh_finance.after",
            "new pieces": "new_pieces",
        },
    ),
    Exercise("02.2", [[], ["trial_steps=60"]], {"loss by start, in full": "starts"}),
    Exercise(
        "02.3",
        [["max_new=100"], [], ["max_new=3000", "train_pieces=4000"]],
        {
            "cheapest, this base": "cheapest_pieces.this base",
            "cheapest, 13B": "cheapest_pieces.13B",
        },
    ),
    Exercise(
        "03.1",
        [["lora_rank=4", "lora_alpha=8"], [], ["lora_rank=128", "lora_alpha=256"]],
        {
            "zh_finance": f"{BITS}.zh_finance.after",
            "en_general": f"{BITS}.en_general.after",
            "trained": "trainable_parameters",
        },
    ),
    Exercise(
        "03.2",
        [[], ["train_embeddings=new_rows"], ["train_embeddings=none"]],
        {
            "zh_finance": f"{BITS}.zh_finance.after",
            "zh_general": f"{BITS}.zh_general.after",
            "en_general": f"{BITS}.en_general.after",
        },
    ),
    Exercise(
        "03.3",
        [[], ["own_share=0.1"]],
        {"own": f"{BITS}.own.after", "zh_finance": f"{BITS}.zh_finance.after"},
    ),
    Exercise(
        "04.1",
        [[], ["text_share=0"]],
        {
            "zh_general, bits per character": f"{BITS}.zh_general.before",
            "zh_finance": f"{BITS}.zh_finance.before",
            "exam accuracy, finance": "exams.finance.before",
        },
        then="dpo",
    ),
    Exercise(
        "04.2",
        [["safety_share=0"], [], ["safety_share=0.5"]],
        {
            "refused of those to refuse": "refusals.refused",
            "of": "refusals.asked",
            "refused without need": "refusals.refused without need",
        },
    ),
    Exercise("04.3", [[], ["stage2_cards=[]"]], {"verdicts of finance": "verdicts_finance"}),
    Exercise(
        "05.1",
        [["beta=0.01"], [], ["beta=1.0"]],
        {
            "margin": "reward_margin.value",
            "better answer likelier, by token": "chosen_likelier.by token.after",
            "exam accuracy, finance": "exams.finance.after",
        },
    ),
    Exercise(
        "05.2",
        [[], ["loss_type=[sigmoid_norm]"]],
        {
            "correlation with length": "length_bias.correlation",
            "reward accuracy": "reward_accuracy.value",
        },
    ),
    Exercise(
        "05.3",
        [[], ["learning_rate=2.0e-3"]],
        {
            "reward accuracy": "reward_accuracy.value",
            "bits per character, zh_finance": f"{BITS}.zh_finance.after",
            "exam accuracy, finance": "exams.finance.after",
        },
    ),
    Exercise(
        "06.1",
        [[], ["gptq_group=64"], ["gptq_group=128"]],
        {"bytes of gptq4": "gptq4.bytes", "divergence, nats": "gptq4.kl"},
    ),
    Exercise("06.2", [["exam_items=20"], []], {"format": "choice.format", "why": "choice.why"}),
    Exercise("06.3", [["max_drop=0.01"]], {"format": "choice.format", "why": "choice.why"}),
    Exercise("07.2", [["exam_items=20"], []], {"verdicts beyond chance": "beyond_chance"}),
    Exercise(
        "08.1",
        [["least_precision=0.5"], [], ["least_precision=0.99"]],
        {"left unanswered": "answered_from.none", "right, guarded": "accuracy.guarded.value"},
    ),
    Exercise(
        "08.2",
        [[], ["prompt_passages=6"]],
        {"right, after tuning": "after_tuning", "unsupported": "unsupported_share"},
    ),
    Exercise(
        "08.3",
        [[], ["not_found_share=0.0"]],
        {"right, after tuning": "after_tuning", "unsupported": "unsupported_share"},
    ),
    Exercise(
        "10.2",
        [[], ["rewards=[correct, formed]"]],
        {"right after reinforcement": "accuracy.after.accuracy", "clipped": "clipped_share"},
    ),
    Exercise(
        "10.3",
        [[], ["beta=1.0"]],
        {"right after reinforcement": "accuracy.after.accuracy", "KL": "kl"},
    ),
]


# --- reading -------------------------------------------------------------------------------------
def _near(metrics: dict[str, Any]) -> int:
    """Return the tokens that were dropped as near copies."""
    total = 0
    for of_source in metrics["dropped"].values():
        for reason, tokens in of_source.items():
            total += tokens if reason.startswith("near duplicate") else 0
    return total


def _starts(metrics: dict[str, Any]) -> str:
    """Return the last loss of each start with fully trained tables."""
    told = []
    for row in metrics["trials"]:
        if row["embeddings"] == "full":
            after = next(value for name, value in row.items() if name.startswith("after"))
            told.append(f"{row['rows begin as']} {after:.2f}")
    return ", ".join(told)


def _beyond_chance(metrics: dict[str, Any]) -> str:
    """Return how many verdicts by stage are not `not told from no change`."""
    rows = metrics["by_stage"]
    sure = [row for row in rows if row["ci_low"] > 0 or row["ci_high"] < 0]
    return f"{len(sure)} of {len(rows)}"


def _verdicts_finance(metrics: dict[str, Any]) -> str:
    """Return the verdicts on held-out finance answers."""
    for row in metrics["verdicts"]:
        if row["kind"] == "finance":
            return ", ".join(f"{name} {count}" for name, count in row.items() if name != "kind")
    return "none"


MADE = {
    "near": _near,
    "kept": lambda metrics: sum(metrics["tokens_out"].values()),
    "starts": _starts,
    "beyond_chance": _beyond_chance,
    "verdicts_finance": _verdicts_finance,
    "after_tuning": lambda metrics: metrics["accuracy"]["with, after tuning"]["value"],
}


def _read(metrics: dict[str, Any], place: str) -> Any:
    """Return a quantity of a step's metrics.

    Args:
        metrics: The metrics of the step.
        place: `a.b.c`, or a name in MADE.
    """
    if place in MADE:
        return MADE[place](metrics)
    value: Any = metrics
    for part in place.split("."):
        value = value[part]
    return value


# --- running -------------------------------------------------------------------------------------
def _try(exercise: Exercise, setting: list[str], run_dir: Path) -> dict[str, Any]:
    """Run a step with other values in a copy of a run, and read its metrics.

    Args:
        exercise: The exercise to try.
        setting: The values.
        run_dir: The finished run.

    Returns:
        {quantity: value}, or {said: the message of the refusal}.
    """
    last = exercise.then or exercise.step
    with tempfile.TemporaryDirectory() as folder:
        copy = run_dir
        if setting:
            copy = Path(folder) / "smoke"
            shutil.copytree(run_dir, copy, symlinks=True)
            for step in (exercise.step, exercise.then):
                refused = _run(step, exercise, setting, copy) if step else ""
                if refused:
                    return {"said": refused}
        metrics = files.read_json(copy / last / "metrics.json")
        return {name: _read(metrics, place) for name, place in exercise.quantities.items()}


def _run(step: str, exercise: Exercise, setting: list[str], copy: Path) -> str:
    """Run a step in a copy of a run; return the message of a refusal, or nothing.

    Args:
        step: The name of the step.
        exercise: The exercise to try.
        setting: The values of the exercise's step; a step after it must know them too.
        copy: The copy of the run.
    """
    command = [sys.executable, "-m", "finlab", "run", "smoke", "--run-dir", str(copy)]
    command += ["--only", step, "--force"]
    for value in setting:
        command += ["--set", f"{exercise.step}.{value}"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode == 0:
        return ""
    said = done.stderr.strip().splitlines()
    # A failed step prints its error among other lines; a refused recipe prints one line.
    errors = [line.strip() for line in said if "Error: " in line]
    return (errors or said)[-1]


def main(words: list[str]) -> None:
    """Run the exercises of some notebooks, or of all, and write the results."""
    run_dir, *notebooks = words
    path = RESULTS / "exercises.json"
    found = files.read_json(path)["tries"] if path.exists() else {}
    began = time.time()
    for exercise in EXERCISES:
        if not exercise.name.startswith(tuple(notebooks or [""])):
            continue
        found[exercise.name] = []
        for setting in exercise.settings:
            told = _try(exercise, setting, Path(run_dir))
            words_of = ", ".join(setting) or "as it is"
            found[exercise.name].append({"setting": words_of, **told})
            print(f"{time.time() - began:6.0f} s  {exercise.name}  {words_of}  {told}", flush=True)
        _save(found)


def _save(found: dict[str, list[dict[str, Any]]]) -> None:
    """Write the results so far.

    Args:
        found: {exercise: {setting and quantities} of each try}.
    """
    record = {
        "command": "python -m benchmarks.exercises runs/smoke",
        "device": environment.device(),
        "versions": environment.versions(),
        "finished": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
        "tries": dict(sorted(found.items())),
    }
    write_results("exercises", record)


if __name__ == "__main__":
    main(sys.argv[1:])
