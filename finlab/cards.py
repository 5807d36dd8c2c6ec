"""Data cards: the only door through which data enters.

A card is a Hugging Face dataset card, `data_cards/<name>.md`, whose YAML front matter has a `license` and one `finlab:` block:

    finlab:
      domain: finance            # finance or general
      language: zh               # zh or en
      kind: text                 # text, dialogue, preference, exam, question or label (texts with `bad: true` or `false`)
      files: [text/laws/**/*.md] # globs below FINLAB_DATA (or `root: closed_world`, or `root: data_cards`), or `hub: owner/name`
      format: markdown           # jsonl, json, csv, tsv, text, markdown, parquet, arrow, html, pdf, or an exam layout: ceval, cmmlu, mmlu, fineva
      benchmark: fineval         # the published exam that this is: its subjects and their sizes are checked (optional)
      partial: true              # only some of its subjects (optional)
      rows: "data.*.context"     # where the rows are in a JSON file (optional)
      dialogue: disc             # the format of dialogues, a name of chat.FORMATS; without it each row's own is detected (optional)
      text: input                # the field that holds the text (default `text`)
      encoding: gb18030          # of the files, where it is not UTF-8 (optional); files may be compressed, .gz or .zst
      rules: {min_chars: 20}     # thresholds and rules of cleaning for this source, see finlab.cleaning (optional)
      knowledge: true            # encyclopaedias, books, textbooks: read first in a knowledge-first mixture (optional)
      sha256: ...                # checked when it is there (optional)

    source = cards.load("cw_news")     # source.rows is a datasets.Dataset, source.quarantined what could not be read
    rows = cards.stream(cards.read("cw_news"), quarantined := [])    # the same rows one by one, for what does not fit into memory
"""

from __future__ import annotations

import csv
import functools
import glob
import hashlib
import io
import json
import os
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import yaml

from finlab import chat, cleaning, closed_world, pages, recipe

KINDS = {"text", "dialogue", "preference", "exam", "label", "question"}
FORMATS = {"jsonl", "json", "csv", "tsv", "text", "markdown", "parquet", "arrow", "html", "pdf", "ceval", "cmmlu", "mmlu", "fineva", "hub"}
KEYS = {"domain", "language", "kind", "files", "root", "hub", "format", "rows", "text", "sha256", "split", "benchmark", "partial",
        "encoding", "rules", "knowledge", "dialogue"}
STATISTICS = ("<!-- finlab:statistics -->", "<!-- /finlab:statistics -->")


@dataclass(frozen=True)
class Card:
    """A data card: its name, its licence, its `finlab:` block and its Markdown text."""

    name: str
    licence: str
    spec: dict
    text: str

    @property
    def domain(self) -> str:
        return self.spec["domain"]

    @property
    def language(self) -> str:
        return self.spec["language"]

    @property
    def kind(self) -> str:
        return self.spec["kind"]

    def paths(self) -> list[Path]:
        """Return the files of the card, sorted; raise ValueError when there are none."""
        root = _root(self)
        found = sorted({Path(file) for pattern in self.spec["files"] for file in glob.glob(str(root / pattern), recursive=True)})
        if not found:
            raise ValueError(f"card {self.name}: no file matches {', '.join(self.spec['files'])} below {root}: correct the card or FINLAB_DATA")
        return found

    def fingerprint(self) -> str:
        """Return a hash of the card and of the names, sizes and times of its files: a changed file is a changed step."""
        files = "" if "hub" in self.spec else fingerprint_files(self.paths())
        return hashlib.sha256(f"{self.licence}{json.dumps(self.spec, sort_keys=True)}{files}".encode()).hexdigest()[:16]


@dataclass
class Source:
    """A loaded card: its rows, and the rows that could not be read, each with file, line and reason."""

    card: Card
    rows: datasets.Dataset  # noqa: F821
    quarantined: list[dict] = field(default_factory=list)


def fingerprint_files(paths: list[Path]) -> str:
    """Return a hash of names, sizes and modification times of files and of the files in folders."""
    files = sorted(file for path in paths for file in ([path] if path.is_file() else path.rglob("*")) if file.is_file())
    listing = [f"{file.name} {file.stat().st_size} {file.stat().st_mtime_ns}" for file in files]
    return hashlib.sha256("\n".join(listing).encode()).hexdigest()[:16]


def checksum(paths: list[Path]) -> str:
    """Return the sha256 over the contents of files, in order."""
    digest = hashlib.sha256()
    for path in paths:
        digest.update(path.read_bytes())
    return digest.hexdigest()


def folder() -> Path:
    """Return the folder of the cards."""
    return recipe.ROOT / "data_cards"


def names() -> list[str]:
    """Return the names of all cards."""
    return sorted(path.stem for path in folder().glob("*.md") if not path.stem.startswith("_") and path.stem != "README")


def read(name: str) -> Card:
    """Read and check one card.

    Raises ValueError, naming the file and the key, for a card that is missing, has no licence or has a key out of place.
    """
    path = folder() / f"{name}.md"
    if not path.exists():
        raise ValueError(f"there is no data card '{name}' in {folder()}: write {path.name} first (no card, no data)")
    parts = path.read_text(encoding="utf-8").split("---\n", 2)
    if len(parts) != 3 or parts[0].strip():
        raise ValueError(f"{path}: begin the card with YAML front matter between two lines of ---")
    try:
        front = yaml.safe_load(parts[1]) or {}
    except yaml.YAMLError as error:
        raise ValueError(f"{path}: the front matter is not YAML: {' '.join(str(error).split())}") from None
    spec = front.get("finlab") if isinstance(front, dict) else None
    if not isinstance(front, dict) or not front.get("license"):
        raise ValueError(f"{path}: the card states no license, so the data stays out: add a `license:` line")
    if not isinstance(spec, dict):
        raise ValueError(f"{path}: the card has no `finlab:` block")
    for key in set(spec) - KEYS:
        raise ValueError(f"{path}: unknown key '{key}' in the finlab block; it knows {', '.join(sorted(KEYS))}")
    for key, allowed in (("kind", KINDS), ("domain", {"finance", "general"}), ("language", {"zh", "en"}), ("format", FORMATS)):
        if not isinstance(spec.get(key), str) or spec[key] not in allowed:
            raise ValueError(f"{path}: finlab.{key} is {spec.get(key)!r}; write one of {', '.join(sorted(allowed))}")
    if spec.get("dialogue", next(iter(chat.FORMATS))) not in chat.FORMATS:
        raise ValueError(f"{path}: finlab.dialogue is {spec['dialogue']!r}; write one of {', '.join(chat.FORMATS)}")
    if spec.get("benchmark", "ceval") not in _benchmarks():
        raise ValueError(f"{path}: finlab.benchmark is {spec['benchmark']!r}; write one of {', '.join(_benchmarks())}")
    unknown = set(spec.get("rules") or {}) - cleaning.RULE_KEYS
    if unknown:
        raise ValueError(f"{path}: unknown rule '{min(unknown)}' in finlab.rules; it knows {', '.join(sorted(cleaning.RULE_KEYS))}")
    if ("files" in spec) == ("hub" in spec):
        raise ValueError(f"{path}: name either `files` or a `hub` id in the finlab block")
    return Card(name, str(front["license"]), spec, parts[2])


def _root(card: Card) -> Path:
    if card.spec.get("root") == "closed_world":
        return closed_world.write(recipe.ROOT / "runs" / ".closed_world")
    if card.spec.get("root") == "data_cards":
        return folder()
    if not os.environ.get("FINLAB_DATA"):
        raise ValueError(f"card {card.name} reads files below FINLAB_DATA, which is not set: export FINLAB_DATA=/folder/with/the/data")
    return Path(os.environ["FINLAB_DATA"])


# --- reading files: each reader yields (line number, `row n` of a JSON array, or 0; row) and quarantines what it cannot read ----------------------
def _open(path: Path) -> io.BufferedReader:
    import pyarrow

    packed = {".gz": "gzip", ".zst": "zstd"}.get(path.suffix)
    return io.BufferedReader(pyarrow.input_stream(str(path), compression=packed)) if packed else open(path, "rb")


def _decoded(path: Path, encoding: str) -> str:
    with _open(path) as file:
        content = file.read()
    try:
        return content.decode(encoding)
    except UnicodeDecodeError as error:
        raise ValueError(f"{path}: not {_name(encoding)} at byte {error.start}{_other_encoding(content)}") from None


def _name(encoding: str) -> str:
    return encoding.upper().removesuffix("-SIG")


def _other_encoding(content: bytes) -> str:
    try:
        content.decode("gb18030")
    except UnicodeDecodeError:
        return ": write its encoding in the card, as in `encoding: utf-16`"
    return ": it reads as GB18030; write `encoding: gb18030` in the card"


def _json_lines(path: Path, quarantine: list[dict], encoding: str = "utf-8-sig") -> Iterator[tuple[int, object]]:
    with _open(path) as file:
        for number, line in enumerate(file, 1):
            if not line.strip():
                continue
            try:
                yield number, json.loads(line.decode(encoding))
            except ValueError as error:
                reason = f"not JSON: {error.msg}" if isinstance(error, json.JSONDecodeError) else f"not {_name(encoding)}{_other_encoding(line)}"
                quarantine.append({"where": f"{path.name}:{number}", "reason": reason, "row": line.decode("utf-8", "replace").strip()})


def _csv(path: Path, quarantine: list[dict], encoding: str, delimiter: str) -> Iterator[tuple[int, object]]:
    csv.field_size_limit(2**31 - 1)
    reader = csv.DictReader(io.StringIO(_decoded(path, encoding), newline=""), delimiter=delimiter, restkey="", restval=None)
    for row in reader:
        if "" in row or None in row.values():
            reason = f"has not the {len(reader.fieldnames)} fields of the header"
            quarantine.append({"where": f"{path.name}:{reader.line_num}", "reason": reason, "row": str(row)})
        else:
            yield reader.line_num, row


def _descend(value: object, route: list[str]) -> Iterator[object]:
    if not route:
        yield value
    elif route[0] == "*":
        for item in value if isinstance(value, list) else value.values():
            yield from _descend(item, route[1:])
    else:
        try:
            inner = value[int(route[0]) if route[0].isdigit() else route[0]]
        except (KeyError, IndexError, TypeError):
            raise ValueError(f"the JSON has no '{route[0]}' where the card's `rows` looks for it") from None
        yield from _descend(inner, route[1:])


def _json(path: Path, quarantine: list[dict], encoding: str, route: str) -> Iterator[tuple[int | str, object]]:
    text = _decoded(path, encoding)
    try:
        content = json.loads(text)
    except ValueError as error:  # many files named .json hold JSON lines
        if not text.lstrip().startswith("["):
            yield from _json_lines(path, quarantine, encoding)
            return
        raise ValueError(f"{path}: the JSON array is broken ({error}): mend the file, or write it as JSON lines") from None
    yield from ((f"row {number}", row) for number, row in enumerate(_descend(content, route.split(".")), 1))


def _table_rows(path: Path, form: str) -> Iterator[tuple[int, object]]:
    if form == "arrow":
        import datasets

        yield from enumerate(datasets.load_from_disk(str(path)), 1)
        return
    import pyarrow.parquet

    batches = pyarrow.parquet.ParquetFile(path).iter_batches(1000)
    yield from enumerate((row for batch in batches for row in batch.to_pylist()), 1)


def _rows(card: Card, path: Path, quarantine: list[dict]) -> Iterator[tuple[int, object]]:
    form, encoding = card.spec["format"], card.spec.get("encoding", "utf-8-sig")
    if card.kind == "exam":
        yield from ((0, row) for row in _exam_rows(card, path, quarantine))
    elif form == "jsonl":
        yield from _json_lines(path, quarantine, encoding)
    elif form == "json":
        yield from _json(path, quarantine, encoding, card.spec.get("rows", "*"))
    elif form in ("csv", "tsv"):
        yield from _csv(path, quarantine, encoding, "," if form == "csv" else "\t")
    elif form in ("arrow", "parquet"):
        yield from _table_rows(path, form)
    elif form == "text":
        yield from ((number, line) for number, line in enumerate(_decoded(path, encoding).splitlines(), 1) if line.strip())
    elif form == "markdown":  # one document per file, as for html and pdf
        yield 0, _decoded(path, encoding)
    else:
        try:
            yield 0, pages.from_pdf(path) if form == "pdf" else pages.from_html(_decoded(path, encoding))
        except ValueError as error:
            quarantine.append({"where": path.name, "reason": str(error), "row": str(path)})


def _text_row(card: Card, row: object, where: str) -> dict:
    field_name = card.spec.get("text", "text")
    text = row if isinstance(row, str) else row.get(field_name) if isinstance(row, dict) else None
    if not isinstance(text, str) or not text.strip():
        raise ValueError(f"no text in field '{field_name}'")
    identity = row["id"] if isinstance(row, dict) and isinstance(row.get("id"), str) else where
    return {"id": f"{card.name}/{identity}", "text": text}


def _plain(card: Card, row: object, where: str) -> dict:
    if card.kind == "exam":
        return row
    if card.kind == "dialogue":
        domain = row.get("domain", card.domain)
        if domain not in ("finance", "general"):
            raise ValueError(f"the domain is {domain!r}, neither finance nor general")
        return {"id": f"{card.name}/{where}", **chat.dialogue(row, card.spec.get("dialogue", "")), "domain": domain}
    if card.kind == "preference":
        return {"id": f"{card.name}/{where}", **chat.preference(row)}
    if card.kind == "question":
        question, domain = row["question"], row.get("domain", card.domain)
        return {"id": f"{card.name}/{where}", "question": question, "domain": domain, "reference": row.get("reference", ""), "from": row.get("from", "")}
    if card.kind == "label":
        if not isinstance(row.get("bad"), bool):
            raise ValueError("needs `bad: true` or `bad: false`")
        return _text_row(card, row, where) | {"bad": row["bad"]}
    return _text_row(card, row, where)


EXAM_LAYOUTS = {  # format: (fields of question, options and answer) as distributed
    "ceval": ("question", "ABCD", "answer"), "cmmlu": ("Question", "ABCD", "Answer"), "fineva": ("question", "ABCDE", "answer"),
    "mmlu": ("question", ("choice0", "choice1", "choice2", "choice3"), "answer")}


def _exam_rows(card: Card, path: Path, quarantine: list[dict]) -> Iterator[dict]:
    """Read one official CSV file; the split is its folder's name (Fin-Eva: test), the subject its own name without the split.

    FinEval comes as C-Eval, FinanceIQ as CMMLU. Questions published without their answers (C-Eval's test, most of Fin-Eva) get answer -1.
    """
    form = card.spec["format"]
    question, options, answer = EXAM_LAYOUTS[form]
    split = "test" if form == "fineva" else path.parent.name
    subject = path.stem.removesuffix(f"_{split}")
    table = list(csv.reader(io.StringIO(_decoded(path, card.spec.get("encoding", "utf-8-sig")), newline="")))
    if form == "mmlu" and table and question not in table[0]:  # as its authors distribute it: no header
        table.insert(0, [question, *options, answer])
    missing = {question, *([] if form == "fineva" else options), *([] if split == "test" else [answer])} - set(table[0] if table else [])
    if missing:
        raise ValueError(f"{path}: no column {', '.join(sorted(missing))}, which the layout {form} has: correct the card's format or the file")
    for number, cells in enumerate(table[1:]):
        if not any(cells):
            continue
        row = {name: cell.strip() for name, cell in zip(table[0], cells)}
        choices = [row.get(option, "") for option in options]
        while len(choices) > (2 if form == "fineva" else 4) and not choices[-1]:
            choices.pop()
        given = row.get(answer, "")
        if form == "fineva" and not any(choices):
            choices = ["是", "否"]
        names = "0123" if given.isdigit() else choices if choices == ["是", "否"] else "ABCDE"
        letters = dict(zip(names, range(len(choices))))
        unlabelled = not given and split == "test"
        if not row.get(question) or not all(choices) or (given not in letters and not unlabelled) or len(cells) != len(table[0]):
            reason = f"needs a question, {len(choices)} options and an answer {'A-' + 'ABCDE'[len(choices) - 1] if choices != ['是', '否'] else '是 or 否'}"
            quarantine.append({"where": f"{path.name}:row {number}", "reason": reason, "row": str(row)[:200]})
            continue
        asked = "\n".join(part for part in (row.get("context", ""), row[question]) if part)
        yield {"id": f"{card.name}/{split}/{subject}/{number}", "subject": subject, "subject_name": _benchmark(card).get(subject, {}).get("name", subject),
               "split": split, "question": asked, "choices": choices, "answer": letters.get(given, -1)}


@functools.cache
def _benchmarks() -> dict:
    return json.loads((Path(__file__).parent / "benchmarks.json").read_text(encoding="utf-8"))


def _benchmark(card: Card) -> dict[str, dict]:
    """Return {subject: {name, items by split}} of the benchmark that a card names, as published."""
    return _benchmarks().get(card.spec.get("benchmark", ""), {})


def coverage(source: Source) -> dict:
    """Return {split, subjects, subjects_published, items, unlabelled, set_aside, repeated, in_examples} of an exam card's scored splits, once it is whole.

    `repeated` items stand there before, `in_examples` stand among the few-shot examples too: question and options, whatever the answer.
    Each subject must hold as many items as published, and with them those that could not be read. Raises ValueError, with the subjects and their
    counts, when one does not, and when subjects are missing that the card does not admit with `partial: true`.
    """
    card, rows = source.card, list(source.rows)
    splits = {row["split"] for row in rows} - {"dev"} or {"dev"}
    held = Counter((row["subject"], row["split"]) for row in rows)
    official = {(subject, split): count for subject, sizes in _benchmark(card).items() for split, count in sizes.items() if split in splits | {"dev"}}
    wrong = [f"{subject} ({split}) has {held[subject, split]} of {count}" for (subject, split), count in official.items()
             if held[subject, split] not in (0, count)]
    missing = [f"{subject} ({split})" for subject, split in official if not held[subject, split]]
    missing += [f"{split} of every subject" for split in ("val", "test") if splits == {"dev"} and any(split in sizes for sizes in _benchmark(card).values())]
    strange = sorted({subject for subject, _ in held if official} - set(_benchmark(card)))
    first = f"; set aside: {source.quarantined[0]['where']}: {source.quarantined[0]['reason']}" if source.quarantined else ""
    if wrong or strange:
        raise ValueError(f"card {card.name} is not {card.spec['benchmark']} as published: "
                         f"{'; '.join(wrong[:5] + [f'{name} is none of its subjects' for name in strange[:5]])}{first}: mend the files, or drop `benchmark`")
    if missing and not card.spec.get("partial"):
        raise ValueError(f"card {card.name} lacks {len(missing)} parts of {card.spec['benchmark']}, such as {', '.join(missing[:3])}: "
                         "add them, or write `partial: true` in the card, and no score is shown as the benchmark's")
    scored = [row for row in rows if row["split"] in splits]
    asked = [(row["question"], *sorted(row["choices"])) for row in scored]
    shown = {(row["question"], *sorted(row["choices"])) for row in rows if row["split"] == "dev"} if splits != {"dev"} else set()
    return {"split": "+".join(sorted(splits)), "subjects": len({row["subject"] for row in scored}), "subjects_published": len(_benchmark(card)) or None,
            "items": len(scored), "unlabelled": sum(row["answer"] < 0 for row in scored), "set_aside": len(source.quarantined),
            "repeated": len(asked) - len(set(asked)), "in_examples": sum(each in shown for each in asked)}


def stream(card: Card, quarantined: list[dict]) -> Iterator[dict]:
    """Yield the rows of a card one by one, in its kind's schema (see `load`); rows that cannot be read are added to `quarantined`.

    Raises ValueError for a missing file, a wrong checksum, and at the end for a card of which no row could be read.
    """
    if "hub" in card.spec:
        import datasets

        split = datasets.load_dataset(card.spec["hub"], split=card.spec.get("split", "train"), streaming=True)
        files = [(Path(card.spec["hub"]), enumerate(split, 1))]
    else:
        paths = card.paths()
        if "sha256" in card.spec and checksum(paths) != card.spec["sha256"]:
            raise ValueError(f"card {card.name}: its files have sha256 {checksum(paths)}, the card says {card.spec['sha256']}: wrong or changed data")
        files = [(path, _rows(card, path, quarantined)) for path in paths]
    seen = set()
    for path, rows in files:
        for number, row in rows:
            where = f"{path.parent.name}/{path.name}:{number}" if number else f"{path.parent.name}/{path.name}"
            try:
                plain = _plain(card, row, where)
                if plain["id"] in seen:
                    raise ValueError(f"the id {plain['id']} is used twice")
            except (ValueError, KeyError, AttributeError, TypeError) as error:
                quarantined.append({"where": where, "reason": str(error), "row": str(row)})
                continue
            seen.add(plain["id"])
            yield plain
    if not seen:
        reason = f"; first: {quarantined[0]['where']}: {quarantined[0]['reason']}" if quarantined else ""
        raise ValueError(f"card {card.name}: none of its rows could be read{reason}")


def load(name: str) -> Source:
    """Load the data of a card into one schema per kind; rows that cannot be read are set aside, with file and line.

    Text rows are {id, text}; labelled texts {id, text, bad}; dialogues {id, messages, format, unanswered, domain}; preferences {id, prompt, chosen,
    rejected}, each a list of messages; questions {id, question, domain, reference, from}; exam items {id, subject,
    subject_name, split, question, choices, answer}, the answer an index, -1 where it is not published.
    Raises ValueError as `stream` does.
    """
    import datasets

    card, quarantined = read(name), []
    return Source(card, datasets.Dataset.from_list(list(stream(card, quarantined))), quarantined)


def read_all(card_names: list[str], kind: str) -> list[Card]:
    """Read several cards of one kind; raise ValueError when one is of another kind."""
    found = [read(name) for name in card_names]
    for card in found:
        if card.kind != kind:
            raise ValueError(f"card {card.name} is of kind {card.kind}; this step reads {kind} cards")
    return found


def load_all(card_names: list[str], kind: str) -> dict[str, Source]:
    """Load several cards of one kind; raise ValueError when one is of another kind."""
    return {card.name: load(card.name) for card in read_all(card_names, kind)}


def quarantined(sources: dict[str, Source], bad_rows: str = "quarantine") -> list[dict]:
    """Return what could not be read of sources, {card, where, reason, row}; with `bad_rows` "refuse" raise ValueError when there is anything."""
    found = [{"card": name, **row} for name, source in sources.items() for row in source.quarantined]
    if bad_rows not in ("quarantine", "refuse"):
        raise ValueError(f"bad_rows is '{bad_rows}': write quarantine (set aside and count) or refuse")
    if found and bad_rows == "refuse":
        first = "; ".join(f"{row['where']}: {row['reason']}" for row in found[:3])
        raise ValueError(f"{len(found)} rows cannot be read ({first}): mend the files, or set bad_rows to quarantine")
    return found


def with_statistics(card: Card, figures: dict) -> str:
    """Return the file of a card with a table of figures between its statistics markers (put before `## Uses` where it has none)."""
    content = (folder() / f"{card.name}.md").read_text(encoding="utf-8")
    table = "\n".join(["| what | figure |", "|---|---|", *(f"| {name} | {value} |" for name, value in figures.items())])
    block = f"{STATISTICS[0]}\n{table}\n{STATISTICS[1]}"
    if STATISTICS[0] in content:
        head, rest = content.split(STATISTICS[0], 1)
        return head + block + rest.split(STATISTICS[1], 1)[1]
    return content.replace("\n## Uses", f"\n{block}\n\n## Uses", 1)
