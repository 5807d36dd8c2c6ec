"""Better settings for a step on some GPUs: the nearest that fit, and the fastest that fit.

plan = planning.of_recipe(recipe.load("zhilu-13b-open"), shapes.gpu("A100-80G"), count=8)
advice.misfits(plan)               # {step: a sentence}
advice.fastest(plan, plan.steps[0])  # ["batch_rows=2", "gradient_accumulation=8"]
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from finlab.train import costs
from finlab.train.costs import Setup
from finlab.train.planning import Plan, StepPlan
from finlab.train.shapes import Gpu, ModelShape

# {field of Setup: parameter of a step}, for what is changed as it is written.
PARAMETER_OF = {
    "gradient_checkpointing": "gradient_checkpointing",
    "launch": "launch",
    "quantize_base": "quantize_base",
    "fused": "liger",
}


def smaller_batches(setup: Setup, parameters: Mapping[str, Any]) -> list[int]:
    """Return the micro-batch sizes, in rows, that divide a step's present one, largest first.

    Args:
        setup: How the step trains.
        parameters: The parameters of the step, by name. A preference step counts pairs, and a pair
            is two rows.
    """
    unit = 2 if "batch_pairs" in parameters else 1
    units = setup.batch_rows // unit
    return [unit * count for count in range(units, 0, -1) if units % count == 0]


def batch_words(rows: int, setup: Setup, parameters: Mapping[str, Any]) -> list[str]:
    """Return the parameter changes for a smaller micro-batch with the same optimizer step.

    Args:
        rows: The micro-batch in rows, from `smaller_batches`.
        setup: How the step trains now.
        parameters: The parameters of the step, by name.

    Returns:
        Changes such as `batch_rows=2`; empty if the micro-batch does not change.
    """
    if rows == setup.batch_rows:
        return []
    words = [f"batch_rows={rows}"]
    if "batch_pairs" in parameters:
        words = [f"batch_pairs={rows // 2}"]
    times = parameters.get("gradient_accumulation", 1) * setup.batch_rows // rows
    return [*words, f"gradient_accumulation={times}"]


def changes(changed: Setup, now: Setup, parameters: Mapping[str, Any]) -> list[str]:
    """Return how a step becomes a changed setup, in its own parameters' words.

    Args:
        changed: How the step should train.
        now: How it trains now.
        parameters: The parameters of the step, by name.

    Returns:
        Changes such as `dtype=bfloat16`.
    """
    words = []
    if changed.dtype != now.dtype:
        words.append(f"dtype={changed.dtype}")
    words += batch_words(changed.batch_rows, now, parameters)
    for field, parameter in PARAMETER_OF.items():
        value = getattr(changed, field)
        if value != getattr(now, field):
            words.append(f"{parameter}={str(value).lower()}")
    return words


def in_bfloat16(setup: Setup, parameters: Mapping[str, Any]) -> Setup:
    """Return a setup with the type bfloat16, if the step has a parameter for the type."""
    return replace(setup, dtype="bfloat16") if "dtype" in parameters else setup


def nearest_fit(
    shape: ModelShape,
    setup: Setup,
    gpu: Gpu,
    processes: int,
    parameters: Mapping[str, Any],
) -> list[str] | None:
    """Return the changes to the nearest setup that fits a GPU; None if no setup fits.

    The changes that cost the least speed are tried first: bfloat16, then smaller micro-batches,
    then recomputation, then sharding, then a base in four bits.

    Args:
        shape: Sizes of the model.
        setup: A setup that does not fit.
        gpu: The kind of GPU.
        processes: How many GPUs there are; each has one process.
        parameters: The parameters of the step, by name. Only these are changed.
    """
    halved = in_bfloat16(setup, parameters)
    tries = []
    for rows in smaller_batches(setup, parameters):
        tries.append(replace(halved, batch_rows=rows))
    dearer: list[tuple[str, bool | str]] = [("gradient_checkpointing", True)]
    if processes > 1:
        dearer.append(("launch", "zero3"))
    if setup.lora_rank:
        dearer.append(("quantize_base", "nf4"))
    for name, value in dearer:
        if name in parameters and getattr(setup, name) != value:
            tries.append(replace(tries[-1], **{name: value}))
    for tried in tries:
        if costs.memory(shape, tried, processes).total <= gpu.bytes:
            return changes(tried, setup, parameters)
    return None


def misfits(plan: Plan) -> dict[str, str]:
    """Return {step: a sentence} for steps that do not fit, with the nearest setting that fits.

    Args:
        plan: The plan, from `of_recipe`.
    """
    sentences: dict[str, str] = {}
    for step in plan.steps:
        if step.memory.total <= plan.gpu.bytes:
            continue
        need, have = step.memory.total / 1e9, plan.gpu.bytes / 1e9
        name = step.name.split("/")[0]
        sentence = f"step '{step.name}' takes {need:.0f} GB of a GPU of {have:.0f} GB"
        nearest = nearest_fit(plan.shape, step.setup, plan.gpu, plan.count, step.parameters)
        if nearest is None:
            sentence += f": no setting fits {plan.count} × {plan.gpu.name}; take more of them"
        else:
            words = " ".join(f"--set {name}.{change}" for change in nearest)
            sentence += f"; the nearest that fits: {words}"
        sentences.setdefault(name, sentence)
    return sentences


def fastest(plan: Plan, step: StepPlan) -> list[str]:
    """Return the parameter changes that make a step fastest on its GPUs; empty if none helps.

    Args:
        plan: The plan, from `of_recipe`.
        step: One of the plan's steps.
    """
    now = step.setup
    best = step.rate
    words: list[str] = []
    for setup in _faster_setups(now, step.parameters):
        if costs.memory(plan.shape, setup, step.gpus).total > plan.gpu.bytes:
            continue
        # By the model for both, so that a measured efficiency stays in.
        faster = costs.tokens_per_second(plan.shape, setup, plan.gpu)
        rate = step.rate * faster / costs.tokens_per_second(plan.shape, now, plan.gpu)
        if rate > best * 1.01:
            best = rate
            words = changes(setup, now, step.parameters)
    return words


def _faster_setups(now: Setup, parameters: Mapping[str, Any]) -> list[Setup]:
    """Return setups that may be faster than the present one.

    Recomputation costs a third of the time, so a smaller micro-batch without recomputation is
    faster. But the micro-batch needs at least 2,048 tokens: with fewer, memory limits the speed of
    matrix products.

    Args:
        now: How the step trains now.
        parameters: The parameters of the step, by name.
    """
    halved = in_bfloat16(now, parameters)
    found = [halved]
    fusing = (False, True) if "liger" in parameters else (now.fused,)
    for rows, fused in itertools.product(smaller_batches(now, parameters), fusing):
        setup = replace(halved, batch_rows=rows, gradient_checkpointing=False, fused=fused)
        if setup.micro_tokens >= 2048:
            found.append(setup)
    return found
