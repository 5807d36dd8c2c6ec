"""`finlab memory`: say how much memory a model takes while it answers, by format."""

from __future__ import annotations

import argparse
import math

from finlab.commands.tables import table

FORMS = {
    "none": "16 bits",
    "int8": "int8",
    "fp8": "FP8",
    "nf4": "NF4",
    "gptq4": "GPTQ or AWQ, 4 bits",
}


def add(commands: argparse._SubParsersAction) -> None:
    """Add the subcommand of this module to the parser."""
    memory = commands.add_parser(
        "memory", help="say what a model takes while it answers, by format and context"
    )
    memory.add_argument("model", help="a folder, or a hub id")
    memory.add_argument("--context", type=int, default=4096, help="tokens of an answer with prompt")
    memory.add_argument("--batch", type=int, default=1, help="answers at once")
    memory.add_argument("--gpu", default="", help="say how many of this kind are needed")
    memory.set_defaults(function=_memory)


def _memory(arguments: argparse.Namespace) -> int:
    """Print the memory of a model while it answers."""
    from finlab.train import costs, shapes

    for name in ("context", "batch"):
        if getattr(arguments, name) < 1:
            raise ValueError(f"--{name} {getattr(arguments, name)}: write 1 or more")
    shape = shapes.of_model(arguments.model)
    if shape is None:
        raise ValueError(
            f"the shape of '{arguments.model}' is not known: name a folder with config.json, a hub "
            "id whose config is on this machine, or add a line to finlab/train/shapes.yaml"
        )
    gpu = shapes.gpu(arguments.gpu) if arguments.gpu else None
    rows = []
    for form, label in FORMS.items():
        found = costs.answering(shape, form, arguments.context, arguments.batch)
        row = {
            "format": label,
            "weights, GB": found.weights / 1e9,
            "keys and values, GB": found.cache / 1e9,
            "activations, GB": found.activations / 1e9,
            "in all, GB": found.total / 1e9,
        }
        if gpu:
            row[f"{gpu.name} needed"] = math.ceil(found.total / gpu.bytes)
        rows.append(row)
    size = shape.parameters / 1e9
    print(
        f"{arguments.model}: {size:.1f} billion parameters, {arguments.batch} × "
        f"{arguments.context:,} tokens\n"
    )
    print(table(rows, 1))
    print("\na prompt is read at once; the framework's 0.8 GB is in the sum")
    return 0
