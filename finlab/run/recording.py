"""Keep the executed notebook of a person in JupyterLab, as papermill keeps its own.

A kernel does not see its notebook: outputs live in the browser until they are saved. So the
recorder notes what each cell sends to the browser, and puts it into a copy of the notebook when
the step finishes.
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
BATCH = "FINLAB_RUNNER"  # set where papermill runs the notebook, and keeps it itself


@contextlib.contextmanager
def left_to_papermill() -> Iterator[None]:
    """Let kernels that start meanwhile leave their notebook to papermill, and run in any case.

    The runner has decided which step runs, and keeps what papermill has executed.
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
    """Notes the cells of a notebook that run, and what they show.

    Args:
        shell: The notebook's.
        notebook: Its name, such as `03_lora_pretraining`.
        parameters: Their values.
    """

    def __init__(self, shell: InteractiveShell, notebook: str, parameters: dict[str, Any]):
        self.shell = shell
        self.notebook = notebook
        self.parameters = parameters
        self.cells: dict[str, tuple[str, str]] = {}  # {request: (id of the cell, its source)}
        self.messages: dict[str, list[dict[str, Any]]] = {}  # {request: what it showed}
        self.folder: Path | None = None
        session = shell.kernel.session
        self.send = session.send
        session.send = self._note
        shell.events.register("pre_run_cell", self._begin)
        shell.events.register("post_run_cell", self._end)
        # The cell that starts the step runs already.
        parent = shell.get_parent()
        source = parent.get("content", {}).get("code", "")
        self._add(parent["header"]["msg_id"], _cell_id(parent), source)

    def _add(self, request: str, cell: str, source: str) -> None:
        """Note a cell that runs.

        Args:
            request: The id of the message that asked for it.
            cell: Its id.
            source: Its text.
        """
        self.cells[request] = (cell, source)

    def _begin(self, info: ExecutionInfo) -> None:
        """Note a cell that begins to run."""
        request = self.shell.get_parent()["header"]["msg_id"]
        self._add(request, info.cell_id or "", info.raw_cell)

    def _end(self, _: Any) -> None:
        """After the cell that finished the step, write the notebook and stop noting."""
        if self.folder is None:
            return
        sys.stdout.flush()
        self.write(self.folder)
        self.stop()

    def stop(self) -> None:
        """Stop noting."""
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
        """Stand before the session's `send`: note what is shown, and pass everything on."""
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
            folder: The step's.
        """
        import nbformat

        notebook = nbformat.read(self._file(), 4)
        places = {cell.id: place for place, cell in enumerate(notebook.cells)}
        # Some editors have ids of their own; there a cell is known by its text.
        by_source = {cell.source: place for place, cell in enumerate(notebook.cells)}
        extra = []  # cells that somebody added: (place of the cell before it, cell)
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
        """Return {id: text} of the cells that ran with another text than the file has."""
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
    """Put values behind a notebook's cell of parameters, as papermill does.

    Args:
        content: The notebook, from nbformat; it is changed in place.
        lines: `name = value`, each; none leaves the notebook as it is.
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
    """Return the id of the cell that a request came from; empty where it does not say."""
    return parent.get("metadata", {}).get("cellId", "")


def _outputs(messages: list[dict[str, Any]]) -> list[Any]:
    """Return the outputs of a cell from the messages that it sent.

    Args:
        messages: {kind, content}, in their order.
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
    """Tell whether a person runs this notebook in an editor, rather than papermill.

    An editor says which cell it runs; a client that does not keeps the notebook itself.
    """
    shell = current_shell()
    if shell is None or os.environ.get(BATCH):
        return False
    return bool(_cell_id(shell.get_parent() or {}))


def start(notebook: str, parameters: dict[str, Any]) -> Recorder | None:
    """Begin to note what a notebook shows; None where papermill keeps it, or there is none.

    Args:
        notebook: Its name.
        parameters: Their values.
    """
    return Recorder(current_shell(), notebook, parameters) if by_hand() else None
