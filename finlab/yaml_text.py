"""Read YAML strictly, for recipes and data cards: every line has only one possible meaning.

These raise an error: a key that is written twice; aliases other than `<<: *name` (a few lines of
aliases can expand to gigabytes); numbers such as 017 and 1:30, which YAML 1.1 reads in base 8 and
60; and tags.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import yaml

FRONT_MATTER = re.compile(r"\A\s*---[ \t]*\n(.*?)\n---[ \t]*(?:\n|\Z)(.*)", re.S)


class _StrictLoader(yaml.SafeLoader):
    """PyYAML's safe loader, without the features that are ambiguous."""

    def compose_node(self, parent: Any, index: Any) -> yaml.Node:
        """Raise an error for an alias that is not used as `<<: *name`."""
        fills_in = isinstance(index, yaml.ScalarNode) and index.value == "<<"
        if self.check_event(yaml.AliasEvent) and not fills_in:
            event = self.peek_event()
            raise yaml.MarkedYAMLError(
                problem=f"the alias *{event.anchor}: only `<<: *{event.anchor}` may use one",
                problem_mark=event.start_mark,
            )
        return super().compose_node(parent, index)

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict:
        """Raise an error for a key that is written twice."""
        seen = set()
        for key_node, _ in node.value:
            if key_node.tag == "tag:yaml.org,2002:merge":
                continue
            key = self.construct_object(key_node, deep=True)
            try:
                twice = key in seen
                seen.add(key)
            except TypeError:
                raise yaml.MarkedYAMLError(
                    problem="a key that is a list or a mapping", problem_mark=key_node.start_mark
                ) from None
            if twice:
                raise yaml.MarkedYAMLError(
                    problem=f"the key '{key}' is written twice", problem_mark=key_node.start_mark
                )
        return super().construct_mapping(node, deep)

    def construct_yaml_int(self, node: yaml.ScalarNode) -> int:
        """Raise an error for numbers such as 017 and 1:30."""
        text = node.value.lstrip("+-")
        if ":" in text or (len(text) > 1 and text[0] == "0" and text.isdigit()):
            raise yaml.MarkedYAMLError(
                problem=f"{node.value} is read in another base: write a plain number, or quote it",
                problem_mark=node.start_mark,
            )
        return super().construct_yaml_int(node)


_StrictLoader.add_constructor("tag:yaml.org,2002:int", _StrictLoader.construct_yaml_int)


def parse(text: str, where: str) -> Any:
    """Return the value of YAML text.

    Args:
        text: The YAML text.
        where: The file, for error messages.

    Raises:
        ValueError: The text is not YAML, or uses a feature that is not allowed. The error names the
            file, the line and the reason.
    """
    try:
        return yaml.load(text, _StrictLoader)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        line = f", line {mark.line + 1}" if mark else ""
        raise ValueError(f"{where}{line}: not YAML: {error.problem or error.context}") from None
    except yaml.YAMLError as error:
        raise ValueError(f"{where}: not YAML: {' '.join(str(error).split())}") from None
    except RecursionError:
        raise ValueError(f"{where}: not YAML that can be read: it is nested too deeply") from None
    except ValueError as error:
        raise ValueError(f"{where}: not YAML: {error}") from None


def read_text(path: Path) -> str:
    """Return the text of a UTF-8 file, such as YAML or Markdown, with `\\n` as newline.

    Raises:
        ValueError: The file has another encoding.
    """
    try:
        text = path.read_bytes().decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(
            f"{path}: not UTF-8 at byte {error.start}: save the file as UTF-8"
        ) from None
    return text.replace("\r\n", "\n").replace("\r", "\n")


def front_matter(path: Path) -> tuple[dict, str]:
    """Return the YAML at the top of a Markdown file, and the text below it.

    Args:
        path: The Markdown file.

    Returns:
        (values of the YAML, text below it).

    Raises:
        ValueError: There is no YAML between two lines of ---, or it uses a feature that is not
            allowed.
    """
    text = read_text(path)
    parts = FRONT_MATTER.match(text)
    front = None
    if parts:
        # Empty lines replace the lines above, so that an error names the line in the file.
        above = text[: parts.start(1)].count("\n")
        front = parse("\n" * above + parts[1], str(path))
    if not isinstance(front, dict) or not front:
        raise ValueError(
            f"{path}: begin the card with YAML front matter (`key: value`) between two lines of ---"
        )
    return front, parts[2]
