"""The generated rules in other versions of Prometheus, and in vmalert: they load, and the same alerts fire."""

from __future__ import annotations

import os
import subprocess
import sys
from functools import cache
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING

import newer
import promtool
import pytest
import versions

from fleets.clock import MINUTE
from vllm_sidecar.tools.promtool import VARIABLE as PROMTOOL

if TYPE_CHECKING:
    from collections.abc import Callable

    from versions import Recorded

    from fleets.evaluate import Fired
    from fleets.export import Series

pytestmark = pytest.mark.e2e

ROOT = Path(__file__).parents[2]
FILES = sorted((ROOT / "rules").glob("vllm-sidecar*.rules.yml"))
TESTS_OF_RULES = ("alerts", "slo_rules", "rules")
ABOUT = 0.15
"""Share by which the median of a recorded series may differ: versions disagree on the ends of a range, which matters
where five minutes hold two failures."""
SOON = MINUTE
BRIEF = 2
"""Evaluations of a series that only one of them may have: to VictoriaMetrics a new counter has increased by all that
it is, while its rate is still unknown."""


@pytest.fixture(params=newer.named() or [None], ids=lambda folder: folder.name if folder else "newer")
def other(request: pytest.FixtureRequest) -> Callable[[str], Path]:
    """A program of another version, by its name: from a folder that the environment names, or a newer one."""
    if request.param is None:
        return newer.program

    def program(name: str) -> Path:
        found: Path = request.param / name
        if not found.exists():
            pytest.skip(f"{request.param} has no {name}")
        return found

    return program


@cache
def recording() -> Series:
    return versions.recording()


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> tuple[Recorded, list[Fired]]:
    """What the Prometheus on PATH makes of the recording."""
    promtool.program()
    return versions.evaluated("prometheus", tmp_path_factory.mktemp("installed"), FILES, recording())


def lasting(recorded: Recorded) -> Recorded:
    """Return the series that are recorded more than briefly."""
    return {labels: values for labels, values in recorded.items() if len(values) > BRIEF}


def compare(ours: Recorded, theirs: Recorded) -> None:
    """Hold that the same series are recorded, with about the same values."""
    assert lasting(ours).keys() == lasting(theirs).keys()
    for labels, values in lasting(ours).items():
        times = values.keys() & theirs[labels].keys()
        assert len(times) >= 0.98 * len(values), labels
        middle, other = (median(each[when] for when in times) for each in (values, theirs[labels]))
        least = 0.1 if dict(labels)["__name__"].endswith("increase5m") else 0.01  # of events, or a ratio
        assert other == pytest.approx(middle, rel=ABOUT, abs=least), labels


def test_promtool_of_another_version_accepts_the_rules(other: Callable[[str], Path]) -> None:
    subprocess.run([other("promtool"), "check", "rules", *FILES], check=True, capture_output=True)


@pytest.mark.slow
def test_promtool_of_another_version_passes_the_tests_of_the_rules(other: Callable[[str], Path]) -> None:
    files = [file for name in TESTS_OF_RULES for file in (ROOT / "tests").rglob(f"test_{name}.py")
             if "e2e" not in file.parts]  # fmt: skip
    assert len(files) >= len(TESTS_OF_RULES), files
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:randomly", "-k", "not unnoticed", *files]
    environment = os.environ | {PROMTOOL: str(other("promtool")), "PYTHONPATH": str(ROOT / "exporter")}
    done = subprocess.run(command, env=environment, cwd=ROOT, capture_output=True, text=True, check=False, timeout=600)
    assert done.returncode == 0, done.stdout[-5000:]


def test_another_prometheus_records_the_same_and_fires_the_same_alerts(
    other: Callable[[str], Path], tmp_path: Path, installed: tuple[Recorded, list[Fired]]
) -> None:
    recorded, fired = versions.evaluated(str(other("prometheus")), tmp_path, FILES, recording())
    compare(installed[0], recorded)
    ours, theirs = ({(each.alert, *sorted(each.spell.labels.items())): each.spell for each in found}
                    for found in (installed[1], fired))  # fmt: skip
    assert ours.keys() == theirs.keys()
    late = {key: (ours[key], theirs[key]) for key in ours if abs(ours[key].begin - theirs[key].begin) > SOON}
    assert late == {}


def test_vmalert_records_the_same_and_fires_the_same_alerts(
    other: Callable[[str], Path], tmp_path: Path, installed: tuple[Recorded, list[Fired]]
) -> None:
    recorded, fired = versions.replayed(other, tmp_path, FILES, recording())
    compare(installed[0], recorded)
    assert fired - {"VllmWatchdog"} == {each.alert for each in installed[1]}
