"""Command line and environment -> values by their path in the config; derived from the schema, so no key is missing."""

from __future__ import annotations

import difflib
import re
from collections.abc import Mapping
from pathlib import Path
from types import UnionType
from typing import TYPE_CHECKING, Annotated, Any, Literal, NamedTuple, Union, get_args, get_origin

from pydantic import BaseModel, SecretStr

from vllm_sidecar.config.document import DocumentError, read_document
from vllm_sidecar.config.schema import Config

if TYPE_CHECKING:
    from collections.abc import Iterator

    from pydantic.fields import FieldInfo

    from vllm_sidecar.config.config_errors import KeyPath

PREFIX = "VLLM_SIDECAR_"
CONFIG_FILE = PREFIX + "CONFIG_FILE"
"""The variable for --config.file."""
_OTHERS = (CONFIG_FILE, PREFIX + "PROMTOOL")
"""Variables that are not keys of the config."""

_COMMAND_LINE = "command line"
_OTHER_FLAGS: dict[KeyPath, str] = {("web", "config_file"): "--web.config.file"}
"""Flags that have the name that they have in every exporter."""
_OF_A_SERVICE = re.compile(
    rf"{PREFIX}(\w+_)?(SERVICE_(HOST|PORT(_\w+)?)=.*"
    r"|PORT(_\d+_(TCP|UDP|SCTP))?=(tcp|udp|sctp)://.*|PORT_\d+_(TCP|UDP|SCTP)_(PROTO|PORT|ADDR)=.*)",
    re.ASCII | re.DOTALL,
)
"""Kubernetes sets these for a Service named vllm-sidecar, or vllm-sidecar-..., in every container of its namespace.

The value belongs to it: `VLLM_SIDECAR_PORT` is an address then, and a mistake if it is a number.
"""


class Override(NamedTuple):
    """A value that replaces that of the file, and its origin."""

    value: object
    origin: str


def keys(model: type[BaseModel] = Config, parents: KeyPath = ()) -> Iterator[tuple[KeyPath, FieldInfo]]:
    """List every key that has a value, with its path; sections and the keys inside lists are left out."""
    for name, field in model.model_fields.items():
        path = (*parents, name)
        if isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel):
            yield from keys(field.annotation, path)
        else:
            yield path, field


def variable(path: KeyPath) -> str:
    """Return the environment variable of a key: VLLM_SIDECAR_SCRAPE_INTERVAL for scrape.interval."""
    return PREFIX + "_".join(path).upper()


def flag(path: KeyPath) -> str:
    """Return the flag of a key: --vllm.ca-file for vllm.ca_file."""
    return _OTHER_FLAGS.get(path) or "--" + ".".join(path).replace("_", "-")


_KEYS = dict(keys())
_VARIABLES = {variable(path): path for path in _KEYS}


def from_flags(flags: Mapping[str, object]) -> dict[KeyPath, Override]:
    """Return the values of the command line by path; the paths of `flags` are dotted, such as "vllm.url"."""
    found = {}
    for dotted, value in flags.items():
        path = tuple(dotted.split("."))
        field = _KEYS.get(path)
        read = from_text(field, value) if field and isinstance(value, str) else value
        found[path] = Override(read, _COMMAND_LINE)
    return found


def from_environment(environment: Mapping[str, str]) -> dict[KeyPath, Override]:
    """Return the values of the environment by path; an empty variable counts as unset."""
    return {
        path: Override(from_text(_KEYS[path], text), f"environment variable {name}")
        for name, path in _VARIABLES.items()
        if (text := environment.get(name))
    }


def unknown_variables(environment: Mapping[str, str]) -> list[str]:
    """Return one line for each variable that looks like a setting but is not one, with a suggestion."""
    known = [*_VARIABLES, *_OTHERS]
    unknown = sorted(
        name
        for name, value in environment.items()
        if name.startswith(PREFIX) and name not in known and not _OF_A_SERVICE.fullmatch(f"{name}={value}")
    )
    return [f"{name} is not a setting{_meant(name, known)}" for name in unknown]


def _meant(name: str, known: list[str]) -> str:
    """Return a suggestion: for a section, for a part of a list or mapping, for a key without section, for a typo."""
    inside = [each for each in _VARIABLES if each.startswith(f"{name}_")]
    if inside:
        return f"; it is a section: set one of its keys, such as {inside[0]}"
    whole = next((each for each, path in _VARIABLES.items() if name.startswith(f"{each}_") and _is_nested(path)), None)
    if whole:
        return f"; {whole} takes the whole value, in YAML"
    same = [each for each, path in _VARIABLES.items() if path[-1].upper() == name.removeprefix(PREFIX)]
    if same:
        return f"; did you mean {' or '.join(same)}?"
    if name.endswith(("PORT", "HOST", "ADDRESS")):
        return f"; did you mean {variable(('web', 'listen_address'))}, such as :9000?"
    near = difflib.get_close_matches(name.removeprefix(PREFIX), [each.removeprefix(PREFIX) for each in known], n=1)
    return f"; did you mean {PREFIX}{near[0]}?" if near else ""


def _is_nested(path: KeyPath) -> bool:
    """Return whether a key holds a list or a mapping."""
    return bool({tuple, Mapping} & kinds(_KEYS[path]))


def is_secret(field: FieldInfo) -> bool:
    """Return whether a key holds a secret: it has no flag, because every user of the machine can read command lines."""
    return SecretStr in kinds(field)


def kinds(field: FieldInfo) -> set[Any]:
    """Return the plain types of a key's value."""
    return set(_kinds(field.annotation))


def _kinds(annotation: Any) -> Iterator[Any]:
    origin = get_origin(annotation)
    if origin is Annotated:
        yield from _kinds(get_args(annotation)[0])
    elif origin in (Union, UnionType):
        for part in get_args(annotation):
            yield from _kinds(part)
    elif origin is Literal:
        yield str
    elif origin in (tuple, Mapping):
        yield origin
        yield from (kind for part in get_args(annotation) for kind in _kinds(part) if kind is SecretStr)
    else:
        yield annotation


def from_text(field: FieldInfo, text: str) -> object:
    """Read a text as YAML where the key does not hold only text.

    A list or mapping is written as in YAML, [a, b] or {a: b}. A relative path is relative to the current folder, not to
    that of the file.
    """
    found = kinds(field)
    if Path in found and "\0" not in text:
        return Path(text)
    if not (found & {bool, int, float} or (found & {tuple, Mapping} and text.lstrip()[:1] in ("[", "{"))):
        return text
    try:
        value = read_document(text).root
    except DocumentError:
        return text  # the check of its key rejects it
    return text if value is None and type(None) not in found else value
