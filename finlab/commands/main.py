"""The `finlab` command: its parser, and its exit status.

Every subcommand is a function in a module of this package. It gets the parsed arguments and
returns the exit status.
"""

from __future__ import annotations

import argparse
import errno
import importlib.metadata
import os
import sys

from finlab.commands import chat, data, lab, memory, open, plan, push, run, runs, serve, slurm

GROUPS = (
    run,
    lab,
    open,
    runs,
    data,
    plan,
    memory,
    slurm,
    chat,
    serve,
    push,
)  # in the order of `finlab --help`


def _parser() -> argparse.ArgumentParser:
    """Return the parser of the command line."""
    parser = argparse.ArgumentParser(
        prog="finlab",
        description="Plan, run and keep recipes of notebooks; chat with, serve and publish models.",
    )
    version = importlib.metadata.version("finlab-workbook")
    parser.add_argument("--version", action="version", version=f"finlab {version}")
    commands = parser.add_subparsers(dest="command", required=True)
    for group in GROUPS:
        group.add(commands)
    return parser


def _describe_os_error(error: OSError) -> str:
    """Return the message for an error of files or of the network.

    Args:
        error: The error.
    """
    if error.errno == errno.ENOSPC:
        place = error.filename or "the run folder"
        return (
            f"{error.strerror}: the disk is full at {place}: "
            "free some space and run the command again"
        )
    if error.strerror is None:
        return str(error)
    return f"{error.strerror}: {error.filename}"


def main(arguments: list[str] | None = None) -> int:
    """Run the `finlab` command.

    Args:
        arguments: The words after `finlab`; None takes them from the command line.

    Returns:
        The exit status: 0 for success, 1 for a failure, 2 for wrong input, 130 if stopped.
    """
    command = list(sys.argv[1:] if arguments is None else arguments)
    words, passed = command, []
    if command[:1] in (["lab"], ["open"]) and "--" in command:
        place = command.index("--")
        words, passed = command[:place], command[place + 1 :]
    parsed = _parser().parse_args(words)
    parsed.words, parsed.passed = command, passed
    try:
        return parsed.function(parsed)
    except ValueError as error:
        print(f"finlab: {error}", file=sys.stderr)
        return 2
    except BrokenPipeError:  # the reader of the output, such as `head`, has ended
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except OSError as error:
        print(f"finlab: {_describe_os_error(error)}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("finlab: stopped", file=sys.stderr)
        return 130
