"""Recipes: ordered steps, each a notebook with parameters. They are checked before a run.

    smoke = recipe.load("smoke")                              # notebooks/recipes/smoke.yaml
    recipe.load("zhilu-13b", ["pretrain.lora_rank=8"])        # with a value replaced

A recipe may extend another one: it has `extends: yayi-7b`, and then only the steps with different
values.

The module `parameters` reads which parameters a notebook declares. A parameter that ends in
`_from` names the steps that the notebook reads. So the order of a recipe's steps can be checked
too.
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
# The name of a recipe becomes the name of a folder in runs/.
NAME = re.compile(r"\w[\w.-]*")


@dataclass(frozen=True)
class Step:
    """One step of a recipe.

    Attributes:
        name: Name of the step, which is also the name of its folder in a run.
        notebook: The notebook's file name without `.ipynb`.
        parameters: All parameter values that the notebook runs with, by name.
        changed: Names of the parameters that the recipe or the command line sets.
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
        """Names of the steps that this step reads."""
        return needs(self.parameters)


@dataclass(frozen=True)
class Recipe:
    """A named, ordered list of steps.

    Attributes:
        name: Name of the recipe, also the default name of a run's folder.
        path: File of the recipe.
        steps: The steps, in the order in which they run.
    """

    name: str
    path: Path
    steps: list[Step] = field(default_factory=list)


def needs(parameters: dict[str, Any]) -> list[str]:
    """Return the names of the steps in the `*_from` parameters, in order and each once."""
    names: list[str] = []
    for name, value in parameters.items():
        if name.endswith("_from"):
            names += value if isinstance(value, list) else [value]
    return list(dict.fromkeys(step for step in names if step))


# --- reading a recipe ----------------------------------------------------------------------------
def find(name: str) -> Path:
    """Return the file of a recipe.

    Args:
        name: The recipe's name, or the path of its file.

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
    """Return the content of a recipe file, merged with the recipe that it extends.

    Args:
        path: The recipe file.
        chain: Files of the recipes that extend this one, to detect a circle.
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
    """Tell whether the content of a YAML file has the form of a recipe."""
    if not isinstance(content, dict) or set(content) - RECIPE_KEYS:
        return False
    common = content.get("common") or {}
    if not isinstance(common, dict) or not all(isinstance(key, str) for key in common):
        return False
    return isinstance(content.get("steps"), list) and bool(content["steps"])


def _extend(path: Path, content: dict[str, Any], chain: tuple[Path, ...]) -> dict[str, Any]:
    """Return the recipe that `content` extends, with the values of `content` put in.

    Args:
        path: The file of `content`. A path in `extends` is relative to its folder.
        content: Content of the recipe that extends another one.
        chain: Files of the recipes that extend this one.
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
    """Return {step: {parameter: value as text}} from `step.parameter=value` strings."""
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
    """Convert a command-line value to the parameter's declared type.

    A value that cannot be converted is returned as text. `check` raises an error for it later.

    Args:
        text: The value as typed.
        annotation: The declared type of the parameter, such as `list[float]`.
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
    """Check the form of one step of a recipe, and return its location for error messages.

    Args:
        entry: One element of `steps`.
        where: The recipe's file, for error messages.
        number: Number of the entry, from 1.
        earlier: The steps before this one.
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
    """Return a notebook's declared parameters; an error begins with `where`."""
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
    """Check the values of a step, and return the step.

    Args:
        entry: One element of `steps`.
        declarations: {name: parameter} that the step's notebook declares.
        values: Parameter values that the recipe and the command line set.
        where: File and step, for error messages.
        earlier: The steps before this one. Each `*_from` parameter must name one of them.
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
