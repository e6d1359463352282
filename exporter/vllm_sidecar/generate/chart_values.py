"""`values.yaml` of the Helm chart -> the table of its values, from the comments above the keys.

A comment that starts with `# -- ` describes the key below it and ends its row of the table: what is below that key is
shown as its default. A comment without it is for readers of the file alone.
"""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING, Any

import yaml

from vllm_sidecar.generate.markdown import cell

if TYPE_CHECKING:
    from collections.abc import Iterator

_KEY = re.compile(r"(?P<indent> *)(?P<key>[A-Za-z0-9_]+):(?: |$)")
_DESCRIBED = "# -- "


def values_table(text: str) -> str:
    """Write the described keys as a table of Markdown, in the order of the file.

    Raises:
        KeyError: A comment describes a key that the document does not have.
    """
    values = yaml.safe_load(text)
    rows = [
        f"| `{'.'.join(path)}` | `{cell(_default(values, path))}` | {cell(meaning)} |"
        for path, meaning in _described(text)
    ]
    return "\n".join(["| Value | Default | Meaning |", "| --- | --- | --- |", *rows])


def _described(text: str) -> Iterator[tuple[list[str], str]]:
    """Yield the path of each described key with its description."""
    path: list[str] = []
    comment: list[str] = []
    for line in text.splitlines():
        stripped = line.strip()
        if stripped.startswith(_DESCRIBED):
            comment = [stripped.removeprefix(_DESCRIBED)]
        elif stripped.startswith("#") and comment:
            comment.append(stripped.lstrip("# "))
        elif found := _KEY.match(line):
            path = [*path[: len(found["indent"]) // 2], found["key"]]
            if comment:
                yield path, " ".join(comment)
            comment = []


def _default(values: Any, path: list[str]) -> str:
    for key in path:
        values = values[key]
    return json.dumps(values, ensure_ascii=False)
