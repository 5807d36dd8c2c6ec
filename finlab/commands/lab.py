"""`finlab lab`: open the workbook in JupyterLab at its first notebook."""

from __future__ import annotations

import argparse

from finlab import paths
from finlab.commands.open import PASSED_ON, start_lab


def add(commands: argparse._SubParsersAction) -> None:
    """Add the subcommand of this module to the parser."""
    parser = commands.add_parser("lab", help="open the workbook in JupyterLab, at notebook 00")
    parser.epilog = PASSED_ON
    parser.set_defaults(function=_lab)


def _lab(arguments: argparse.Namespace) -> int:
    """Start JupyterLab, and wait until it is closed."""
    return start_lab(paths.NOTEBOOKS / "00_base_model.ipynb", arguments.passed)
