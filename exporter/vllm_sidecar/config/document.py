"""YAML text -> plain values with the line of each, and back; the only code that reads YAML."""

from __future__ import annotations

import codecs
import re
from itertools import islice
from typing import TYPE_CHECKING, Any, NamedTuple

import yaml

if TYPE_CHECKING:
    from collections.abc import Iterator

MOST_VALUES = 50_000
"""Most values that a file may have, counting each alias as often as it is used: few lines can expand to billions."""
MOST_DEPTH = 50
"""Deepest nesting of values."""
_SHOWN_CHARACTERS = 200

_TOO_MANY = f"holds more than {MOST_VALUES} values, counting each alias as often as it is used"
_NAME = re.compile(r"(found undefined alias|could not determine a constructor for the tag) '(?!tag:)[^\n]*'")


class DocumentError(Exception):
    """A text that is not one YAML document of plain values; the message has the place and the mistake."""


class Document(NamedTuple):
    """One document."""

    root: object
    """The plain values; None for an empty document."""
    lines: dict[tuple[str, ...], int]
    """The line (from 1) of each path."""
    twice: list[tuple[int, str]]
    """Line and text of each repeated key."""


class _PlainLoader(yaml.SafeLoader):
    """Reads a bool, number or null only where it looks like one: not `on` as true, 12:30 as 750, or 012 as 10."""

    yaml_implicit_resolvers: dict[str, list[tuple[str, re.Pattern[str]]]] = {}  # noqa: RUF012 # yaml's own attribute

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self._composed = self._depth = 0

    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node | None:
        """Read one value with all inside it, unless the document has too many, or is nested too deep."""
        self._composed += 1
        self._depth += 1
        if self._composed > 2 * MOST_VALUES:  # keys are values, too
            raise DocumentError(_TOO_MANY)
        if self._depth > MOST_DEPTH:
            text = f"values are nested deeper than {MOST_DEPTH}"
            mark = self.peek_event().start_mark  # type: ignore[no-untyped-call]
            raise yaml.MarkedYAMLError(problem=text, problem_mark=mark)
        try:
            return super().compose_node(parent, index)
        finally:
            self._depth -= 1

    def construct_object(self, node: yaml.Node, deep: bool = False) -> Any:
        """Make a value; a value that does not fit its tag is a mistake at that line."""
        try:
            return super().construct_object(node, deep)
        except (yaml.YAMLError, RecursionError):
            raise
        except Exception as error:
            text = f"the value does not fit its tag {node.tag.replace('tag:yaml.org,2002:', '!!')}"
            raise yaml.MarkedYAMLError(problem=text, problem_mark=node.start_mark) from error


class _PlainDumper(yaml.SafeDumper):
    """Quotes each text that `_PlainLoader` or another reader of YAML would not read as text."""


for _tag, _pattern, _first in (
    ("bool", r"true|True|TRUE|false|False|FALSE", "tTfF"),
    ("int", r"[-+]?(?:0|[1-9][0-9]*)", "-+0123456789"),
    ("float", r"[-+]?(?:[0-9]+\.[0-9]*|\.[0-9]+|[0-9]+(?=[eE]))(?:[eE][-+]?[0-9]+)?", "-+.0123456789"),
    ("null", r"null|Null|NULL|~|", ["n", "N", "~", ""]),
):
    for _side in (_PlainLoader, _PlainDumper):
        _side.add_implicit_resolver(f"tag:yaml.org,2002:{_tag}", re.compile(rf"(?:{_pattern})\Z"), list(_first))


def read_document(text: str) -> Document:
    """Read one document.

    Raises:
        DocumentError: The text is not valid YAML, has more than one document, or expands to too many values.
    """
    loader: _PlainLoader | None = None
    try:
        loader = _PlainLoader(text)
        node = loader.get_single_node()
        if node is None:
            return Document(None, {}, [])
        lines, twice = _lines(node)
        return Document(loader.construct_document(node), lines, twice)
    except yaml.YAMLError as error:
        raise DocumentError(_syntax_mistake(error)) from None
    except (ValueError, RecursionError) as error:
        raise DocumentError(f"not valid YAML: {error}") from None
    finally:
        if loader:
            loader.dispose()


def not_utf_8(text: bytes, first: int) -> str:
    """Return why bytes are not UTF-8 text; `first` is the first byte that is not."""
    if text.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        return "UTF-16 text, not UTF-8"
    return f"not UTF-8 text (byte {first})"


def written_inline(value: object) -> str:
    """Write a plain value as YAML in one line."""
    text = yaml.dump(
        value, Dumper=_PlainDumper, default_flow_style=True, width=float("inf"), allow_unicode=True, sort_keys=False
    )
    return text.removesuffix("\n").removesuffix("\n...")


def _lines(root: yaml.Node) -> tuple[dict[tuple[str, ...], int], list[tuple[int, str]]]:
    lines: dict[tuple[str, ...], int] = {}
    twice = []
    for number, (steps, line) in enumerate(islice(_survey(root, (), ()), MOST_VALUES + 1)):
        if number == MOST_VALUES:
            raise DocumentError(_TOO_MANY)
        if steps in lines:
            twice.append((line, f"line {line}: {'.'.join(steps)}: given twice; it is also on line {lines[steps]}"))
        lines.setdefault(steps, line)
    return lines, twice


def _survey(
    node: yaml.Node, path: tuple[str, ...], above: tuple[yaml.Node, ...]
) -> Iterator[tuple[tuple[str, ...], int]]:
    """List the path and line (from 1) of every value; a repeated key is listed twice."""
    if any(node is one for one in above):
        raise yaml.MarkedYAMLError(problem="an alias is inside the value it refers to", problem_mark=node.start_mark)
    above = (*above, node)
    if isinstance(node, yaml.MappingNode):
        for key, value in node.value:
            # A key that is itself a mapping or list could expand to billions of values when written as text.
            step = (*path, str(key.value) if isinstance(key, yaml.ScalarNode) else "?")
            yield step, key.start_mark.line + 1
            yield from _survey(value, step, above)
    elif isinstance(node, yaml.SequenceNode):
        for index, item in enumerate(node.value):
            step = (*path, str(index))
            yield step, item.start_mark.line + 1
            yield from _survey(item, step, above)


def _syntax_mistake(error: yaml.YAMLError) -> str:
    if isinstance(error, yaml.MarkedYAMLError) and (mark := error.problem_mark or error.context_mark):
        problem = ", ".join(part for part in (error.context, error.problem) if part)
        # A secret that begins with * or ! and lacks quotes is such a name.
        problem = _NAME.sub(r"\1; a text that begins with * or ! needs quotes", problem)
        return f"line {mark.line + 1}, column {mark.column + 1}: not valid YAML: {problem[:_SHOWN_CHARACTERS]}"
    return f"not valid YAML: {' '.join(str(error).split())[:_SHOWN_CHARACTERS]}"
