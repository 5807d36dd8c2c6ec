"""Texts of some documents, on disk: found by number, from any process, in any order."""

from __future__ import annotations

import tempfile
from pathlib import Path

import daft
import numpy

from finlab.data import arrow_files, frames


class Texts:
    """The texts of some documents of a frame.

    They are copied in one pass over the frame into an Arrow file, which is memory-mapped. So to
    compare many pairs takes no memory, and the system's cache holds what is read often. The file
    lasts as long as this object, and can be read wherever its folder is seen.

        texts = Texts(frame, [3, 17], folder)
        texts[17]

    Args:
        frame: Documents {number, text}.
        numbers: Those that are wanted.
        folder: Where the file goes, in a folder of its own.
    """

    def __init__(self, frame: daft.DataFrame, numbers: numpy.ndarray, folder: Path):
        from datasets import Features, Value

        self.numbers = numpy.unique(numbers)
        self._place = tempfile.TemporaryDirectory(dir=folder, prefix="texts-")
        own = Path(self._place.name)
        wanted = daft.from_pydict({"number": self.numbers})
        chosen = frame.select("number", "text").join(wanted, on="number", how="semi")
        frames.save(chosen, own / "parquet")
        features = Features({"number": Value("int64"), "text": Value("large_string")})
        self._rows = arrow_files.in_order(own / "parquet", own / "texts.arrow", features)
        for path in (own / "parquet").glob("*.parquet"):
            path.unlink()

    def __getitem__(self, number: int) -> str:
        place = int(numpy.searchsorted(self.numbers, number))
        return self._rows[place]["text"]

    def __getstate__(self) -> dict:
        # Another process reads the file, and does not delete it.
        return {"numbers": self.numbers, "_rows": self._rows}
