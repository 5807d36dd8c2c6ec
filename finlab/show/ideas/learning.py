"""Draw the ideas of training: LoRA, packed rows, DPO's margin, GRPO's advantages."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy

from finlab.show.figures import axes_of, canvas
from finlab.show.ideas.shapes import FROZEN, LEARNT, PLAIN, arrow, box, note

if TYPE_CHECKING:
    from finlab.show.figures import Drawing


def lora(inputs: int, outputs: int, rank: int) -> Drawing:
    """Draw a frozen matrix and its low-rank update, with the real sizes.

    Args:
        inputs: Number of columns of the frozen matrix.
        outputs: Number of rows of the frozen matrix.
        rank: Rank of the update.

    Source:
        Hu et al., LoRA, arXiv:2106.09685, figure 1.
    """
    full, few = inputs * outputs, rank * (inputs + outputs)
    alt = (
        f"LoRA: a frozen matrix of {outputs} by {inputs}, {full:,} numbers. Beside it two small "
        f"matrices of rank {rank}, {few:,} numbers, are trained; their product is added."
    )
    figure, axes = canvas(10, 3.1, "LoRA: learn a small update, leave the matrix alone", alt)
    box(axes, (0.1, 1.2), (0.9, 0.6), "x", PLAIN)
    box(axes, (2.2, 1.75), (2.6, 1.2), f"W, frozen\n{outputs:,} × {inputs:,}", FROZEN)
    box(axes, (2.2, 0.35), (1.1, 0.8), f"A\n{rank} × {inputs:,}", LEARNT)
    box(axes, (3.7, 0.35), (1.1, 0.8), f"B\n{outputs:,} × {rank}", LEARNT)
    box(axes, (6.1, 1.2), (0.6, 0.6), "+", PLAIN, 12)
    arrow(axes, (1.0, 1.6), (2.2, 2.35))
    arrow(axes, (1.0, 1.4), (2.2, 0.75))
    arrow(axes, (3.3, 0.75), (3.7, 0.75))
    arrow(axes, (4.8, 2.35), (6.1, 1.6))
    arrow(axes, (4.8, 0.75), (6.1, 1.4))
    note(axes, 5.6, 0.85, "× alpha / rank", fontsize=8)
    arrow(axes, (6.7, 1.5), (7.3, 1.5))
    note(axes, 7.4, 1.95, f"frozen: {full:,} numbers")
    note(axes, 7.4, 1.5, f"trained: {few:,} numbers")
    note(axes, 7.4, 1.05, f"that is {few / full:.1%} of the matrix")
    return figure


def packed_rows(row_plan: list[list[int]], row_length: int) -> Drawing:
    """Draw rows with packed documents, and which tokens of a row see which others.

    Args:
        row_plan: For each row, the lengths of its documents in tokens.
        row_length: How many tokens fit into a row.
    """
    filled = sum(map(sum, row_plan)) / (row_length * len(row_plan))
    figure, (rows, mask) = axes_of(
        figsize=(7.5, 3.2), ncols=2, gridspec_kw={"width_ratios": [2.2, 1]}
    )
    for place, lengths in enumerate(row_plan):
        begin = 0
        for number, length in enumerate(lengths):
            rows.barh(place, length, left=begin, color=f"C{number % 10}", edgecolor="white")
            begin += length
        rows.barh(place, row_length - begin, left=begin, color="#eef1f4", edgecolor="#9aa5b1")
    rows.set(xlabel="tokens", title=f"{len(row_plan)} rows, {filled:.1%} filled", ylabel="row")
    rows.invert_yaxis()
    rows.set_yticks(range(len(row_plan)))
    seen = numpy.zeros((row_length, row_length))
    begin = 0
    for length in row_plan[0]:
        block = numpy.tril(numpy.ones((length, length)))
        seen[begin : begin + length, begin : begin + length] = block
        begin += length
    mask.imshow(seen, cmap="Reds", vmin=0, vmax=1.6, interpolation="nearest")
    mask.set(title="row 0: who sees whom", xlabel="token read", ylabel="token")
    mask.grid(False)
    figure.alt = (
        f"Left: {len(row_plan)} rows of {row_length} tokens, filled to {filled:.1%} with whole "
        f"documents. Right: the attention of row 0 as {len(row_plan[0])} triangles, one for each "
        "document: no token sees another document."
    )
    return figure


def margin(rewards: list[float], beta: float) -> Drawing:
    """Draw DPO's loss over the margin, with the margins of real pairs on it.

    Args:
        rewards: The margins of some pairs: how much more the policy prefers the better answer than
            the reference does, times beta.
        beta: The beta of the loss.

    Source:
        Rafailov et al., DPO, arXiv:2305.18290, equation 7.
    """
    found = numpy.asarray(rewards, dtype=float)
    reach = max(2.0, float(numpy.abs(found).max()) * 1.1 if len(found) else 2.0)
    across = numpy.linspace(-reach, reach, 101)
    figure, axes = axes_of()
    axes.plot(across, numpy.log1p(numpy.exp(-across)), color="#2c6e9b", label="loss of a pair")
    losses = numpy.log1p(numpy.exp(-found))
    label = "held-out pairs after training"
    axes.plot(found, losses, "o", color="#c0392b", alpha=0.5, markersize=4, label=label)
    axes.plot([0], [numpy.log(2)], "s", color="#333", label="every pair at step 0: ln 2")
    axes.axvline(0, color="#333", linewidth=0.8)
    axes.set(xlabel=f"margin (beta {beta:g}): how much more the better answer is preferred")
    axes.set(ylabel="loss, nats", title="DPO: right of 0 the better answer has gained")
    axes.legend()
    right = int((found > 0).sum())
    figure.alt = (
        "DPO's loss falls as the margin grows. At step 0 every pair lies at margin 0 and loss "
        f"ln 2; after training {right} of {len(found)} held-out pairs lie right of 0."
    )
    return figure


def advantages(rewards: list[float], found: list[float]) -> Drawing:
    """Draw how GRPO turns the rewards of one question's completions into advantages.

    Args:
        rewards: The reward of each completion.
        found: The advantage of each completion.

    Source:
        Shao et al., DeepSeekMath, arXiv:2402.03300, section 4.1.
    """
    figure, (left, right) = axes_of(figsize=(7.5, 2.8), ncols=2)
    places = range(len(rewards))
    left.bar(places, rewards, color="#9aa5b1")
    mean = sum(rewards) / len(rewards)
    left.axhline(mean, color="#333", linestyle="--", linewidth=1, label=f"mean {mean:.2f}")
    left.set(title="rewards of one question", xlabel="completion", ylabel="reward")
    left.legend(loc="upper left", bbox_to_anchor=(0, -0.22), fontsize=8)
    colours = ["#c0392b" if value > 0 else "#2c6e9b" for value in found]
    right.bar(places, found, color=colours)
    right.axhline(0, color="#333", linewidth=0.8)
    right.set(title="advantages: likelier, less likely", xlabel="completion")
    figure.alt = (
        f"The rewards of {len(rewards)} completions of one question, mean {mean:.2f}, and their "
        "advantages: reward less mean, over the spread. Above 0 a completion becomes likelier."
    )
    return figure
