"""What a block of a Llama keeps for its backward pass, compared with the cost model.

    python -m benchmarks.saved_tensors

Runs in seconds on a CPU: autograd's own hooks count the bytes, which do not depend on the device.
`finlab.train.costs` takes its factors for layers that are not fused from here.
"""

from __future__ import annotations

import torch
from peft import LoraConfig, get_peft_model
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedModel

from finlab import show
from finlab.train import costs
from finlab.train.costs import Setup
from finlab.train.shapes import ModelShape

HIDDEN, FEED_FORWARD, HEADS, TOKENS = 256, 688, 4, 128
DTYPES = {"bfloat16": torch.bfloat16, "float32": torch.float32}


def random_model(layers: int, setup: Setup) -> PreTrainedModel:
    """Return a small Llama, with adapters if the setup has them."""
    config = LlamaConfig(
        vocab_size=300,
        hidden_size=HIDDEN,
        intermediate_size=FEED_FORWARD,
        num_hidden_layers=layers,
        num_attention_heads=HEADS,
        attn_implementation="sdpa",
    )
    model = LlamaForCausalLM(config).to(DTYPES[setup.dtype])
    if setup.lora_rank:
        adapters = LoraConfig(r=setup.lora_rank, target_modules=list(costs.ALL_TARGETS))
        model = get_peft_model(model, adapters)
        model.enable_input_require_grads()
    return model.train()


def saved_bytes(layers: int, setup: Setup, autocast: bool) -> int:
    """Return the bytes that the forward pass of one row keeps; each storage counts once.

    Args:
        layers: Number of blocks.
        setup: How the model is trained.
        autocast: Whether matrix products are cast to bfloat16, as `bf16=True` does in training.
    """
    model = random_model(layers, setup)
    weights = {weight.untyped_storage().data_ptr() for weight in model.parameters()}
    kept: dict[int, torch.Tensor] = {}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        place = tensor.untyped_storage().data_ptr()
        if place not in weights:
            kept[place] = tensor  # kept alive, so that no other tensor takes its place
        return tensor

    ids = torch.randint(0, 300, (1, TOKENS))
    casting = torch.autocast("cpu", torch.bfloat16, enabled=autocast)
    with casting, torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        model(ids, labels=ids)
    return sum(tensor.untyped_storage().nbytes() for tensor in kept.values())


def compare() -> list[dict]:
    """Return a row for each kind of training: the KB that a block keeps for one token."""
    shape = ModelShape(1, HIDDEN, HEADS, HEADS, HIDDEN // HEADS, FEED_FORWARD, 300)
    rows = []
    for lora_rank in (0, 8):
        for dtype, autocast in (("bfloat16", False), ("bfloat16", True), ("float32", False)):
            setup = Setup(lora_rank=lora_rank, dtype=dtype, row_length=TOKENS)
            # The difference between two depths does not include embedding, head and loss.
            two, four = (saved_bytes(layers, setup, autocast) for layers in (2, 4))
            measured = (four - two) / 2 / TOKENS
            predicted = costs.memory(shape, setup).activations / TOKENS
            rows.append(
                {
                    "trains": setup.method,
                    "dtype": f"{dtype}, autocast" if autocast else dtype,
                    "measured KB": measured / 1e3,
                    "model KB": predicted / 1e3,
                    "error %": 100 * (predicted / measured - 1),
                }
            )
    return rows


if __name__ == "__main__":
    torch.manual_seed(17)
    print(show.table(compare(), digits=1))
