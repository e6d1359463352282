"""Mistakes in a config -> one line each: the place, the value that was given (secrets hidden), the allowed values."""

from __future__ import annotations

import difflib
import json
import re
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, get_args, get_origin

from pydantic import BaseModel

from vllm_sidecar.config.schema import Config
from vllm_sidecar.config.values import NOT_ALLOWED
from vllm_sidecar.logs import UserError
from vllm_sidecar.redaction import HIDDEN, redact

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from pathlib import Path

    from pydantic_core import ErrorDetails

KeyPath = tuple[str, ...]
"""Where a value is: ("targets", "0", "timeout")."""

_SECRET_KEYS = {"headers", "args", "bearer_token", "basic_auth_users", "key"}
_SHOWN_CHARACTERS = 80
_QUERY = re.compile(r"(?<=[?#]).+", re.DOTALL)
_ALLOWED = {
    "bool_type": "true or false",
    "dict_type": "a mapping of names to texts, such as {{NAME: TEXT}}",
    "finite_number": "a number",
    "float_type": "a number",
    "greater_than": "a number above {gt:g}",
    "greater_than_equal": "a number from {ge:g}",
    "int_type": "a whole number",
    "invalid_key": "a key that is text",
    "less_than_equal": "a number up to {le:g}",
    "literal_error": "{expected}",
    "mapping_type": "a mapping of names to texts, such as {{NAME: TEXT}}",
    "model_type": "a mapping with the keys {keys}",
    "string_type": "text (a number or true needs quotes to be text)",
    "tuple_type": "a list",
}
"""Allowed values, by pydantic's type of error; the fields come from the error."""


MOST_MISTAKES = 100
"""Most mistakes that are listed; the others are counted."""


class ConfigError(UserError):
    """A config that cannot be used; `mistakes` has one line for each, `source` is the file if there is one."""

    def __init__(self, source: Path | None, mistakes: Iterable[str]) -> None:
        self.source = source
        # A key may contain a line break; a mistake is still one line.
        lines = list(mistakes)
        if len(lines) > MOST_MISTAKES:
            lines[MOST_MISTAKES:] = [f"{len(lines) - MOST_MISTAKES:,} more mistakes are not listed"]
        self.mistakes = tuple("".join(map(_printable, mistake)) for mistake in lines)
        origin = f"{source}: " if source else ""
        super().__init__("\n".join(origin + mistake for mistake in self.mistakes))


def _printable(character: str) -> str:
    return character if character.isprintable() else json.dumps(character)[1:-1]


def describe(
    error: ErrorDetails, lines: Mapping[KeyPath, int], origins: Mapping[KeyPath, str], root: type[BaseModel] = Config
) -> tuple[int, str]:
    """Describe one mistake that the schema found.

    Args:
        error: The mistake.
        lines: The line of each path that the file has.
        origins: For each path that is not from the file, its origin: "command line", or the name of a variable.
        root: The model of the whole file.

    Returns:
        The line in the file (0 if the value is not from the file), and the text.
    """
    # pydantic marks an error in the key of a mapping, not in its value, with one more step.
    path = tuple(str(step) for step in error["loc"] if step != "[key]")
    name = ".".join(path)
    kind = error["type"]
    line = next((lines[path[:end]] for end in range(len(path), 0, -1) if path[:end] in lines), 0)
    given_by = next((origins[path[:end]] for end in range(len(path), 0, -1) if path[:end] in origins), None)
    if given_by:
        line = 0
    origin = f"{given_by}: " if given_by else f"line {line}: " if line else ""
    if kind == "extra_forbidden":
        return line, f"{origin}{name}: unknown key; {_suggestion(root, path)}"
    allowed = _allowed(root, error, path)
    if kind == "missing":
        return line, f"{origin}{name}: missing; allowed: {allowed}"
    default = "" if path in lines or given_by else " (the default)"
    return line, f"{origin}{name}: got {show(path, error['input'])}{default}; allowed: {allowed}"


def show(path: KeyPath, value: object) -> str:
    """Write a value as in YAML, short and without secrets."""
    if isinstance(value, list | tuple):
        return "a list"
    if isinstance(value, dict):
        return "a mapping"
    whole_target = path == ("vllm",) or (path[:1] == ("targets",) and len(path) <= 2)
    if (whole_target and isinstance(value, str)) or _SECRET_KEYS.intersection(path):
        return HIDDEN
    if isinstance(value, str):
        value = redact(_bare_url(value))
        value = value if len(value) <= _SHOWN_CHARACTERS else f"{value[:_SHOWN_CHARACTERS]}..."
    return json.dumps(value, ensure_ascii=False, default=str)


def _bare_url(text: str) -> str:
    """Hide all before the last @ of a URL and after its first ? or #: secrets in a refused one hold any character."""
    before, slashes, after = text.partition("//")
    if not slashes:
        return text
    host = after.rpartition("@")[2]
    user = f"{HIDDEN}@" if host != after else ""
    return f"{before}//{user}{_QUERY.sub(HIDDEN, host)}"


def _allowed(root: type[BaseModel], error: ErrorDetails, path: KeyPath) -> str:
    kind = error["type"]
    if kind == NOT_ALLOWED:
        return str(error["ctx"]["allowed"])
    if kind == "missing":
        model = _model_at(root, path[:-1])
        return str(model.model_fields[path[-1]].description).rstrip(".") if model else "a value"
    model = _model_at(root, path)
    keys = ", ".join(model.model_fields) if model else ""
    if kind not in _ALLOWED:
        return error["msg"]
    return _ALLOWED[kind].format(**error.get("ctx", {}), keys=keys)


def _suggestion(root: type[BaseModel], path: KeyPath) -> str:
    """Suggest the key that was probably meant, or list all keys that are allowed in its place."""
    *parents, key = path
    model = _model_at(root, tuple(parents))
    keys = list(model.model_fields) if model else []
    near = difflib.get_close_matches(key, keys, n=1)
    if near:
        return f"did you mean {near[0]}?"
    elsewhere = [".".join(known) for known in key_paths(root) if known[-1] == key]
    if elsewhere:
        return f"did you mean {' or '.join(elsewhere)}?"
    return f"allowed: {', '.join(keys)}"


def key_paths(model: type[BaseModel], parents: KeyPath = ()) -> Iterator[KeyPath]:
    """List the path of every key below a part of the config, except those inside lists."""
    for name, field in model.model_fields.items():
        yield (*parents, name)
        if isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel):
            yield from key_paths(field.annotation, (*parents, name))


def _model_at(root: type[BaseModel], path: KeyPath) -> type[BaseModel] | None:
    """Find the part of the config at a path; None at a single value or a free mapping."""
    place: Any = root
    for step in path:
        if isinstance(place, type) and issubclass(place, BaseModel):
            field = place.model_fields.get(step)
            place = field.annotation if field else None
        else:
            inside = get_args(place)  # the type of a list's members is first, of a mapping's values last
            wanted = -1 if get_origin(place) is Mapping else 0 if step.isdecimal() else None
            place = inside[wanted] if inside and wanted is not None else None
    return place if isinstance(place, type) and issubclass(place, BaseModel) else None
