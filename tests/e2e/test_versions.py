"""The generated rules in other versions of Prometheus, and in vmalert: they load, and the same alerts fire."""

from __future__ import annotations

import os
import subprocess
import sys
from functools import cache
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING

import promtool
import pytest
import versions

from fleets.clock import MINUTE
from vllm_sidecar.tools.promtool import VARIABLE as PROMTOOL

if TYPE_CHECKING:
    from versions import Recorded

    from fleets.evaluate import Fired
    from fleets.export import Series

pytestmark = pytest.mark.e2e

ROOT = Path(__file__).parents[2]
FILES = sorted((ROOT / "rules").glob("vllm-sidecar*.rules.yml"))
FOLDERS = versions.folders()
ABOUT = 0.15
"""Share by which the median of a recorded series may differ: versions disagree on the ends of a range, which matters
where five minutes hold two failures."""
SOON = MINUTE
needs_others = pytest.mark.skipif(not FOLDERS, reason=f"{versions.VARIABLE} names no folder with other versions")


def parameters(*programs: str) -> list[object]:
    """Return the folders that have the programs, by what their first says of itself."""
    return [pytest.param(folder, id=versions.version(folder / programs[0])) for folder in FOLDERS
            if all((folder / program).exists() for program in programs)]  # fmt: skip


@cache
def recording() -> Series:
    return versions.recording()


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> tuple[Recorded, list[Fired]]:
    """What the Prometheus on PATH makes of the recording."""
    promtool.program()
    return versions.evaluated("prometheus", tmp_path_factory.mktemp("installed"), FILES, recording())


def compare(ours: Recorded, theirs: Recorded) -> None:
    """Hold that the same series are recorded, with about the same values."""
    assert ours.keys() == theirs.keys()
    for labels, values in ours.items():
        times = values.keys() & theirs[labels].keys()
        assert len(times) >= 0.98 * len(values), labels
        middle, other = (median(each[when] for when in times) for each in (values, theirs[labels]))
        least = 0.1 if dict(labels)["__name__"].endswith("increase5m") else 0.01  # of events, or a ratio
        assert other == pytest.approx(middle, rel=ABOUT, abs=least), labels


@needs_others
@pytest.mark.parametrize("folder", parameters("promtool", "prometheus"))
def test_promtool_of_another_version_accepts_the_rules_and_passes_their_tests(folder: Path) -> None:
    other = folder / "promtool"
    subprocess.run([other, "check", "rules", *FILES], check=True, capture_output=True)
    files = [ROOT / "tests" / f"test_{name}.py" for name in ("alerts", "slo_rules", "rules")]
    command = [sys.executable, "-m", "pytest", "-q", "-k", "not unnoticed", *files]
    environment = os.environ | {PROMTOOL: str(other), "PYTHONPATH": str(ROOT / "exporter")}
    done = subprocess.run(command, env=environment, cwd=ROOT, capture_output=True, text=True, check=False, timeout=600)
    assert done.returncode == 0, done.stdout[-5000:]


@needs_others
@pytest.mark.parametrize("folder", parameters("prometheus"))
def test_another_prometheus_records_the_same_and_fires_the_same_alerts(
    folder: Path, tmp_path: Path, installed: tuple[Recorded, list[Fired]]
) -> None:
    recorded, fired = versions.evaluated(str(folder / "prometheus"), tmp_path, FILES, recording())
    compare(installed[0], recorded)
    ours, theirs = ({(each.alert, *sorted(each.spell.labels.items())): each.spell for each in found}
                    for found in (installed[1], fired))  # fmt: skip
    assert ours.keys() == theirs.keys()
    late = {key: (ours[key], theirs[key]) for key in ours if abs(ours[key].begin - theirs[key].begin) > SOON}
    assert late == {}


@needs_others
@pytest.mark.parametrize("folder", parameters("vmalert", "victoria-metrics"))
def test_vmalert_records_the_same_and_fires_the_same_alerts(
    folder: Path, tmp_path: Path, installed: tuple[Recorded, list[Fired]]
) -> None:
    recorded, fired = versions.replayed(folder, tmp_path, FILES, recording())
    compare(installed[0], recorded)
    assert fired - {"VllmWatchdog"} == {each.alert for each in installed[1]}
