"""Estimate what training costs: FLOPs per token, memory of a GPU, tokens per second.

FLOPs and bytes are calculated. The share of the data sheet's speed that a step reaches cannot be
calculated. It comes from figures that others have published for this kind of training
(EFFICIENCY), or from a measurement in notebook 09. `finlab/train/costs_published.yaml` has the
published figures that this cost model is checked against, and tests/test_planning.py has the
largest allowed errors.

    setup = costs.Setup(lora_rank=64, row_length=4096, batch_rows=8, gradient_checkpointing=True)
    costs.memory(shape, setup, processes=8).total
    costs.tokens_per_second(shape, setup, gpu)
"""

from __future__ import annotations

from dataclasses import dataclass

from finlab.train.shapes import Gpu, ModelShape

ALL_TARGETS = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
FRAMEWORK_BYTES = 0.8e9  # memory of CUDA and its libraries, and gaps in the allocator's memory
# The share of the data sheet's bf16 FLOP/s that a step reaches, including recomputation. Sources:
# Ampere LoRA: Qwen-7B on one A100, 0.43 to 0.47. Ampere full: ms-swift's 14B and XuanYuan's 70B
# on A800, 0.58 to 0.65. Hopper LoRA: NeMo's 8B and 7B on one H100, 0.42 and 0.44. Hopper full:
# torchtitan's 8B on eight H100, 0.36. For Ada there is no such published LoRA figure, so Ampere's
# figure is used.
EFFICIENCY = {
    ("ampere", "lora"): 0.45,
    ("ampere", "full"): 0.61,
    ("ada", "lora"): 0.45,
    ("ada", "full"): 0.50,
    ("hopper", "lora"): 0.43,
    ("hopper", "full"): 0.37,
}
# A frozen quantised base is unpacked for each matrix product, which takes time. nf4: Qwen-7B's
# Q-LoRA is 13 to 26% slower than its LoRA. int8: our guess; we know no figure for training.
QUANTIZED_SPEED = {"none": 1.0, "nf4": 0.8, "int8": 0.6}
# Bytes per weight. The 4-bit formats have 4 bits and a scale: for 64 weights and itself quantised
# (nf4), or for 128 weights (GPTQ, AWQ).
QUANTIZED_BYTES = {"none": 2.0, "int8": 1.0, "fp8": 1.0, "nf4": 0.52, "gptq4": 0.53, "awq4": 0.53}
SCALING = 0.97  # share of one machine's speed that each of many reaches: XuanYuan, 40 and 100 nodes


@dataclass(frozen=True)
class Setup:
    """How a model is trained; the names are those of the recipes' parameters.

    Attributes:
        lora_rank: Rank of the LoRA adapters; 0 trains all weights.
        lora_targets: Names of the matrices that have an adapter.
        train_embeddings: What is trained of embedding and head under LoRA: full, new_rows or none.
        new_rows: Number of new rows in the embedding.
        row_length: Tokens of a row.
        batch_rows: Rows of a micro-batch on each GPU.
        gradient_checkpointing: Whether blocks are computed again in the backward pass.
        quantize_base: Format of the frozen base: none, int8 or nf4.
        launch: How processes share the model: '' (one process), ddp, fsdp2, zero2 or zero3.
        dtype: Type of the frozen weights and of the matrix products: bfloat16 or float32.
        trained_bytes: Bytes of a trained weight. finlab keeps trained weights in float32 (4), other
            tools in bfloat16 (2). DeepSpeed computes with 2 bytes and keeps copies of 4.
        attended: Twice the mean number of earlier tokens that a token attends to; 0 means
            `row_length`.
        fused: Whether liger-kernel's fused layers are on.
        embeddings_only: Whether only embedding and head are trained, without an adapter.
        whole_logits: Whether the loss keeps the logits of a whole micro-batch, as the loss of
            transformers does. The loss of TRL computes them in chunks.
        eager_attention: Whether attention scores are kept in memory, as without FlashAttention.
    """

    lora_rank: int = 0
    lora_targets: tuple[str, ...] = ALL_TARGETS
    train_embeddings: str = "none"
    new_rows: int = 0
    row_length: int = 4096
    batch_rows: int = 1
    gradient_checkpointing: bool = False
    quantize_base: str = "none"
    launch: str = ""
    dtype: str = "bfloat16"
    trained_bytes: int = 4
    attended: float = 0.0
    fused: bool = False
    embeddings_only: bool = False
    whole_logits: bool = False
    eager_attention: bool = False

    @property
    def micro_tokens(self) -> int:
        """Tokens of a micro-batch on one GPU."""
        return self.row_length * self.batch_rows

    @property
    def weight_bytes(self) -> int:
        """Bytes of a weight that does not learn."""
        return 2 if self.dtype == "bfloat16" else 4

    @property
    def method(self) -> str:
        """`lora` or `full`."""
        return "lora" if self.lora_rank else "full"


# --- FLOPs ---------------------------------------------------------------------------------------
def flops_per_token(shape: ModelShape, setup: Setup, hardware: bool = False) -> float:
    """Return the FLOPs of one training token, by the rule of `train.meter`.

    Args:
        shape: Sizes of the model.
        setup: How the model is trained.
        hardware: Also count what gradient checkpointing computes again.
    """
    matrices = shape.block_weights + shape.table_weights  # the head counts, tied or not
    seen = setup.attended or setup.row_length
    attention = 2 * seen * shape.query_width * shape.layers  # forward, causal
    if setup.embeddings_only:
        flops = 4 * matrices + 2 * shape.table_weights + 3 * attention
    elif setup.lora_rank:
        adapters = shape.adapter_weights(setup.lora_rank, list(setup.lora_targets))
        flops = 4 * matrices + 6 * adapters + 3 * attention
        if setup.train_embeddings == "full":
            flops += 2 * shape.table_weights
        elif setup.train_embeddings == "new_rows":
            flops += 2 * setup.new_rows * shape.hidden
    else:
        flops = 6 * matrices + 3 * attention
    if hardware and setup.gradient_checkpointing:
        flops += 2 * shape.block_weights + attention
    return flops


# --- memory --------------------------------------------------------------------------------------
@dataclass(frozen=True)
class Memory:
    """Memory that training takes on one GPU, in bytes.

    Attributes:
        weights: Weights of the model, trained and frozen.
        gradients: Gradients of the trained weights.
        optimizer: Adam's moments, and master weights if there are any.
        activations: Tensors that the forward pass keeps for the backward pass.
        logits: Logits of the loss.
        other: Memory of the framework.
        host: Optimizer in the machine's own memory; it does not count towards `total`.
    """

    weights: float
    gradients: float
    optimizer: float
    activations: float
    logits: float
    other: float = FRAMEWORK_BYTES
    host: float = 0.0

    @property
    def total(self) -> float:
        """Bytes on the GPU in total."""
        parts = (self.weights, self.gradients, self.optimizer)
        return sum(parts) + self.activations + self.logits + self.other


def weight_bytes(shape: ModelShape, form: str = "none", bytes_each: float = 2.0) -> float:
    """Return the bytes of a model's weights; embedding, head and norms are never quantised.

    Args:
        shape: Sizes of the model.
        form: Format of the blocks' weights: none, or a key of QUANTIZED_BYTES.
        bytes_each: Bytes of a weight that is not quantised.
    """
    each = bytes_each if form == "none" else QUANTIZED_BYTES[form]
    rest = shape.parameters - shape.block_weights
    return each * shape.block_weights + bytes_each * rest


def memory(shape: ModelShape, setup: Setup, processes: int = 1) -> Memory:
    """Return the memory that training takes on one GPU.

    Args:
        shape: Sizes of the model.
        setup: How the model is trained.
        processes: Number of processes that share the model. fsdp2 and zero3 divide weights,
            gradients and optimizer among them. zero2 divides only the gradients, and its optimizer
            is in the machine's own memory.
    """
    weights = weight_bytes(shape, setup.quantize_base, setup.weight_bytes)
    # Bytes of a trained weight, and of Adam's two moments for it. DeepSpeed's optimizer also keeps
    # a float32 copy of the weight.
    held, moments = setup.trained_bytes, 2 * setup.trained_bytes
    if setup.launch.startswith("zero"):
        held, moments = 2, 12
    if setup.lora_rank:
        adapters = shape.adapter_weights(setup.lora_rank, list(setup.lora_targets))
        tables, rows = _trained_tables(shape, setup)
        # PEFT keeps adapters in float32: 4 bytes for a weight, 4 for its gradient, 8 for its
        # moments. A trained whole table is a copy, and the base's table stays in memory too.
        weights += 4 * (adapters + rows) + held * tables
        gradients = 4 * (adapters + rows) + held * tables
        optimizer = 8 * (adapters + rows) + moments * tables
    else:
        learning = shape.parameters
        if setup.embeddings_only:
            learning = (1 if shape.tied else 2) * shape.table_weights
        weights += (held - setup.weight_bytes) * learning
        gradients = held * learning
        optimizer = moments * learning
    host = 0.0
    if setup.launch in ("fsdp2", "zero3"):
        weights, gradients = weights / processes, gradients / processes
        optimizer /= processes
    elif setup.launch == "zero2":
        gradients, host, optimizer = gradients / processes, optimizer, 0.0
    logits = 10.0 * shape.vocabulary * setup.micro_tokens if setup.whole_logits else 0.0
    activations = _activation_bytes(shape, setup)
    return Memory(weights, gradients, optimizer, activations, logits, host=host)


def _trained_tables(shape: ModelShape, setup: Setup) -> tuple[float, float]:
    """Return (trained weights of whole tables, trained weights of single rows).

    Args:
        shape: Sizes of the model.
        setup: How the model is trained; it must be with LoRA.
    """
    tables = 1 if shape.tied else 2
    if setup.train_embeddings == "full":
        return tables * shape.table_weights, 0
    if setup.train_embeddings == "new_rows":
        return 0, tables * setup.new_rows * shape.hidden
    return 0, 0


def _activation_bytes(shape: ModelShape, setup: Setup) -> float:
    """Return the bytes that the forward pass keeps for the backward pass.

    They are counted from the tensors that a block saves: six of the hidden width, two of the keys'
    width and three of the feed-forward width. Without fused layers, norms and adapters keep float32
    copies. In bfloat16, memory is then 2.5 times as large with LoRA, and 1.5 times as large in full
    training. In float32 there are no such copies, and memory is 1.3 times as large
    (`python -m benchmarks.saved_tensors`).

    Args:
        shape: Sizes of the model.
        setup: How the model is trained.
    """
    each = setup.weight_bytes
    fused = each * (6 * shape.hidden + 2 * shape.kv_width + 3 * shape.feed_forward)
    block = fused
    if not setup.fused:
        block = fused * _unfused_factor(setup)
    if setup.eager_attention:
        block += 8 * shape.heads * setup.row_length  # scores, their softmax and dropout
    if setup.gradient_checkpointing:
        # The input of each block is kept. In the backward pass the blocks are computed again, one
        # at a time.
        return setup.micro_tokens * (each * shape.hidden * shape.layers + block)
    return setup.micro_tokens * block * shape.layers


def _unfused_factor(setup: Setup) -> float:
    """Return how much more a block keeps without fused layers."""
    if setup.dtype == "float32":
        return 1.3
    return 2.5 if setup.lora_rank else 1.5


@dataclass(frozen=True)
class Answering:
    """Memory of a model while it answers, in bytes.

    Attributes:
        weights: Weights of the model.
        cache: Keys and values of the tokens so far.
        activations: Activations of a prompt that is processed in one pass.
        other: Memory of the framework.
    """

    weights: float
    cache: float
    activations: float
    other: float = FRAMEWORK_BYTES

    @property
    def total(self) -> float:
        """Bytes in total."""
        return self.weights + self.cache + self.activations + self.other


def answering(
    shape: ModelShape,
    form: str = "none",
    context: int = 2048,
    batch: int = 1,
    whole_logits: bool = False,
) -> Answering:
    """Return the memory that a model takes while it answers.

    Args:
        shape: Sizes of the model.
        form: Format of the weights: none (bfloat16), int8, fp8, nf4, gptq4 or awq4.
        context: Tokens of each answer, prompt included.
        batch: How many answers are generated at the same time.
        whole_logits: Whether logits of the whole prompt are computed, as transformers did until
            2024. Since then it computes only the logits of the last token.
    """
    tokens = context * batch
    cache = 2 * 2 * shape.kv_width * shape.layers * tokens
    # Tensors of one block, in 16 bits: its input, the queries, keys and values, and three tensors
    # of the feed-forward part.
    block = 2 * shape.hidden + shape.query_width + 2 * shape.kv_width + 3 * shape.feed_forward
    logits = 6 * shape.vocabulary * (tokens if whole_logits else batch)  # 16 bits + float32
    return Answering(weight_bytes(shape, form), cache, 2.0 * block * tokens + logits)


# --- time ----------------------------------------------------------------------------------------
def peak_flops(gpu: Gpu, setup: Setup) -> float:
    """Return the data sheet's FLOP/s for the type that a setup computes in."""
    return gpu.flops if setup.dtype == "bfloat16" else gpu.float32_flops


def tokens_per_second(
    shape: ModelShape, setup: Setup, gpu: Gpu, efficiency: float | None = None
) -> float:
    """Return the training tokens per second of one GPU.

    Args:
        shape: Sizes of the model.
        setup: How the model is trained.
        gpu: The GPU.
        efficiency: Share of the GPU's FLOP/s that training reaches, 0 to 1; None takes EFFICIENCY.
    """
    reached = efficiency or EFFICIENCY[gpu.family, setup.method]
    reached *= QUANTIZED_SPEED[setup.quantize_base]
    return peak_flops(gpu, setup) * reached / flops_per_token(shape, setup, hardware=True)
