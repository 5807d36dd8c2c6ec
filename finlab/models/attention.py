"""Choose the attention that a model uses on this machine, for prompts and for packed rows."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from transformers import PreTrainedModel


def choose_attention(dtype: str = "float32") -> str:
    """Return the attention for this machine, as transformers names it.

    It is flash-attn if there is CUDA, flash-attn can be imported and `dtype` has 16 bits. Otherwise
    it is PyTorch's SDPA.
    """
    if not torch.cuda.is_available() or dtype not in ("bfloat16", "float16"):
        return "sdpa"
    try:
        import flash_attn  # noqa: F401
    except ImportError:
        return "sdpa"
    return "flash_attention_2"


def packed_attention(model: PreTrainedModel, device: str = "") -> str:
    """Return the attention that packed rows are trained with.

    SDPA separates documents with a mask whose size is quadratic in the row's length. PyTorch's
    `varlen_attn` (2.10 and later) takes the documents' boundaries instead, as flash-attn does. Here
    it is used without sliding windows and soft caps, so models that have them keep SDPA.

    Args:
        model: The model.
        device: Type of the device to train on, such as `cuda`; empty means the model's device.

    Returns:
        `varlen` instead of SDPA in 16 bits on CUDA; otherwise the model's own attention.
    """
    own = model.config._attn_implementation
    on_cuda = (device or model.device.type) == "cuda"
    in_16_bits = model.dtype.itemsize == 2
    if own != "sdpa" or not on_cuda or not in_16_bits or _attends_specially(model):
        return own
    try:
        from torch.nn.attention.varlen import varlen_attn  # noqa: F401
    except ImportError:
        return own
    return register_varlen()


def _attends_specially(model: PreTrainedModel) -> bool:
    """Tell whether a model uses sliding windows or caps its attention scores."""
    config = model.config
    window = getattr(config, "sliding_window", None)
    if window and getattr(config, "use_sliding_window", True):
        return True
    return bool(getattr(config, "attn_logit_softcapping", None))


def register_varlen() -> str:
    """Register PyTorch's variable-length attention with transformers; return its name, `varlen`.

    It takes one joined row and the boundaries of its documents, `cu_seq_lens_q`. The tokens of a
    document attend only to earlier tokens of the same document:

        tokens          a1 a2 a3 a4 b1 b2 c1 c2
        cu_seq_lens_q   0           4     6     8
    """
    from torch.nn.attention import varlen
    from transformers import AttentionInterface
    from transformers.masking_utils import AttentionMaskInterface, flash_attention_mask

    def forward(
        module: torch.nn.Module,
        query: torch.Tensor,  # [1, heads, tokens, width]
        key: torch.Tensor,  # [1, key heads, tokens, width]
        value: torch.Tensor,  # [1, key heads, tokens, width]
        attention_mask: torch.Tensor | None,
        cu_seq_lens_q: torch.Tensor | None = None,  # [documents + 1]
        max_length_q: int | None = None,
        scaling: float | None = None,
        **rest: object,
    ) -> tuple[torch.Tensor, None]:
        if cu_seq_lens_q is None:
            raise ValueError(
                "varlen attention needs packed rows with their documents' bounds: "
                "for anything else use sdpa"
            )
        joined = [part[0].transpose(0, 1).contiguous() for part in (query, key, value)]
        out = varlen.varlen_attn(
            *joined,
            cu_seq_lens_q,
            cu_seq_lens_q,
            max_length_q,
            max_length_q,
            scale=scaling,
            window_size=(-1, 0),
            enable_gqa=query.shape[1] != key.shape[1],
        )
        return out[None], None

    AttentionInterface.register("varlen", forward)
    AttentionMaskInterface.register("varlen", flash_attention_mask)
    return "varlen"
