"""Load models, extend their context, and describe them."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from finlab.models import adapters, attention, tokenization

if TYPE_CHECKING:
    from transformers import PretrainedConfig, PreTrainedModel

ROPE_TYPES = ("linear", "yarn")


def load(
    source: str | Path, dtype: str = "float32", place: bool = True, **options: Any
) -> PreTrainedModel:
    """Load a causal language model with the best attention for this machine.

    Args:
        source: A folder or a hub id. For an adapter's folder, the base is loaded with the adapter
            on it.
        dtype: Type of the weights: float32, bfloat16 or float16.
        place: Put the model on the GPU, if there is one and `device_map` is not given.
        **options: For `from_pretrained`: config, quantization_config, device_map, ...

    Returns:
        The model, in evaluation mode.

    Raises:
        ValueError: There is no model at `source`, or its weights do not fit its config.
    """
    from transformers import AutoModelForCausalLM

    if adapters.is_adapter(source):
        base = load(adapters.base_of(source), dtype, place, **options)
        return adapters.attach(base, Path(source)).eval()
    if Path(source).is_dir() and not (Path(source) / "config.json").exists():
        raise ValueError(f"no model at '{source}': the folder holds no config.json")
    # flash-attn runs on a GPU only.
    stays_on_cpu = not place or options.get("device_map") == "cpu"
    best = "sdpa" if stays_on_cpu else attention.choose_attention(dtype)
    options.setdefault("attn_implementation", best)
    try:
        model, report = AutoModelForCausalLM.from_pretrained(
            str(source),
            dtype=getattr(torch, dtype),
            output_loading_info=True,
            ignore_mismatched_sizes=True,  # `_require_whole` below names them and raises an error
            trust_remote_code=False,  # never run code from the hub, and do not ask the user
            **options,
        )
    except torch.OutOfMemoryError:
        raise
    except Exception as error:  # a damaged file can raise any error
        reason = _first_line(error)
        raise ValueError(
            f"no model at '{source}': give a folder with config.json and weights, "
            f"or a hub id you can reach ({reason})"
        ) from None
    _require_whole(source, model, report)
    if place and torch.cuda.is_available() and "device_map" not in options:
        model = model.to("cuda")
    _use_plain_kernels(model)
    return model.eval()


def usual_dtype() -> str:
    """Return the usual type of weights on this machine: bfloat16 on a GPU, else float32."""
    return "bfloat16" if torch.cuda.is_available() else "float32"


def read_config(source: str | Path) -> PretrainedConfig:
    """Return the config of a model.

    Args:
        source: A folder or a hub id.

    Raises:
        ValueError: The model has no config, or a config that needs code from the hub, which is
            never run.
    """
    from transformers import AutoConfig

    try:
        return AutoConfig.from_pretrained(str(source), trust_remote_code=False)
    except Exception as error:  # a damaged config can raise any error
        reason = _first_line(error)
        raise ValueError(f"no model at '{source}': its config cannot be read ({reason})") from None


def _first_line(error: Exception) -> str:
    """Return the first line of an error's message, or the error's class name if it has none."""
    lines = str(error).strip().splitlines()
    return (lines[0] if lines else type(error).__name__)[:200]


def _require_whole(source: str | Path, model: PreTrainedModel, report: dict[str, Any]) -> None:
    """Raise an error if some tensors of a model were not loaded from its files.

    transformers fills missing tensors with random numbers and continues.

    Args:
        source: Folder or hub id of the model, for the error message.
        model: The loaded model.
        report: The loading report of transformers (`output_loading_info`).

    Raises:
        ValueError: Tensors are missing, left over, of another shape, or not finite.
    """
    tied = set(getattr(model, "_tied_weights_keys", None) or ())
    faults = {
        "are missing": sorted(set(report["missing_keys"]) - tied),
        "belong to nothing in it": sorted(report["unexpected_keys"]),
        "have another shape than its config says": sorted(
            str(each[0] if isinstance(each, tuple) else each) for each in report["mismatched_keys"]
        ),
        "are not finite": _not_finite(model),
    }
    for fault, names in faults.items():
        if names:
            more = f" and {len(names) - 3} more" if len(names) > 3 else ""
            raise ValueError(
                f"the model at '{source}' is not whole: tensors {fault} "
                f"({', '.join(names[:3])}{more}): get its files again, or fix its config.json"
            )


def _not_finite(model: PreTrainedModel) -> list[str]:
    """Return the names of weights that hold NaN or infinity."""
    names = []
    for name, tensor in model.named_parameters():
        if tensor.is_floating_point() and not tensor.is_meta:
            if not torch.isfinite(tensor.sum(dtype=torch.float32)):
                if not torch.isfinite(tensor).all():
                    names.append(name)
    return names


def _use_plain_kernels(model: PreTrainedModel) -> None:
    """Turn off bitsandbytes' packed CPU kernel in layers whose widths it does not support."""
    for module in model.modules():
        if not getattr(module, "support_avx512bf16_for_cpu", False):
            continue
        if module.out_features % 32 or module.in_features % 64:
            module.support_avx512bf16_for_cpu = False


def extend_context(
    source: str | Path, context: int = 0, rope_type: str = "", rope_base: float = 0.0
) -> PretrainedConfig:
    """Return the config of a model with a longer context, to give to `load` as `config`.

    As an example, XuanYuan-70B was extended to 8k and 16k tokens during pretraining.

    Args:
        source: A folder or a hub id.
        context: The new context in tokens; 0 keeps the model's context.
        rope_type: How positions are scaled: `linear` (position interpolation, Chen et al. 2023) or
            `yarn` (Peng et al. 2023); empty leaves the scaling as it is. The factor is the new
            context divided by the model's original context, also if the context was extended
            before.
        rope_base: The base of the rotary frequencies; 0 keeps the model's. A larger base makes the
            frequencies lower.

    Raises:
        ValueError: `rope_type` is unknown, the model uses another scaling already, the context is
            shorter, or positions would be scaled without a longer context.
    """
    config = read_config(source)
    old = config.max_position_embeddings
    parameters = dict(config.rope_parameters)
    _check_context(source, old, context, rope_type, parameters.get("rope_type", "default"))
    if rope_base:
        parameters["rope_theta"] = rope_base
    if rope_type:
        first = parameters.get("original_max_position_embeddings")
        first = first or round(old / parameters.get("factor", 1))
        parameters["rope_type"] = rope_type
        parameters["factor"] = context / first
        parameters["original_max_position_embeddings"] = first
    config.rope_parameters = parameters
    config.max_position_embeddings = context or old
    return config


def _check_context(
    source: str | Path, old: int, context: int, rope_type: str, own_type: str
) -> None:
    """Raise an error if a model's context cannot be extended in this way.

    Args:
        source: Folder or hub id of the model, for the error message.
        old: The model's present context, in tokens.
        context: The new context in tokens; 0 keeps the present one.
        rope_type: How to scale positions: `linear` or `yarn`; empty does not scale them.
        own_type: How the model scales positions already; `default` means not at all.
    """
    if context and context < old:
        raise ValueError(
            f"the context of {source} is {old:,} tokens: {context:,} would shorten it; "
            "set context to 0 to keep it"
        )
    if not rope_type:
        return
    if rope_type not in ROPE_TYPES:
        raise ValueError(f"rope_type can be linear, yarn or empty, not '{rope_type}'")
    if context <= old:
        raise ValueError(
            f"rope_type {rope_type} stretches positions to a longer context: "
            f"set context above {old:,}"
        )
    if own_type not in ("default", *ROPE_TYPES):
        raise ValueError(
            f"the positions of {source} are scaled by {own_type} already: "
            "set rope_type to empty, or raise rope_base instead"
        )


def parameter_counts(model: torch.nn.Module) -> dict[str, int]:
    """Return the numbers of parameters, {trainable, total}; tied parameters count once."""
    counts = {"trainable": 0, "total": 0}
    for parameter in model.parameters():
        counts["total"] += parameter.numel()
        if parameter.requires_grad:
            counts["trainable"] += parameter.numel()
    return counts


def describe(source: str | Path, sample: list[str]) -> dict[str, Any]:
    """Return one row of a table that compares bases. No weights are loaded.

    The table is like the one of Golden-GPT.

    Args:
        source: A folder or a hub id.
        sample: Texts on which characters per token are measured.
    """
    from transformers import AutoModelForCausalLM

    config = read_config(source)
    with torch.device("meta"):
        parameters = AutoModelForCausalLM.from_config(
            config, trust_remote_code=False
        ).num_parameters()
    tokenizer = tokenization.load(source)
    chars_per_token = tokenization.chars_per_token(tokenizer, sample)
    architectures = config.architectures or [config.model_type]
    context = config.max_position_embeddings
    return {
        "base": Path(source).name,
        "architecture": architectures[0],
        "layers": config.num_hidden_layers,
        "parameters": parameters,
        "vocabulary": config.vocab_size,
        "context": context,
        "chars per token": chars_per_token,
        "context in characters": int(context * chars_per_token),
    }
