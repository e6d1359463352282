"""Diagnosis against truth: every scenario of the simulator, and every field case.

pytest -s tests/tools/test_doctor_truth.py -m "slow or not slow"   # prints precision and recall
"""

from __future__ import annotations

import asyncio
from functools import cache
from typing import TYPE_CHECKING

import pytest
import recorded
from samples import others_slow

from field.play import play
from field.test_cases import CASES
from vllm_sidecar.simulator.scenarios import SCENARIOS
from vllm_sidecar.tools.doctor.diagnosis import Diagnosis, Source, diagnose
from vllm_sidecar.tools.doctor.findings import symptoms
from vllm_sidecar.tools.doctor.sources import recording

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

pytestmark = pytest.mark.io

QUEUE = {"queueing:batch", "slow_first_token"}
SCENARIO_TRUTH: dict[str, tuple[set[str], set[str]]] = {
    "healthy": (set(), set()),
    "queue-buildup": ({"queueing:batch"}, {"slow_first_token"}),
    "kv-exhaustion": ({"kv_cache_full"}, {"slow_first_token"}),
    "slow-decode": ({"slow_decode"}, QUEUE),
    "stall": ({"stalled"}, set()),
    "crash-loop": ({"restarting"}, {"down"}),
    "prefix-drop": (set(), set()),
    "spec-collapse": ({"drafts_rejected"}, {"slow_decode"}),
    "error-burst": ({"failing"}, set()),
    "stale-gauges": (set(), set()),
    "dp-imbalance": ({"engines_uneven"}, QUEUE),
    "lora-thrash": ({"queueing:adapter"}, {"slow_first_token"}),
    "wrong-output": (set(), set()),
    "sleep": ({"asleep"}, {"aborting"}),
}
"""What is wrong in each scenario, and what else follows from it; prefix-drop shows only against the past,
and wrong output only to a canary."""
FIELD_ALSO = {"stalled": {"failing"}, "queueing": {"slow_first_token", "slow_decode"}}
"""What follows from a state: requests whose clients gave up, and latencies of those that waited."""
QUICK_SCENARIOS = ("healthy", "queue-buildup", "stall", "error-burst")
QUICK_CASES = ("a router", "a full batch", "a mass abort")


COUNTED: list[tuple[int, int, int, int]] = []
"""Of each diagnosis: findings, right ones, true causes, those that were found."""


@pytest.fixture(scope="module", autouse=True)
def _precision_and_recall() -> Iterator[None]:
    yield
    found, right, true, hit = (sum(column) for column in zip(*COUNTED, strict=True)) if COUNTED else (0, 0, 0, 0)
    if found and true:
        text = f"precision {right}/{found} = {right / found:.0%}, recall {hit}/{true} = {hit / true:.0%}"
        print(f"\n{len(COUNTED)} diagnoses: {text}")  # noqa: T201 - shown with pytest -s


def check(found: Diagnosis, required: set[str], also: set[str]) -> None:
    names = {each.name for each in found.findings}
    COUNTED.append((len(names), len(names & (required | also)), len(required), len(required & names)))
    assert required <= names, f"missed {required - names}"
    assert names <= required | also, f"wrong {names - required - also}"
    assert (found.severity in ("fine", "unknown")) == (not names)


@cache
def _scenario(name: str, folder: Path) -> Diagnosis:
    path = recorded.write(folder / f"{name}.gz", recorded.polls(f"healthy 60s -> {name} 200s", 259))
    (found,) = diagnose(*asyncio.run(recording(path, lambda _: None)))
    return found


@pytest.mark.parametrize("name", others_slow(SCENARIOS, *QUICK_SCENARIOS))
def test_scenarios_are_diagnosed_as_they_are(name: str, tmp_path: Path) -> None:
    required, also = SCENARIO_TRUTH[name]
    check(_scenario(name, tmp_path), required, also)


@pytest.mark.parametrize("name", others_slow(CASES, *QUICK_CASES))
def test_field_cases_are_diagnosed_as_they_are(name: str) -> None:
    case = CASES[name]
    (found,) = diagnose(asyncio.run(play(case)).status, Source(name, None))
    true = {state for state in case.states if state not in ("healthy", "idle")}
    names = {each.name.partition(":")[0] for each in found.findings}
    also = {each for state in true for each in FIELD_ALSO.get(state, ())}
    if case.states & {"healthy", "idle"}:
        # A case that ends well may have had restarts before; one that may be down at its end shows only that.
        assert names <= true | {"restarting"}, names
    else:
        assert true <= names <= true | also, names
    required = set() if case.states & {"healthy", "idle"} else true
    COUNTED.append((len(names), len(names & (true | also | {"restarting"})), len(required), len(required & names)))


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
    from vllm_sidecar.tools.doctor.readings import Readings

    empty = Readings({"up": True, "state": {"name": "idle", "severity": "fine", "text": ""}, "signals": {}})
    answers = {str(symptom): answer for symptom, answer in symptoms(empty, []).items()}
    assert all(answers[name].startswith("unknown: ") for name in ("errors", "high TTFT", "slow ITL", "wrong output"))
    down = Readings({"up": False, "state": {"name": "down", "severity": "bad", "text": ""}})
    assert all(
        answer != "no" for name, answer in symptoms(down, []).items() if name not in ("outage", "monitoring gap")
    )
