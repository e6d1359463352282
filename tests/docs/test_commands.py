"""Command blocks of documents that are marked with `<!-- runnable -->` run in a checkout, offline and in seconds."""

from __future__ import annotations

import os
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest
from markdown_files import ROOT, Command, documents, runnable

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.io

COMMANDS = [command for document in documents() for command in runnable(document)]
PROGRAM = '#!/bin/sh\nexec "{python}" -m vllm_sidecar "$@"\n'
SECONDS = 60.0


@pytest.fixture
def path_with_the_program(tmp_path: Path) -> str:
    """A PATH on which `vllm-sidecar` is that of this checkout."""
    program = tmp_path / "vllm-sidecar"
    program.write_text(PROGRAM.format(python=sys.executable))
    program.chmod(0o755)
    return f"{tmp_path}{os.pathsep}{os.environ['PATH']}"


@pytest.mark.parametrize("command", COMMANDS, ids=str)
def test_a_runnable_block_runs(command: Command, path_with_the_program: str) -> None:
    environment = os.environ | {"PATH": path_with_the_program, "PYTHONPATH": str(ROOT / "exporter")}
    done = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", command.text],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        timeout=SECONDS,
        check=False,
    )
    assert done.returncode == 0, done.stderr


def test_the_commands_that_people_need_first_are_among_them() -> None:
    text = "".join(command.text for command in COMMANDS)
    assert all(command in text for command in ("check-config", "generate --check", "simulate"))
