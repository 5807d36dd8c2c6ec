"""Workarounds for faults of other libraries.

Each docstring says what breaks, where, and when the patch can be removed. The faults occur in
transformers 5.23.0, trl 1.16.0, peft 0.21.2 and accelerate 1.15.0. Where a docstring names no issue
thread, we know of none. Tests fail if a patch breaks or is no longer needed.
"""

from __future__ import annotations

import functools
import os
from typing import TYPE_CHECKING, Any

import torch

if TYPE_CHECKING:
    from transformers import PreTrainedModel, Trainer, TrainingArguments


def show_infinite_losses(args: TrainingArguments) -> None:
    """Let the log show a loss that is not finite.

    By default (`logging_nan_inf_filter`), transformers replaces such a loss with the mean of the
    last losses before it is logged. The patch can be removed when this default changes.
    """
    args.logging_nan_inf_filter = False


def keep_trained_weights_in_float32(trainer: Trainer) -> None:
    """Keep trained weights in float32; with bf16, autocast does the computation.

    In bfloat16, small updates of a weight would be rounded away. transformers trains weights in the
    type in which they were loaded. DeepSpeed keeps float32 copies itself.
    """
    if trainer.is_deepspeed_enabled:
        return
    for parameter in trainer.model.parameters():
        if parameter.requires_grad:
            parameter.data = parameter.data.float()


def give_head_a_bias(model: PreTrainedModel) -> None:
    """Let TRL's fused head find `lm_head.bias`.

    TRL reads this attribute (trl 1.16.0, add_fused_lm_head), but PEFT's wrapper for single trained
    rows hides it. The patch can be removed when trl reads it with getattr.
    """
    head = model.get_output_embeddings()
    # A reward model has no head over the vocabulary.
    if head is not None and not hasattr(head, "bias"):
        head.bias = None


def use_fsdp_on_cpu() -> None:
    """Let accelerate use FSDP on a CPU.

    accelerate 1.15.0 sets the distributed type MULTI_CPU before it checks for FSDP, so it does not
    use FSDP.
    """
    from accelerate.state import PartialState
    from accelerate.utils import DistributedType

    if os.environ.get("ACCELERATE_USE_FSDP") != "true":
        return
    if PartialState().distributed_type == DistributedType.MULTI_CPU:
        PartialState._shared_state["distributed_type"] = DistributedType.MULTI_GPU


def gather_head_under_fsdp2(trainer: Trainer) -> None:
    """Gather the head before each forward pass if FSDP2 shards it as a unit of its own.

    With PEFT's wrappers FSDP2 does that. TRL's fused head uses the weight outside the head's
    module. With a sharded weight it fails, or its gradients silently come from one process only
    (trl 1.16.0, add_fused_lm_head; losses are then 13% off). The patch can be removed when trl
    computes the head inside its module.

    Raises:
        ValueError: Rows are not packed (TRL's DPO head fails under FSDP2), or tied embeddings are
            trained together with LoRA, and accelerate would untie them.
    """
    if not trainer.is_fsdp_enabled:
        return
    if "seq_lengths" not in trainer.train_dataset.column_names:
        raise ValueError(
            "under FSDP2 only packed rows can be trained (TRL's DPO head fails there): "
            "launch with ddp or zero2"
        )
    _refuse_tied_tables(trainer.model)
    _add_gradients_in_float32(trainer)
    base = _base_model(trainer.model)
    forward = base.forward

    @functools.wraps(forward)
    def gathered(*arguments: Any, **keywords: Any) -> Any:
        from torch.distributed.fsdp import FSDPModule

        head = base.get_output_embeddings()
        if isinstance(head, FSDPModule):
            head.unshard()
        out = forward(*arguments, **keywords)
        if isinstance(head, FSDPModule) and not torch.is_grad_enabled():
            head.reshard()
        return out

    base.forward = gathered


def _base_model(model: torch.nn.Module) -> PreTrainedModel:
    """Return the base of a model with an adapter; a model without one is returned itself."""
    return model.get_base_model() if hasattr(model, "get_base_model") else model


def _refuse_tied_tables(model: torch.nn.Module) -> None:
    """Raise an error if tied tables are trained with an adapter; PEFT with FSDP2 cannot do it."""
    for config in getattr(model, "peft_config", {}).values():
        tables = config.modules_to_save or getattr(config, "trainable_token_indices", None)
        if tables and _base_model(model).config.tie_word_embeddings:
            raise ValueError(
                "under FSDP2 PEFT cannot train tied embeddings: set train_embeddings to none, "
                "train in full (lora_rank 0), or launch with ddp or zero2"
            )


def _add_gradients_in_float32(trainer: Trainer) -> None:
    """Use float32 for summing gradients and for outputs; accelerate uses bfloat16 for both.

    In bfloat16, small values would be lost in the sums, and logged losses would have only three
    digits.
    """
    if not trainer.args.bf16:
        return
    from torch.distributed.fsdp import MixedPrecisionPolicy

    policy = MixedPrecisionPolicy(
        param_dtype=torch.bfloat16,
        reduce_dtype=torch.float32,
        output_dtype=torch.float32,
    )
    trainer.accelerator.state.fsdp_plugin.mixed_precision_policy = policy
