"""The figures of the sidecar's own process are those that every exporter in Python has."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest
from prometheus_client import CollectorRegistry, ProcessCollector

from vllm_sidecar.serve.own_process import OwnProcess


def test_names_types_texts_and_values_are_those_of_prometheus_client() -> None:
    families = {family.metric: (family.kind, family.help) for family, _ in OwnProcess().families()}
    values = {family.metric: series[0][1] for family, series in OwnProcess().families()}
    expected = list(ProcessCollector(registry=CollectorRegistry()).collect())
    assert families == {each.samples[0].name: (each.type, each.documentation) for each in expected}
    for each in expected:
        assert values[each.samples[0].name] == pytest.approx(each.samples[0].value, rel=0.05, abs=0.05)


def test_a_file_more_is_counted() -> None:
    def open_files() -> object:
        return next(series[0][1] for family, series in OwnProcess().families() if family.metric == "process_open_fds")

    before = open_files()
    file = os.open(os.devnull, os.O_RDONLY)
    after = open_files()
    os.close(file)
    assert (before, after) == (before, before + 1.0)  # type: ignore[operator]


@pytest.mark.io
def test_the_running_program_does_not_load_prometheus_client() -> None:
    script = "import sys, vllm_sidecar.serve.app; sys.exit('prometheus_client' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", script], check=False).returncode == 0
