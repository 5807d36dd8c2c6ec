"""Recipes: ordered steps, each a notebook with parameters, checked against the notebooks before anything runs.

    smoke = recipe.load("smoke")                       # notebooks/recipes/smoke.yaml
    recipe.load("zhilu-13b", ["pretrain.lora_rank=8"])  # with values replaced

A recipe may extend another one: `extends: yayi-7b`, then the steps whose values differ.

A notebook's `parameters` cell declares `name: type = literal  # meaning`; its defaults are the smoke size. Parameters that
end in `_from` name the upstream steps a notebook reads, so the order of a recipe can be checked too.
"""

from __future__ import annotations

import ast
import os
import re
from dataclasses import dataclass, field
from pathlib import Path

import yaml

ROOT = Path(os.environ.get("FINLAB_ROOT") or Path(__file__).resolve().parents[1])
NOTEBOOKS = ROOT / "notebooks"
RECIPES = NOTEBOOKS / "recipes"
SET_BY_RUNNER = ("run_dir", "step")
TYPES = {"str": str, "int": int, "float": float, "bool": bool}


@dataclass(frozen=True)
class Parameter:
    """One declared parameter: its annotation as written, and its default."""

    annotation: str
    default: object


@dataclass(frozen=True)
class Step:
    """One step of a recipe: a name, a notebook and every parameter value it runs with."""

    name: str
    notebook: str
    parameters: dict
    changed: tuple[str, ...] = ()

    @property
    def path(self) -> Path:
        return NOTEBOOKS / f"{self.notebook}.ipynb"

    @property
    def needs(self) -> list[str]:
        return needs(self.parameters)


@dataclass(frozen=True)
class Recipe:
    """A named, ordered list of steps and the file it came from."""

    name: str
    path: Path
    steps: list[Step] = field(default_factory=list)


def needs(parameters: dict) -> list[str]:
    """Return the upstream step names that the `*_from` parameters hold, in order, each once."""
    names = []
    for name, value in parameters.items():
        if name.endswith("_from"):
            names += value if isinstance(value, list) else [value]
    return list(dict.fromkeys(step for step in names if step))


def declared(notebook: str) -> dict[str, Parameter]:
    """Read the `parameters` cell of a notebook without running it.

    Raises ValueError when the notebook, or its one cell tagged `parameters`, is missing or holds anything but
    `name: type = literal` lines.
    """
    import nbformat

    path = NOTEBOOKS / f"{notebook}.ipynb"
    if not path.exists():
        raise ValueError(f"there is no notebook '{notebook}' in {NOTEBOOKS}: choose one of {', '.join(names())}")
    cells = [cell for cell in nbformat.read(path, 4).cells if "parameters" in cell.metadata.get("tags", [])]
    if len(cells) != 1:
        raise ValueError(f"{path.name} has {len(cells)} cells tagged 'parameters': tag exactly one")
    result = {}
    for node in ast.parse(cells[0].source).body:
        if not (isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name) and node.value is not None):
            raise ValueError(f"{path.name}, parameters cell, line {node.lineno}: write `name: type = literal`")
        result[node.target.id] = Parameter(ast.unparse(node.annotation), ast.literal_eval(node.value))
    return result


def names() -> list[str]:
    """Return the names of the numbered notebooks, in order."""
    return sorted(path.stem for path in NOTEBOOKS.glob("[0-9][0-9]_*.ipynb"))


def fits(value: object, annotation: str) -> bool:
    """Tell whether a value has the annotated type; an int is a float too, a bool is not an int."""
    node = ast.parse(annotation, mode="eval").body
    if isinstance(node, ast.Subscript):
        outer, inner = node.value.id, [ast.unparse(item) for item in getattr(node.slice, "elts", [node.slice])]
        if outer == "list":
            return isinstance(value, list) and all(fits(item, inner[0]) for item in value)
        return isinstance(value, dict) and all(fits(k, inner[0]) and fits(v, inner[1]) for k, v in value.items())
    expected = TYPES[annotation]
    if expected is float and isinstance(value, int) and not isinstance(value, bool):
        return True
    return isinstance(value, expected) and not (expected is int and isinstance(value, bool))


def check(parameters: dict, declarations: dict[str, Parameter], where: str) -> None:
    """Raise ValueError for the first unknown name or wrong type, with `where` (file and key) in the sentence."""
    for name, value in parameters.items():
        if name not in declarations:
            close = [known for known in declarations if known not in SET_BY_RUNNER]
            raise ValueError(f"{where}: unknown parameter '{name}'; the notebook declares {', '.join(close)}")
        annotation = declarations[name].annotation
        if not fits(value, annotation):
            hint = " (in YAML a float needs a dot: write 1.0e-4)" if "float" in annotation and not isinstance(value, dict) else ""
            raise ValueError(f"{where}: parameter '{name}' is {value!r}, a {type(value).__name__}, but the notebook declares {annotation}{hint}")


def find(name: str) -> Path:
    """Return the file of a recipe given by name or by path; raise ValueError with the known names."""
    for path in (Path(name), RECIPES / f"{name}.yaml"):
        if path.is_file():
            return path.resolve()
    known = ", ".join(sorted(path.stem for path in RECIPES.glob("*.yaml")))
    raise ValueError(f"there is no recipe '{name}': give a file, or one of {known}")


def _read(path: Path) -> dict:
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except yaml.YAMLError as error:
        raise ValueError(f"{path}: not YAML: {' '.join(str(error).split())}") from None
    known = {"name", "extends", "common", "steps"}
    good = isinstance(content, dict) and not set(content) - known and isinstance(content.get("steps"), list) and content["steps"]
    if not good or not isinstance(content.get("common") or {}, dict):
        raise ValueError(f"{path}: a recipe holds the keys name, extends and common (both optional) and steps, and at least one step")
    return _extended(path, content) if "extends" in content else content


def _extended(path: Path, content: dict) -> dict:
    """Return the recipe that another one extends, with this one's name and values: its steps name steps there and what differs."""
    base = _read(find(content["extends"]))
    steps = {entry["step"]: entry for entry in base["steps"]}
    for entry in content["steps"]:
        if not isinstance(entry, dict) or entry.get("step") not in steps or set(entry) - {"step", "parameters"}:
            raise ValueError(f"{path}: under `extends` a step names one of {', '.join(steps)} and the parameters that differ, not {entry!r}")
        steps[entry["step"]] = steps[entry["step"]] | {"parameters": (steps[entry["step"]].get("parameters") or {}) | (entry.get("parameters") or {})}
    return {"name": content.get("name"), "common": (base.get("common") or {}) | (content.get("common") or {}), "steps": list(steps.values())}


def _overrides(path: Path, sets: list[str]) -> dict[str, dict[str, str]]:
    result: dict[str, dict[str, str]] = {}
    for item in sets:
        target, equals, text = item.partition("=")
        step, dot, name = target.partition(".")
        if not (equals and dot and step and name):
            raise ValueError(f"--set {item}: write step.parameter=value, for example pretrain.learning_rate=1e-4")
        result.setdefault(step, {})[name] = text
    return result


def _parse(text: str, annotation: str) -> object:
    """Read a command-line value as the declared type says; what cannot be read is returned as it is and refused later."""
    if annotation == "str":
        return text
    try:
        value = float(text) if annotation == "float" else yaml.safe_load(text)
        return [float(item) for item in value] if annotation == "list[float]" and isinstance(value, list) else value
    except (ValueError, TypeError, yaml.YAMLError):
        return text


def load(name: str, sets: list[str] = ()) -> Recipe:
    """Load and check a recipe; `sets` holds `step.parameter=value` strings that replace its values.

    Raises ValueError, naming the file and the key, for an unknown notebook, step, parameter or input and for a wrong type.
    """
    path = find(name)
    content = _read(path)
    common, overrides = content.get("common") or {}, _overrides(path, list(sets))
    steps: list[Step] = []
    unused = set(common)
    for number, entry in enumerate(content["steps"], 1):
        where = f"{path.name}, step {number}"
        if not isinstance(entry, dict) or set(entry) - {"step", "notebook", "parameters"} or not {"step", "notebook"} <= set(entry):
            raise ValueError(f"{where}: a step holds the keys step, notebook and parameters, not {entry!r}")
        where = f"{path.name}, step '{entry['step']}'"
        if not isinstance(entry["step"], str) or not re.fullmatch(r"[A-Za-z0-9_-]+", entry["step"]):
            raise ValueError(f"{where}: a step's name is made of letters, digits, - and _")
        if not isinstance(entry.get("parameters") or {}, dict):
            raise ValueError(f"{where}: parameters must be name: value pairs, not {entry['parameters']!r}")
        if entry["step"] in [step.name for step in steps]:
            raise ValueError(f"{where}: the name is used twice")
        try:
            declarations = declared(entry["notebook"])
        except ValueError as error:
            raise ValueError(f"{where}: {error}") from None
        values = {key: value for key, value in common.items() if key in declarations} | (entry.get("parameters") or {})
        unused -= set(declarations)
        for key, text in overrides.pop(entry["step"], {}).items():
            values[key] = _parse(text, declarations[key].annotation if key in declarations else "str")
        for key in SET_BY_RUNNER:
            if key in values:
                raise ValueError(f"{where}: '{key}' is set by the runner: leave it out (see --run-dir)")
        check(values, declarations, where)
        merged = {key: values.get(key, declaration.default) for key, declaration in declarations.items()}
        merged["step"] = entry["step"]
        step = Step(entry["step"], entry["notebook"], merged, tuple(values))
        missing = [need for need in step.needs if need not in [earlier.name for earlier in steps]]
        if missing:
            raise ValueError(f"{where}: reads step '{missing[0]}', which no earlier step of the recipe makes")
        steps.append(step)
    if overrides:
        known = ", ".join(step.name for step in steps)
        raise ValueError(f"--set {next(iter(overrides))}.…: {path.name} has no such step; it has {known}")
    if unused:
        raise ValueError(f"{path.name}, common: no notebook of the recipe declares '{sorted(unused)[0]}'")
    return Recipe(content.get("name") or path.stem, path, steps)
