"""Measure tokens per second, and the share of the hardware's speed that training uses.

A training token costs 6N FLOPs if all weights are trained, and 4N if they are frozen under LoRA
(then there are no weight gradients). Add 6 for each parameter of the adapters, 2 for each weight of
single trained rows of the head, and causal attention. N is the number of weights in matrices
without the input embedding. Recomputation by gradient checkpointing counts in HFU (hardware FLOPs),
and never in MFU (model FLOPs).
"""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy
import torch

from finlab.run import environment
from finlab.train.extensions import Extension

if TYPE_CHECKING:
    from datasets import Dataset
    from transformers import PreTrainedModel, Trainer

# Dense bf16, from NVIDIA's data sheets.
PEAK_TFLOPS = {"A100": 312, "A800": 312, "H100": 989, "H800": 989, "H200": 989}


# --- FLOPs ---------------------------------------------------------------------------------------
def _size(parameter: torch.nn.Parameter) -> int:
    """Return the number of weights of a parameter, also if DeepSpeed has sharded it."""
    return getattr(parameter, "ds_numel", parameter.numel())


def _count_weights(model: PreTrainedModel) -> tuple[float, float]:
    """Return how many weights of a model's matrices are frozen, and how many are trained.

    Single trained rows of a frozen table count as half as many frozen weights. They add the cost of
    a weight gradient, but no cost of passing gradients on.

    Returns:
        (frozen, trained).
    """
    embedding = {id(weight) for weight in model.get_input_embeddings().parameters()}
    tied = getattr(model.config, "tie_word_embeddings", False)
    frozen = trained = 0.0
    for name, parameter in model.named_parameters():
        shape = getattr(parameter, "ds_shape", parameter.shape)
        looked_up = id(parameter) in embedding and not tied
        if len(shape) < 2 or looked_up or "original_module" in name:
            continue
        if "trainable_tokens" in name:
            if tied or "lm_head" in name:
                frozen += _size(parameter) / 2
        elif parameter.requires_grad:
            trained += _size(parameter)
        else:
            frozen += _size(parameter)
    return frozen, trained


def flops_per_token(model: PreTrainedModel, mean_length: float, recompute: bool = False) -> float:
    """Return the FLOPs of one training token, forward and backward.

    Args:
        model: The model, with its adapters on it.
        mean_length: Mean length of the document that a token is in. A token attends only to its own
            document, so this is the sum of the squared document lengths divided by their sum.
        recompute: Add a second forward pass of the blocks, which gradient checkpointing needs. The
            result is then hardware FLOPs.
    """
    frozen, trained = _count_weights(model)
    config = model.config
    head_width = getattr(config, "head_dim", None)
    head_width = head_width or config.hidden_size // config.num_attention_heads
    width = config.num_attention_heads * head_width
    attention = 2 * mean_length * width * config.num_hidden_layers  # forward, causal
    flops = 4 * frozen + 6 * trained + 3 * attention
    if recompute:
        head = max(map(_size, model.get_output_embeddings().parameters()), default=0)
        flops += 2 * (frozen + trained - head) + attention
    return flops


def gemm_ceiling(dtype: str = "float32", size: int = 1024, seconds: float = 0.5) -> float:
    """Measure the speed of matrix multiplication on this device.

    No training step can be faster. On a GPU the matrices are 8,192 wide.

    Args:
        dtype: PyTorch's name of the matrices' type, such as `bfloat16`.
        size: Width of the matrices on a CPU.
        seconds: How long to measure.

    Returns:
        FLOP/s of the fastest multiplication.
    """
    on_gpu = torch.cuda.is_available()
    device = "cuda" if on_gpu else "cpu"
    size = 8192 if on_gpu else size
    matrix = torch.randn(size, size, dtype=getattr(torch, dtype), device=device)
    best = 0.0
    deadline = time.perf_counter() + seconds
    while time.perf_counter() < deadline:
        began = time.perf_counter()
        matrix @ matrix
        if on_gpu:
            torch.cuda.synchronize()
        best = max(best, 2 * size**3 / (time.perf_counter() - began))
    return best


def peak_flops(dtype: str = "float32") -> float:
    """Return the speed that MFU and HFU are relative to.

    Args:
        dtype: PyTorch's name of the type that training computes in, such as `bfloat16`.

    Returns:
        FLOP/s: from the data sheet for a known GPU in bfloat16, else measured by `gemm_ceiling`.
    """
    if torch.cuda.is_available() and dtype == "bfloat16":
        for name, teraflops in PEAK_TFLOPS.items():
            if name in torch.cuda.get_device_name():
                return teraflops * 1e12
    return gemm_ceiling(dtype)


# --- tokens --------------------------------------------------------------------------------------
def row_sizes(rows: Dataset) -> tuple[numpy.ndarray, numpy.ndarray]:
    """Return the sizes of packed rows and of their documents, without reading the tokens.

    Args:
        rows: Packed rows {input_ids, seq_lengths}.

    Returns:
        (tokens of each row, tokens of each document), int64.
    """
    table = rows.select_columns("seq_lengths").with_format("arrow")[:]
    column = table["seq_lengths"].combine_chunks()
    sizes = column.flatten().to_numpy()
    bounds = column.offsets.to_numpy()
    bounds = bounds - bounds[0]
    sums = numpy.concatenate([[0], sizes.cumsum()])
    return sums[bounds[1:]] - sums[bounds[:-1]], sizes


class TokenMeter(Extension):
    """Log tokens, tokens per second, MFU, HFU and peak memory.

    Only the tokens of the rows count, not padding. Rows must be packed.
    """

    def examine(self, train_dataset: Dataset) -> None:
        """Count the tokens of each row, before empty rows are added to fill up batches."""
        self.row_tokens, sizes = row_sizes(train_dataset)
        self.token_sums = self.row_tokens.cumsum()
        squares = (sizes.astype(float) ** 2).sum()
        self.mean_length = float(squares / max(sizes.sum(), 1))

    def attach(self, trainer: Trainer) -> None:
        """Compute the FLOPs of a token, and get the peak speed of the hardware."""
        args = trainer.args
        self.trainer = trainer
        self.flops = flops_per_token(trainer.model, self.mean_length)
        self.hardware_flops = flops_per_token(
            trainer.model, self.mean_length, recompute=args.gradient_checkpointing
        )
        dtype = "bfloat16" if args.bf16 else "float32"
        self.peak = peak_flops(dtype) * args.world_size

    def _rows_per_step(self) -> int:
        """Return the number of rows in an optimizer step, over all processes."""
        args = self.trainer.args
        return args.train_batch_size * args.gradient_accumulation_steps * args.world_size

    def tokens(self, step: int) -> int:
        """Return the number of tokens of all steps up to a step.

        It is exact at the end of every epoch, and at every step if rows are read in order.

        Args:
            step: Number of optimizer steps.
        """
        state = self.trainer.state
        steps_per_epoch = -(-len(self.row_tokens) // self._rows_per_step())
        total = int(self.token_sums[-1])
        if self.trainer.args.max_steps <= 0 and step >= state.max_steps:
            return round(state.max_steps / steps_per_epoch * total)
        epochs, rest = divmod(step, steps_per_epoch)
        tokens = epochs * total
        if rest:
            rows = min(rest * self._rows_per_step(), len(self.row_tokens))
            tokens += int(self.token_sums[rows - 1])
        return tokens

    def speed(self, from_step: int, to_step: int, seconds: float) -> dict[str, Any]:
        """Return tokens so far, tokens_per_second, mfu, hfu and peak_bytes.

        Args:
            from_step: Number of steps done before the measured time.
            to_step: Number of steps done at its end.
            seconds: Seconds of training between them.
        """
        tokens = self.tokens(to_step)
        rate = (tokens - self.tokens(from_step)) / max(seconds, 1e-9)
        return {
            "tokens": tokens,
            "tokens_per_second": rate,
            "mfu": rate * self.flops / self.peak,
            "hfu": rate * self.hardware_flops / self.peak,
            "peak_bytes": environment.peak_bytes(),
        }

    def summary(self) -> dict[str, Any]:
        """Return {flops_per_token}."""
        return {"flops_per_token": self.flops}


# --- memory --------------------------------------------------------------------------------------
def footprint(trainer: Trainer) -> dict[str, int]:
    """Return the memory of training beside the model, and the size of the adapter on disk.

    Returns:
        trainable: Number of trained parameters.
        state_bytes: Bytes of the gradients (as large as the trained parameters) and of Adam's
            moments.
        adapter_bytes: Bytes of the saved adapter.
    """
    learning = [weight for weight in trainer.model.parameters() if weight.requires_grad]
    tensors = list(learning)
    for state in trainer.optimizer.state.values():
        tensors += [value for value in state.values() if torch.is_tensor(value)]
    folder = Path(trainer.args.output_dir) / "adapter"
    # Trained embeddings are saved in any case.
    trainer.model.save_pretrained(folder, save_embedding_layers=False)
    return {
        "trainable": sum(weight.numel() for weight in learning),
        "state_bytes": sum(tensor.nbytes for tensor in tensors),
        "adapter_bytes": (folder / "adapter_model.safetensors").stat().st_size,
    }
