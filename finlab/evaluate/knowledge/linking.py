"""Find what passages are about: topics, names with codes, and relations between names.

    names = [Name("甲公司", "company", "600001", ("甲股份",))]
    mentions = link(passages, names)
    relations(passages, mentions)       # [{subject, relation, object, sentence, passage}]

Golden-GPT labels its corpora in this way: classes, clusters, entities and relations, which people
then check. A name is found only where it is written, not where other words mean it. A relation is
found by the words between two names. People correct the relations in a sheet, see `write_sheet`.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy

from finlab import files
from finlab.evaluate import statistics
from finlab.evaluate.knowledge.passages import Passage

RELATION = ("subject", "relation", "object")
GRAMS = (1, 2)  # minimum and maximum number of characters in a gram
TELLING = 4  # pairs of characters that describe a topic
RELATIONS = {  # relation: words between subject and object, {s} and {o} in either order
    "is chaired by": r"{o}(?:担任|任|出任|就任){s}(?:的)?董事长|{s}(?:的)?董事长(?:是|为|由)?{o}",
    "is managed by": r"{o}(?:管理|执掌){s}|{s}(?:的)?基金经理(?:是|为)?{o}|{s}由{o}(?:管理|负责投资)",
    "is kept in custody by": r"{s}(?:的)?(?:资产)?(?:由{o}(?:托管|保管)|(?:托管人(?:是|为)?|托管于){o})",
    "acquires": r"{s}(?:拟|已)?(?:收购|并购|受让){o}",
    "sues": r"{s}(?:起诉|诉){o}",
    "guarantees for": r"{s}为{o}提供(?:连带责任)?担保",
}


@dataclass(frozen=True)
class Name:
    """An entry in a table of names.

    Attributes:
        name: The full name.
        kind: `company`, `fund`, `law`, `person`, ...
        code: The code or number; empty if there is none.
        others: Other ways to write the name.
    """

    name: str
    kind: str
    code: str = ""
    others: tuple[str, ...] = ()


@dataclass(frozen=True)
class Mention:
    """A name in a passage.

    Attributes:
        passage: Id of the passage.
        name: The entry in the table of names.
        start, end: Where the name starts and ends in the passage's text, in characters.
    """

    passage: str
    name: Name
    start: int
    end: int


def read_names(path: Path) -> list[Name]:
    """Read a table of names.

    Args:
        path: A CSV file with the columns `name` and `kind`, and if wanted `code` and `others`.
            In `others`, several ways to write the name are separated by |.

    Raises:
        ValueError: A column is missing, or a row has no name.
    """
    import pandas

    table = pandas.read_csv(path, dtype=str, keep_default_na=False, encoding="utf-8-sig")
    missing = {"name", "kind"} - set(table.columns)
    if missing:
        raise ValueError(
            f"{path} has no column {min(missing)}: its columns are {list(table.columns)}"
        )
    names = []
    for number, row in enumerate(table.to_dict("records"), 2):
        if not row["name"].strip():
            raise ValueError(f"{path}, row {number}: the name is empty")
        others = tuple(each for each in row.get("others", "").split("|") if each)
        names.append(Name(row["name"].strip(), row["kind"], row.get("code", ""), others))
    return names


# --- topics --------------------------------------------------------------------------------------
def topics(passages: Sequence[Passage], count: int, seed: int) -> tuple[list[int], list[dict]]:
    """Cluster passages by their characters.

    Args:
        passages: The passages.
        count: How many topics; at most one for each passage.
        seed: Seed for drawing the first centres.

    Returns:
        The topic of each passage, and a row {topic, passages, telling, nearest} for each topic.
        passages is the number of its passages. telling are pairs of characters that are more
        frequent in it than elsewhere. nearest is the beginning of the passage nearest its centre.
    """
    from sklearn.cluster import MiniBatchKMeans
    from sklearn.feature_extraction.text import TfidfVectorizer

    vectorizer = TfidfVectorizer(analyzer="char", ngram_range=GRAMS, max_features=20_000)
    matrix = vectorizer.fit_transform([passage.text for passage in passages])
    count = min(count, len(passages))
    model = MiniBatchKMeans(count, random_state=seed, n_init=3).fit(matrix)
    pairs = vectorizer.get_feature_names_out()
    distances = model.transform(matrix)
    whole = model.cluster_centers_.mean(axis=0)
    rows = []
    for topic, centre in enumerate(model.cluster_centers_):
        # Grams that are more frequent in the topic than on average come first.
        order = numpy.argsort(whole - centre)
        telling = [pairs[place] for place in order if len(pairs[place].strip()) == 2][:TELLING]
        nearest = passages[int(distances[:, topic].argmin())]
        row = {"topic": topic, "passages": int((model.labels_ == topic).sum())}
        rows.append({**row, "telling": " ".join(telling), "nearest": nearest.text[:80]})
    return model.labels_.tolist(), rows


def classify(
    passages: Sequence[Passage], labels: Sequence[str], seed: int
) -> tuple[Any, dict[str, float]]:
    """Train a classifier of passages on labelled passages.

    Args:
        passages: Labelled passages.
        labels: The class of each passage.
        seed: Seed for drawing the folds.

    Returns:
        The classifier, which takes texts, and {accuracy, commonest}. accuracy is measured on
        passages that the classifier did not see, over up to five folds. commonest is the accuracy
        of always naming the most frequent class.

    Raises:
        ValueError: A class has only one passage.
    """
    from sklearn.feature_extraction.text import HashingVectorizer
    from sklearn.linear_model import LogisticRegression
    from sklearn.model_selection import StratifiedKFold, cross_val_score
    from sklearn.pipeline import make_pipeline

    classifier = make_pipeline(
        HashingVectorizer(analyzer="char", ngram_range=GRAMS, n_features=2**18),
        LogisticRegression(C=10, max_iter=1000),
    )
    texts = [passage.text for passage in passages]
    sizes = Counter(labels)
    commonest = max(sizes.values()) / len(labels)
    smallest = min(sizes.values())
    if smallest < 2:
        raise ValueError(
            f"class '{min(sizes, key=sizes.get)}' has one passage: two of each are needed at least"
        )
    folds = StratifiedKFold(min(5, smallest), shuffle=True, random_state=seed)
    accuracy = cross_val_score(classifier, texts, labels, cv=folds).mean()
    return classifier.fit(texts, labels), {"accuracy": float(accuracy), "commonest": commonest}


# --- names ---------------------------------------------------------------------------------------
def link(passages: Iterable[Passage], names: Sequence[Name]) -> list[Mention]:
    """Find names in passages; if two names begin at the same place, the longer one counts.

    Args:
        passages: The passages.
        names: The table of names.

    Raises:
        ValueError: Two entries have the same way to write a name.
    """
    meant: dict[str, Name] = {}
    for name in names:
        for written in (name.name, *name.others):
            if meant.setdefault(written, name) != name:
                raise ValueError(
                    f"'{written}' stands for {meant[written].name} and for {name.name}: "
                    "leave it out of one of them"
                )
    if not meant:
        return []
    longest_first = sorted(meant, key=len, reverse=True)
    pattern = re.compile("|".join(map(re.escape, longest_first)))
    mentions = []
    for passage in passages:
        for match in pattern.finditer(passage.text):
            mentions.append(Mention(passage.id, meant[match[0]], match.start(), match.end()))
    return mentions


def relations(passages: Iterable[Passage], mentions: Sequence[Mention]) -> list[dict[str, str]]:
    """Return the relations between two names, found by the words between them.

    Args:
        passages: The passages.
        mentions: From `link`.

    Returns:
        Rows {subject, relation, object, sentence, passage, reference}. A passage gives each
        relation of two names at most once.
    """
    of_passage: dict[str, list[Mention]] = {}
    for mention in mentions:
        of_passage.setdefault(mention.passage, []).append(mention)
    found = []
    for passage in passages:
        names = {mention.name for mention in of_passage.get(passage.id, [])}
        written = {name: _ways(name) for name in names}
        for subject in sorted(names, key=_full_name):
            for other in sorted(names - {subject}, key=_full_name):
                for relation, words in RELATIONS.items():
                    form = words.replace("{s}", written[subject]).replace("{o}", written[other])
                    match = re.search(form, passage.text)
                    if match:
                        row = {"subject": subject.name, "relation": relation, "object": other.name}
                        row |= {"sentence": _sentence(passage.text, match.start())}
                        found.append({**row, "passage": passage.id, "reference": passage.reference})
    return found


def _ways(name: Name) -> str:
    """Return a pattern for all ways to write a name."""
    return f"(?:{'|'.join(map(re.escape, (name.name, *name.others)))})"


def _full_name(name: Name) -> str:
    """Return the full name, by which entries are sorted."""
    return name.name


def _sentence(text: str, place: int) -> str:
    """Return the sentence of a text around a place."""
    start = max(text.rfind(sign, 0, place) for sign in "。！？\n") + 1
    ends = [text.find(sign, place) for sign in "。！？\n"]
    end = min((each + 1 for each in ends if each >= 0), default=len(text))
    return text[start:end].strip()


def write_sheet(folder: Path, rows: Sequence[dict[str, str]]) -> Path:
    """Write relations as a spreadsheet, with a column `right` to be filled with yes or no.

    The file is named by its relations, and never written over: what people filled in stays.

    Args:
        folder: The folder of all sheets.
        rows: From `relations`.

    Returns:
        The file, .xlsx.
    """
    import pandas

    path = folder / f"relations-{files.digest(list(rows))[:10]}.xlsx"
    if path.exists():
        return path
    folder.mkdir(parents=True, exist_ok=True)
    rows = [{name: _for_a_cell(value) for name, value in row.items()} for row in rows]
    sheet = pandas.DataFrame(rows, columns=[*RELATION, "sentence", "reference"])
    # By rename: a kill leaves no half sheet in this place.
    draft = path.with_suffix(".draft.xlsx")
    sheet.assign(right="").to_excel(draft, index=False)
    draft.replace(path)
    return path


def _for_a_cell(text: str) -> str:
    """Return a text for a spreadsheet cell, without control characters, and not a formula."""
    plain = re.sub(r"[\x00-\x08\x0b\x0c\x0e-\x1f]", " ", text)
    return f"'{plain}" if plain[:1] in ("=", "+", "-", "@") else plain


def read_sheet(path: Path) -> list[dict[str, Any]]:
    """Return the relations that people have judged.

    Args:
        path: A sheet from `write_sheet`, with the column `right` filled with yes or no (or 是, 否).

    Returns:
        Rows {subject, relation, object, right (bool)}; rows that nobody judged are left out.

    Raises:
        ValueError: The file cannot be read, or the column `right` has another word.
    """
    import pandas

    try:
        sheet = pandas.read_excel(path, dtype=str, keep_default_na=False)
    except Exception as error:  # each format has a reader of its own, with errors of its own
        raise ValueError(
            f"{path} is not a spreadsheet that can be read ({error}): "
            "save the sheet that was filled in as .xlsx"
        ) from None
    missing = {*RELATION, "right"} - set(sheet.columns)
    if missing:
        raise ValueError(f"{path} has no column '{min(missing)}': take the sheet that was written")
    rows = []
    for number, row in enumerate(sheet.to_dict("records"), 2):
        said = row["right"].strip().lower()
        if said not in ("", "yes", "no", "是", "否"):
            raise ValueError(f"{path}, row {number}: right is '{said}': write yes or no")
        if said:
            judged = {name: row[name] for name in RELATION}
            rows.append({**judged, "right": said in ("yes", "是")})
    return rows


def checked_rows(
    judged: Sequence[dict[str, Any]], rows: Sequence[dict[str, str]]
) -> list[dict[str, Any]]:
    """Return, for each relation that people judged, the share that is right, with its interval.

    Args:
        judged: From `read_sheet`.
        rows: The relations that the sheet was written from.

    Raises:
        ValueError: A judged relation is not among the rows, so the sheet is of other relations.
    """
    known = {tuple(_for_a_cell(row[name]) for name in RELATION) for row in rows}
    counts: dict[str, Counter[str]] = {}
    for row in judged:
        names = tuple(row[name] for name in RELATION)
        if names not in known:
            raise ValueError(
                f"the sheet of relations judges '{' '.join(names)}', which was not found here: "
                "fill in the sheet that this run wrote"
            )
        count = counts.setdefault(row["relation"], Counter())
        count["judged"] += 1
        count["right"] += row["right"]
    shares = []
    for relation, count in sorted(counts.items()):
        right, total = count["right"], count["judged"]
        low, high = statistics.wilson(right, total)
        share = {"relation": relation, "judged": total, "right": right, "share": right / total}
        shares.append(share | {"ci_low": low, "ci_high": high})
    return shares
