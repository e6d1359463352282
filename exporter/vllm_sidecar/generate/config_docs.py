"""Schema of the configuration -> the tables of all keys in the documents, with default, variable and flag."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple, get_args

from pydantic import BaseModel
from pydantic_core import PydanticUndefined

from vllm_sidecar.config import Config, DiscoveredTarget, DiscoverySettings, HttpServer, flag, is_secret
from vllm_sidecar.config.overrides import variable
from vllm_sidecar.config.targets import Target
from vllm_sidecar.generate.markdown import cell
from vllm_sidecar.generate.templating import JINJA

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from pydantic.fields import FieldInfo

FLAGS = ("gpu.only", "gpu.simulate", "log.level", "log.format")
"""Keys of other sections than `vllm` and `web` that have a flag; of those every key has one, unless it is a secret."""


class KeyRow(NamedTuple):
    """One key as the cells of a table."""

    key: str
    default: str
    variable: str
    flag: str
    meaning: str


class Keys(NamedTuple):
    """The keys of one section, or of the items of one list."""

    name: str
    meaning: str
    rows: list[KeyRow]
    is_list: bool = False


def settings() -> str:
    """Write one table for each section of the configuration, in the order of the schema."""
    return JINJA.get_template("settings.md.j2").render(sections=list(_sections()))


def _sections() -> Iterator[Keys]:
    for name, field in Config.model_fields.items():
        section = _section(field.annotation)
        inner = section.model_fields if section else {}
        if section:
            rows = [_row((name, key), each) for key, each in inner.items()]
            yield Keys(name, cell(field.description or ""), rows)
        for path, each in ((name, field), *((f"{name}.{key}", each) for key, each in inner.items())):
            item = _item(each)
            if item:
                yield Keys(path, cell(each.description or ""), _rows_of_item(item), is_list=True)
        if section is DiscoverySettings:
            meaning = "The key `target` of every source: how its entries become targets; with the other keys of `vllm`."
            yield Keys("discovery.*.target", meaning, _rows_of_item(DiscoveredTarget), is_list=True)


def _section(annotation: object) -> type[BaseModel] | None:
    return annotation if isinstance(annotation, type) and issubclass(annotation, BaseModel) else None


def _rows_of_item(item: type[BaseModel]) -> list[KeyRow]:
    """List the keys of an item; those that it shares unchanged with `vllm` are listed there."""
    shared = Target.model_fields if issubclass(item, HttpServer) else {}
    return [
        KeyRow(f"`{key}`", _default(each), "", "", cell(each.description or ""))
        for key, each in item.model_fields.items()
        if key not in shared or (shared[key].description, shared[key].default) != (each.description, each.default)
    ]


def _item(field: FieldInfo) -> type[BaseModel] | None:
    """Return the section that a list holds, None for a key that is not a list of sections."""
    parts = get_args(field.annotation)
    return _section(parts[0]) if parts else None


def _row(path: tuple[str, ...], field: FieldInfo) -> KeyRow:
    return KeyRow(
        f"`{path[-1]}`", _default(field), f"`{variable(path)}`", _flag(path, field), cell(field.description or "")
    )


def _flag(path: tuple[str, ...], field: FieldInfo) -> str:
    has_flag = ".".join(path) in FLAGS or (path[0] in ("vllm", "web") and not is_secret(field))
    return f"`{flag(path)}`" if has_flag else ""


def _default(field: FieldInfo) -> str:
    if field.default is PydanticUndefined:
        return "required"
    if isinstance(field.default, BaseModel):
        return "`{}`"
    if field.default and _item(field):
        return f"{len(field.default)} items, listed in the example file"
    return f"`{_flow(field.default)}`"


def _flow(value: object) -> str:
    """Write a value as YAML in one line."""
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    if isinstance(value, dict):
        return "{" + ", ".join(f"{key}: {_flow(each)}" for key, each in value.items()) + "}"
    if isinstance(value, tuple | list):
        return _flow_list(value)
    return f'"{value}"' if str(value).startswith(":") else str(value)


def _flow_list(values: Iterable[object]) -> str:
    return "[" + ", ".join(_flow(value) for value in values) + "]"
