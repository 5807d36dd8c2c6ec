"""Refusals that a notebook shows as one sentence, without a traceback.

    NotReady          a step that this one reads is not finished, or is damaged
    AlreadyFinished   this step is finished and nothing has changed, so its result is kept
    KeyboardInterrupt somebody stopped the cell

JupyterLab's Run All stops at each of them, since the cell does not succeed.
"""

from __future__ import annotations

from types import TracebackType
from typing import TYPE_CHECKING

from finlab.run.locks import Busy

if TYPE_CHECKING:
    from IPython.core.interactiveshell import InteractiveShell


class NotReady(ValueError):
    """What a step reads is not there; the message names what to run."""


class AlreadyFinished(Exception):
    """The step is finished and unchanged. Nothing is wrong, and nothing needs to run."""


def show_as_sentences() -> None:
    """Let the notebook that calls this show these refusals as one sentence each."""
    shell = current_shell()
    if shell is not None:
        from IPython.display import clear_output

        # Imports may have warned above; the sentence shall stand alone.
        clear_output()
        shown = (NotReady, AlreadyFinished, Busy, KeyboardInterrupt)
        shell.set_custom_exc(shown, _show)


def current_shell() -> InteractiveShell | None:
    """Return the IPython shell of a notebook's kernel, or None elsewhere."""
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
    """Show a refusal in its sentence; a step that is kept is no error.

    Args:
        shell: Of the notebook.
        kind: The class of the error.
        error: What was raised.
        traceback: Where; it is not shown.
        tb_offset: Unused; IPython passes it.
    """
    sentence = str(error) or (
        "stopped: what finished steps left is kept, and training goes on from its last "
        "checkpoint when this notebook runs again"
    )
    # The reply to the front end repeats the last traceback, which may be an older one.
    shell._last_traceback = [sentence]
    if kind is AlreadyFinished:
        print(sentence)
    else:
        shell._showtraceback(kind, error, [sentence])
    return [sentence]
