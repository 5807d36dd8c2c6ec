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


def dtype_words(changed: Setup, setup: Setup) -> list[str]:
    """Return the change of the type, in a step's own words; an empty list where it stays."""
    return [] if changed.dtype == setup.dtype else [f"dtype={changed.dtype}"]


def nearest_fit(
    shape: ModelShape,
    setup: Setup,
    gpu: Gpu,
    processes: int,
    parameters: Mapping[str, Any],
) -> tuple[Setup, list[str]] | None:
    """Return the nearest setup that fits a GPU and its changes; None if no setup fits.

    The changes that cost the least speed are tried first: bfloat16, then smaller micro-batches,
    then recomputation, then sharding, then a base in four bits.

    Args:
        shape: Sizes of the model.
        setup: A setup that does not fit.
        gpu: The kind of GPU.
        processes: How many GPUs there are; each has one process.
        parameters: The parameters of the step, by name. Only these are changed.
    """
    in_bfloat16 = replace(setup, dtype="bfloat16") if "dtype" in parameters else setup
    tries = []
    for rows in smaller_batches(setup, parameters):
        tries.append(replace(in_bfloat16, batch_rows=rows))
    dearer: list[tuple[str, bool | str]] = [("gradient_checkpointing", True)]
    if processes > 1:
        dearer.append(("launch", "zero3"))
    if setup.lora_rank:
        dearer.append(("quantize_base", "nf4"))
    for name, value in dearer:
        if name in parameters and getattr(setup, name) != value:
            tries.append(replace(tries[-1], **{name: value}))
    for tried in tries:
        if costs.memory(shape, tried, processes).total > gpu.bytes:
            continue
        words = dtype_words(tried, setup)
        words += batch_words(tried.batch_rows, setup, parameters)
        for name, value in dearer:
            if getattr(tried, name) != getattr(setup, name):
                words.append(f"{name}=true" if value is True else f"{name}={value}")
        return tried, words
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
            words = " ".join(f"--set {name}.{change}" for change in nearest[1])
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
    best, words = step.rate, []
    for setup in _faster_setups(now, step.parameters):
        if costs.memory(plan.shape, setup, step.gpus).total > plan.gpu.bytes:
            continue
        # By the model for both, so that a measured efficiency stays in.
        faster = costs.tokens_per_second(plan.shape, setup, plan.gpu)
        rate = step.rate * faster / costs.tokens_per_second(plan.shape, now, plan.gpu)
        if rate > best * 1.01:
            best = rate
            words = dtype_words(setup, now)
            if now.gradient_checkpointing and not setup.gradient_checkpointing:
                words.append("gradient_checkpointing=false")
            words += batch_words(setup.batch_rows, now, step.parameters)
            if setup.fused and not now.fused:
                words.append("liger=true")
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
    in_bfloat16 = replace(now, dtype="bfloat16") if "dtype" in parameters else now
    found = [in_bfloat16]
    fusing = (False, True) if "liger" in parameters else (now.fused,)
    for rows, fused in itertools.product(smaller_batches(now, parameters), fusing):
        setup = replace(in_bfloat16, batch_rows=rows, gradient_checkpointing=False, fused=fused)
        if setup.micro_tokens >= 2048:
            found.append(setup)
    return found
