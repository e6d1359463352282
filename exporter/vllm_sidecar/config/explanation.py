"""The whole configuration as YAML, each value with its origin; secrets are hidden."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, get_args

from pydantic import BaseModel
from pydantic_core import PydanticUndefined

from vllm_sidecar.config.document import written_inline
from vllm_sidecar.config.overrides import is_secret, kinds
from vllm_sidecar.config.schema import Config
from vllm_sidecar.redaction import HIDDEN, redact

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator

    from pydantic.fields import FieldInfo

    from vllm_sidecar.config.config_errors import KeyPath
    from vllm_sidecar.config.loader import Gathered

_DEFAULT = "default"
_WIDTH = 48
"""Column of the origins, where a value is not longer."""


def explain(gathered: Gathered) -> Iterator[str]:
    """Write a valid configuration as lines of YAML that mean the same, each value with its origin as a comment."""
    only = gathered.root.get("gpu")
    alone = bool(gathered.root.get("targets")) or (isinstance(only, dict) and only.get("only") is True)
    return _Explanation(gathered).section(Config, gathered.root, (), leave_out=("vllm",) if alone else ())


class _Explanation:
    """Writes the sections of one configuration."""

    def __init__(self, gathered: Gathered) -> None:
        self._gathered = gathered

    def section(
        self, model: type[BaseModel], given: object, path: KeyPath, indent: str = "", leave_out: Collection[str] = ()
    ) -> Iterator[str]:
        """Write all keys of a section or of an item of a list, of which some may be given; those required first."""
        values = given if isinstance(given, dict) else {}
        for name, field in sorted(model.model_fields.items(), key=lambda each: not each[1].is_required()):
            if name in leave_out:
                continue
            here = (*path, name)
            inner, item = _model(field.annotation), _model(next(iter(get_args(field.annotation)), None))
            value = values.get(name, field.get_default())
            if inner:
                yield f"{indent}{name}:"
                yield from self.section(inner, values.get(name), here, f"{indent}  ")
            elif item and value and value is not PydanticUndefined:
                yield f"{indent}{name}:"
                for index, each in enumerate(value):
                    yield from _as_item(self.section(item, each, (*here, str(index)), f"{indent}    "), indent)
            else:
                origin = self._origin(here) if name in values else _DEFAULT
                yield _line(f"{indent}{name}: {self._written(field, value)}", origin)

    def _written(self, field: FieldInfo, value: object) -> str:
        if value and is_secret(field) and isinstance(value, dict):
            return written_inline({str(name): HIDDEN for name in value})
        if value and (is_secret(field) or not field.repr):
            return written_inline(HIDDEN)
        if isinstance(value, str) and Path in kinds(field):
            folder = self._gathered.path.parent if self._gathered.path else Path()
            value = Path(folder, value)
        return written_inline(_plain(value))

    def _origin(self, path: KeyPath) -> str:
        above = [path[:end] for end in range(len(path), 0, -1)]
        set_by = next((self._gathered.origins[each] for each in above if each in self._gathered.origins), None)
        line = self._gathered.lines.get(path)
        return set_by or (f"line {line}" if line else _DEFAULT)


def _model(annotation: object) -> type[BaseModel] | None:
    return annotation if isinstance(annotation, type) and issubclass(annotation, BaseModel) else None


def _as_item(lines: Iterator[str], indent: str) -> Iterator[str]:
    """Turn the lines of a mapping into an item of a list."""
    for number, line in enumerate(lines):
        yield f"{indent}  - {line[len(indent) + 4 :]}" if number == 0 else line


def _plain(value: object) -> object:
    if isinstance(value, dict):
        return {str(key): _plain(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(each) for each in value]
    return redact(str(value)) if isinstance(value, str | Path) else value


def _line(text: str, origin: str) -> str:
    return f"{text:{_WIDTH}} # {origin}"
