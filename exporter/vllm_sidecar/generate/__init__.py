"""Catalog -> committed rules and documents; needs the extra `generate` and is never imported by `serve`."""

from __future__ import annotations

from typing import TYPE_CHECKING

from vllm_sidecar.generate.docs import sections
from vllm_sidecar.generate.files import FilesError, filled, must_be_checkout, save
from vllm_sidecar.generate.rules import rule_files

if TYPE_CHECKING:
    from pathlib import Path

__all__ = ["FilesError", "main"]


def main(root: Path, check: bool) -> list[str]:
    """Write the generated files below `root`, or with `check` write nothing.

    Returns:
        Paths, relative to `root`, of the files that were not as generated.

    Raises:
        FilesError: `root` is no checkout of the project, or a file in it lacks its markers.
    """
    must_be_checkout(root)
    documents = {path: filled(root, path, texts) for path, texts in sections().items()}
    return save(root, documents | rule_files(), check=check)
