"""Draw the ideas of the steps for text: the pipeline, MinHash bands, tiers of knowledge."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy

from finlab.show.figures import axes_of, canvas
from finlab.show.ideas.shapes import FROZEN, LEARNT, PLAIN, arrow, box, note

if TYPE_CHECKING:
    from finlab.show.figures import Drawing

STEPS = (
    ("00\nbase", "底座模型"),
    ("01\ncorpus", "语料"),
    ("02\ntokenizer", "分词器"),
    ("03\npretrain", "预训练"),
    ("04\nSFT", "监督微调"),
    ("05\nDPO", "偏好"),
    ("06\nquantize", "量化"),
    ("07\nevaluate", "评测"),
)


def pipeline(here: int = 0) -> Drawing:
    """Draw the steps from an open base to a chat model, and what each step gives the next.

    Args:
        here: The number of the current notebook, whose box is coloured.
    """
    names = ", ".join(name.replace("\n", " ") for name, _ in STEPS)
    alt = f"The chain of steps from left to right: {names}. Notebook {here:02d} is marked."
    figure, axes = canvas(10, 1.75, "From an open base to a chat model for Chinese finance", alt)
    for number, (name, chinese) in enumerate(STEPS):
        x = 0.05 + 1.25 * number
        colour = LEARNT if number == here else PLAIN
        box(axes, (x, 0.62), (1.02, 0.95), f"{name}\n{chinese}", colour, 8)
        if number:
            arrow(axes, (x - 0.22, 1.1), (x, 1.1))
    note(axes, 0.05, 0.28, "model and tokenizer pass from step to step; 07 scores every model")
    note(axes, 6.3, 0.28, "08 knowledge and 10 reasoning start from the chat model")
    return figure


def minhash(bands: int, rows: int, threshold: float) -> Drawing:
    """Draw the probability that two documents are compared, over their similarity.

    Two documents become candidates if all hashes of one band agree. For a Jaccard similarity s,
    this happens with a probability of 1 - (1 - s^rows)^bands.

    Args:
        bands: Number of bands in the signature.
        rows: Number of hashes in a band.
        threshold: The similarity from which candidates count as copies, and one is dropped.

    Source:
        Leskovec, Rajaraman, Ullman, Mining of Massive Datasets, section 3.4.
    """
    alike = numpy.linspace(0, 1, 101)
    chance = 1 - (1 - alike**rows) ** bands
    figure, axes = axes_of()
    axes.plot(alike, chance, color="#c0392b")
    axes.axvline(threshold, color="#333", linestyle="--", linewidth=1)
    at = 1 - (1 - threshold**rows) ** bands
    label = f"dropped from {threshold:g} on:\n{at:.1%} of such pairs are found"
    axes.text(0.02, 0.75, label, fontsize=9)
    axes.fill_between(alike, 0, chance, where=alike >= threshold, color="#f6c6c0", alpha=0.6)
    axes.set(xlabel="likeness of two documents (Jaccard, character 5-grams)")
    axes.set(ylabel="chance to be compared", ylim=(0, 1.08))
    axes.set(title=f"MinHash: {bands} bands of {rows} hashes")
    half = alike[numpy.searchsorted(chance, 0.5)]
    figure.alt = (
        f"MinHash with {bands} bands of {rows} hashes. The chance that two documents are compared "
        f"rises as an S: one half at a likeness of {half:.2f}, {at:.1%} at {threshold:g}."
    )
    return figure


def tiers(names: list[str], thresholds: list[float]) -> Drawing:
    """Draw the order in which sources of knowledge are asked.

    Args:
        names: Names of the tiers, in the order in which they are asked.
        thresholds: For each tier, the share of the question's wording that a passage must contain.
    """
    asked = ", then ".join(names)
    alt = f"A question goes to {asked}; where all fail, the answer is that nothing was found."
    figure, axes = canvas(10, 2.3, "Ask the next source only where the one before it fails", alt)
    width = (9.9 - 0.5 * (len(names) + 1)) / (len(names) + 2)
    box(axes, (0.05, 1.0), (width, 0.7), "question\n问题", FROZEN)
    for number, (name, threshold) in enumerate(zip(names, thresholds, strict=True), 1):
        x = 0.05 + number * (width + 0.5)
        box(axes, (x, 1.0), (width, 0.7), f"{name}\n≥ {threshold:.2f}", PLAIN)
        arrow(axes, (x - 0.5, 1.35), (x, 1.35), "" if number == 1 else "fails")
        arrow(axes, (x + width / 2, 1.0), (x + width / 2, 0.5), "")
        note(axes, x + width / 2, 0.3, "answer with sources", ha="center", fontsize=8)
    x = 0.05 + (len(names) + 1) * (width + 0.5)
    box(axes, (x, 1.0), (width, 0.7), "not found\n未找到", LEARNT)
    arrow(axes, (x - 0.5, 1.35), (x, 1.35), "fails")
    note(axes, 0.05, 2.1, "a source fails where its best passage holds too little of the question")
    return figure
