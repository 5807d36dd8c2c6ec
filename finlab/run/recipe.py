"""Recipes: ordered steps, each a notebook with parameters, checked before anything runs.

    smoke = recipe.load("smoke")                              # notebooks/recipes/smoke.yaml
    recipe.load("zhilu-13b", ["pretrain.lora_rank=8"])        # with a value replaced

A recipe may extend another one: `extends: yayi-7b`, then the steps whose values differ.

The `parameters` cell of a notebook declares `name: type = literal  # meaning`. Its defaults are the
smoke size. A parameter that ends in `_from` names the steps that the notebook reads, so the order
of a recipe can be checked too.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import nbformat
import yaml
from pydantic import TypeAdapter, ValidationError

from finlab import paths

SET_BY_RUNNER = ("run_dir", "step")
RECIPE_KEYS = {"name", "extends", "common", "steps"}
STEP_KEYS = {"step", "notebook", "parameters"}
STEP_NAME = re.compile(r"[A-Za-z0-9_-]+")
# All that an annotation in a parameters cell may use.
TYPES = {"str": str, "int": int, "float": float, "bool": bool, "list": list, "dict": dict}


@dataclass(frozen=True)
class Parameter:
    """One declared parameter of a notebook.

    Attributes:
        annotation: Its type as written, such as `list[float]`.
        default: Its value in the `parameters` cell.
    """

    annotation: str
    default: Any


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


# --- what a notebook declares --------------------------------------------------------------------
def notebook_names() -> list[str]:
    """Return the names of the numbered notebooks, in order."""
    return sorted(path.stem for path in paths.NOTEBOOKS.glob("[0-9][0-9]_*.ipynb"))


def declared_parameters(notebook: str) -> dict[str, Parameter]:
    """Read the `parameters` cell of a notebook, without running it.

    Raises:
        ValueError: There is no such notebook, not exactly one cell tagged `parameters`, or the cell
            holds anything but lines of the form `name: type = literal`.
    """
    path = paths.NOTEBOOKS / f"{notebook}.ipynb"
    if not path.exists():
        raise ValueError(
            f"there is no notebook '{notebook}' in {paths.NOTEBOOKS}: "
            f"choose one of {', '.join(notebook_names())}"
        )
    cells = nbformat.read(path, 4).cells
    tagged = [cell for cell in cells if "parameters" in cell.metadata.get("tags", [])]
    if len(tagged) != 1:
        raise ValueError(
            f"{path.name} has {len(tagged)} cells tagged 'parameters': tag exactly one"
        )
    declarations = {}
    for node in ast.parse(tagged[0].source).body:
        named = isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name)
        if not named or node.value is None:
            raise ValueError(
                f"{path.name}, parameters cell, line {node.lineno}: write `name: type = literal`"
            )
        default = ast.literal_eval(node.value)
        declarations[node.target.id] = Parameter(ast.unparse(node.annotation), default)
    return declarations


def fits(value: Any, annotation: str) -> bool:
    """Tell whether a value has the annotated type.

    An int is a float too; a bool is never a number. Nothing is converted (pydantic's strict mode).

    Args:
        value: From a recipe, a command line or papermill.
        annotation: As written, such as `list[float]`.
    """
    wanted = eval(annotation, {"__builtins__": {}}, TYPES)
    try:
        TypeAdapter(wanted).validate_python(value, strict=True)
    except ValidationError:
        return False
    return True


def check(values: dict[str, Any], declarations: dict[str, Parameter], where: str) -> None:
    """Refuse values that a notebook does not declare, or declares with another type.

    Args:
        values: Parameter values by name.
        declarations: What the notebook declares, from `declared_parameters`.
        where: The file and step that the values come from, for the error.

    Raises:
        ValueError: A name is unknown, or a value has the wrong type.
    """
    for name, value in values.items():
        if name not in declarations:
            known = [each for each in declarations if each not in SET_BY_RUNNER]
            raise ValueError(
                f"{where}: unknown parameter '{name}'; the notebook declares {', '.join(known)}"
            )
        annotation = declarations[name].annotation
        if fits(value, annotation):
            continue
        hint = ""
        if "float" in annotation and not isinstance(value, dict):
            hint = " (in YAML a float needs a dot: write 1.0e-4)"
        raise ValueError(
            f"{where}: parameter '{name}' is {value!r}, a {type(value).__name__}, "
            f"but the notebook declares {annotation}{hint}"
        )


# --- reading a recipe ----------------------------------------------------------------------------
def find(name: str) -> Path:
    """Return the file of a recipe that is given by name or by path.

    Raises:
        ValueError: There is no such recipe. The error lists the known names.
    """
    for path in (Path(name), paths.RECIPES / f"{name}.yaml"):
        if path.is_file():
            return path.resolve()
    known = ", ".join(sorted(path.stem for path in paths.RECIPES.glob("*.yaml")))
    raise ValueError(f"there is no recipe '{name}': give a file, or one of {known}")


def _read_file(path: Path) -> dict[str, Any]:
    """Return the content of a recipe file, with what it extends filled in."""
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except yaml.YAMLError as error:
        raise ValueError(f"{path}: not YAML: {' '.join(str(error).split())}") from None
    if not _is_recipe(content):
        raise ValueError(
            f"{path}: a recipe holds the keys name, extends and common (both optional) and steps, "
            "and at least one step"
        )
    if "extends" in content:
        return _extend(path, content)
    return content


def _is_recipe(content: Any) -> bool:
    """Tell whether a YAML file's content has a recipe's shape."""
    if not isinstance(content, dict) or set(content) - RECIPE_KEYS:
        return False
    if not isinstance(content.get("common") or {}, dict):
        return False
    return isinstance(content.get("steps"), list) and bool(content["steps"])


def _extend(path: Path, content: dict[str, Any]) -> dict[str, Any]:
    """Return the recipe that `content` extends, with the values of `content` over its own."""
    base = _read_file(find(content["extends"]))
    steps = {entry["step"]: entry for entry in base["steps"]}
    for entry in content["steps"]:
        known = isinstance(entry, dict) and entry.get("step") in steps
        if not known or set(entry) - {"step", "parameters"}:
            raise ValueError(
                f"{path}: under `extends` a step names one of {', '.join(steps)} "
                f"and the parameters that differ, not {entry!r}"
            )
        extended = steps[entry["step"]]
        values = (extended.get("parameters") or {}) | (entry.get("parameters") or {})
        steps[entry["step"]] = extended | {"parameters": values}
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
    if annotation == "str":
        return text
    try:
        if annotation == "float":
            return float(text)
        value = yaml.safe_load(text)
        if annotation == "list[float]" and isinstance(value, list):
            return [float(item) for item in value]
        return value
    except (ValueError, TypeError, yaml.YAMLError):
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
            annotation = declarations[key].annotation if key in declarations else "str"
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
    where = f"{where} '{name}'"
    if not isinstance(name, str) or not STEP_NAME.fullmatch(name):
        raise ValueError(f"{where}: a step's name is made of letters, digits, - and _")
    if not isinstance(entry.get("parameters") or {}, dict):
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
