"""The unit of deploy/systemd, read by systemd itself."""

from __future__ import annotations

import re
import shutil
import subprocess
from typing import TYPE_CHECKING

import pytest
from places import ROOT

from vllm_sidecar import cli
from vllm_sidecar.config import unknown_variables

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.io

FOLDER = ROOT / "deploy" / "systemd"
UNIT = FOLDER / "vllm-sidecar.service"
MOST_EXPOSURE = 1.6


@pytest.fixture
def unit(tmp_path: Path) -> Path:
    """The unit with a program that exists, because systemd looks for it."""
    if shutil.which("systemd-analyze") is None:
        pytest.skip("no systemd-analyze: apt-get install systemd")
    copy = tmp_path / UNIT.name
    copy.write_text(UNIT.read_text().replace("/opt/vllm-sidecar/bin/vllm-sidecar", "/bin/true"))
    return copy


def analyze(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    command = ["systemd-analyze", "--no-pager", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def test_systemd_verifies_the_unit(unit: Path) -> None:
    done = analyze("verify", "--recursive-errors=no", unit)
    assert (done.returncode, done.stdout + done.stderr) == (0, "")


def test_systemd_finds_the_unit_as_little_exposed_as_the_docs_say(unit: Path) -> None:
    done = analyze("security", "--offline=true", f"--threshold={int(MOST_EXPOSURE * 10)}", unit)
    score = re.search(r"Overall exposure level for \S+: ([\d.]+)", done.stdout)
    assert score, done.stdout + done.stderr
    assert float(score[1]) <= MOST_EXPOSURE
    assert done.returncode == 0
    assert f"exposure level of {score[1]}" in (ROOT / "docs" / "systemd.md").read_text()


def test_every_command_of_the_unit_is_one_of_the_program() -> None:
    commands = re.findall(r"^Exec\w+=/opt/vllm-sidecar/bin/vllm-sidecar (.+)$", UNIT.read_text(), flags=re.MULTILINE)
    assert [command.split()[0] for command in commands] == ["check-config", "serve", "check-config"]
    for command in commands:
        assert vars(cli.parser().parse_args(command.split()))


def test_every_variable_of_the_environment_file_is_a_setting() -> None:
    text = (FOLDER / "vllm-sidecar.env").read_text() + UNIT.read_text()
    names = re.findall(r"\b(VLLM_SIDECAR_[A-Z_]+)=", text)
    assert len(names) == 5
    assert unknown_variables(dict.fromkeys(names, "")) == []
