"""Lists in files: changes while the program runs, and files that cannot be read."""

from __future__ import annotations

import json
import os
from typing import TYPE_CHECKING

import pytest
from following_lists import names, running, until

from vllm_sidecar.catalog.discovery import SourceReason
from vllm_sidecar.config import FileList
from vllm_sidecar.discovery.files import FileSource

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.io


def source(folder: Path, *patterns: str, refresh: str = "10ms") -> FileSource:
    settings = FileList.model_validate({"files": list(patterns), "refresh": refresh}, context={"folder": folder})
    return FileSource("file.0", settings, lambda: None)


def write(path: Path, *targets: str, **labels: str) -> None:
    """Replace a file at once, as tools do that write lists."""
    new = path.with_name(f".{path.name}.new")
    new.write_text(json.dumps([{"targets": targets, "labels": labels}]))
    new.replace(path)


async def test_a_pattern_finds_json_and_yaml_in_the_order_of_their_names(tmp_path: Path) -> None:
    write(tmp_path / "b.json", "b:1")
    (tmp_path / "a.yaml").write_text("- targets: ['a:1']\n")
    found = source(tmp_path, "*.json", "*.yaml")

    await found.refresh()

    assert names(found) == ["a:1", "b:1"]
    assert found.is_current


async def test_changed_added_and_deleted_files_are_seen_while_it_runs(tmp_path: Path) -> None:
    write(tmp_path / "a.json", "a:1")
    async with running(source(tmp_path, "*.json")) as found:
        await until(lambda: names(found) == ["a:1"])
        write(tmp_path / "a.json", "a:1", "a:2")
        await until(lambda: names(found) == ["a:1", "a:2"])
        write(tmp_path / "b.json", "b:1")
        await until(lambda: names(found) == ["a:1", "a:2", "b:1"])
        (tmp_path / "a.json").unlink()
        await until(lambda: names(found) == ["b:1"])
        assert found.is_current


async def test_a_file_that_breaks_keeps_its_targets_and_the_others_still_change(tmp_path: Path) -> None:
    write(tmp_path / "a.json", "a:1")
    write(tmp_path / "b.json", "b:1")
    async with running(source(tmp_path, "*.json")) as found:
        await until(lambda: found.is_current)
        (tmp_path / "a.json").write_text('[{"targets": ["a:')
        await until(lambda: not found.is_current)
        write(tmp_path / "b.json", "b:2")
        await until(lambda: names(found) == ["a:1", "b:2"])
        assert found.last_error is not None
        assert found.last_error.reason is SourceReason.INVALID
        assert found.last_error.detail.startswith(f"{tmp_path}/a.json: not JSON: ")
        write(tmp_path / "a.json", "a:3")
        await until(lambda: found.is_current and names(found) == ["a:3", "b:2"])
        assert found.last_error is None


async def test_a_file_that_is_named_has_to_exist_and_keeps_its_targets_when_it_is_deleted(tmp_path: Path) -> None:
    async with running(source(tmp_path, "a.json")) as found:
        await until(lambda: found.failures[SourceReason.UNREADABLE])
        assert found.last_error is not None
        assert found.last_error.detail == f"{tmp_path}/a.json: no such file"
        assert names(found) == []
        write(tmp_path / "a.json", "a:1")
        await until(lambda: names(found) == ["a:1"])
        (tmp_path / "a.json").unlink()
        await until(lambda: not found.is_current)
        assert names(found) == ["a:1"]


async def test_a_file_that_did_not_change_is_not_read_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path / "a.json", "a:1")
    found = source(tmp_path, "a.json")
    await found.refresh()
    monkeypatch.setattr("vllm_sidecar.discovery.files.read_regular", lambda *_: pytest.fail("it was read"))

    await found.refresh()

    assert names(found) == ["a:1"]


@pytest.mark.parametrize(
    ("kind", "reason"),
    [("pipe", SourceReason.UNREADABLE), ("folder", SourceReason.UNREADABLE), ("large", SourceReason.TOO_LARGE)],
)
async def test_what_is_no_list_is_a_reason_and_does_not_block(
    tmp_path: Path, kind: str, reason: SourceReason, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "a.json"
    if kind == "pipe":
        os.mkfifo(path)
    elif kind == "folder":
        path.mkdir()
    else:
        path.write_bytes(b" " * 2000)
        monkeypatch.setattr("vllm_sidecar.discovery.files.MOST_BYTES", 1000)
    async with running(source(tmp_path, "a.json")) as found:
        await until(lambda: found.failures)

    assert list(found.failures) == [reason]


async def test_the_file_is_a_label_for_templates(tmp_path: Path) -> None:
    write(tmp_path / "a.json", "a:1")
    settings = FileList.model_validate(
        {"files": [str(tmp_path / "*.json")], "target": {"labels": {"file": "{__meta_filepath}"}}}
    )
    found = FileSource("file.0", settings, lambda: None)

    await found.refresh()

    assert found.listed.targets[0].labels == {"file": f"{tmp_path}/a.json"}
