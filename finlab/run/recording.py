"""Keep the executed notebook when a person runs it in JupyterLab, as papermill does.

A kernel cannot see its notebook: until the notebook is saved, its outputs are only in the browser.
So the recorder keeps what each cell sends to the browser. When the step finishes, it writes a copy
of the notebook with these outputs.
"""

from __future__ import annotations

import contextlib
import copy
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from finlab import paths
from finlab.run.parameters import cells_of, declared_parameters
from finlab.run.refusals import current_shell

if TYPE_CHECKING:
    from IPython.core.interactiveshell import ExecutionInfo, InteractiveShell

SHOWN = ("stream", "display_data", "execute_result", "error")
BATCH = "FINLAB_RUNNER"  # set if papermill runs the notebook and keeps the executed copy


@contextlib.contextmanager
def left_to_papermill() -> Iterator[None]:
    """Within this context, new kernels do not record, and run even if their step is finished.

    The runner has already decided which step runs, and keeps the notebook that papermill executed.
    """
    before = os.environ.get(BATCH)
    os.environ[BATCH] = "1"
    try:
        yield
    finally:
        if before is None:
            del os.environ[BATCH]
        else:
            os.environ[BATCH] = before


class Recorder:
    """Records which cells of a notebook run, and their outputs.

    Args:
        shell: The IPython shell of the notebook's kernel.
        notebook: Name of the notebook, such as `03_lora_pretraining`.
        parameters: All parameter values, by name.
    """

    def __init__(self, shell: InteractiveShell, notebook: str, parameters: dict[str, Any]):
        self.shell = shell
        self.notebook = notebook
        self.parameters = parameters
        self.cells: dict[str, tuple[str, str]] = {}  # {request id: (cell id, source)}
        self.messages: dict[str, list[dict[str, Any]]] = {}  # {request id: outputs}
        self.folder: Path | None = None
        session = shell.kernel.session
        self.send = session.send
        session.send = self._note
        shell.events.register("pre_run_cell", self._begin)
        shell.events.register("post_run_cell", self._end)
        # The cell that starts the step is already running, so it is added here.
        parent = shell.get_parent()
        source = parent.get("content", {}).get("code", "")
        self._add(parent["header"]["msg_id"], _cell_id(parent), source)

    def _add(self, request: str, cell: str, source: str) -> None:
        """Record a cell that runs.

        Args:
            request: Id of the message that requested the cell to run.
            cell: Id of the cell; empty if it is not known.
            source: Text of the cell.
        """
        self.cells[request] = (cell, source)

    def _begin(self, info: ExecutionInfo) -> None:
        """Record a cell that begins to run."""
        request = self.shell.get_parent()["header"]["msg_id"]
        self._add(request, info.cell_id or "", info.raw_cell)

    def _end(self, _: Any) -> None:
        """After the cell that finished the step, write the notebook and stop recording."""
        if self.folder is None:
            return
        sys.stdout.flush()
        self.write(self.folder)
        self.stop()

    def stop(self) -> None:
        """Stop recording."""
        self.shell.kernel.session.send = self.send
        for event, function in (("pre_run_cell", self._begin), ("post_run_cell", self._end)):
            if function in self.shell.events.callbacks[event]:
                self.shell.events.unregister(event, function)

    def _note(
        self,
        stream: Any,
        message: Any,
        content: Any = None,
        parent: Any = None,
        *rest: Any,
        **more: Any,
    ) -> Any:
        """Record outputs, and pass all messages on to the session's own `send`."""
        kind = message["msg_type"] if isinstance(message, dict) else message
        if kind in (*SHOWN, "update_display_data"):
            whole = message if isinstance(message, dict) else {"content": content}
            above = whole.get("parent_header") or parent or {}
            request = above.get("msg_id") or above.get("header", {}).get("msg_id", "")
            shown = copy.deepcopy(whole["content"])
            self.messages.setdefault(request, []).append({"kind": kind, "content": shown})
        return self.send(stream, message, content, parent, *rest, **more)

    def write(self, folder: Path) -> None:
        """Write the executed notebook into the step's folder.

        Args:
            folder: The step's folder.
        """
        import nbformat

        notebook = nbformat.read(self._file(), 4)
        places = {cell.id: place for place, cell in enumerate(notebook.cells)}
        # Some editors use their own cell ids. Then a cell is identified by its text.
        by_source = {cell.source: place for place, cell in enumerate(notebook.cells)}
        extra = []  # cells that a person added: (index of the cell before it, cell)
        last = 0
        for count, (request, (cell_id, source)) in enumerate(self.cells.items(), 1):
            outputs = _outputs(self.messages.get(request, []))
            place = places.get(cell_id, by_source.get(source))
            if place is not None:
                last = place
                cell = notebook.cells[last]
            else:
                cell = nbformat.v4.new_code_cell()
                extra.append((last, cell))
            cell.source = source
            cell.outputs = outputs
            cell.execution_count = count
        for place, cell in reversed(extra):
            notebook.cells.insert(place + 1, cell)
        lines = []
        for name, declared in declared_parameters(self.notebook).items():
            if self.parameters[name] != declared.default:
                lines.append(f"{name} = {self.parameters[name]!r}")
        fill_in(notebook, lines)
        nbformat.write(notebook, folder / f"{self.notebook}.ipynb")

    def edited(self) -> dict[str, str]:
        """Return {cell id: text} of the cells that ran with a text different from the file's."""
        found = {}
        saved = {cell["id"]: cell["source"] for cell in cells_of(self._file())}
        for cell, source in self.cells.values():
            if cell in saved and saved[cell].strip() != source.strip():
                found[cell] = source
        return found

    def _file(self) -> Path:
        """Return the notebook's file."""
        return paths.NOTEBOOKS / f"{self.notebook}.ipynb"


def fill_in(content: Any, lines: list[str]) -> None:
    """Insert a cell with values after a notebook's parameters cell, as papermill does.

    Args:
        content: The notebook, from nbformat; it is changed in place.
        lines: Lines `name = value`. An empty list does not change the notebook.
    """
    import nbformat

    if not lines:
        return
    cell = nbformat.v4.new_code_cell("\n".join(lines))
    cell.metadata["tags"] = ["injected-parameters"]
    for place, each in enumerate(content.cells):
        if "parameters" in each.metadata.get("tags", []):
            content.cells.insert(place + 1, cell)
            return


def _cell_id(parent: dict[str, Any]) -> str:
    """Return the id of the cell that a request came from; empty if the request has no cell id."""
    return parent.get("metadata", {}).get("cellId", "")


def _outputs(messages: list[dict[str, Any]]) -> list[Any]:
    """Return the outputs of a cell, made from the messages that it sent.

    Args:
        messages: Messages {kind, content}, in the order in which they were sent.
    """
    import nbformat

    outputs: list[Any] = []
    by_display: dict[str, Any] = {}
    for message in messages:
        content = message["content"]
        display = content.get("transient", {}).get("display_id")
        if message["kind"] == "update_display_data":
            if display in by_display:
                by_display[display].data = nbformat.from_dict(content["data"])
            continue
        told = {"header": {"msg_type": message["kind"]}, "content": content}
        output = nbformat.v4.output_from_msg(told)
        same = outputs and output.output_type == "stream" == outputs[-1].output_type
        if same and outputs[-1].name == output.name:
            outputs[-1].text += output.text
            continue
        outputs.append(output)
        if display:
            by_display[display] = output
    return outputs


def by_hand() -> bool:
    """Tell whether a person runs this notebook in an editor; False for papermill.

    The requests of an editor name the cell that runs. A client whose requests do not is expected to
    keep the notebook itself.
    """
    shell = current_shell()
    if shell is None or os.environ.get(BATCH):
        return False
    return bool(_cell_id(shell.get_parent() or {}))


def start(notebook: str, parameters: dict[str, Any]) -> Recorder | None:
    """Start to record the outputs of a notebook.

    Args:
        notebook: Name of the notebook.
        parameters: All parameter values, by name.

    Returns:
        The recorder; None if papermill keeps the notebook, or if there is no notebook.
    """
    return Recorder(current_shell(), notebook, parameters) if by_hand() else None
