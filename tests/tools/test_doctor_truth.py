"""Diagnosis against truth: every scenario of the simulator, and every field case."""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING

import doctor_truth
import pytest
from samples import others_slow

from field.test_cases import CASES
from vllm_sidecar.simulator.scenarios import SCENARIOS
from vllm_sidecar.tools.doctor.readings import Readings
from vllm_sidecar.tools.doctor.symptoms import symptoms

if TYPE_CHECKING:
    from pathlib import Path

    from vllm_sidecar.tools.doctor.diagnosis import Diagnosis

pytestmark = pytest.mark.io

QUICK_SCENARIOS = ("healthy", "queue-buildup", "stall", "error-burst")
QUICK_CASES = ("a router", "a full batch", "a mass abort")


@cache
def _scenario(name: str, folder: Path) -> Diagnosis:
    return doctor_truth.scenario(name, folder)


def check(found: Diagnosis, name: str) -> None:
    names, truth = doctor_truth.names_of(found), doctor_truth.truths()[name]
    assert names == doctor_truth.stored()[name], f"if that is right: python {doctor_truth.__file__}"
    assert set(names) <= truth.required | truth.also, "nothing else is wrong"
    assert (found.severity in ("fine", "unknown")) == (not names)


@pytest.mark.parametrize("name", others_slow(SCENARIOS, *QUICK_SCENARIOS))
def test_scenarios_are_diagnosed_as_they_are(name: str, tmp_path: Path) -> None:
    check(_scenario(name, tmp_path), f"scenario {name}")


@pytest.mark.parametrize("name", others_slow(CASES, *QUICK_CASES))
def test_field_cases_are_diagnosed_as_they_are(name: str) -> None:
    check(doctor_truth.field_case(name), f"case {name}")


def test_the_document_has_the_numbers_of_the_last_run() -> None:
    found = doctor_truth.stored()
    assert found.keys() == doctor_truth.truths().keys()
    page = doctor_truth.PAGE.read_text(encoding="utf-8")
    assert doctor_truth.written(page, doctor_truth.section(found)) == page, f"python {doctor_truth.__file__}"


def test_every_cause_is_found_but_those_that_only_a_canary_sees() -> None:
    found = doctor_truth.stored()
    missed = [name for name, truth in doctor_truth.truths().items() if not truth.required <= set(found[name])]
    assert missed == [f"scenario {name}" for name in doctor_truth.MISSED]


def test_each_finding_has_a_meaning_a_cause_and_a_next_step(tmp_path: Path) -> None:
    found = _scenario("queue-buildup", tmp_path)
    for each in found.findings:
        assert each.cause
        assert each.meaning.next
        assert each.evidence
    queue = found.findings[0]
    assert queue.name == "queueing:batch"
    assert queue.since is not None
    assert 100.0 < queue.since < 200.0, "the incident began at 60 s of 259"
    report = found.as_json()
    assert report["severity"] == "bad"
    assert report["symptoms"]["wrong output"].startswith("unknown: answers are not read")
    assert any("chat_template" in text for text in report["unknown"])


def test_nothing_is_denied_that_was_not_measured() -> None:
    empty = Readings({"up": True, "state": {"name": "idle", "severity": "fine", "text": ""}, "signals": {}})
    answers = {str(symptom): answer for symptom, answer in symptoms(empty, []).items()}
    assert all(answers[name].startswith("unknown: ") for name in ("errors", "high TTFT", "slow ITL", "wrong output"))
    down = Readings({"up": False, "state": {"name": "down", "severity": "bad", "text": ""}})
    assert all(
        answer != "no" for name, answer in symptoms(down, []).items() if name not in ("outage", "monitoring gap")
    )
