"""Read and check the parameters of notebooks: names, types, choices and ranges.

A notebook declares them in its `parameters` cell:

    layers: Annotated[int, "1 to 200"] = 4
    dtype: Literal["float32", "bfloat16"] = "float32"
    epochs: Annotated[list[float], "0 to 1000, not empty"] = [5.0, 6.0]

A range applies to a number, or to each number of a list. A number without a range must be finite
and not negative. The defaults in the cell are the values of the smoke run.
"""

from __future__ import annotations

import ast
import difflib
import math
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import TypeAdapter, ValidationError

from finlab import files, paths

SET_BY_RUNNER = ("run_dir", "step", "rerun")
NOTEBOOK_NAME = re.compile(r"\w+")
# The only names that an annotation in a parameters cell may use.
TYPES = {
    "str": str,
    "int": int,
    "float": float,
    "bool": bool,
    "list": list,
    "dict": dict,
    "Literal": Literal,
    "Annotated": Annotated,
}
RANGE = re.compile(r"(over )?(-?[\d.e+]+)(?: to ([\d.e+]+))?")
NOT_EMPTY = "not empty"
LARGEST = 1e15  # a larger value is certainly a mistake


@dataclass(frozen=True)
class Parameter:
    """One declared parameter of a notebook.

    Attributes:
        annotation: The type as written, such as `Annotated[list[float], "0 to 1"]`.
        default: The value in the `parameters` cell.
    """

    annotation: str
    default: Any

    @property
    def type(self) -> str:
        """The type without the range, such as `list[float]`."""
        tree = ast.parse(self.annotation, mode="eval").body
        if isinstance(tree, ast.Subscript) and ast.unparse(tree.value) == "Annotated":
            tree = tree.slice.elts[0]
        return ast.unparse(tree)

    @property
    def range(self) -> str:
        """The allowed range as written, such as `0 to 1`; empty if there is none."""
        tree = ast.parse(self.annotation, mode="eval").body
        if isinstance(tree, ast.Subscript) and ast.unparse(tree.value) == "Annotated":
            return ast.literal_eval(tree.slice.elts[1])
        return ""


# --- the cell ------------------------------------------------------------------------------------
def notebook_names() -> list[str]:
    """Return the names of the numbered notebooks, in order."""
    return sorted(path.stem for path in paths.NOTEBOOKS.glob("[0-9][0-9]_*.ipynb"))


def cells_of(path: Path) -> list[dict[str, Any]]:
    """Return the code cells of a notebook, each with its source as one text.

    Every kernel calls this for its own notebook when it starts. So nbformat is not used, because
    its import takes a second.

    Args:
        path: File of the notebook.
    """
    found = []
    for cell in files.read_json(path)["cells"]:
        if cell["cell_type"] == "code":
            found.append(cell | {"source": "".join(cell["source"])})
    return found


def declared_parameters(notebook: str) -> dict[str, Parameter]:
    """Read the `parameters` cell of a notebook, without running it.

    Args:
        notebook: Name of the notebook.

    Returns:
        {name: parameter}, in the order of the cell.

    Raises:
        ValueError: There is no such notebook, there is not exactly one cell tagged `parameters`, or
            the cell has other code than imports of typing and lines `name: type = literal`.
    """
    named = isinstance(notebook, str) and NOTEBOOK_NAME.fullmatch(notebook)
    path = paths.NOTEBOOKS / f"{notebook}.ipynb"
    if not named or not path.exists():
        raise ValueError(
            f"there is no notebook {notebook!r} in {paths.NOTEBOOKS}: "
            f"choose one of {', '.join(notebook_names())}"
        )
    tagged = [cell for cell in cells_of(path) if "parameters" in cell["metadata"].get("tags", [])]
    if len(tagged) != 1:
        raise ValueError(
            f"{path.name} has {len(tagged)} cells tagged 'parameters': tag exactly one"
        )
    declarations = {}
    for node in ast.parse(tagged[0]["source"]).body:
        if isinstance(node, ast.ImportFrom) and node.module == "typing":
            continue
        named = isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name)
        if not named or node.value is None:
            raise ValueError(
                f"{path.name}, parameters cell, line {node.lineno}: write `name: type = literal`"
            )
        default = ast.literal_eval(node.value)
        declarations[node.target.id] = Parameter(ast.unparse(node.annotation), default)
    return declarations


# --- checking values -----------------------------------------------------------------------------
def check(values: dict[str, Any], declarations: dict[str, Parameter], where: str) -> None:
    """Raise an error if a value does not fit the parameters that a notebook declares.

    Args:
        values: Parameter values by name.
        declarations: {name: parameter} of the notebook, from `declared_parameters`.
        where: File and step that the values come from, for the error message.

    Raises:
        ValueError: A name is unknown, a value has the wrong type or is outside its range, or a data
            card does not exist.
    """
    for name, value in values.items():
        if name not in declarations:
            known = [each for each in declarations if each not in SET_BY_RUNNER]
            raise ValueError(
                f"{where}: unknown parameter '{name}'; {nearest(name, known)}"
                f"the notebook declares {', '.join(known)}"
            )
        declared = declarations[name]
        reason = _wrong_type(value, declared) or _out_of_range(value, declared.range)
        if not reason and name.endswith("_cards"):
            reason = _wrong_cards(value)
        if reason:
            raise ValueError(f"{where}: parameter '{name}' is {value!r}{reason}")


def nearest(name: str, known: Sequence[str]) -> str:
    """Return "did you mean ...? " with the most similar known name; empty if none is similar."""
    alike = difflib.get_close_matches(name, known, n=1)
    return f"did you mean {alike[0]}? " if alike else ""


def fits(value: Any, annotation: str) -> bool:
    """Tell whether a value has the annotated type, and is one of its choices.

    An int is also accepted as a float. A bool is never a number. Values are not converted
    (pydantic's strict mode).

    Args:
        value: A value from a recipe, a command line or papermill.
        annotation: The type as written, such as `list[float]`.
    """
    wanted = eval(annotation, {"__builtins__": {}}, TYPES)
    try:
        TypeAdapter(wanted).validate_python(value, strict=True)
    except ValidationError:
        return False
    return True


def _wrong_type(value: Any, declared: Parameter) -> str:
    """Return what is wrong with a value's type or choice; empty if nothing is.

    Args:
        value: A value from a recipe, a command line or papermill.
        declared: The parameter.
    """
    if fits(value, declared.annotation):
        return ""
    plain = re.sub(r"Literal\[[^\]]*\]", "str", declared.type)
    choices = re.search(r"Literal\[([^\]]*)\]", declared.type)
    if choices and fits(value, plain):
        named = ", ".join(repr(each) for each in ast.literal_eval(f"[{choices[1]}]"))
        each = "each must be" if plain.startswith("list") else "it must be"
        return f": {each} one of {named}"
    hint = ""
    if "float" in plain and isinstance(value, (str, list)):
        hint = " (in YAML a float needs a dot: write 1.0e-4)"
    return f", a {type(value).__name__}, but the notebook declares {plain}{hint}"


def _numbers(value: Any) -> Iterator[int | float]:
    """Yield the numbers in a value, which may be a number, a list or a mapping."""
    if isinstance(value, dict):
        value = list(value.values())
    for each in value if isinstance(value, list) else [value]:
        if isinstance(each, (int, float)) and not isinstance(each, bool):
            yield each


def _out_of_range(value: Any, written: str) -> str:
    """Return what is wrong with the size of a value; empty if nothing is.

    Args:
        value: A number, text, a list or a mapping.
        written: The range, such as `over 0 to 1, not empty`.
    """
    if NOT_EMPTY in written and not value and not isinstance(value, (int, float)):
        return ", which is empty: name at least one"
    bounds = RANGE.match(written)
    for number in _numbers(value):
        if not math.isfinite(number):
            return ": a finite number is wanted"
        if not bounds:
            if not 0 <= number <= LARGEST:
                return f": it must be 0 to {LARGEST:g}"
            continue
        low, high = float(bounds[2]), float(bounds[3] or LARGEST)
        above = number > low if bounds[1] else number >= low
        if not above or number > high:
            return f": it must be {bounds[0]}"
    return ""


def _wrong_cards(value: list[str]) -> str:
    """Return what is wrong with a list of data cards; empty if nothing is."""
    for name in value:
        if value.count(name) > 1:
            return f", which names the card {name} twice"
        if not re.fullmatch(r"\w[\w.-]*", name):
            return f": {name!r} is not the name of a data card"
        if not (paths.data_cards() / f"{name}.md").is_file():
            return f": there is no data card '{name}' in {paths.data_cards()}"
    return ""
