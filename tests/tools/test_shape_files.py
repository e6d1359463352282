"""Files that `shape -o` writes."""

from __future__ import annotations

import errno
import os
from argparse import Namespace
from pathlib import Path

import pytest

from vllm_sidecar.logs import UserError
from vllm_sidecar.tools.shape import exports
from vllm_sidecar.tools.shape.command import _put, _write


def write(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(exports, "files", lambda *_: {"profile.json": "{}"})
    _write(None, Namespace(tools=["k6"], url="http://h:8000", out=folder, force=False))  # type: ignore[arg-type]


def test_a_file_where_a_folder_is_needed_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "file"
    file.touch()
    with pytest.raises(UserError, match="file is not a folder: name one that exists"):
        write(file, monkeypatch)
    with pytest.raises(UserError, match=r"cannot write .*profile.json: Not a directory"):
        write(file / "below", monkeypatch)


def test_a_disk_that_is_full_is_reported_with_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object, **__: object) -> int:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(Path, "write_text", full)
    with pytest.raises(UserError, match=r"cannot write .*profile.json: No space left"):
        write(tmp_path, monkeypatch)


def test_a_file_that_cannot_be_written_as_a_whole_is_not_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    old = tmp_path / "trace.jsonl"
    old.write_text("old")

    def full(path: Path, text: str, **_: object) -> int:
        path.write_bytes(text[:3].encode())
        raise OSError(errno.ENOSPC, "No space left on device", str(path))

    monkeypatch.setattr(Path, "write_text", full)
    with pytest.raises(OSError, match="No space left"):
        _put(old, "new text")
    assert [each.name for each in tmp_path.iterdir()] == ["trace.jsonl"]
    assert old.read_bytes() == b"old"
