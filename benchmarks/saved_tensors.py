"""What a block of a Llama keeps for its backward pass, beside what the cost model says.

    python -m benchmarks.saved_tensors

Runs in seconds on a CPU: the bytes are counted by autograd's own hooks, and do not depend on the
device. `finlab.train.costs` takes its factors for layers that are not fused from here.
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
    """Return a small Llama, with adapters where the setup has them."""
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


def saved_bytes(layers: int, setup: Setup) -> int:
    """Return the bytes that the forward pass of one row keeps, each storage once.

    Args:
        layers: Number of blocks.
        setup: How the model is trained.
    """
    model = random_model(layers, setup)
    weights = {weight.untyped_storage().data_ptr() for weight in model.parameters()}
    kept: dict[int, torch.Tensor] = {}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        place = tensor.untyped_storage().data_ptr()
        if place not in weights:
            kept[place] = tensor  # held, so that no other tensor takes its place
        return tensor

    ids = torch.randint(0, 300, (1, TOKENS))
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        model(ids, labels=ids)
    return sum(tensor.untyped_storage().nbytes() for tensor in kept.values())


def compare() -> list[dict]:
    """Return a row for each kind of training: KB that a block keeps of one token."""
    shape = ModelShape(1, HIDDEN, HEADS, HEADS, HIDDEN // HEADS, FEED_FORWARD, 300)
    rows = []
    for lora_rank in (0, 8):
        for dtype in DTYPES:
            setup = Setup(lora_rank=lora_rank, dtype=dtype, row_length=TOKENS)
            # The difference of two depths leaves embedding, head and loss out.
            measured = (saved_bytes(4, setup) - saved_bytes(2, setup)) / 2 / TOKENS
            predicted = costs.memory(shape, setup).activations / TOKENS
            rows.append(
                {
                    "trains": setup.method,
                    "dtype": dtype,
                    "measured KB": measured / 1e3,
                    "model KB": predicted / 1e3,
                    "error %": 100 * (predicted / measured - 1),
                }
            )
    return rows


if __name__ == "__main__":
    torch.manual_seed(17)
    print(show.table(compare(), digits=1))
