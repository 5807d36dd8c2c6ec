"""Texts of some documents on disk, which any process can look up by document number."""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path

import daft
import numpy

from finlab.data import arrow_files, frames

PREFIX = "texts-"  # first part of the folders' names


class Texts:
    """The texts of some documents of a frame.

    The texts are copied into a memory-mapped Arrow file, in one pass over the frame. So comparing
    many pairs takes no memory of this process, and the system caches texts that are read often.
    Pickling the object sends only the name of its folder to another process. The folder is deleted
    together with the first object, the one that was not unpickled.

        texts = Texts(frame, [3, 17], folder)
        texts[17]

    Args:
        frame: Documents {number, text}.
        numbers: Numbers of the documents whose texts are wanted.
        folder: The texts are written to a new folder inside this one; None uses the system's
            temporary folder.
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
        """Open the files that were written, memory-mapped."""
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
    """Delete the texts that a killed process has left in a folder."""
    for left in folder.glob(f"{PREFIX}*"):
        shutil.rmtree(left)
