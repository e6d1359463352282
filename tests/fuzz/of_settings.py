"""Fuzz targets for what people write: files of settings, and the numbers and texts in them."""

from __future__ import annotations

import tempfile
from functools import cache
from pathlib import Path

from vllm_sidecar.config import Config, ConfigError, load
from vllm_sidecar.config.document import DocumentError, read_document, written_inline
from vllm_sidecar.generate.rules import alert_groups
from vllm_sidecar.generate.settings.late_errors import LateError
from vllm_sidecar.generate.settings.thresholds import load_thresholds


@cache
def _file() -> Path:
    folder = Path(tempfile.mkdtemp(prefix="fuzz-"))
    return folder / "settings.yaml"


def _are_printable(error: ConfigError) -> None:
    """A mistake is one printable line."""
    assert error.mistakes
    for mistake in error.mistakes:
        assert mistake
        assert mistake.isprintable(), mistake


def configuration(data: bytes) -> None:
    """A file is a configuration, or has mistakes that are shown as lines."""
    path = _file()
    path.write_bytes(data)
    try:
        config = load(path)
    except ConfigError as error:
        _are_printable(error)
    else:
        assert isinstance(config, Config)
        assert config.all_targets or config.discovery is not None


def thresholds(data: bytes) -> None:
    """A file of thresholds results in rules, or has mistakes that are shown as lines."""
    path = _file()
    path.write_bytes(data)
    try:
        groups = alert_groups(load_thresholds(path))
    except LateError as error:
        _are_printable(error.located(path))
    except ConfigError as error:
        _are_printable(error)
    else:
        assert groups


def documents(data: bytes) -> None:
    """A text is a document, which written on one line is the same document, or not YAML."""
    try:
        root = read_document(data.decode(errors="replace")).root
    except DocumentError:
        return
    assert read_document(f"a: {written_inline(root)}").root == {"a": root} or root != root
