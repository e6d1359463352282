"""YAML file and command line -> `Config`, or one `ConfigError` with everything that is wrong."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import yaml
from pydantic import BaseModel, ValidationError

from vllm_sidecar.config.mistakes import ConfigError, describe, show
from vllm_sidecar.config.schema import Config

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

_Model = TypeVar("_Model", bound=BaseModel)
_NO_OVERRIDES: Mapping[str, object] = {}


class _PlainLoader(yaml.SafeLoader):
    """Reads only what looks like it as bool, number or null: not `on` as true, nor 12:30 as 750, nor 012 as 10."""

    yaml_implicit_resolvers: dict[str, list[tuple[str, re.Pattern[str]]]] = {}  # noqa: RUF012 # yaml's own attribute


for _tag, _pattern, _first in (
    ("bool", r"true|True|TRUE|false|False|FALSE", "tTfF"),
    ("int", r"[-+]?(?:0|[1-9][0-9]*)", "-+0123456789"),
    ("float", r"[-+]?(?:[0-9]+\.[0-9]*|\.[0-9]+|[0-9]+(?=[eE]))(?:[eE][-+]?[0-9]+)?", "-+.0123456789"),
    ("null", r"null|Null|NULL|~|", ["n", "N", "~", ""]),
):
    _PlainLoader.add_implicit_resolver(f"tag:yaml.org,2002:{_tag}", re.compile(rf"(?:{_pattern})\Z"), list(_first))


def load(path: Path | None, overrides: Mapping[str, object] = _NO_OVERRIDES) -> Config:
    """Load a config file, put the command line's values over it, and check the result.

    Args:
        path: The file; None for the defaults. Relative paths in it start at its folder.
        overrides: Values from the command line by dotted path, such as "vllm.url".

    Raises:
        ConfigError: With every mistake found.
    """
    return load_as(Config, path, overrides)


def load_as(model: type[_Model], path: Path | None, overrides: Mapping[str, object]) -> _Model:
    """Load a file of another kind in the same way.

    Args:
        model: What the file describes.
        path: The file; None for the defaults.
        overrides: Values from the command line by dotted path, such as "vllm.url".

    Raises:
        ConfigError: With every mistake found.
    """
    document, lines, mistakes = _read(path) if path else ({}, {}, [])
    # A section whose keys are all commented out is null to YAML; it means the defaults.
    document = {key: value for key, value in document.items() if value is not None or key not in model.model_fields}
    flags = {tuple(dotted.split(".")): value for dotted, value in overrides.items()}
    for steps, value in flags.items():
        _override(document, steps, value)
    try:
        result = model.model_validate(document, context={"folder": path.parent if path else Path()})
    except ValidationError as error:
        mistakes.extend(describe(each, lines, flags, model) for each in error.errors(include_url=False))
        result = None
    if mistakes or result is None:
        raise ConfigError(path, (text for _, text in sorted(mistakes, key=lambda mistake: mistake[0])))
    return result


def _read(path: Path) -> tuple[dict[Any, Any], dict[tuple[str, ...], int], list[tuple[int, str]]]:
    """Read a file into plain values, the line of each path, and the mistakes (line, text) in its shape."""
    try:
        text = path.read_bytes().decode("utf-8-sig")
    except OSError as error:
        raise ConfigError(path, [f"cannot be read: {error.strerror}"]) from None
    except UnicodeDecodeError as error:
        raise ConfigError(path, [f"is not UTF-8 text (byte {error.start})"]) from None
    loader: _PlainLoader | None = None
    try:
        loader = _PlainLoader(text)
        root = loader.get_single_node()
        survey = list(_survey(root, (), ())) if root else []
        document = loader.construct_document(root) if root else None
    except yaml.YAMLError as error:
        raise ConfigError(path, [_syntax_mistake(error)]) from None
    except (ValueError, RecursionError) as error:
        raise ConfigError(path, [f"not valid YAML: {error}"]) from None
    finally:
        if loader:
            loader.dispose()
    if document is not None and not isinstance(document, dict):
        raise ConfigError(path, [f"line 1: got {show((), document)}; allowed: a mapping with the keys of the config"])
    lines: dict[tuple[str, ...], int] = {}
    mistakes = []
    for steps, line in survey:
        if steps in lines:
            mistakes.append((line, f"line {line}: {'.'.join(steps)}: given twice; it is also on line {lines[steps]}"))
        lines.setdefault(steps, line)
    return document or {}, lines, mistakes


def _survey(
    node: yaml.Node, path: tuple[str, ...], above: tuple[yaml.Node, ...]
) -> Iterator[tuple[tuple[str, ...], int]]:
    """List the path and line (from 1) of every value; a key given twice comes twice."""
    if any(node is one for one in above):
        raise yaml.MarkedYAMLError(problem="an alias stands inside what it names", problem_mark=node.start_mark)
    above = (*above, node)
    if isinstance(node, yaml.MappingNode):
        for key, value in node.value:
            step = (*path, str(key.value))
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
        return f"line {mark.line + 1}, column {mark.column + 1}: not valid YAML: {problem}"
    return f"not valid YAML: {' '.join(str(error).split())}"


def _override(document: dict[Any, Any], steps: tuple[str, ...], value: object) -> None:
    """Set a value deep in a document; where a parent is no mapping, that is left to be reported instead."""
    for step in steps[:-1]:
        document = document.setdefault(step, {})
        if not isinstance(document, dict):
            return
    document[steps[-1]] = value
