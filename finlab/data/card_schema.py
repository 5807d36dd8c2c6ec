"""The data card, and the keys and values that its `finlab:` block may have."""

from __future__ import annotations

import codecs
import re
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    StrictBool,
    StrictInt,
    StrictStr,
    ValidationError,
    model_validator,
)

from finlab.data import cleaning, dialogues, exam_layouts, readers, schemas

LANGUAGES = ("zh", "en")
# The hub's identifiers of licences, and `other` for a licence without an identifier.
LICENCES = set(
    "apache-2.0 mit openrail bigscience-openrail-m bigscience-bloom-rail-1.0 creativeml-openrail-m"
    " bsd bsd-2-clause bsd-3-clause bsd-3-clause-clear c-uda cc cc0-1.0 cc-by-2.0 cc-by-2.5"
    " cc-by-3.0 cc-by-4.0 cc-by-sa-3.0 cc-by-sa-4.0 cc-by-nc-2.0 cc-by-nc-3.0 cc-by-nc-4.0"
    " cc-by-nd-4.0 cc-by-nc-nd-3.0 cc-by-nc-nd-4.0 cc-by-nc-sa-2.0 cc-by-nc-sa-3.0 cc-by-nc-sa-4.0"
    " cdla-sharing-1.0 cdla-permissive-1.0 cdla-permissive-2.0 wtfpl ecl-2.0 epl-1.0 epl-2.0"
    " etalab-2.0 eupl-1.1 eupl-1.2 agpl-3.0 gfdl gpl gpl-2.0 gpl-3.0 lgpl lgpl-2.1 lgpl-3.0 isc"
    " lppl-1.3c ms-pl mpl-2.0 odc-by odbl openrail++ osl-3.0 postgresql ofl-1.1 ncsa unlicense zlib"
    " pddl llama2 llama3 llama3.1 llama3.2 llama3.3 gemma other unknown".split()
)


# --- the card -----------------------------------------------------------------------------------
@dataclass(frozen=True)
class Card:
    """A data card: its name, its licence, its `finlab:` block and its Markdown text.

    Attributes:
        name: Name of the card's file, without .md.
        licence: The licence, as the card writes it.
        spec: The `finlab:` block, {key: value}.
        text: The Markdown text below the front matter.
    """

    name: str
    licence: str
    spec: dict[str, Any]
    text: str

    @property
    def domain(self) -> str:
        """Return the domain, `finance` or `general`."""
        return self.spec["domain"]

    @property
    def language(self) -> str:
        """Return the language, `zh` or `en`."""
        return self.spec["language"]

    @property
    def kind(self) -> str:
        """Return the kind of its rows, a key of `schemas.SCHEMAS`."""
        return self.spec["kind"]


# --- checks of single values ---------------------------------------------------------------------
def _pattern(value: str) -> str:
    """Raise ValueError if a path is absolute, has `..` or is blank; else return it."""
    path = PurePosixPath(value)
    if not value.strip() or path.is_absolute() or ".." in path.parts or value.startswith("~"):
        raise ValueError("must be a path below the data's root, without .. and not absolute")
    return value


def _encoding(value: str) -> str:
    """Raise ValueError if Python does not know an encoding; else return it."""
    try:
        codecs.lookup(value)
    except LookupError:
        raise ValueError("is not a known encoding: write utf-8, gb18030, utf-16 or big5") from None
    return value


def _hub_id(value: str) -> str:
    """Raise ValueError unless a value is a hub id, owner/name, or empty; else return it."""
    if value and not re.fullmatch(r"[\w.-]+/[\w.-]+", value):
        raise ValueError("write the hub's id, as in owner/name")
    return value


def _address(value: str) -> str:
    """Raise ValueError unless a value is a web address or empty; else return it."""
    if value and not re.match(r"https?://\S+$", value):
        raise ValueError("write an address that begins with https://")
    return value


def _expression(value: str) -> str:
    """Raise ValueError if a regular expression is not valid; else return it."""
    try:
        re.compile(value)
    except re.error as error:
        raise ValueError(f"is not a regular expression ({error})") from None
    return value


def _one_of(names: Any) -> AfterValidator:
    """Return a pydantic check that a value is one of `names`."""

    def check(value: str) -> str:
        if value not in names:
            raise ValueError(f"write one of {', '.join(sorted(names))}")
        return value

    return AfterValidator(check)


Text = Annotated[StrictStr, Field(min_length=1)]
Share = Annotated[float, Field(ge=0, le=1, strict=True)]
# A size may also be written as 5.55e+9, which YAML reads as a float.
Size = Annotated[float, Field(ge=0)]
Values = Annotated[list[StrictStr | StrictInt | StrictBool], Field(min_length=1)]
Patterns = Annotated[list[Annotated[StrictStr, AfterValidator(_pattern)]], Field(min_length=1)]
Expressions = list[Annotated[StrictStr, AfterValidator(_expression)]]


# --- the block -----------------------------------------------------------------------------------
class Rules(BaseModel):
    """The `rules:` block of a card; `cleaning` says what each key means."""

    model_config = ConfigDict(extra="forbid")

    min_chars: Annotated[StrictInt, Field(ge=0)] = 0
    min_letters: Share = 0.0
    min_language: Share = 0.0
    max_repeated_lines: Share = 0.0
    min_compression: Share = 0.0
    simplify: StrictBool = False
    drop_text: Expressions = []
    drop_lines: Expressions = []
    blocked_words: list[Text] = []


class Spec(BaseModel):
    """The `finlab:` block of a card; `cards` says what each key means."""

    model_config = ConfigDict(extra="forbid")

    domain: Annotated[StrictStr, _one_of(schemas.DOMAINS)]
    language: Annotated[StrictStr, _one_of(LANGUAGES)]
    kind: Annotated[StrictStr, _one_of(schemas.SCHEMAS)]
    format: Annotated[StrictStr, _one_of({*readers.READERS, *exam_layouts.layouts(), "hub"})]
    files: Patterns = []
    hub: Annotated[StrictStr, AfterValidator(_hub_id)] = ""
    config: Text = ""
    split: Text = "train"
    revision: Text = "main"
    data_files: Patterns = []
    where: dict[Text, Values] = {}
    max_bytes: Size = 0
    source_url: Annotated[StrictStr, AfterValidator(_address)] = ""
    bytes: Size = 0
    text_bytes: Size = 0
    tokens: Size = 0
    stand_in: Text = ""
    root: Literal["", "closed_world", "data_cards"] = ""
    rows: Text = "*"
    text: Text | StrictInt | Annotated[list[Text], Field(min_length=1)] = "text"
    sha256: Text = ""
    benchmark: Annotated[StrictStr, _one_of(exam_layouts.layouts())] = ""
    partial: StrictBool = False
    encoding: Annotated[StrictStr, AfterValidator(_encoding)] = "utf-8"
    rules: Rules = Rules()
    knowledge: StrictBool = False
    answers: dict[Text, StrictStr | StrictInt] = {}
    dialogue: Annotated[StrictStr, _one_of(dialogues.FORMATS)] = ""

    @model_validator(mode="after")
    def _one_place(self) -> Spec:
        places = [bool(self.files), bool(self.hub), bool(self.stand_in)]
        if sum(places) != 1:
            raise ValueError(
                "name either `files` or a `hub` id in the finlab block "
                "(or a `stand_in` card for data that is not public)"
            )
        if self.format == "hub" and not self.hub:
            raise ValueError("finlab.format is 'hub', so name the dataset in `hub:`")
        if self.format == "hub" and self.data_files:
            raise ValueError(
                "finlab.format is 'hub', which is for streamed rows: with `data_files` write the "
                "format of those files, such as jsonl"
            )
        if self.hub and not self.data_files and self.format != "hub":
            raise ValueError(
                "a `hub` card is streamed, so write `format: hub`; "
                "or name the repository's files in `data_files`"
            )
        for key in ("config", "where", "max_bytes"):
            if getattr(self, key) and self.format != "hub":
                raise ValueError(
                    f"finlab.{key} is for rows that are streamed from the hub (`format: hub`), "
                    "and would do nothing here: take it out"
                )
        return self


def check_licence(front: dict[str, Any], path: Path) -> str:
    """Return the licence that a card states.

    Args:
        front: The card's YAML front matter.
        path: The card's file, for errors.

    Raises:
        ValueError: The card states no licence, or one that is not in LICENCES.
    """
    licence = front.get("license")
    if licence is None or (isinstance(licence, str) and not licence.strip()):
        raise ValueError(
            f"{path}: the card states no license, so the data stays out: add a `license:` line"
        )
    if not isinstance(licence, str) or licence.strip().lower() not in LICENCES:
        raise ValueError(
            f"{path}: the license is {licence!r}; write one of the hub's words, such as "
            "apache-2.0 or cc-by-nc-4.0, or `other` with a `license_name:`"
        )
    return licence.strip()


def check_spec(spec: dict[str, Any], path: Path) -> None:
    """Check that a `finlab:` block has valid keys and values, and no key is missing.

    Args:
        spec: The `finlab:` block.
        path: The card's file, for errors.

    Raises:
        ValueError: The block is not valid. The error names the file and the first wrong key.
    """
    for rule in sorted(set(_rules_of(spec)) - cleaning.RULE_KEYS, key=str):
        raise ValueError(
            f"{path}: unknown rule '{rule}' in finlab.rules; "
            f"it knows {', '.join(sorted(cleaning.RULE_KEYS))}"
        )
    try:
        Spec.model_validate(spec)
    except ValidationError as error:
        raise ValueError(f"{path}: {_sentence(error.errors()[0])}") from None


def _rules_of(spec: dict[str, Any]) -> dict:
    """Return the `rules:` of a block; an empty dict if they are missing or not a mapping."""
    rules = spec.get("rules")
    return rules if isinstance(rules, dict) else {}


def _sentence(error: dict[str, Any]) -> str:
    """Return one of pydantic's errors as a sentence for the user."""
    key = ".".join(map(str, error["loc"]))
    message = error["msg"].removeprefix("Value error, ")
    if not key:
        return message
    if error["type"] == "extra_forbidden":
        known = ", ".join(sorted(Spec.model_fields))
        return f"unknown key '{key}' in the finlab block; it knows {known}"
    if error["type"] == "missing":
        field = Spec.model_fields[key]
        return f"finlab.{key} is missing: {_advice(field)}"
    return f"finlab.{key} is {error['input']!r}: {message}"


def _advice(field: Any) -> str:
    """Return advice on what to write for a field: the error of its check for an empty value."""
    for check in field.metadata:
        if isinstance(check, AfterValidator):
            try:
                check.func("")
            except ValueError as error:
                return str(error)
    return "write it"


NAME = re.compile(r"[\w.-]+")
NUMBER = re.compile(r"\d[\d._]*e[+-]?\d+|nan|inf(?:inity)?", re.I)


def is_name(name: Any) -> bool:
    """Tell whether a name is valid for a card.

    A valid name consists of letters, digits, `_`, `.` and `-`. It must not look like a number or
    a date, and must not begin with a dot.
    """
    if not isinstance(name, str) or not NAME.fullmatch(name) or name.startswith("."):
        return False
    # Folders of the artifact are named `source=<name>`. The name's type is guessed on reading.
    return bool(re.search(r"[^\W\d_]", name)) and not NUMBER.fullmatch(name)
