"""Merge a trained LoRA adapter into its base, and prove that nothing changed."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from finlab.models import adapters, folders, generation, loading

if TYPE_CHECKING:
    from peft import PeftModel
    from transformers import PreTrainedModel

MERGE_TOLERANCE = 1e-2  # how much merging itself may change a logit, in float32


def _is_quantised(adapted: PeftModel) -> bool:
    """Tell whether the base of an adapter is quantised."""
    quantizer = getattr(adapted, "hf_quantizer", None)
    return bool(quantizer or getattr(adapted.get_base_model(), "hf_quantizer", None))


def merge(adapted: PeftModel, probe: list[int]) -> tuple[PreTrainedModel, float]:
    """Merge an adapter into its base, in float32.

    Args:
        adapted: A base with an adapter on it.
        probe: Token ids of one text. Its logits are compared before and after merging.

    Returns:
        The merged model in its own dtype, and the largest absolute difference of logits.

    Raises:
        ValueError: The base is quantised. Its rounding errors would become permanent.
    """
    if _is_quantised(adapted):
        raise ValueError(
            "the base is quantised: load the full-precision base, merge there, "
            "and quantise the result"
        )
    dtype = adapted.dtype
    adapted = adapted.float().eval()
    before = generation.logits(adapted, probe)
    merged = adapted.merge_and_unload(safe_merge=True)
    difference = (generation.logits(merged, probe) - before).abs().max().item()
    return merged.to(dtype), difference


def merge_onto(
    adapted: PreTrainedModel | PeftModel,
    source: str | Path,
    adapter: Path,
    probe: list[int],
    dtype: str = "float32",
    initial: Path | None = None,
) -> PreTrainedModel:
    """Save a trained adapter, and merge it into its full-precision base from disk.

    Args:
        adapted: The trained model. A model without an adapter (trained in full) is only converted
            to `dtype`. A quantised base is not merged: the adapter is loaded onto the
            full-precision base instead.
        source: Folder of the full-precision base.
        adapter: Folder to save the adapter in, together with the hash of its base.
        probe: Token ids of one text. Its logits are compared before and after merging.
        dtype: Type of the merged model's weights, such as `bfloat16`.
        initial: Folder of the adapter as it was before training. It is needed where the adapter's
            initialization changed the base (PiSSA, OLoRA). The difference from it is then saved,
            and that difference fits the base on disk.

    Returns:
        The merged model, on the trained model's device.

    Raises:
        ValueError: The merged model's logits differ from the trained model's by more than the
            rounding of `dtype` explains, or merging itself changed the logits.
    """
    from peft import PeftModel

    if not isinstance(adapted, PeftModel):
        return adapted.eval().to(getattr(torch, dtype))
    adapted = adapted.eval()
    trained = generation.logits(adapted, probe).cpu()
    changed = {"path_initial_model_for_weight_conversion": str(initial)} if initial else {}
    # Trained embeddings are saved in any case.
    adapted.save_pretrained(adapter, save_embedding_layers=False, **changed)
    folder = folders.fetch(str(source))
    adapters.write_base(adapter, folder)
    merged, difference = merge(_fresh_model(adapted, source, adapter, dtype), probe)
    if difference > MERGE_TOLERANCE:
        raise ValueError(
            f"merging {adapter} changed the logits by {difference}: "
            f"the adapter does not belong to {source}"
        )
    if not _is_quantised(adapted):
        _require_same_logits(generation.logits(merged, probe), trained, dtype, source)
    return merged.to(adapted.device)


def _fresh_model(adapted: PeftModel, source: str | Path, adapter: Path, dtype: str) -> PeftModel:
    """Load the base from disk and the saved adapter, on the CPU because the GPU may be full."""
    config = copy.deepcopy(adapted.get_base_model().config)  # its context may be longer now
    config.__dict__.pop("quantization_config", None)
    base = loading.load(source, dtype, device_map="cpu", config=config)
    return adapters.attach(base, adapter)


def _require_same_logits(
    merged: torch.Tensor, trained: torch.Tensor, dtype: str, source: str | Path
) -> None:
    """Raise an error if the merged model's logits differ from the trained model's.

    Args:
        merged: Logits of the merged model, [tokens, vocabulary].
        trained: Logits of the base with its adapter, [tokens, vocabulary].
        dtype: Type of the merged weights. 16-bit types may differ more than float32.
        source: The base, for the error message.
    """
    difference = (merged - trained).abs().max().item()
    rounding = 1e-3 if dtype == "float32" else 6e-2
    allowed = rounding * max(trained.abs().max().item(), 1)
    if difference > allowed:
        raise ValueError(
            f"the merged model's logits are {difference:.3g} from those of the model that was "
            f"trained (allowed {allowed:.3g}): was {source} its base?"
        )
