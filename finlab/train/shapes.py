"""Shapes of models and kinds of GPUs, as the cost model needs them.

shape = shapes.of_model("meta-llama/Llama-2-7b-hf")     # from its config, or from shapes.yaml
gpu = shapes.gpu("A100-80G")                            # from gpus.yaml
"""

from __future__ import annotations

import contextlib
import functools
import re
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from finlab import files, paths, yaml_text

HERE = Path(__file__).parent
# CUDA's compute capability to our family; newer ones are planned as the last we know.
DRIVER = Path("/dev/nvidia0")  # there where a GPU is
FAMILIES = {(8, 0): "ampere", (8, 6): "ampere", (8, 9): "ada", (9, 0): "hopper"}
FAMILIES |= {(10, 0): "hopper", (12, 0): "hopper"}
# The adapted matrices of a block: name to (input, output) as fields of ModelShape.
MATRICES = {
    "q_proj": ("hidden", "query_width"),
    "k_proj": ("hidden", "kv_width"),
    "v_proj": ("hidden", "kv_width"),
    "o_proj": ("query_width", "hidden"),
    "gate_proj": ("hidden", "feed_forward"),
    "up_proj": ("hidden", "feed_forward"),
    "down_proj": ("feed_forward", "hidden"),
}


@dataclass(frozen=True)
class ModelShape:
    """The sizes of a Llama-like model.

    Attributes:
        layers: Blocks.
        hidden: The width of a token's vector.
        heads: Query heads.
        kv_heads: Key and value heads.
        head_width: The width of a head.
        feed_forward: The inner width of a block's feed-forward part.
        vocabulary: Rows of embedding and head.
        tied: Whether embedding and head are one table.
    """

    layers: int
    hidden: int
    heads: int
    kv_heads: int
    head_width: int
    feed_forward: int
    vocabulary: int
    tied: bool = False

    @property
    def query_width(self) -> int:
        """The width of all query heads together."""
        return self.heads * self.head_width

    @property
    def kv_width(self) -> int:
        """The width of all key heads together."""
        return self.kv_heads * self.head_width

    @property
    def block_weights(self) -> int:
        """The weights of all matrices of all blocks."""
        sizes = [getattr(self, into) * getattr(self, out) for into, out in MATRICES.values()]
        return self.layers * sum(sizes)

    @property
    def table_weights(self) -> int:
        """The weights of the embedding; the head, where it is not tied, has as many."""
        return self.vocabulary * self.hidden

    @property
    def parameters(self) -> int:
        """All weights."""
        tables = self.table_weights * (1 if self.tied else 2)
        return self.block_weights + tables + (2 * self.layers + 1) * self.hidden

    def adapter_weights(self, rank: int, targets: list[str]) -> int:
        """Return the weights of LoRA adapters.

        Args:
            rank: Of the adapters.
            targets: The matrices that have one.
        """
        widths = 0
        for name in targets:
            if name in MATRICES:
                into, out = MATRICES[name]
                widths += getattr(self, into) + getattr(self, out)
        return self.layers * rank * widths


@dataclass(frozen=True)
class Gpu:
    """A kind of GPU.

    Attributes:
        name: Of the kind.
        flops: Dense bf16 FLOP/s, as the data sheet says.
        float32_flops: FLOP/s in float32, as the data sheet says.
        bytes: Of its memory.
        bandwidth: Bytes/s to and from its memory.
        family: ampere, ada or hopper.
    """

    name: str
    flops: float
    float32_flops: float
    bytes: float
    bandwidth: float
    family: str


@functools.cache
def _table(name: str) -> dict[str, list[Any]]:
    """Return one of the tables beside this module."""
    return yaml_text.parse(yaml_text.read_text(HERE / name), name)


def gpu(name: str) -> Gpu:
    """Return a kind of GPU.

    Raises:
        ValueError: It is not known; the error lists those that are.
    """
    table = _table("gpus.yaml")
    if name not in table:
        raise ValueError(f"the GPU kind '{name}' is not known: write one of {', '.join(table)}")
    teraflops, float32_teraflops, gigabytes, bandwidth, family = table[name]
    speeds = teraflops * 1e12, float32_teraflops * 1e12
    return Gpu(name, *speeds, gigabytes * 1e9, bandwidth * 1e9, family)


def of_this_machine() -> tuple[Gpu, int] | None:
    """Return the kind of this machine's GPUs and how many there are; None without any.

    Memory is what the driver says. Speed is the data sheet's where the name is in gpus.yaml; what
    is not known counts as the slowest of its family.
    """
    if not DRIVER.exists():
        return None  # torch need not be asked, which takes seconds
    import torch

    from finlab.train import launch

    if not torch.cuda.is_available():
        return None
    found = torch.cuda.get_device_properties(0)
    kind = kind_of(found.name, float(found.total_memory), (found.major, found.minor))
    # This process sees one GPU alone (see `finlab`), and a launched training takes all.
    return kind, launch.gpu_count() * launch.machines()


def kind_of(name: str, size: float, capability: tuple[int, int]) -> Gpu:
    """Return the kind of a GPU by what its driver says.

    Args:
        name: Such as `NVIDIA H200` or `NVIDIA A100-SXM4-80GB`.
        size: Bytes of its memory.
        capability: Of CUDA, (major, minor).
    """
    family = FAMILIES.get(capability, "ampere")
    listed = [gpu(each) for each in _table("gpus.yaml")]
    alike = []
    for each in listed:
        model = each.name.split("-")[0]  # A100 of A100-80G
        # To its end, since an H200 is no H20.
        if re.search(rf"{model}\b", name.replace("RTX ", "RTX")):
            alike.append(each)
    if not alike:
        alike = sorted((each for each in listed if each.family == family), key=_speed)
    return replace(alike[0], name=name, bytes=size, family=family)


def _speed(kind: Gpu) -> float:
    return kind.flops


def from_config(config: dict[str, Any]) -> ModelShape:
    """Return the shape in a config.json of a Llama-like model."""
    heads = config["num_attention_heads"]
    return ModelShape(
        layers=config["num_hidden_layers"],
        hidden=config["hidden_size"],
        heads=heads,
        kv_heads=config.get("num_key_value_heads") or heads,
        head_width=config.get("head_dim") or config["hidden_size"] // heads,
        feed_forward=config["intermediate_size"],
        vocabulary=config["vocab_size"],
        tied=bool(config.get("tie_word_embeddings")),
    )


def of_model(name: str, vocabulary: int = 0) -> ModelShape | None:
    """Return the shape of a model, None where it is not known.

    Args:
        name: A folder, or a hub id that is on this machine or in shapes.yaml.
        vocabulary: Rows of its tables, where they have been grown; 0 leaves them.
    """
    shape = _local_shape(name)
    if shape is None and name in _table("shapes.yaml"):
        shape = ModelShape(*_table("shapes.yaml")[name])
    if shape is not None and vocabulary:
        shape = replace(shape, vocabulary=vocabulary)
    return shape


def _local_shape(name: str) -> ModelShape | None:
    """Return the shape of a model that lies in a folder or in the hub's cache."""
    import huggingface_hub

    candidates = []
    # A variable that is not set stands for no folder.
    with contextlib.suppress(ValueError):
        candidates.append(paths.resolve(name) / "config.json")
    if name.count("/") == 1 and not name.startswith((".", "/", "~", "$")):
        cached = huggingface_hub.try_to_load_from_cache(name, "config.json")
        if isinstance(cached, str):
            candidates.append(Path(cached))
    for path in candidates:
        try:
            return from_config(files.read_json(path))
        except (OSError, ValueError, KeyError, TypeError):
            continue
    return None
