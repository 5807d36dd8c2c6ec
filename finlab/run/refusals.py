"""Errors that a notebook shows as one sentence, without a traceback.

    NotReady          a step that this one reads is not finished, or is damaged
    AlreadyFinished   this step is finished and nothing has changed, so its result is kept
    KeyboardInterrupt the user stopped the cell

Run All in JupyterLab stops at each of them, because the cell does not succeed.
"""

from __future__ import annotations

from types import TracebackType
from typing import TYPE_CHECKING

from finlab.run.locks import Busy

if TYPE_CHECKING:
    from IPython.core.interactiveshell import InteractiveShell


class NotReady(ValueError):
    """A step that is read is not finished or is damaged; the message says what to run."""


class AlreadyFinished(Exception):
    """The step is finished and nothing has changed. This is not a fault, and nothing must run."""


def show_as_sentences() -> None:
    """Make the calling notebook show these errors as one sentence each."""
    shell = current_shell()
    if shell is not None:
        from IPython.display import clear_output

        # Imports may have printed warnings. Clear them, so that only the sentence is shown.
        clear_output()
        shown = (NotReady, AlreadyFinished, Busy, KeyboardInterrupt)
        shell.set_custom_exc(shown, _show)


def current_shell() -> InteractiveShell | None:
    """Return the IPython shell of this notebook's kernel; None outside a notebook."""
    try:
        from IPython import get_ipython
    except ImportError:
        return None
    shell = get_ipython()
    return shell if hasattr(shell, "kernel") else None


def _show(
    shell: InteractiveShell,
    kind: type[BaseException],
    error: BaseException,
    traceback: TracebackType,
    tb_offset: int | None = None,
) -> list[str]:
    """Show an error as one sentence; AlreadyFinished is printed as normal output.

    Args:
        shell: The IPython shell of the notebook.
        kind: The class of the error.
        error: The error.
        traceback: The traceback; it is not shown.
        tb_offset: Unused; IPython passes it.

    Returns:
        The lines that IPython records as the traceback.
    """
    sentence = str(error) or (
        "stopped: what finished steps left is kept, and training goes on from its last "
        "checkpoint when this notebook runs again"
    )
    # The reply to the front end has the last traceback. Without this it could be an older one.
    shell._last_traceback = [sentence]
    if kind is AlreadyFinished:
        print(sentence)
    else:
        shell._showtraceback(kind, error, [sentence])
    return [sentence]
