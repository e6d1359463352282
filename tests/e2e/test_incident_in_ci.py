"""The job of docs/load-tests.md: the traffic of an incident against the next release, step by step as the page has it.

The next release is a simulated vLLM. Where `vllm` is installed and VLLM_SIDECAR_MODEL is the folder of a model, its
benchmark sends the traffic; otherwise a client that reads the same trace does.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import planned
import pytest
import yaml
from places import EXPORTER, ROOT
from simulator_process import simulator

from vllm_sidecar.cli import main

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = [pytest.mark.io, pytest.mark.e2e]

DOCUMENT = ROOT / "docs" / "load-tests.md"
ADDRESS = "http://localhost:8000"
MODEL = os.environ.get("VLLM_SIDECAR_MODEL", "meta-llama/Llama-3.1-8B-Instruct")
SECONDS = 40
INSTALLED = ("pip", "sudo")
"""Programs of steps that install what the tests have."""


def job() -> dict[str, Any]:
    section = DOCUMENT.read_text().partition("## The last incident against the next release")[2].partition("\n## ")[0]
    (text,) = re.findall(r"^```yaml\n(.*?)^```$", section, re.DOTALL | re.MULTILINE)
    found: dict[str, Any] = yaml.safe_load(text)["incident-load"]
    return found


@pytest.fixture
def runner(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return the checkout of the deployment's repository, with the profile of an incident; programs are on the PATH."""
    tools = tmp_path / "bin"
    tools.mkdir()
    programs = {
        "vllm-sidecar": f"{sys.executable} -m vllm_sidecar",
        "vllm": f"{sys.executable} {ROOT}/tests/support/bench_client.py",
        **dict.fromkeys(INSTALLED, "true"),
    }
    if shutil.which("vllm") and "VLLM_SIDECAR_MODEL" in os.environ:
        del programs["vllm"]
    for name, command in programs.items():
        (tools / name).write_text(f'#!/bin/sh\nexec {command} "$@"\n')
        (tools / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{tools}:{os.environ['PATH']}")
    monkeypatch.setenv("PYTHONPATH", str(EXPORTER))
    checkout = tmp_path / "repository"
    (checkout / "load-tests").mkdir(parents=True)
    known = planned.record(tmp_path / "known.gz", planned.known(SECONDS), SECONDS + 20, **{"server.model_name": MODEL})
    incident = checkout / "load-tests" / "2027-01-15"
    assert main(["shape", str(known), "-o", str(incident), "--for", "vllm-bench"]) == 0
    (checkout / "thresholds.yaml").write_text("{}\n")
    return checkout


def run_steps(checkout: Path, url: str) -> dict[str, subprocess.CompletedProcess[str]]:
    """Run the steps as the runner does, in a shell that ends at the first failure; stop after a step that fails."""
    done = {}
    for step in job()["steps"]:
        if "run" not in step:
            continue
        script = step["run"].replace(ADDRESS, url).replace("Qwen/Qwen3-8B", MODEL)
        command = ["bash", "-e", "-c", script]
        done[step.get("name", "")] = found = subprocess.run(
            command, cwd=checkout, capture_output=True, text=True, timeout=300, check=False
        )
        if found.returncode:
            break
    return done


def server(tmp_path: Path, **settings: object) -> tuple[str, str]:
    """Return the flags of a simulated server without traffic of its own."""
    file = tmp_path / "server.yaml"
    script = {"phases": ["healthy"], "server": {"model_name": MODEL, **settings}, "traffic": {"rate": 0.0}}
    file.write_text(yaml.safe_dump(script))
    return "--file", str(file)


def test_a_release_that_is_as_good_passes(runner: Path, tmp_path: Path) -> None:
    with simulator(*server(tmp_path)) as (_, url):
        done = run_steps(runner, url)
    for name, step in done.items():
        assert step.returncode == 0, f"{name}:\n{step.stdout}{step.stderr}"
    assert len(done) == sum("run" in step for step in job()["steps"])
    assert "the same load, within the bounds" in done["It was the same load"].stdout
    assert "It would not have paged." in done["It would not have paged"].stdout
    assert all((runner / each).exists() for each in ("load/vllm-bench.sh", "replay.vllm-recording.gz"))


def test_a_release_without_prefix_caching_is_another_load(runner: Path, tmp_path: Path) -> None:
    with simulator(*server(tmp_path, enable_prefix_caching=False)) as (_, url):
        done = run_steps(runner, url)
    name, last = list(done.items())[-1]
    assert (name, last.returncode) == ("It was the same load", 3), last
    assert "another load: prefix-cache hit ratio" in last.stdout
