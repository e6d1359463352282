"""Files of users are theirs: what the generator may overwrite and delete, and what it leaves alone."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from samples import others_slow

from vllm_sidecar import cli
from vllm_sidecar.generate.output_files import Origin, origin, sealed

if TYPE_CHECKING:
    from pathlib import Path

RULES, SLOS = "vllm-sidecar.rules.yml", "vllm-sidecar-slo.rules.yml"


def run(part: str, out: Path, *flags: str, thresholds: str = "") -> int:
    arguments = ["generate", part, "--out", str(out), *flags]
    if thresholds:
        file = out.parent / "mine.yaml"
        file.write_text(thresholds)
        arguments += ["--thresholds", str(file)]
    return cli.main(arguments)


@pytest.fixture
def out(tmp_path: Path) -> Path:
    folder = tmp_path / "out"
    assert run("rules", folder) == 0
    return folder


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_what_the_generator_wrote_it_may_write_again(out: Path) -> None:
    before = contents(out)
    assert run("rules", out, thresholds="profile: batch") == 0
    assert contents(out).keys() == before.keys()
    assert all(contents(out)[name] != content for name, content in before.items())


@pytest.mark.parametrize("edit", [b"\n# mine", b"\n"], ids=["a line", "a line break"])
def test_a_file_that_was_edited_is_left_alone_and_so_are_all_others(
    edit: bytes, out: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (out / RULES).write_bytes((out / RULES).read_bytes() + edit)
    before = contents(out)
    capsys.readouterr()
    assert run("rules", out, thresholds="profile: batch") == 1
    told = capsys.readouterr()
    assert f"{RULES}: was edited, or was not written by this command for this pack; --force overwrites it" in told.err
    assert "nothing was written" in told.err
    assert told.out == ""
    assert contents(out) == before
    assert run("rules", out, "--force", thresholds="profile: batch") == 0
    assert edit not in (out / RULES).read_bytes()[-8:] or edit == b"\n"
    assert run("rules", out, "--check", thresholds="profile: batch") == 0


def test_a_file_of_somebody_else_is_left_alone(out: Path) -> None:
    for content in (b"", b"groups: []\n", b"\xff\x00"):
        (out / RULES).write_bytes(content)
        assert run("rules", out) == 1
        assert (out / RULES).read_bytes() == content
    assert run("rules", out, "--force") == 0


def test_the_rules_of_another_pack_are_left_alone(out: Path) -> None:
    """Two files of thresholds into one folder: without names for the packs one would lose its rules."""
    before = contents(out)
    assert run("rules", out, thresholds='selector: env="prod"') == 1
    assert contents(out) == before
    assert run("rules", out, thresholds='selector: env="prod"\npack: prod') == 0
    assert contents(out).items() > before.items()
    assert run("rules", out, "--prune") == 0
    assert len(contents(out)) == 4


def test_what_is_generated_no_more_is_named_and_deleted_on_demand_only(
    out: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    edited = (out / SLOS).read_bytes() + b"# mine\n"
    (out / "edited.rules.yml").write_bytes(edited)
    off = "slos: {enabled: false}\nrunbook_url: ''\ndashboard_url: ''"
    capsys.readouterr()
    for flags, rest in (((), "no longer generated; --prune deletes it"), (("--prune",), "deleted")):
        assert (out / SLOS).exists()
        assert run("rules", out, *flags, thresholds=off) == 0
        assert f"{SLOS}: {rest}\n" in capsys.readouterr().out
    assert not (out / SLOS).exists()
    assert (out / "edited.rules.yml").read_bytes() == edited


PARTS = ("shim", "alertmanager", "dashboards", "thresholds", "config", "runbooks")


@pytest.mark.parametrize("part", others_slow(PARTS, "shim", "alertmanager", "thresholds", "config"))
def test_every_part_leaves_edited_files_alone_and_comes_back_to_its_own(part: str, tmp_path: Path) -> None:
    assert run(part, tmp_path) == 0
    for path in (path for path in tmp_path.rglob("*") if path.is_file()):
        content = path.read_bytes()
        found = origin(content)
        assert found is not None, path
        assert found.part == part
        path.write_bytes(content + b"\n")
        assert run(part, tmp_path) == 1
        assert path.read_bytes() == content + b"\n"
        path.write_bytes(content)
    assert run(part, tmp_path, "--check") == 0


def test_a_mark_is_right_for_its_bytes_and_for_no_others() -> None:
    by = Origin("rules", "prod")
    content = sealed(f"# {by.mark()}\ngroups: []\n".encode())
    assert origin(content) == by
    assert origin(content.replace(b"[]", b"[ ]")) is None
    assert origin(content.replace(b"prod", b"test")) is None
    assert origin(b"groups: []\n") is None


def test_a_folder_that_cannot_be_written_is_told_in_a_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / RULES).mkdir()
    assert run("rules", tmp_path) == 1
    assert "Is a directory" in capsys.readouterr().err
    (tmp_path / "file").write_text("")
    assert run("rules", tmp_path / "file") == 1
    assert "internal error" not in capsys.readouterr().err
