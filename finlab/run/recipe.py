"""Recipes: ordered steps, each a notebook with parameters, checked before anything runs.

    smoke = recipe.load("smoke")                              # notebooks/recipes/smoke.yaml
    recipe.load("zhilu-13b", ["pretrain.lora_rank=8"])        # with a value replaced

A recipe may extend another one: `extends: yayi-7b`, then the steps whose values differ.

What a notebook's `parameters` cell declares is read by `parameters`. A parameter that ends in
`_from` names the steps that the notebook reads, so the order of a recipe can be checked too.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from finlab import paths, yaml_text
from finlab.run.parameters import SET_BY_RUNNER, Parameter, check, declared_parameters, nearest

RECIPE_KEYS = {"name", "extends", "common", "steps"}
STEP_KEYS = {"step", "notebook", "parameters"}
STEP_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_-]*")
# A name becomes a folder below runs/.
NAME = re.compile(r"\w[\w.-]*")


@dataclass(frozen=True)
class Step:
    """One step of a recipe.

    Attributes:
        name: The step's name, which is also the name of its folder in a run.
        notebook: The notebook's file name without `.ipynb`.
        parameters: Every value that the notebook runs with.
        changed: The names of the parameters that the recipe or the command line gives.
    """

    name: str
    notebook: str
    parameters: dict[str, Any]
    changed: tuple[str, ...] = ()

    @property
    def path(self) -> Path:
        """The notebook's file."""
        return paths.NOTEBOOKS / f"{self.notebook}.ipynb"

    @property
    def needs(self) -> list[str]:
        """The steps that this one reads."""
        return needs(self.parameters)


@dataclass(frozen=True)
class Recipe:
    """A named, ordered list of steps.

    Attributes:
        name: Its file's name; a run's folder has it too.
        path: Its file.
        steps: In the order they run.
    """

    name: str
    path: Path
    steps: list[Step] = field(default_factory=list)


def needs(parameters: dict[str, Any]) -> list[str]:
    """Return the steps that the `*_from` parameters name, in order, each once."""
    names: list[str] = []
    for name, value in parameters.items():
        if name.endswith("_from"):
            names += value if isinstance(value, list) else [value]
    return list(dict.fromkeys(step for step in names if step))


# --- reading a recipe ----------------------------------------------------------------------------
def find(name: str) -> Path:
    """Return the file of a recipe that is given by name or by path.

    Raises:
        ValueError: There is no such recipe. The error lists the known names.
    """
    for path in (Path(name), paths.RECIPES / f"{name}.yaml"):
        if path.is_file():
            return path.resolve()
    known = sorted(path.stem for path in paths.RECIPES.glob("*.yaml"))
    raise ValueError(
        f"there is no recipe '{name}': {nearest(name, known)}"
        f"give a file, or one of {', '.join(known)}"
    )


def _read_file(path: Path, chain: tuple[Path, ...] = ()) -> dict[str, Any]:
    """Return the content of a recipe file, with what it extends filled in.

    Args:
        path: The file.
        chain: The recipes that extend it, to find a circle.
    """
    if path in chain:
        circle = " → ".join(each.name for each in (*chain, path))
        raise ValueError(f"{path}: recipes extend each other in a circle: {circle}")
    content = yaml_text.parse(yaml_text.read_text(path), str(path))
    if not _is_recipe(content):
        raise ValueError(
            f"{path}: a recipe holds the keys name, extends and common (both optional) and steps, "
            "and at least one step"
        )
    name = content.get("name")
    if name is not None and not (isinstance(name, str) and NAME.fullmatch(name)):
        raise ValueError(
            f"{path}: the name is {name!r}: write letters, digits, - and _, in quotes where it is "
            f'a number or a date, as in name: "2024"'
        )
    if content.get("extends") is not None:
        return _extend(path, content, chain)
    for number, entry in enumerate(content["steps"], 1):
        if not isinstance(entry, dict) or not isinstance(entry.get("step"), str):
            raise ValueError(
                f"{path}, step {number}: a step holds the keys step, notebook and parameters, "
                f"not {entry!r}"
            )
    return content


def _is_recipe(content: Any) -> bool:
    """Tell whether a YAML file's content has a recipe's shape."""
    if not isinstance(content, dict) or set(content) - RECIPE_KEYS:
        return False
    common = content.get("common") or {}
    if not isinstance(common, dict) or not all(isinstance(key, str) for key in common):
        return False
    return isinstance(content.get("steps"), list) and bool(content["steps"])


def _extend(path: Path, content: dict[str, Any], chain: tuple[Path, ...]) -> dict[str, Any]:
    """Return the recipe that `content` extends, with the values of `content` over its own.

    Args:
        path: The file of `content`. A path in `extends` starts at its folder.
        content: The recipe.
        chain: The recipes that extend it.
    """
    extended = content["extends"]
    if not isinstance(extended, str):
        raise ValueError(f"{path}: `extends` is {extended!r}: give a recipe's name or file")
    beside = path.parent / extended
    base = _read_file(beside.resolve() if beside.is_file() else find(extended), (*chain, path))
    steps = {entry["step"]: entry for entry in base["steps"]}
    changed: set[str] = set()
    for entry in content["steps"]:
        name = entry.get("step") if isinstance(entry, dict) else None
        known = isinstance(name, str) and name in steps
        if not known or set(entry) - {"step", "parameters"}:
            raise ValueError(
                f"{path}: under `extends` a step names one of {', '.join(steps)} "
                f"and the parameters that differ, not {entry!r}"
            )
        if name in changed:
            raise ValueError(f"{path}: the step '{name}' stands there twice")
        changed.add(name)
        own, given = entry.get("parameters") or {}, steps[name].get("parameters") or {}
        if not isinstance(own, dict) or not isinstance(given, dict):
            raise ValueError(f"{path}, step '{name}': parameters must be name: value pairs")
        steps[name] = steps[name] | {"parameters": given | own}
    common = (base.get("common") or {}) | (content.get("common") or {})
    return {"name": content.get("name"), "common": common, "steps": list(steps.values())}


def _parse_overrides(items: Iterable[str]) -> dict[str, dict[str, str]]:
    """Return {step: {parameter: text}} of `step.parameter=value` strings."""
    overrides: dict[str, dict[str, str]] = {}
    for item in items:
        target, equals, text = item.partition("=")
        step, dot, name = target.partition(".")
        if not (equals and dot and step and name):
            raise ValueError(
                f"--set {item}: write step.parameter=value, for example pretrain.learning_rate=1e-4"
            )
        overrides.setdefault(step, {})[name] = text
    return overrides


def _parse_value(text: str, annotation: str) -> Any:
    """Read a command-line value as its declared type says.

    What cannot be read is returned as it is, and refused by `check` later.

    Args:
        text: As typed.
        annotation: The parameter's declared type.
    """
    if annotation == "str" or annotation.startswith("Literal"):
        return text
    try:
        if annotation == "float":
            return float(text.replace(".nan", "nan").replace(".inf", "inf"))
        value = yaml_text.parse(text, "the value")
        if annotation == "list[float]" and isinstance(value, list):
            return [float(item) for item in value]
        return value
    except (ValueError, TypeError):
        return text


# --- loading -------------------------------------------------------------------------------------
def load(name: str, overrides: Iterable[str] = ()) -> Recipe:
    """Load and check a recipe.

    Args:
        name: A recipe's name, or the path of a YAML file.
        overrides: `step.parameter=value` strings that replace values of the recipe.

    Raises:
        ValueError: A notebook, step, parameter or input is unknown, or a value has the wrong type.
            The error names the file and the key.
    """
    path = find(name)
    content = _read_file(path)
    common = content.get("common") or {}
    replaced = _parse_overrides(overrides)
    unused = set(common)
    steps: list[Step] = []
    for number, entry in enumerate(content["steps"], 1):
        where = _check_entry(entry, f"{path.name}, step", number, steps)
        declarations = _declarations(entry["notebook"], where)
        unused -= set(declarations)
        values = {key: value for key, value in common.items() if key in declarations}
        values |= entry.get("parameters") or {}
        for key, text in replaced.pop(entry["step"], {}).items():
            annotation = declarations[key].type if key in declarations else "str"
            values[key] = _parse_value(text, annotation)
        steps.append(_make_step(entry, declarations, values, where, steps))
    if replaced:
        known = ", ".join(step.name for step in steps)
        unknown = next(iter(replaced))
        raise ValueError(f"--set {unknown}.…: {path.name} has no such step; it has {known}")
    if unused:
        raise ValueError(
            f"{path.name}, common: no notebook of the recipe declares '{sorted(unused)[0]}'"
        )
    return Recipe(content.get("name") or path.stem, path, steps)


def _check_entry(entry: Any, where: str, number: int, earlier: list[Step]) -> str:
    """Check the form of one step of a recipe, and return where it stands, for later errors.

    Args:
        entry: One element of `steps`.
        where: The recipe's file, for errors.
        number: The entry's place, from 1 on.
        earlier: The steps before it.
    """
    keys = set(entry) if isinstance(entry, dict) else set()
    if keys - STEP_KEYS or not {"step", "notebook"} <= keys:
        raise ValueError(
            f"{where} {number}: a step holds the keys step, notebook and parameters, not {entry!r}"
        )
    name = entry["step"]
    where = f"{where} {name!r}"
    if not isinstance(name, str) or not STEP_NAME.fullmatch(name):
        raise ValueError(f"{where}: a step's name is made of letters, digits, - and _")
    values = entry.get("parameters") or {}
    if not isinstance(values, dict) or not all(isinstance(key, str) for key in values):
        raise ValueError(
            f"{where}: parameters must be name: value pairs, not {entry['parameters']!r}"
        )
    if name in [step.name for step in earlier]:
        raise ValueError(f"{where}: the name is used twice")
    return where


def _declarations(notebook: str, where: str) -> dict[str, Parameter]:
    """Return a notebook's parameters; an error names where it was asked for."""
    try:
        return declared_parameters(notebook)
    except ValueError as error:
        raise ValueError(f"{where}: {error}") from None


def _make_step(
    entry: dict[str, Any],
    declarations: dict[str, Parameter],
    values: dict[str, Any],
    where: str,
    earlier: list[Step],
) -> Step:
    """Return a checked step.

    Args:
        entry: One element of `steps`.
        declarations: What its notebook declares.
        values: What the recipe and the command line set.
        where: For errors.
        earlier: The steps before it, one of which each `*_from` must name.
    """
    for key in SET_BY_RUNNER:
        if key in values:
            raise ValueError(f"{where}: '{key}' is set by the runner: leave it out (see --run-dir)")
    check(values, declarations, where)
    parameters = {}
    for key, declaration in declarations.items():
        parameters[key] = values.get(key, declaration.default)
    parameters["step"] = entry["step"]
    step = Step(entry["step"], entry["notebook"], parameters, tuple(values))
    made = [other.name for other in earlier]
    for need in step.needs:
        if need not in made:
            raise ValueError(
                f"{where}: reads step '{need}', which no earlier step of the recipe makes"
            )
    return step
