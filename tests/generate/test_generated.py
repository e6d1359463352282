"""Generated documents: as committed, the same at every run, and clear words where nothing can be generated."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest
from places import ROOT

from vllm_sidecar import cli
from vllm_sidecar.catalog import DERIVED, SIGNALS, UPSTREAM
from vllm_sidecar.generate.config_schema import FILE as SCHEMA
from vllm_sidecar.generate.docs import sections
from vllm_sidecar.generate.helm_chart import CHART
from vllm_sidecar.generate.output_files import FilesError
from vllm_sidecar.generate.outputs import Changes, WriteOptions, main

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.io

DOCUMENT = "docs/metrics.md"
METRICS = (ROOT / DOCUMENT).read_bytes()


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A folder with all that `generate` reads."""
    for folder in ("docs", "rules", "dashboards", "dashboards/kubernetes"):
        (tmp_path / folder).mkdir()
    boards = (str(path.relative_to(ROOT)) for path in (ROOT / "dashboards").rglob("vllm-*.*") if path.suffix != ".yml")
    for name in (
        *boards,
        "pyproject.toml",
        SCHEMA,
        *sections(),
        *(f"rules/{path.name}" for path in (ROOT / "rules").iterdir() if path.is_file()),
    ):
        (tmp_path / name).write_bytes((ROOT / name).read_bytes())
    shutil.copytree(ROOT / CHART, tmp_path / CHART)
    return tmp_path


def test_what_is_committed_is_what_is_generated() -> None:
    assert not main(ROOT, WriteOptions(check=True)), "run: make generate"


def test_check_names_a_file_that_differs_and_leaves_it_alone(checkout: Path) -> None:
    stale = METRICS.replace(b"vllm_sidecar_up", b"vllm_sidecar_down")
    (checkout / DOCUMENT).write_bytes(stale)

    assert main(checkout, WriteOptions(check=True)) == Changes([DOCUMENT], [])
    assert (checkout / DOCUMENT).read_bytes() == stale


def test_generate_replaces_its_sections_and_nothing_that_was_written_by_hand(checkout: Path) -> None:
    begin = b"<!-- generated: metrics -->\n"
    before, _, rest = METRICS.partition(begin)
    _, end, after = rest.partition(b"<!-- end generated -->\n")
    (checkout / DOCUMENT).write_bytes(b"By hand.\r\n" + before + begin + b"old\n" + end + after)

    assert main(checkout, WriteOptions()) == Changes([DOCUMENT], [])
    assert (checkout / DOCUMENT).read_bytes() == b"By hand.\r\n" + METRICS
    assert not main(checkout, WriteOptions())


@pytest.mark.slow
def test_a_rule_file_that_is_generated_no_more_is_told_and_deleted_on_demand_but_none_written_by_hand(
    checkout: Path,
) -> None:
    old, own = checkout / "rules" / "old.rules.yml", checkout / "rules" / "own.rules.yml"
    old.write_bytes((checkout / "rules" / "vllm-sidecar.rules.yml").read_bytes())
    own.write_text("groups: []\n")

    for how in (WriteOptions(check=True, prune=True), WriteOptions()):
        assert main(checkout, how) == Changes([], ["rules/old.rules.yml"])
        assert old.exists()
    assert main(checkout, WriteOptions(prune=True)) == Changes([], ["rules/old.rules.yml"])
    assert (old.exists(), own.exists()) == (False, True)


@pytest.mark.slow
def test_two_runs_with_other_hash_seeds_give_the_same_text() -> None:
    program = "from vllm_sidecar.generate.docs import sections; print(sections())"
    environment = os.environ | {"PYTHONPATH": str(ROOT / "exporter")}
    texts = {
        subprocess.run(
            [sys.executable, "-c", program], env=environment | {"PYTHONHASHSEED": seed}, capture_output=True, check=True
        ).stdout
        for seed in ("0", "1")
    }
    assert len(texts) == 1


def test_the_table_has_every_signal_once_and_every_name_of_vllms() -> None:
    lines = sections()[DOCUMENT]["metrics"].splitlines()
    named = [line.split("`")[1] for line in lines if line.startswith("| `")]

    assert sorted(named) == sorted(signal.metric for signal in SIGNALS.values())
    for alias in (alias for entry in UPSTREAM for alias in entry.aliases):
        assert any(f"`vllm:{alias}`" in line for line in lines), alias
    for why in (entry.signal.why_not_promql or "" for entry in DERIVED):
        assert any(line.endswith(why) for line in lines), why


def test_a_cell_of_a_table_is_never_broken_by_its_text() -> None:
    for text in (text for texts in sections().values() for text in texts.values()):
        columns = 0
        for line in text.splitlines():
            bars = line.replace(r"\|", "").count("|")
            columns = 0 if not bars else columns or bars
            assert bars == columns, line


@pytest.mark.parametrize("arguments", [["generate"], ["generate", "--check"]])
@pytest.mark.parametrize("content", [None, "", "[project]\nname = 'other'", "[project", "project = 3"])
def test_outside_a_checkout_it_fails_and_says_where_to_run_it(
    arguments: list[str], content: str | None, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    if content is not None:
        (tmp_path / "pyproject.toml").write_text(content)

    assert cli.main([*arguments, "--root", str(tmp_path)]) == 1
    assert capsys.readouterr().err == (
        f"vllm-sidecar: {tmp_path} is not a checkout of vllm-sidecar: run generate in the folder with the project's "
        "pyproject.toml, or name that folder with --root\n"
    )


@pytest.mark.parametrize(
    "text",
    [
        METRICS.replace(b"<!-- generated: metrics -->", b""),
        METRICS.replace(b"<!-- end generated -->", b""),
        METRICS + b"<!-- generated: metrics -->\n",
    ],
    ids=["no begin", "no end", "two begins"],
)
def test_a_file_without_its_markers_is_named_and_not_written(text: bytes, checkout: Path) -> None:
    (checkout / DOCUMENT).write_bytes(text)

    with pytest.raises(FilesError, match=r"docs/metrics\.md must have the lines '<!-- generated: "):
        main(checkout, WriteOptions())
    assert (checkout / DOCUMENT).read_bytes() == text


def test_a_missing_file_is_named(checkout: Path) -> None:
    (checkout / DOCUMENT).unlink()

    with pytest.raises(FilesError, match=r"docs/metrics\.md is missing: restore it from the repository"):
        main(checkout, WriteOptions(check=True))
