"""The plan of a recipe: tokens, memory, hours, disk and failures, before a GPU is rented.

    plan = planning.of_recipe(recipe.load("zhilu-13b-open"), shapes.gpu("A100-80G"), count=8)
    for step in plan.steps: ...

Only training steps are planned. Cleaning, quantising and exams take hours on one machine, not days,
and depend on its disks and CPUs.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from finlab.data import budget, catalogue
from finlab.data.catalogue import Entry
from finlab.files import size_text
from finlab.run.recipe import Recipe, Step
from finlab.train import costs, shapes
from finlab.train.costs import Memory, Setup
from finlab.train.shapes import Gpu, ModelShape

BASE, TOKENIZER = "00_base_model", "02_tokenizer_extension"
PRETRAIN, SFT, DPO = "03_lora_pretraining", "04_two_stage_sft", "05_dpo"
REASONING = "10_reasoning"
# Before training the reference reads every pair once, forward alone: half of forward and backward
# under LoRA, and a third of it where all weights learn or blocks are computed again.
REFERENCE_READ = 1 / 2
# Llama 3's training: 419 unexpected stops in 54 days of 16,384 H100 (its paper, table 5).
GPU_HOURS_PER_FAILURE = 54 * 24 * 16384 / 419
GPUS_PER_MACHINE = 8
KEPT_CHECKPOINTS = 2  # and a third lies there while it is written
TRAINED = ("dialogue", "preference", "text")  # kinds of cards that are trained on
ROW_BYTES = 8  # a token of a packed dialogue on disk: its id and its label
TOKEN_BYTES = 4  # a token of an encoded document on disk; its rows are gathered from there


@dataclass(frozen=True)
class StepPlan:
    """What a training step needs.

    Attributes:
        name: The step's.
        tokens: That it trains on, repetition included.
        setup: How it trains.
        memory: Of one GPU.
        gpus: How many it uses: one where it starts no processes.
        rate: Tokens/s of one GPU.
        checkpoint_bytes: Of one checkpoint.
        model_bytes: Of the model that it leaves.
        parameters: Its own, by name.
    """

    name: str
    tokens: float
    setup: Setup
    memory: Memory
    gpus: int
    rate: float
    checkpoint_bytes: float
    model_bytes: float
    parameters: dict[str, Any] = field(default_factory=dict)

    @property
    def hours(self) -> float:
        """How long it takes."""
        machines = -(-self.gpus // GPUS_PER_MACHINE)
        scaling = costs.SCALING if machines > 1 else 1.0
        return self.tokens / (self.rate * self.gpus * scaling) / 3600


@dataclass(frozen=True)
class Plan:
    """What a recipe needs on some GPUs.

    Attributes:
        shape: The base's, its vocabulary grown as the recipe says.
        gpu: The kind of GPU.
        count: How many.
        steps: Its training steps.
        disk: {what: bytes}.
    """

    shape: ModelShape
    gpu: Gpu
    count: int
    steps: list[StepPlan] = field(default_factory=list)
    disk: dict[str, float] = field(default_factory=dict)

    @property
    def hours(self) -> float:
        """Of all training steps, one after another."""
        return sum(step.hours for step in self.steps)

    @property
    def failures(self) -> float:
        """How many stops by a fault of the machines are to be expected."""
        return self.hours * self.count / GPU_HOURS_PER_FAILURE


def of_recipe(
    recipe: Recipe,
    gpu: Gpu,
    count: int,
    efficiency: float | None = None,
    entries: list[Entry] | None = None,
) -> Plan:
    """Return the plan of a recipe.

    Args:
        recipe: The recipe.
        gpu: The kind of GPU.
        count: How many.
        efficiency: The share of their FLOP/s that is reached, as notebook 09 measures it; None
            takes what others have published.
        entries: What the recipe reads; None looks.

    Raises:
        ValueError: The shape of the base is not known, or nothing is trained.
    """
    entries = catalogue.of_recipe(recipe) if entries is None else entries
    shape, new_rows = base_shape(recipe)
    plan = Plan(shape, gpu, count)
    for step in recipe.steps:
        for name, tokens in _trained_tokens(step, recipe, entries):
            setup = setup_of(step.parameters, new_rows)
            gpus = _gpus(step.parameters, count)
            memory = costs.memory(shape, setup, gpus)
            rate = costs.tokens_per_second(shape, setup, gpu, efficiency)
            sizes = _saved_bytes(shape, setup)
            own = dict(step.parameters)
            if step.notebook == REASONING:
                del own["launch"]  # its trainer shards no weights, so zero3 is no advice
            plan.steps.append(StepPlan(name, tokens, setup, memory, gpus, rate, *sizes, own))
    if not plan.steps:
        unknown = [entry.name for entry in entries if entry.kind in TRAINED and not entry.tokens]
        raise ValueError(
            f"{recipe.name}: nobody knows how much {', '.join(unknown) or 'its data'} hold, "
            "so nothing can be planned: get the data first, or write `bytes:` into the cards"
        )
    plan.disk.update(_disk(plan, entries))
    return plan


def base_shape(recipe: Recipe) -> tuple[ModelShape, int]:
    """Return the shape of a recipe's base with its vocabulary grown, and how many rows are new.

    Args:
        recipe: The recipe.

    Raises:
        ValueError: It has no base of its own, or one whose shape is not known.
    """
    base = next((each.parameters for each in recipe.steps if each.notebook == BASE), {})
    name = base.get("base", "")
    if not name:
        raise ValueError(
            f"{recipe.name} trains the tiny base of finlab, which needs no plan: name a base, "
            "as in --set base.base=Qwen/Qwen3-8B"
        )
    shape = shapes.of_model(name)
    if shape is None:
        raise ValueError(
            f"the shape of '{name}' is not known here: fetch the model "
            f"(`finlab data {recipe.name} --fetch`), or add a line to finlab/train/shapes.yaml"
        )
    grown = next((each.parameters for each in recipe.steps if each.notebook == TOKENIZER), {})
    new_rows = grown.get("max_new", 0) + len(grown.get("special_tokens", []))
    return shapes.of_model(name, shape.vocabulary + new_rows), new_rows


def setup_of(parameters: dict[str, Any], new_rows: int) -> Setup:
    """Return how a training step trains.

    Args:
        parameters: The step's.
        new_rows: Rows that the tokenizer step has added.
    """
    form = parameters.get("quantize_base", "none")
    if parameters.get("load_in_8bit"):
        form = "int8"
    # A preference step has pairs: two answers in rows of max_length.
    rows = parameters.get("batch_rows") or 2 * parameters.get("batch_pairs", 1)
    return Setup(
        lora_rank=parameters["lora_rank"],
        lora_targets=tuple(parameters["lora_targets"]),
        train_embeddings=parameters.get("train_embeddings", "none"),
        new_rows=new_rows,
        row_length=parameters.get("row_length") or parameters["max_length"],
        batch_rows=rows,
        gradient_checkpointing=parameters["gradient_checkpointing"],
        quantize_base=form,
        launch=parameters.get("launch", ""),
        dtype=parameters["dtype"],
        fused=parameters.get("liger", False),
        embeddings_only=parameters.get("embeddings_only", False),
    )


def _gpus(parameters: dict[str, Any], count: int) -> int:
    """Return how many GPUs a step uses: one process has one."""
    return count if parameters.get("launch") else 1


def _trained_tokens(step: Step, recipe: Recipe, entries: list[Entry]) -> list[tuple[str, float]]:
    """Return (name, tokens trained on) of a step, for each stage of its training.

    Args:
        step: The step.
        recipe: Its recipe.
        entries: What the recipe reads.
    """
    values = step.parameters
    tokens = {entry.name: entry.tokens for entry in entries}
    if step.notebook == PRETRAIN:
        corpus = next(
            each.parameters for each in recipe.steps if each.name == values["corpus_from"]
        )
        phases = corpus["ramp_phases"] or max(
            len(corpus["general_shares"]), len(corpus["zh_shares"]), 1
        )
        read = len(values["phases"]) or phases
        texts = budget.text_entries(corpus, entries)
        wanted = corpus["tokens"] or sum(entry.tokens for entry in texts)
        # With `own_share` the base's own texts take the place of others.
        return [(step.name, wanted * read / phases)]
    if step.notebook == SFT:
        found = []
        for number, name in enumerate(("stage1_cards", "stage2_cards")):
            held = sum(tokens[card] for card in values[name])
            if held:
                learnt = held * (1 - values["held_out_share"])
                mixed = learnt * values["epochs"][number] / (1 - values["text_share"])
                found.append((f"{step.name}/stage{number + 1}", mixed))
        return found
    if step.notebook == DPO:
        held = sum(tokens[card] for card in values["preference_cards"])
        learnt = held * (1 - values["held_out_share"])
        return [(step.name, learnt * (values["epochs"] + REFERENCE_READ))]
    if step.notebook == REASONING:
        # The chains alone: reinforcement is bound by sampling, whose speed no plan knows.
        held = sum(tokens[card] for card in values["question_cards"])
        learnt = held * (1 - values["held_out_share"])
        mixed = learnt * values["sft_epochs"] / (1 - values["text_share"])
        return [(f"{step.name}/sft", mixed)]
    return []


def _saved_bytes(shape: ModelShape, setup: Setup) -> tuple[float, float]:
    """Return the bytes of a checkpoint, and of the model that a step leaves.

    Args:
        shape: The model's.
        setup: How it is trained.
    """
    alone = costs.memory(shape, setup)
    model = float(setup.weight_bytes * shape.parameters)
    states = alone.optimizer + alone.host  # Adam's two moments
    if not setup.lora_rank:
        return alone.weights + states, model
    # Of the adapter: a gradient has the size of its weight, as it is held in training.
    adapter = alone.gradients
    return adapter + states, model + adapter


def _disk(plan: Plan, entries: list[Entry]) -> dict[str, float]:
    """Return {what: bytes} of the disk that a run takes.

    Args:
        plan: From `of_recipe`.
        entries: What the recipe reads.
    """
    fetched = float(sum(entry.bytes for entry in entries))
    if not any(entry.kind == "model" and entry.bytes for entry in entries):
        fetched += 2 * plan.shape.parameters
    texts = sum(entry.tokens for entry in entries if entry.kind == "text")
    talks = sum(entry.tokens for entry in entries if entry.kind == "dialogue")
    return {
        "data and base": fetched,
        # The corpus step keeps what it read, cleaned and marked, packed by Parquet to about half.
        "corpus": texts / catalogue.TOKENS_PER_BYTE * 1.5,
        "encoded text": texts * TOKEN_BYTES,
        "packed dialogues": talks * ROW_BYTES,
        "checkpoints": max(step.checkpoint_bytes for step in plan.steps) * (KEPT_CHECKPOINTS + 1),
        "models": sum(step.model_bytes for step in plan.steps) + 2 * plan.shape.parameters,
    }


# --- as tables -----------------------------------------------------------------------------------
def step_rows(plan: Plan, price: float = 0.0) -> list[dict[str, Any]]:
    """Return a row for each training step of a plan.

    Args:
        plan: From `of_recipe`.
        price: Of a GPU-hour; all GPUs are paid for while a step uses one.
    """
    rows = []
    for step in plan.steps:
        row = {
            "step": step.name,
            "tokens": catalogue.number_text(step.tokens),
            "GPUs": step.gpus,
            "GB each": step.memory.total / 1e9,
            "of": plan.gpu.bytes / 1e9,
            "tokens/s each": round(step.rate),
            "hours": amount_text(step.hours),
            "GPU-hours": amount_text(step.hours * plan.count),
        }
        if price:
            row["cost"] = amount_text(step.hours * plan.count * price)
        row["checkpoint"] = size_text(step.checkpoint_bytes)
        rows.append(row)
    return rows


def disk_rows(plan: Plan) -> list[dict[str, Any]]:
    """Return a row for each thing on the disk, and one for their sum.

    Args:
        plan: From `of_recipe`.
    """
    sizes = plan.disk | {"all": sum(plan.disk.values())}
    return [{"disk": what, "size": size_text(size)} for what, size in sizes.items()]


def amount_text(value: float) -> str:
    """Return hours or money as people write them: 2,569.3, and 0.036 where it is small."""
    return f"{value:,.1f}" if value >= 1 else f"{value:.2g}"
