"""`finlab plan`: say what a recipe needs, before a GPU is rented."""

from __future__ import annotations

import argparse
import math
from typing import TYPE_CHECKING

from finlab.commands.run import add_recipe
from finlab.commands.tables import table
from finlab.files import size_text
from finlab.run import recipe

if TYPE_CHECKING:
    from finlab.data.catalogue import Entry
    from finlab.train.planning import Plan, StepPlan


def add(commands: argparse._SubParsersAction) -> None:
    """Add the subcommand of this module to the parser."""
    plan = commands.add_parser(
        "plan", help="say what a recipe needs on some GPUs: memory, hours, money, disk"
    )
    add_recipe(plan)
    plan.add_argument("--gpu", default="A100-80G", help="the kind of GPU (default A100-80G)")
    plan.add_argument("--count", type=int, default=1, help="how many (default 1)")
    plan.add_argument("--price", type=float, default=0.0, help="of a GPU-hour, in any currency")
    plan.add_argument(
        "--efficiency",
        type=float,
        default=0.0,
        help="the share of the GPU's speed that is reached, as notebook 09 measures it (hfu)",
    )
    plan.add_argument(
        "--published", action="store_true", help="show the cost model beside published figures"
    )
    plan.set_defaults(function=_plan)


def _plan(arguments: argparse.Namespace) -> int:
    """Print the plan of a recipe; return 2 if a step does not fit, else 0."""
    from finlab.data import catalogue
    from finlab.train import advice, planning, published_costs, shapes

    if arguments.count < 1:
        raise ValueError(f"--count {arguments.count}: write 1 or more GPUs")
    if not (math.isfinite(arguments.price) and arguments.price >= 0):
        raise ValueError(f"--price {arguments.price}: write what a GPU-hour costs, 0 or more")
    if not 0 <= arguments.efficiency <= 1:
        raise ValueError(f"--efficiency {arguments.efficiency}: write a share between 0 and 1")
    gpu = shapes.gpu(arguments.gpu)
    wanted = recipe.load(arguments.recipe, arguments.overrides)
    entries = catalogue.of_recipe(wanted)
    efficiency = arguments.efficiency or None
    plan = planning.of_recipe(wanted, gpu, arguments.count, efficiency, entries)
    size = plan.shape.parameters / 1e9
    print(f"{wanted.name}: {size:.1f} billion parameters on {arguments.count} × {gpu.name}\n")
    print(table(planning.step_rows(plan, arguments.price), 1))
    print()
    print(table(planning.disk_rows(plan), 1))
    gpu_hours = plan.hours * plan.count
    hours, all_hours = planning.amount_text(plan.hours), planning.amount_text(gpu_hours)
    cost = planning.amount_text(gpu_hours * arguments.price)
    paid = f", {cost} in all" if arguments.price else ""
    print(f"\n{hours} hours of training, {all_hours} GPU-hours{paid}")
    _print_notes(plan, entries)
    if arguments.published:
        print()
        print(table(published_costs.comparison(), 1))
    sentences = advice.misfits(plan)
    for sentence in sentences.values():
        print(f"does not fit: {sentence}")
    return 2 if sentences else 0


def _print_limits(step: StepPlan) -> None:
    """Print which bounds on rows a step has, which its plan does not know.

    Args:
        step: The plan of the step.
    """
    for limit in ("max_dialogues", "max_pairs"):
        most = step.parameters.get(limit)
        if most:
            print(f"{step.name}: planned with all rows; {limit} takes {most:,} at most")


def _print_notes(plan: Plan, entries: list[Entry]) -> None:
    """Print notes about a plan, and what would make it faster.

    Args:
        plan: The plan.
        entries: Catalogue entries of what the recipe reads.
    """
    from finlab.train import advice, planning

    if plan.failures >= 0.01:
        print(f"stops to be expected by faults of machines: {plan.failures:.2f}")
    print("not counted: cleaning, quantising, exams; figures are within a fifth of published ones")
    for entry in entries:
        if entry.kind in planning.TRAINED and not entry.tokens:
            print(f"not counted: {entry.why or f'{entry.name}, whose size nobody knows'}")
    for step in plan.steps:
        _print_limits(step)
        if step.memory.host:
            size = size_text(step.memory.host)
            print(f"{step.name}: its optimizer takes {size} of the machines' own memory, in all")
    needs_liger = False
    for step in plan.steps:
        words = advice.fastest(plan, step)
        if words:
            changes = " ".join(f"--set {step.name.split('/')[0]}.{word}" for word in words)
            print(f"faster, and fits: {changes}")
        needs_liger = needs_liger or "liger=true" in words
    if needs_liger:
        print("liger-kernel comes with the extra gpu: pip install -e '.[gpu]'")
