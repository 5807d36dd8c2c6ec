"""Texts of some documents, on disk: found by number, from any process, in any order."""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path

import daft
import numpy

from finlab.data import arrow_files, frames

PREFIX = "texts-"  # of the folders


class Texts:
    """The texts of some documents of a frame.

    They are copied in one pass over the frame into an Arrow file, which is memory-mapped. So to
    compare many pairs takes no memory, and the system's cache holds what is read often. What goes
    to another process is the folder's name. The folder lasts as long as the first of these objects.

        texts = Texts(frame, [3, 17], folder)
        texts[17]

    Args:
        frame: Documents {number, text}.
        numbers: Those that are wanted.
        folder: Where they go, in a folder of their own; None for the system's folder for such.
    """

    def __init__(self, frame: daft.DataFrame, numbers: numpy.ndarray, folder: Path | None):
        from datasets import Features, Value

        self._made = tempfile.TemporaryDirectory(dir=folder, prefix=PREFIX)
        self._folder = Path(self._made.name)
        wanted = daft.from_pydict({"number": numpy.unique(numbers)})
        chosen = frame.select("number", "text").join(wanted, on="number", how="semi")
        parquet = self._folder / "parquet"
        frames.save(chosen, parquet)
        features = Features({"number": Value("int64"), "text": Value("large_string")})
        rows = arrow_files.copied(parquet, self._folder / "texts.arrow", features)
        for path in parquet.glob("*.parquet"):
            path.unlink()
        found = rows.with_format("numpy")["number"][:]
        places = numpy.argsort(found)
        numpy.save(self._folder / "numbers.npy", found[places])
        numpy.save(self._folder / "places.npy", places)
        self._open()

    def _open(self) -> None:
        """Map the files that were written."""
        from datasets import Dataset

        self.numbers = numpy.load(self._folder / "numbers.npy", mmap_mode="r")
        self._places = numpy.load(self._folder / "places.npy", mmap_mode="r")
        self._rows = Dataset.from_file(str(self._folder / "texts.arrow"))

    def __getitem__(self, number: int) -> str:
        rank = numpy.searchsorted(self.numbers, number)
        if rank == len(self.numbers) or self.numbers[rank] != number:
            raise KeyError(number)
        return self._rows[int(self._places[rank])]["text"]

    def __getstate__(self) -> dict:
        return {"_folder": self._folder}

    def __setstate__(self, state: dict) -> None:
        self._folder = state["_folder"]
        self._open()


def clear(folder: Path) -> None:
    """Remove the texts that a killed process left in a folder."""
    for left in folder.glob(f"{PREFIX}*"):
        shutil.rmtree(left)
