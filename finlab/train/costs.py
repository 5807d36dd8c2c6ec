"""What training costs: FLOPs of a token, bytes of a GPU, seconds of a step.

FLOPs and bytes are counted. The share of the data sheet's speed that a step reaches is not: it is
taken from what others have published for the kind of training (EFFICIENCY), or measured in
notebook 09. `finlab/train/costs_published.yaml` holds what this model is checked against, and
tests/test_planning.py holds how far it may be off.

    setup = costs.Setup(lora_rank=64, row_length=4096, batch_rows=8, gradient_checkpointing=True)
    costs.memory(shape, setup, processes=8).total
    costs.tokens_per_second(shape, setup, gpu)
"""

from __future__ import annotations

from dataclasses import dataclass

from finlab.train.shapes import Gpu, ModelShape

ALL_TARGETS = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
FRAMEWORK_BYTES = 0.8e9  # of CUDA, its libraries and the allocator's gaps
# The share of the data sheet's bf16 FLOP/s that a step reaches, recomputation counted in:
# Ampere LoRA: Qwen-7B on one A100, 0.43 to 0.47. Ampere full: ms-swift's 14B and XuanYuan's 70B
# on A800, 0.58 to 0.65. Hopper LoRA: NeMo's 8B and 7B on one H100, 0.42 and 0.44. Hopper full:
# torchtitan's 8B on eight H100, 0.36. Ada has no published LoRA of the kind; Ampere's is taken.
EFFICIENCY = {
    ("ampere", "lora"): 0.45,
    ("ampere", "full"): 0.61,
    ("ada", "lora"): 0.45,
    ("ada", "full"): 0.50,
    ("hopper", "lora"): 0.43,
    ("hopper", "full"): 0.37,
}
# A frozen base in few bits is unpacked for each product. nf4: Qwen-7B's Q-LoRA is 13 to 26%
# slower than its LoRA. int8: our guess, no figure for training is known to us.
QUANTIZED_SPEED = {"none": 1.0, "nf4": 0.8, "int8": 0.6}
# Four bits, and the scales: of 64 weights, themselves quantised (nf4), or of 128 (GPTQ, AWQ).
QUANTIZED_BYTES = {"none": 2.0, "int8": 1.0, "fp8": 1.0, "nf4": 0.52, "gptq4": 0.53, "awq4": 0.53}
SCALING = 0.97  # of a rate on one machine that stays on many: XuanYuan, 40 and 100 nodes


@dataclass(frozen=True)
class Setup:
    """How a model is trained, in the recipes' words.

    Attributes:
        lora_rank: Of the adapters; 0 trains all weights.
        lora_targets: The matrices that have an adapter.
        train_embeddings: Under LoRA, of embedding and head: full, new_rows or none.
        new_rows: How many rows are new.
        row_length: Tokens of a row.
        batch_rows: Rows of a micro-batch on each GPU.
        gradient_checkpointing: Whether blocks are computed again in the backward pass.
        quantize_base: none, int8 or nf4.
        launch: How processes share: '' or ddp, fsdp2, zero2, zero3.
        dtype: Of the weights that do not learn and of the products: bfloat16 or float32.
        trained_bytes: Bytes of a weight that learns. finlab holds those in float32, 4; others in
            bfloat16, 2. DeepSpeed computes with 2 and keeps copies of 4.
        attended: Tokens that a token sees on average before itself, times two; 0: the whole row.
        fused: Whether liger-kernel's fused layers are on.
        embeddings_only: Whether embedding and head alone learn, under no adapter.
        whole_logits: Whether the loss holds the logits of a whole micro-batch, as transformers'
            own does; TRL's takes them in chunks.
        eager_attention: Whether the scores of attention are held, as before FlashAttention.
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
        """Tokens that a GPU computes at once."""
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
        shape: The model's.
        setup: How it is trained.
        hardware: Count what gradient checkpointing computes again.
    """
    matrices = shape.block_weights + shape.table_weights  # the head's product, tied or not
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
    """Bytes on one GPU.

    Attributes:
        weights: Of the model, trained or frozen.
        gradients: Of what is trained.
        optimizer: Adam's moments, and master weights where there are any.
        activations: What the forward pass keeps for the backward pass.
        logits: Of the loss.
        other: Of the framework.
        host: Of the optimizer where it lies in the machine's own memory, which does not count.
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
        """All of it."""
        parts = (self.weights, self.gradients, self.optimizer)
        return sum(parts) + self.activations + self.logits + self.other


def weight_bytes(shape: ModelShape, form: str = "none", bytes_each: float = 2.0) -> float:
    """Return the bytes of a model's weights; tables and norms are never quantised.

    Args:
        shape: The model's.
        form: none, int8 or nf4.
        bytes_each: Of a weight that is not quantised.
    """
    each = bytes_each if form == "none" else QUANTIZED_BYTES[form]
    rest = shape.parameters - shape.block_weights
    return each * shape.block_weights + bytes_each * rest


def memory(shape: ModelShape, setup: Setup, processes: int = 1) -> Memory:
    """Return what training takes of one GPU.

    Args:
        shape: The model's.
        setup: How it is trained.
        processes: Among which `launch` shards: fsdp2 and zero3 weights, gradients and optimizer;
            zero2 gradients, and its optimizer lies in the machine's own memory.
    """
    weights = weight_bytes(shape, setup.quantize_base, setup.weight_bytes)
    # Bytes of a weight that learns, as it is held, and of Adam's two moments. DeepSpeed's optimizer
    # holds a float32 copy beside them.
    held, moments = setup.trained_bytes, 2 * setup.trained_bytes
    if setup.launch.startswith("zero"):
        held, moments = 2, 12
    if setup.lora_rank:
        adapters = shape.adapter_weights(setup.lora_rank, list(setup.lora_targets))
        tables, rows = _trained_tables(shape, setup)
        # PEFT keeps adapters in float32: 4 bytes each, 4 of gradient, 8 of moments. A whole table
        # that learns is a copy beside the base's.
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
    """Return the trained weights of whole tables, and those of single rows.

    Args:
        shape: The model's.
        setup: How it is trained, under LoRA.
    """
    tables = 1 if shape.tied else 2
    if setup.train_embeddings == "full":
        return tables * shape.table_weights, 0
    if setup.train_embeddings == "new_rows":
        return 0, tables * setup.new_rows * shape.hidden
    return 0, 0


def _activation_bytes(shape: ModelShape, setup: Setup) -> float:
    """Return what the forward pass keeps.

    Counted by hand from the tensors that a block saves: six of the hidden width, two of the keys'
    and three of the feed-forward's. Without fused layers, norms and adapters keep float32 copies:
    in bfloat16 two and a half times as much under LoRA, half more for full training. In float32
    these are no copies, and a third more is kept (`python -m benchmarks.saved_tensors`).

    Args:
        shape: The model's.
        setup: How it is trained.
    """
    each = setup.weight_bytes
    fused = each * (6 * shape.hidden + 2 * shape.kv_width + 3 * shape.feed_forward)
    block = fused
    if not setup.fused:
        block = fused * _unfused_factor(setup)
    if setup.eager_attention:
        block += 8 * shape.heads * setup.row_length  # scores, their softmax and dropout
    if setup.gradient_checkpointing:
        # The input of each block is kept, and one block is computed again at a time.
        return setup.micro_tokens * (each * shape.hidden * shape.layers + block)
    return setup.micro_tokens * block * shape.layers


def _unfused_factor(setup: Setup) -> float:
    """Return how much more a block keeps without fused layers."""
    if setup.dtype == "float32":
        return 1.3
    return 2.5 if setup.lora_rank else 1.5


@dataclass(frozen=True)
class Answering:
    """Bytes of a model while it answers.

    Attributes:
        weights: Of the model.
        cache: Keys and values of what it has read.
        activations: Of a prompt that is read at once.
        other: Of the framework.
    """

    weights: float
    cache: float
    activations: float
    other: float = FRAMEWORK_BYTES

    @property
    def total(self) -> float:
        """All of it."""
        return self.weights + self.cache + self.activations + self.other


def answering(
    shape: ModelShape,
    form: str = "none",
    context: int = 2048,
    batch: int = 1,
    whole_logits: bool = False,
) -> Answering:
    """Return what a model takes while it answers.

    Args:
        shape: The model's.
        form: none (bfloat16), int8, fp8, nf4, gptq4 or awq4.
        context: Tokens of each answer, prompt included.
        batch: Answers at once.
        whole_logits: Whether logits of the whole prompt are made, as transformers did until 2024;
            now it makes those of the last token.
    """
    tokens = context * batch
    cache = 2 * 2 * shape.kv_width * shape.layers * tokens
    # One block at a time, in 16 bits: its input, the queries, keys and values, and three tensors
    # of the feed-forward part.
    block = 2 * shape.hidden + shape.query_width + 2 * shape.kv_width + 3 * shape.feed_forward
    logits = 6 * shape.vocabulary * (tokens if whole_logits else batch)  # 16 bits, and in float32
    return Answering(weight_bytes(shape, form), cache, 2.0 * block * tokens + logits)


# --- time ----------------------------------------------------------------------------------------
def peak_flops(gpu: Gpu, setup: Setup) -> float:
    """Return the data sheet's FLOP/s for the type that a setup computes in."""
    return gpu.flops if setup.dtype == "bfloat16" else gpu.float32_flops


def tokens_per_second(
    shape: ModelShape, setup: Setup, gpu: Gpu, efficiency: float | None = None
) -> float:
    """Return the training tokens that one GPU computes in a second.

    Args:
        shape: The model's.
        setup: How it is trained.
        gpu: The GPU.
        efficiency: The share of its FLOP/s that is reached; None takes EFFICIENCY.
    """
    reached = efficiency or EFFICIENCY[gpu.family, setup.method]
    reached *= QUANTIZED_SPEED[setup.quantize_base]
    return peak_flops(gpu, setup) * reached / flops_per_token(shape, setup, hardware=True)
