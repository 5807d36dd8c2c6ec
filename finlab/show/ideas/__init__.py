"""Figures that explain the ideas of the notebooks, drawn with the notebooks' numbers."""

from finlab.show.ideas.corpora import minhash, pipeline, tiers
from finlab.show.ideas.learning import advantages, lora, margin, packed_rows
from finlab.show.ideas.measuring import interval, memory, rounding_levels, token_merge

__all__ = [
    "advantages",
    "interval",
    "lora",
    "margin",
    "memory",
    "minhash",
    "packed_rows",
    "pipeline",
    "rounding_levels",
    "tiers",
    "token_merge",
]
