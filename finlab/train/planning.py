"""Plan a recipe before a GPU is rented: tokens, memory, hours, disk and failures.

    plan = planning.of_recipe(recipe.load("zhilu-13b-open"), shapes.gpu("A100-80G"), count=8)
    for step in plan.steps: ...

Only training steps are planned. Cleaning, quantising and exams take only hours on one machine, and
their time depends on its disks and CPUs.
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
# Before DPO training, the reference reads every pair once in a forward pass. This costs half as
# much as forward and backward under LoRA, and a third if all weights are trained or blocks are
# computed again.
REFERENCE_READ = 1 / 2
# Llama 3's training: 419 unexpected stops in 54 days of 16,384 H100 (its paper, table 5).
GPU_HOURS_PER_FAILURE = 54 * 24 * 16384 / 419
GPUS_PER_MACHINE = 8
KEPT_CHECKPOINTS = 2  # a third one is on the disk while it is written
TRAINED = ("dialogue", "preference", "text")  # kinds of data cards for training
ROW_BYTES = 8  # bytes of a token in a packed dialogue on disk: its id and its label
TOKEN_BYTES = 4  # bytes of a token in an encoded document on disk; rows are read from there


@dataclass(frozen=True)
class StepPlan:
    """What a training step needs.

    Attributes:
        name: Name of the step; a stage of the step has a name such as `sft/stage1`.
        tokens: Number of tokens that the step trains on, repetition included.
        setup: How the step trains.
        memory: Memory on one GPU.
        gpus: Number of GPUs that the step uses; 1 if it does not start several processes.
        rate: Tokens per second of one GPU.
        checkpoint_bytes: Bytes of one checkpoint.
        model_bytes: Bytes of the model that the step saves.
        parameters: The parameters of the step, by name.
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
        """Hours that the step takes."""
        machines = -(-self.gpus // GPUS_PER_MACHINE)
        scaling = costs.SCALING if machines > 1 else 1.0
        return self.tokens / (self.rate * self.gpus * scaling) / 3600


@dataclass(frozen=True)
class Plan:
    """What a recipe needs on some GPUs.

    Attributes:
        shape: Sizes of the base, with the vocabulary that the recipe adds.
        gpu: The kind of GPU.
        count: Number of GPUs.
        steps: Plans of the recipe's training steps.
        disk: {what: bytes} that the run takes on the disk.
    """

    shape: ModelShape
    gpu: Gpu
    count: int
    steps: list[StepPlan] = field(default_factory=list)
    disk: dict[str, float] = field(default_factory=dict)

    @property
    def hours(self) -> float:
        """Hours of all training steps, one after another."""
        return sum(step.hours for step in self.steps)

    @property
    def failures(self) -> float:
        """Expected number of stops because of hardware faults."""
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
        count: Number of GPUs.
        efficiency: Share of the GPUs' FLOP/s that training reaches, 0 to 1, as notebook 09 measures
            it; None takes published figures.
        entries: Catalogue entries of what the recipe reads; None looks them up.

    Raises:
        ValueError: The sizes of the base are not known, or nothing is trained.
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
                del own["launch"]  # its trainer does not shard weights, so do not suggest zero3
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
    """Return (sizes of a recipe's base with the extended vocabulary, number of new rows).

    Args:
        recipe: The recipe.

    Raises:
        ValueError: The recipe names no base, or the sizes of the base are not known.
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
        parameters: The parameters of the step, by name.
        new_rows: Number of rows that the tokenizer step adds.
    """
    form = parameters.get("quantize_base", "none")
    if parameters.get("load_in_8bit"):
        form = "int8"
    # A preference step has pairs, and a pair is two rows of max_length.
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
    """Return how many GPUs a step uses; a step with one process uses 1."""
    return count if parameters.get("launch") else 1


def _trained_tokens(step: Step, recipe: Recipe, entries: list[Entry]) -> list[tuple[str, float]]:
    """Return (name, number of trained tokens) for each training stage of a step.

    Args:
        step: The step.
        recipe: The recipe that the step belongs to.
        entries: Catalogue entries of what the recipe reads.
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
        # With `own_share`, texts of the base replace others, so the number of tokens is the same.
        return [(step.name, wanted * read / phases)]
    if step.notebook == SFT:
        found = []
        for number, name in enumerate(("stage1_cards", "stage2_cards")):
            held = sum(tokens[card] for card in values[name])
            if held:
                trained = _mixed_tokens(held, values["epochs"][number], values)
                found.append((f"{step.name}/stage{number + 1}", trained))
        return found
    if step.notebook == DPO:
        held = sum(tokens[card] for card in values["preference_cards"])
        learnt = held * (1 - values["held_out_share"])
        return [(step.name, learnt * values["epochs"] + held * REFERENCE_READ)]
    if step.notebook == REASONING:
        # Only training on chains is counted. The time of reinforcement depends mostly on sampling,
        # and its speed cannot be planned.
        held = sum(tokens[card] for card in values["question_cards"])
        return [(f"{step.name}/sft", _mixed_tokens(held, values["sft_epochs"], values))]
    return []


def _mixed_tokens(held: float, epochs: float, values: dict[str, Any]) -> float:
    """Return the tokens that supervised tuning trains on, pretraining text included.

    Args:
        held: Tokens that the step's cards hold.
        epochs: Passes over what is not held out.
        values: The parameters of the step, by name.
    """
    learnt = held * (1 - values["held_out_share"])
    return learnt * epochs / (1 - values["text_share"])


def _saved_bytes(shape: ModelShape, setup: Setup) -> tuple[float, float]:
    """Return (bytes of a checkpoint, bytes of the model that a step saves).

    Args:
        shape: Sizes of the model.
        setup: How the model is trained.
    """
    alone = costs.memory(shape, setup)
    model = float(setup.weight_bytes * shape.parameters)
    states = alone.optimizer + alone.host  # Adam's two moments
    if not setup.lora_rank:
        return alone.weights + states, model
    # Size of the adapter: its gradients are as large as its weights in training.
    adapter = alone.gradients
    return adapter + states, model + adapter


def _disk(plan: Plan, entries: list[Entry]) -> dict[str, float]:
    """Return {what: bytes} of the disk that a run takes.

    Args:
        plan: The plan, from `of_recipe`.
        entries: Catalogue entries of what the recipe reads.
    """
    fetched = float(sum(entry.bytes for entry in entries))
    if not any(entry.kind == "model" and entry.bytes for entry in entries):
        fetched += 2 * plan.shape.parameters
    texts = sum(entry.tokens for entry in entries if entry.kind == "text")
    talks = sum(entry.tokens for entry in entries if entry.kind == "dialogue")
    return {
        "data and base": fetched,
        # The corpus step keeps the texts as read, cleaned and marked: three copies, which Parquet
        # compresses to about half.
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
        plan: The plan, from `of_recipe`.
        price: Price of a GPU-hour in any currency; 0 leaves out the cost. All GPUs are paid for,
            also while a step uses only one.
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
    """Return a row for each kind of data on the disk, and a row for the sum.

    Args:
        plan: The plan, from `of_recipe`.
    """
    sizes = plan.disk | {"all": sum(plan.disk.values())}
    return [{"disk": what, "size": size_text(size)} for what, size in sizes.items()]


def amount_text(value: float) -> str:
    """Return hours or money as text: 2,569.3 with one decimal; 0.036, two digits, below 1."""
    return f"{value:,.1f}" if value >= 1 else f"{value:.2g}"
