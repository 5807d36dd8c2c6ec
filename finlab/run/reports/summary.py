"""The first page of a report: verdict, three figures, warnings, cost, data and licences."""

from __future__ import annotations

import base64
import html
from pathlib import Path
from typing import Any

from finlab.run.licences import commercial_use, forbids_commercial_use
from finlab.run.reports.html import both, of_words, say, table
from finlab.run.reports.results import Step, history

SENTENCES = 5  # most sentences in the verdict
FIGURES = 3  # most figures on the page


def summary(run_dir: Path, steps: list[Step]) -> str:
    """Return the first page of the report as HTML.

    Args:
        run_dir: The run's folder.
        steps: The finished steps, from `finished_steps`.
    """
    parts = [
        _banner(run_dir, steps),
        f"<h2 id=verdict>{say('verdict')}</h2>",
        verdict(steps),
        figures(steps),
        f"<h2 id=warnings>{say('warnings')}</h2>",
        _warnings(run_dir, steps),
        f"<h2 id=cost>{say('cost')}</h2>",
        _cost(run_dir, steps),
        f"<h2 id=sources>{say('sources')}</h2>",
        _licences(steps),
        f"<h2 id=results>{say('results')}</h2>",
        _results(run_dir, steps),
    ]
    return "".join(parts)


def _banner(run_dir: Path, steps: list[Step]) -> str:
    """Return a banner if a step was made from an earlier result; else an empty text."""
    mixed = []
    for manifest, _, _ in steps:
        note = history(run_dir, manifest)
        if note.startswith("made from"):
            mixed.append(f"{manifest['step']}: {note}")
    if not mixed:
        return ""
    return f"<div class=banner>{say('mixed', 'p')}<p>{html.escape('; '.join(mixed))}</p></div>"


def verdict(steps: list[Step]) -> str:
    """Return the sentences with the largest weights, the largest first.

    Args:
        steps: The finished steps, from `finished_steps`.
    """
    told = []
    for manifest, metrics, _ in steps:
        for line in metrics.get("headline", []):
            if line["weight"]:
                told.append((line["weight"], _named(manifest, steps) + of_words(line["sentence"])))
    told.sort(key=lambda each: -each[0])
    items = "".join(f"<li>{sentence}</li>" for _, sentence in told[:SENTENCES])
    if not items:
        earlier = not any("headline" in metrics for _, metrics, _ in steps)
        return say("made earlier" if earlier else "no verdict", "p")
    return f"<ol class=verdict>{items}</ol><div class=faint>{say('how', 'p')}</div>"


def _named(manifest: dict[str, Any], steps: list[Step]) -> str:
    """Return the step's name and a colon if several steps use its notebook; else an empty text.

    Args:
        manifest: Manifest of the step.
        steps: The finished steps, from `finished_steps`.
    """
    same = [each for each, _, _ in steps if each["notebook"] == manifest["notebook"]]
    return f"{html.escape(manifest['step'])}: " if len(same) > 1 else ""


def figures(steps: list[Step]) -> str:
    """Return the last three figures of the steps, with alternative texts; may be empty.

    Args:
        steps: The finished steps, from `finished_steps`.
    """
    found = []
    for manifest, metrics, folder in steps:
        for picture in metrics.get("headline_pictures", []):
            path = folder / picture["file"]
            if path.exists():
                found.append(_figure(path, picture, _named(manifest, steps)))
    if not found:
        return ""
    shown = "".join(found[-FIGURES:])
    return f"<h2 id=figures>{say('figures')}</h2><div class=three>{shown}</div>"


def _figure(path: Path, picture: dict[str, Any], name: str) -> str:
    """Return a figure with its title.

    Args:
        path: The PNG file.
        picture: {title, alt}: the title in two languages, and what the figure shows in words.
        name: Text before the title, such as the name of the step; may be empty.
    """
    data = base64.b64encode(path.read_bytes()).decode()
    alt = html.escape(picture["alt"], quote=True)
    image = f'<img src="data:image/png;base64,{data}" alt="{alt}">'
    return f"<figure><figcaption>{name}{of_words(picture['title'])}</figcaption>{image}</figure>"


def _warnings(run_dir: Path, steps: list[Step]) -> str:
    """Return the list of warnings that a reader must know before using a result."""
    items = []
    for manifest, metrics, _ in steps:
        note = history(run_dir, manifest)
        if note:
            items.append(both(f"{manifest['step']}: {note}", f"{manifest['step']}：{note}"))
        items += [of_words(words) for words in metrics.get("headline_warnings", [])]
    for card, licence in sorted(_cards(steps).items()):
        if forbids_commercial_use(licence):
            items.append(
                both(
                    f"No commercial use: {card} is under {licence}, and models here learnt it.",
                    f"不得商用：{card} 的许可是 {licence}，这里的模型用它训练过。",
                )
            )
    for base, licence in _bases(steps).items():
        if forbids_commercial_use(licence):
            items.append(
                both(
                    f"No commercial use: the base {base} is under {licence}.",
                    f"不得商用：底座 {base} 的许可是 {licence}。",
                )
            )
    if not items:
        return say("no warnings", "p")
    listed = "".join(f"<li>{item}</li>" for item in items)
    return f"<div class=warnings><ul>{listed}</ul></div>"


def _cards(steps: list[Step]) -> dict[str, str]:
    """Return {card: licence} of all data that models of the run were trained on."""
    found: dict[str, str] = {}
    for manifest, _, _ in steps:
        found |= manifest.get("licences", {})
    return found


def _bases(steps: list[Step]) -> dict[str, str]:
    """Return {base: licence} of the bases whose own card states a licence."""
    found: dict[str, str] = {}
    for manifest, _, _ in steps:
        if manifest.get("base_licence"):
            found[Path(manifest["base"]).name] = manifest["base_licence"]
    return found


def _cost(run_dir: Path, steps: list[Step]) -> str:
    """Return a table with the seconds and the memory of each step, and the totals.

    Args:
        run_dir: The run's folder.
        steps: The finished steps, from `finished_steps`.
    """
    body = []
    for manifest, _, _ in steps:
        name = manifest["step"]
        row = [
            f"<a href='#{name}'>{name}</a>",
            f"{manifest['seconds']:.0f}",
            f"{manifest['peak_bytes'] / 1e9:.2f}",
            html.escape(manifest["device"]),
            manifest["finished"][:16].replace("T", " "),
            html.escape(history(run_dir, manifest)),
        ]
        body.append(row)
    seconds = sum(manifest["seconds"] for manifest, _, _ in steps)
    largest = max(manifest["peak_bytes"] for manifest, _, _ in steps)
    body.append([say("total"), f"{seconds:.0f}", f"{largest / 1e9:.2f}", "", "", ""])
    head = ["step", "seconds", "memory", "device", "finished", "note"]
    return table(head, body, numbers=(1, 2))


def _licences(steps: list[Step]) -> str:
    """Return a table of the cards used in training: licence, commercial use, steps."""
    read_by: dict[str, list[str]] = {}
    first_with: dict[str, str] = {}  # {base: the first step that came from it}
    before: dict[str, str] = {}
    for manifest, _, _ in steps:
        for card in manifest.get("licences", {}):
            named = str(manifest["parameters"])
            if f"'{card}'" in named or card not in before:
                read_by.setdefault(card, []).append(manifest["step"])
        before |= manifest.get("licences", {})
        first_with.setdefault(Path(manifest.get("base", "")).name, manifest["step"])
    body = []
    for base, licence in _bases(steps).items():
        word = say(commercial_use(licence))
        used = html.escape(first_with[base])
        body.append([html.escape(base), html.escape(licence), word, used])
    for card, licence in sorted(_cards(steps).items()):
        word = say(commercial_use(licence))
        used = html.escape(", ".join(read_by[card]))
        body.append([html.escape(card), html.escape(licence), word, used])
    listed = table(["card", "licence", "commercial", "trained"], body)
    if len(body) <= 8:
        return listed
    return f"<details><summary>{both(f'{len(body)} cards', f'{len(body)} 张数据卡')}</summary>" + (
        f"{listed}</details>"
    )


def _results(run_dir: Path, steps: list[Step]) -> str:
    """Return all headline results of all steps, as a folded table.

    Args:
        run_dir: The run's folder.
        steps: The finished steps, from `finished_steps`.
    """
    body = []
    for manifest, metrics, _ in steps:
        note = history(run_dir, manifest)
        if note:
            body.append([manifest["step"], both("attention", "注意"), html.escape(note)])
        for line in metrics.get("headline", []):
            value = html.escape(line["value"])
            body.append([manifest["step"], of_words(line["quantity"]), value])
    head = both(f"{len(body)} lines", f"{len(body)} 行")
    return (
        f"<details><summary>{head}</summary>{table(['step', 'quantity', 'value'], body)}</details>"
    )
