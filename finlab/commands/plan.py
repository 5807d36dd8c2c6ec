"""`finlab plan`: what a recipe needs before a GPU is rented."""

from __future__ import annotations

import argparse


def add(commands: argparse._SubParsersAction) -> None:
    """Add the words of this module to the parser."""
