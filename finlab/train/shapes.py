"""Sizes of models and kinds of GPUs for the cost model.

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
DRIVER = Path("/dev/nvidia0")  # exists if the machine has a GPU
# The matrices of a block: {name: (input width, output width)}, as fields of ModelShape.
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
        layers: Number of blocks.
        hidden: The hidden size: the width of a token's vector.
        heads: Number of query heads.
        kv_heads: Number of key heads, which is also the number of value heads.
        head_width: The width of a head.
        feed_forward: The inner width of a block's feed-forward part.
        vocabulary: Number of rows of the embedding and of the head.
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
        """The number of weights in the matrices of all blocks."""
        sizes = [getattr(self, into) * getattr(self, out) for into, out in MATRICES.values()]
        return self.layers * sum(sizes)

    @property
    def table_weights(self) -> int:
        """The number of weights in the embedding; an untied head has the same number."""
        return self.vocabulary * self.hidden

    @property
    def parameters(self) -> int:
        """The number of all weights."""
        tables = self.table_weights * (1 if self.tied else 2)
        return self.block_weights + tables + (2 * self.layers + 1) * self.hidden

    def adapter_weights(self, rank: int, targets: list[str]) -> int:
        """Return the number of weights in LoRA adapters.

        Args:
            rank: Rank of the adapters.
            targets: Names of the matrices that have an adapter.
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
        name: Name of the kind, such as `A100-80G`.
        flops: Dense bf16 FLOP/s, from the data sheet.
        float32_flops: FLOP/s in float32, from the data sheet.
        bytes: Bytes of its memory.
        bandwidth: Bytes per second to and from its memory.
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
    """Return the content of a YAML file in this module's folder."""
    return yaml_text.parse(yaml_text.read_text(HERE / name), name)


def gpu(name: str) -> Gpu:
    """Return a kind of GPU from gpus.yaml.

    Args:
        name: Name of the kind, such as `A100-80G`.

    Raises:
        ValueError: The kind is not known. The error lists the known kinds.
    """
    table = _table("gpus.yaml")
    if name not in table:
        raise ValueError(f"the GPU kind '{name}' is not known: write one of {', '.join(table)}")
    teraflops, float32_teraflops, gigabytes, bandwidth, family = table[name]
    speeds = teraflops * 1e12, float32_teraflops * 1e12
    return Gpu(name, *speeds, gigabytes * 1e9, bandwidth * 1e9, family)


def of_this_machine() -> tuple[Gpu, int] | None:
    """Return (kind of this machine's GPU, number of GPUs of the job); None without a GPU.

    The memory size comes from the driver. The speed comes from the data sheet if the name is in
    gpus.yaml. An unknown GPU counts as the slowest one of its family.
    """
    if not DRIVER.exists():
        return None  # avoids importing torch, which takes seconds
    import torch

    from finlab.train import launch

    if not torch.cuda.is_available():
        return None
    found = torch.cuda.get_device_properties(0)
    kind = kind_of(found.name, float(found.total_memory), (found.major, found.minor))
    # This process sees only one GPU (see finlab/__init__.py). A launched training uses all GPUs.
    return kind, launch.gpu_count() * launch.machines()


def kind_of(name: str, size: float, capability: tuple[int, int]) -> Gpu:
    """Return the kind of a GPU from the values that its driver reports.

    Args:
        name: The reported name, such as `NVIDIA H200` or `NVIDIA A100-SXM4-80GB`.
        size: Bytes of its memory.
        capability: CUDA's compute capability, (major, minor).
    """
    family = family_of(capability)
    listed = [gpu(each) for each in _table("gpus.yaml")]
    alike = []
    for each in listed:
        model = each.name.split("-")[0]  # A100 of A100-80G
        # Match the whole word, because an H200 is not an H20.
        if re.search(rf"{model}\b", name.replace("RTX ", "RTX")):
            alike.append(each)
    if not alike:
        alike = sorted((each for each in listed if each.family == family), key=_speed)
    return replace(alike[0], name=name, bytes=size, family=family)


def family_of(capability: tuple[int, int]) -> str:
    """Return the family of a GPU: ampere and older, ada, or hopper and newer.

    Args:
        capability: CUDA's compute capability, (major, minor).
    """
    if capability >= (9, 0):
        return "hopper"
    return "ada" if capability >= (8, 9) else "ampere"


def _speed(kind: Gpu) -> float:
    return kind.flops


def from_config(config: dict[str, Any]) -> ModelShape:
    """Return the sizes from the config.json of a Llama-like model."""
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
    """Return the sizes of a model; None if they are not known.

    Args:
        name: A folder, or a hub id that is on this machine or in shapes.yaml.
        vocabulary: Number of rows of the extended embedding; 0 keeps the model's own number.
    """
    shape = _local_shape(name)
    if shape is None and name in _table("shapes.yaml"):
        shape = ModelShape(*_table("shapes.yaml")[name])
    if shape is not None and vocabulary:
        shape = replace(shape, vocabulary=vocabulary)
    return shape


def _local_shape(name: str) -> ModelShape | None:
    """Return the sizes of a model in a folder or in the hub's cache; None if it is in neither."""
    import huggingface_hub

    candidates = []
    # A name with an environment variable that is not set is not a folder.
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
