"""`finlab status`, `runs`, `compare`, `gallery`, `clean`, `report`: commands about runs."""

from __future__ import annotations

import argparse
from pathlib import Path

from finlab import paths
from finlab.commands.tables import table
from finlab.files import size_text
from finlab.run import comparison, status, tidying, twins
from finlab.run.reports import compare, gallery, page


def add(commands: argparse._SubParsersAction) -> None:
    """Add the subcommands of this module to the parser."""
    state = commands.add_parser(
        "status", help="say which steps of a run are finished, whole, stale or running"
    )
    _add_run(state, optional=True)
    state.add_argument(
        "--verify", action="store_true", help="hash every file; else sizes and times are compared"
    )
    state.set_defaults(function=_status)

    listing = commands.add_parser("runs", help="list the runs")
    listing.set_defaults(function=_list_runs)

    both = commands.add_parser("compare", help="say how two runs differ")
    _add_run(both)
    both.add_argument("other", help="another run")
    both.add_argument("--page", default="", help="write the comparison as an HTML page too")
    both.set_defaults(function=_compare)

    site = commands.add_parser("gallery", help="write a static site of executed runs")
    site.add_argument("runs", nargs="+", help="run folders, or names of those under runs/")
    site.add_argument("--out", default="site", help="the site's folder; default: site")
    site.add_argument(
        "--lang", default="zh", choices=twins.LANGUAGES, help="what its pages show at first"
    )
    site.set_defaults(function=_gallery)

    clean = commands.add_parser("clean", help="delete what no step of a run needs any more")
    _add_run(clean)
    clean.add_argument("--yes", action="store_true", help="delete; else only say what would go")
    clean.add_argument(
        "--checkpoints",
        action="store_true",
        help="the checkpoints of unfinished steps too, which then start from the beginning",
    )
    clean.set_defaults(function=_clean)

    write_report = commands.add_parser("report", help="write the HTML report of a run")
    _add_run(write_report)
    write_report.add_argument(
        "--lang", default="zh", choices=twins.LANGUAGES, help="what the page shows at first"
    )
    write_report.set_defaults(function=_report)


def _add_run(parser: argparse.ArgumentParser, optional: bool = False) -> None:
    """Add the argument that names a run.

    Args:
        parser: Parser of the subcommand.
        optional: Whether the user may leave out the run.
    """
    words = "a run folder, or the name of one under runs/"
    if optional:
        parser.add_argument("run", nargs="?", default="", help=f"{words}; default: the latest")
    else:
        parser.add_argument("run", help=words)


def _runs() -> list[Path]:
    """Return the run folders under runs/, the latest last."""
    folders = [path.parent.parent for path in (paths.ROOT / "runs").glob("*/*/key")]
    return sorted(set(folders), key=lambda folder: folder.stat().st_mtime)


def _find_run(name: str) -> Path:
    """Return the folder of a run.

    Args:
        name: A folder, or the name of a folder in runs/; empty for the latest run.

    Raises:
        ValueError: There is no such run.
    """
    if not name:
        known = _runs()
        if not known:
            raise ValueError(f"there is no run under {paths.ROOT / 'runs'}: `finlab run` makes one")
        return known[-1]
    for folder in (Path(name).expanduser(), paths.ROOT / "runs" / name):
        if folder.is_dir():
            return folder
    raise ValueError(
        f"there is no run '{name}': give a run folder, or a name under {paths.ROOT / 'runs'}"
    )


# --- the commands --------------------------------------------------------------------------------
def _status(arguments: argparse.Namespace) -> int:
    """Print the state of each step; return 0 if all are finished, undamaged and not stale."""
    run_dir = _find_run(arguments.run)
    steps = status.steps(run_dir, arguments.verify)
    if not steps:
        raise ValueError(f"{run_dir} holds no step of a run")
    if not arguments.run:
        print(run_dir)
    width = max(len(each.name) for each in steps)
    for each in steps:
        size = f" ({size_text(each.bytes)})" if each.bytes else ""
        print(f"{each.name:<{width}}  {each.state}{size}")
        for reason in each.reasons:
            print(f"{'':<{width}}    because {reason}")
    return int(any(not each.is_good for each in steps))


def _list_runs(arguments: argparse.Namespace) -> int:
    """Print a line for each run."""
    rows = [status.summary(folder) for folder in _runs()]
    if not rows:
        print(f"there is no run under {paths.ROOT / 'runs'}")
        return 0
    print(table(rows))
    return 0


def _compare(arguments: argparse.Namespace) -> int:
    """Print how two runs differ, in parameters and in results."""
    one, other = _find_run(arguments.run), _find_run(arguments.other)
    parameters = comparison.parameters(one, other)
    results = comparison.results(one, other)
    print(f"one: {one}\nother: {other}\n")
    print(table(parameters) if parameters else "no parameter differs")
    print()
    print(table(results, digits=4) if results else "no result differs")
    if arguments.page:
        print(f"\npage: {compare.write(one, other, Path(arguments.page).expanduser())}")
    return 0


def _gallery(arguments: argparse.Namespace) -> int:
    """Write a site of executed runs."""
    run_dirs = [_find_run(name).resolve() for name in arguments.runs]
    index = gallery.write(run_dirs, Path(arguments.out).expanduser(), arguments.lang)
    print(f"site: {index}")
    return 0


def _clean(arguments: argparse.Namespace) -> int:
    """Print what can be deleted, and delete it with --yes."""
    run_dir = _find_run(arguments.run)
    found = tidying.spare(run_dir, arguments.checkpoints)
    if not found:
        print(f"nothing to free in {run_dir}")
        return 0
    for each in found:
        print(f"{size_text(each.bytes):>9}  {each.path.relative_to(run_dir)}  {each.what}")
    total = size_text(sum(each.bytes for each in found))
    if not arguments.yes:
        print(f"{total} can be freed: add --yes to delete it")
        return 0
    tidying.delete(run_dir, found)
    print(f"{total} freed")
    return 0


def _report(arguments: argparse.Namespace) -> int:
    """Write the report of a run."""
    written = page.write(_find_run(arguments.run), arguments.lang)
    print(f"report: {written}")
    return 0
