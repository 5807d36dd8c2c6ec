"""Faults of other libraries, worked around: what breaks, where, and when it can go.

Seen in transformers 5.23.0, trl 1.16.0, peft 0.21.2 and accelerate 1.15.0. We know of no thread
about those that name none. The tests named here fail where a patch is no longer needed, or breaks.
"""

from __future__ import annotations

import functools
import os
from typing import TYPE_CHECKING, Any

import torch

if TYPE_CHECKING:
    from transformers import PreTrainedModel, Trainer, TrainingArguments


def show_infinite_losses(args: TrainingArguments) -> None:
    """Let a loss that is not finite be seen.

    transformers replaces such a loss by the mean of the last ones before it logs it
    (`logging_nan_inf_filter`, on by default). It ends when that default changes.
    """
    args.logging_nan_inf_filter = False


def keep_trained_weights_in_float32(trainer: Trainer) -> None:
    """Keep the weights that learn in float32; bf16 computes under autocast.

    Steps smaller than bfloat16 can hold would be lost. transformers trains weights in the type that
    they were loaded in. DeepSpeed keeps float32 copies itself.
    """
    if trainer.is_deepspeed_enabled:
        return
    for parameter in trainer.model.parameters():
        if parameter.requires_grad:
            parameter.data = parameter.data.float()


def give_head_a_bias(model: PreTrainedModel) -> None:
    """Let TRL's fused head find `lm_head.bias`.

    It asks for the attribute (trl 1.16.0, add_fused_lm_head), which PEFT's wrapper of single
    trained rows hides. It ends when trl asks with getattr.
    """
    head = model.get_output_embeddings()
    # A reward model has no head over the vocabulary.
    if head is not None and not hasattr(head, "bias"):
        head.bias = None


def use_fsdp_on_cpu() -> None:
    """Let accelerate use FSDP on a CPU.

    accelerate 1.15.0 sets the type MULTI_CPU before it looks at FSDP, and so leaves FSDP out.
    """
    from accelerate.state import PartialState
    from accelerate.utils import DistributedType

    if os.environ.get("ACCELERATE_USE_FSDP") != "true":
        return
    if PartialState().distributed_type == DistributedType.MULTI_CPU:
        PartialState._shared_state["distributed_type"] = DistributedType.MULTI_GPU


def gather_head_under_fsdp2(trainer: Trainer) -> None:
    """Gather the head before each forward, where FSDP2 shares it out by itself.

    PEFT's wrappers make it so. TRL's fused head multiplies by the weight from outside the head:
    shared out it fails, or its gradients stay those of one process without a word (trl 1.16.0,
    add_fused_lm_head; losses are then 13% off). It ends when trl computes the head inside its
    module.

    Raises:
        ValueError: Rows are not packed (TRL's DPO head fails under FSDP2), or tied embeddings are
            trained beside LoRA, which accelerate would take apart.
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
    """Return the model under an adapter."""
    return model.get_base_model() if hasattr(model, "get_base_model") else model


def _refuse_tied_tables(model: torch.nn.Module) -> None:
    """Refuse tied tables that an adapter trains, which PEFT cannot do under FSDP2."""
    for config in getattr(model, "peft_config", {}).values():
        tables = config.modules_to_save or getattr(config, "trainable_token_indices", None)
        if tables and _base_model(model).config.tie_word_embeddings:
            raise ValueError(
                "under FSDP2 PEFT cannot train tied embeddings: set train_embeddings to none, "
                "train in full (lora_rank 0), or launch with ddp or zero2"
            )


def _add_gradients_in_float32(trainer: Trainer) -> None:
    """Reduce gradients, and hand losses on, in float32; accelerate takes bfloat16 for both.

    Small parts would be lost in sums of bfloat16, and logged losses cut to three digits.
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
