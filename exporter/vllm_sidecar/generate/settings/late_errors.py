"""Mistakes that are found after a file was read, such as a threshold that is not a bound -> their lines in the file."""

from __future__ import annotations

from typing import TYPE_CHECKING

import yaml

from vllm_sidecar.config.config_errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

    from vllm_sidecar.config.config_errors import KeyPath

    Mistake = tuple[KeyPath, str]
    """Where the value is, and what is wrong with it."""


class LateError(ConfigError):
    """Settings that cannot be used together; without file and lines, until `located` adds them."""

    def __init__(self, found: Iterable[Mistake]) -> None:
        self.found = tuple(dict.fromkeys(found))
        super().__init__(None, (f"{'.'.join(steps)}: {text}" for steps, text in self.found))

    def located(self, path: Path | None) -> ConfigError:
        """Return the same mistakes with the file and their lines."""
        if path is None:
            return self
        root = yaml.compose(path.read_text(encoding="utf-8-sig"), Loader=yaml.SafeLoader)
        lines = [(_line(root, steps), text) for (steps, _), text in zip(self.found, self.mistakes, strict=True)]
        return ConfigError(path, (f"line {line}: {text}" if line else text for line, text in lines))


def _line(node: yaml.Node | None, steps: KeyPath) -> int:
    """Return the line of a value, or of the nearest key around it in the file; 0 if there is none."""
    line = 0
    for step in steps:
        if isinstance(node, yaml.MappingNode):
            found = next(((key, value) for key, value in node.value if key.value == step), None)
        elif isinstance(node, yaml.SequenceNode) and step.isdecimal() and int(step) < len(node.value):
            found = (node.value[int(step)],) * 2
        else:
            found = None
        if found is None:
            return line
        line, node = found[0].start_mark.line + 1, found[1]
    return line
