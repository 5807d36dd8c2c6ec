"""What a step tells the report: lines, figures and warnings, in two languages.

    run.finish(metrics, headline=Headline(
        lines=[Line(Words("accuracy", "准确率"), "0.66", Words("It learnt.", "学到了。"), weight=5)],
        pictures=[Picture(Words("Accuracy", "准确率"), figure)],
        warnings=[Words("At chance.", "与瞎猜无异。")],
    ))

Lines and warnings stand in metrics.json, pictures beside it in `figures/`.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Protocol


@dataclass(frozen=True)
class Words:
    """A text in English and in Chinese.

    Attributes:
        en: English.
        zh: Chinese.
    """

    en: str
    zh: str


@dataclass(frozen=True)
class Line:
    """One result.

    Attributes:
        quantity: What was measured.
        value: The figure, as it is shown.
        sentence: What it means, for a reader who does not know the quantity.
        weight: How much a manager needs the sentence: the report's summary takes the heaviest
            five. 0 leaves it to the table.
    """

    quantity: Words
    value: str
    sentence: Words | None = None
    weight: int = 0


class Drawable(Protocol):
    """A figure that can be saved."""

    alt: str

    def png(self) -> bytes:
        """Return it as a PNG."""


@dataclass(frozen=True)
class Picture:
    """A figure of the report's first page.

    Attributes:
        title: Above it.
        figure: What `show` drew.
    """

    title: Words
    figure: Drawable


@dataclass(frozen=True)
class Headline:
    """What a step tells the first page.

    Attributes:
        lines: Its results, the most telling first.
        pictures: Its figures for the first page, if any.
        warnings: What a reader must know before using a result.
    """

    lines: list[Line] = field(default_factory=list)
    pictures: list[Picture] = field(default_factory=list)
    warnings: list[Words] = field(default_factory=list)

    def save(self, folder: Path) -> dict[str, Any]:
        """Write the pictures, and return what metrics.json holds of the headline.

        Args:
            folder: The step's.

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
