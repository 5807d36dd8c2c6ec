"""The key of a step: a hash of everything that its result depends on."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from finlab import files, paths
from finlab.run import code
from finlab.run.parameters import SET_BY_RUNNER, cells_of

CHANGES_NO_RESULT = ("run_dir", "rerun")  # parameters that do not affect the result

# Set by finlab.data.cards. The package `run` uses only the fingerprint and the licence of a card.
_card_fingerprint: Callable[[str], str] | None = None
_card_licence: Callable[[str], str] | None = None


def use_cards(fingerprint: Callable[[str], str], licence: Callable[[str], str]) -> None:
    """Set the functions that return the fingerprint and the licence of a data card.

    Args:
        fingerprint: A function from the card's name to its fingerprint.
        licence: A function from the card's name to its licence.
    """
    global _card_fingerprint, _card_licence
    _card_fingerprint, _card_licence = fingerprint, licence


def card_licence(card: str) -> str:
    """Return the licence of a data card.

    Args:
        card: Name of the card.
    """
    return _card_licence(card)


def data_fingerprints(parameters: dict[str, Any]) -> dict[str, str]:
    """Return {name or path: fingerprint} of the data that a step's parameters name.

    Data are the cards in `*_cards` parameters, and the files and folders that other values name.

    Args:
        parameters: All parameter values of the step, by name.

    Raises:
        ValueError: A card has an error, or a named file or folder does not exist.
    """
    found = {}
    for name, value in parameters.items():
        if name.endswith("_cards"):
            for card in value:
                found[card] = _card_fingerprint(card)
        elif isinstance(value, list):
            found |= _listed_files(value)
        elif isinstance(value, str) and name not in SET_BY_RUNNER:
            found |= _named_file(name, value)
    return found


def _listed_files(values: list[Any]) -> dict[str, str]:
    found = {}
    for value in values:
        if isinstance(value, str) and "/" in value and paths.resolve(value).exists():
            path = paths.resolve(value)
            found[str(path)] = files.fingerprint([path])
    return found


def _named_file(name: str, value: str) -> dict[str, str]:
    """Return {value: fingerprint} if a value names a file or folder, else {}.

    A hub id such as `owner/name` has no fingerprint.

    Args:
        name: Name of the parameter. If it ends in `_file`, the file must exist.
        value: Value of the parameter.

    Raises:
        ValueError: The value names a file or folder that does not exist.
    """
    must_exist = value.startswith(("$", "/", ".", "~"))
    if name.endswith("_file"):
        must_exist = bool(value)
    elif "/" not in value:
        return {}
    if not value:
        return {}
    path = paths.resolve(value)
    if path.exists():
        return {value: files.fingerprint([path])}
    if must_exist:
        raise ValueError(f"parameter '{name}': there is nothing at {path}: correct the path")
    return {}


def check_paths(parameters: dict[str, Any], step: str) -> None:
    """Raise an error if a parameter names a file or folder that does not exist.

    Args:
        parameters: All parameter values of a step, by name.
        step: Name of the step, for error messages.

    Raises:
        ValueError: A file or folder does not exist.
    """
    for name, value in parameters.items():
        for each in value if isinstance(value, list) else [value]:
            if isinstance(each, str) and name not in SET_BY_RUNNER and "\n" not in each:
                try:
                    _named_file(name, each)
                except ValueError as error:
                    raise ValueError(f"step '{step}', {error}") from None


def step_key(notebook: str, parameters: dict[str, Any], upstream: dict[str, str]) -> str:
    """Return the key of a step.

    Equal keys mean equal results. So a finished step with the same key need not run again.

    Args:
        notebook: Name of the notebook. Its code counts, and the code of finlab that it uses.
        parameters: All parameter values, by name. Parameters in CHANGES_NO_RESULT do not count.
        upstream: {step: key} of the steps that the step reads.
    """
    values = {}
    for name, value in parameters.items():
        if name not in CHANGES_NO_RESULT:
            values[name] = value
    return files.digest(
        notebook, code_behind(notebook), values, upstream, data_fingerprints(parameters)
    )


def code_behind(notebook: str) -> dict[str, str]:
    """Return {file: hash} of a notebook's code cells and of the finlab code that they use.

    Args:
        notebook: Name of the notebook.
    """
    path = paths.NOTEBOOKS / f"{notebook}.ipynb"
    sources = [cell["source"] for cell in cells_of(path)]
    own = {f"notebooks/{notebook}.ipynb": files.digest(sources)[:16]}
    return own | code.code_parts("\n".join(sources))
