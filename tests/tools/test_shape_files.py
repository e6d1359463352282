"""Files that `shape -o` writes."""

from __future__ import annotations

import errno
from pathlib import Path

import pytest

from vllm_sidecar.tools.shape.command import _put


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
