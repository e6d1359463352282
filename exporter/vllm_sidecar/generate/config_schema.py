"""Schema of the configuration -> a JSON Schema, with which editors complete and check the file while it is written.

A file that `serve` accepts is valid by it. The opposite does not hold: files that are named must exist, and some values
depend on others.
"""

from __future__ import annotations

import json
from typing import Any

from vllm_sidecar.config import Config

FILE = "docs/configuration.schema.json"
DIALECT = "https://json-schema.org/draft/2020-12/schema"
_NOT_FOR_EDITORS = ("title", "format", "writeOnly")


def schema_file() -> dict[str, bytes]:
    """Return the schema as a file by its path in the project."""
    return {FILE: json.dumps(schema(), indent=2, ensure_ascii=False).encode() + b"\n"}


def schema() -> dict[str, Any]:
    """Return the JSON Schema of the file of `serve`."""
    found = _cleaned(Config.model_json_schema())
    properties = {name: _section(each) for name, each in found["properties"].items()}
    return {
        "$schema": DIALECT,
        "title": "Configuration of vllm-sidecar serve",
        **found,
        "type": ["object", "null"],
        "properties": properties,
    }


def _cleaned(part: Any) -> Any:
    """Drop keywords that repeat names or are meant for programs, but no key of the configuration of that name."""
    if isinstance(part, list):
        return [_cleaned(each) for each in part]
    if not isinstance(part, dict):
        return part
    kept = {name: value for name, value in part.items() if name not in _NOT_FOR_EDITORS}
    for name, value in kept.items():
        by_name = name in ("properties", "$defs")
        kept[name] = {key: _cleaned(each) for key, each in value.items()} if by_name else _cleaned(value)
    return kept


def _section(part: dict[str, Any]) -> dict[str, Any]:
    """Describe a section: one whose keys are all commented out is null, and its keys have defaults of their own."""
    if "$ref" not in part:
        return part | {"type": [part["type"], "null"]}
    described = {name: part[name] for name in ("description",) if name in part}
    return described | {"anyOf": [{"$ref": part["$ref"]}, {"type": "null"}]}
