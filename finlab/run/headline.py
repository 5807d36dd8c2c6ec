"""The main results of a step for the report: lines, figures and warnings in two languages.

    run.finish(metrics, headline=Headline(
        lines=[Line(Words("accuracy", "准确率"), "0.66", Words("It learnt.", "学到了。"), weight=5)],
        pictures=[Picture(Words("Accuracy", "准确率"), figure)],
        warnings=[Words("At chance.", "与乱猜无异。")],
    ))

Lines and warnings are saved in metrics.json, and pictures in the folder `figures/` next to it.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Protocol


@dataclass(frozen=True)
class Words:
    """A text in English and in Chinese.

    Attributes:
        en: The English text.
        zh: The Chinese text.
    """

    en: str
    zh: str


@dataclass(frozen=True)
class Line:
    """One result.

    Attributes:
        quantity: Name of the measured quantity.
        value: The value as text, as the report shows it.
        sentence: What the result means, for a reader who does not know the quantity; None if there
            is no sentence.
        weight: How important the sentence is for a manager. The report's summary shows the five
            sentences with the largest weights. With 0, the result is only in the table.
    """

    quantity: Words
    value: str
    sentence: Words | None = None
    weight: int = 0


class Drawable(Protocol):
    """A figure that can be saved.

    Attributes:
        alt: What the figure shows, in words.
    """

    alt: str

    def png(self) -> bytes:
        """Return the figure as a PNG."""


@dataclass(frozen=True)
class Picture:
    """A figure of the report's first page.

    Attributes:
        title: The title above the figure.
        figure: A figure drawn by `finlab.show`.
    """

    title: Words
    figure: Drawable


@dataclass(frozen=True)
class Headline:
    """The main results of a step for the report's first page.

    Attributes:
        lines: The results, the most important first.
        pictures: The figures; may be empty.
        warnings: What a reader must know before using a result; may be empty.
    """

    lines: list[Line] = field(default_factory=list)
    pictures: list[Picture] = field(default_factory=list)
    warnings: list[Words] = field(default_factory=list)

    def save(self, folder: Path) -> dict[str, Any]:
        """Write the pictures, and return the fields of the headline for metrics.json.

        Args:
            folder: The step's folder.

        Returns:
            {headline, headline_warnings, headline_pictures}.
        """
        pictures = []
        for number, picture in enumerate(self.pictures, 1):
            path = folder / "figures" / f"{number}.png"
            path.parent.mkdir(exist_ok=True)
            path.write_bytes(picture.figure.png())
            facts = {"title": asdict(picture.title), "alt": picture.figure.alt}
            pictures.append({"file": f"figures/{number}.png", **facts})
        return {
            "headline": [asdict(line) for line in self.lines],
            "headline_warnings": [asdict(words) for words in self.warnings],
            "headline_pictures": pictures,
        }
