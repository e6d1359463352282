"""Catalog -> committed rules and documents; needs the extra `generate` and is never imported by `serve`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from vllm_sidecar.config.thresholds import load_thresholds
from vllm_sidecar.generate.docs import sections
from vllm_sidecar.generate.files import FilesError, clear, filled, must_be_checkout, save
from vllm_sidecar.generate.formats import ENDING, HEAD, Format, rule_file
from vllm_sidecar.generate.rules import alert_groups

if TYPE_CHECKING:
    from pathlib import Path

    from vllm_sidecar.config.thresholds import Thresholds

__all__ = ["Changes", "FilesError", "Format", "main", "rules"]

RULES = "rules"
THRESHOLDS = "rules/thresholds.yaml"
PACK = "vllm-sidecar"


@dataclass(frozen=True, slots=True)
class Changes:
    """Paths of files that were not as generated, and of files that are generated no more; written and deleted now."""

    differing: list[str]
    orphans: list[str]

    def __bool__(self) -> bool:
        return bool(self.differing or self.orphans)


def main(root: Path, check: bool) -> Changes:
    """Write all generated files of the project below `root`, or with `check` write nothing.

    Raises:
        FilesError: `root` is no checkout of the project, or a file in it lacks its markers.
        ConfigError: Its thresholds have mistakes.
    """
    must_be_checkout(root)
    documents = {path: filled(root, path, texts) for path, texts in sections().items()}
    found = rule_files(load_thresholds(root / THRESHOLDS), Format.PROMETHEUS)
    in_folder = {f"{RULES}/{name}": content for name, content in found.items()}
    return _save(root, documents | in_folder, f"{RULES}/*{ENDING[Format.PROMETHEUS]}", check)


def rules(thresholds: Path | None, kind: Format, out: Path, check: bool) -> Changes:
    """Write the rules into the folder `out`, or with `check` write nothing.

    Raises:
        ConfigError: The thresholds have mistakes.
        OSError: The folder cannot be written.
    """
    return _save(out, rule_files(load_thresholds(thresholds), kind), f"*{ENDING[kind]}", check)


def rule_files(thresholds: Thresholds, kind: Format) -> dict[str, bytes]:
    """Return the bytes of each rule file by its name."""
    return dict([rule_file(PACK, alert_groups(thresholds), kind, thresholds.rule_labels)])


def _save(root: Path, files: dict[str, bytes], pattern: str, check: bool) -> Changes:
    differing = save(root, files, check=check)
    return Changes(differing, clear(root, pattern, files, HEAD.encode(), check=check))
