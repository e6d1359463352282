"""How the polls of one source went, and the series that say so."""

from __future__ import annotations

from itertools import chain
from typing import TYPE_CHECKING

import pytest

from vllm_sidecar.catalog import SIGNALS
from vllm_sidecar.catalog.limits import LIMITS
from vllm_sidecar.catalog.reasons import VLLM_REASONS, Reason
from vllm_sidecar.series.health import ANOMALIES, MAX_FAILED_POLLS, Health

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence


def after(outcomes: str) -> Health:
    """Return the health after polls that succeeded (+) or failed (-)."""
    health = Health("vllm")
    for outcome in outcomes:
        health = health.succeeded() if outcome == "+" else health.failed(Reason.TIMEOUT, "late")
    return health


@pytest.mark.parametrize(
    ("outcomes", "up", "misses"),
    [
        ("", False, 0),
        ("-", False, 1),
        ("---", False, 3),
        ("+", True, 0),
        ("+-", True, 1),
        ("+--", True, 2),
        ("+---", False, 3),
        ("+----", False, 4),
        ("+--+--", True, 2),
        ("+---+", True, 0),
        ("+---+-", True, 1),
        ("-+", True, 0),
    ],
)
def test_a_source_is_up_from_its_first_success_until_three_misses_in_a_row(
    outcomes: str, up: bool, misses: int
) -> None:
    health = after(outcomes)
    assert MAX_FAILED_POLLS == 3
    assert (health.up, health.misses, health.polls) == (up, misses, len(outcomes))


def test_a_failure_is_counted_by_its_reason_and_told_until_the_next_success() -> None:
    failed = (
        after("+")
        .failed(Reason.TIMEOUT, "late")
        .failed(Reason.REFUSED, "nobody there")
        .failed(Reason.TIMEOUT, "late again")
    )
    assert (failed.failures, failed.reason, failed.detail) == (
        {Reason.TIMEOUT: 2, Reason.REFUSED: 1},
        Reason.TIMEOUT,
        "late again",
    )
    healed = failed.succeeded(last_success=7.0)
    assert (healed.failures, healed.reason, healed.detail) == (failed.failures, None, "")
    assert healed.last_success == 7.0


def test_a_health_is_a_value_of_its_own() -> None:
    before = after("+")
    before.failed(Reason.TIMEOUT, "late")
    assert before == after("+")


def every_sample(health: Health) -> Iterator[tuple[str, Sequence[str], float]]:
    return chain(health.samples(), health.failure_samples())


def samples(health: Health) -> dict[tuple[str, ...], float]:
    found = [((name, *labels), value) for name, labels, value in every_sample(health)]
    assert len(dict(found)) == len(found)
    return dict(found)


def test_before_the_first_poll_every_counter_is_zero_and_what_is_not_known_is_absent() -> None:
    assert samples(Health("vllm", interval=2.0)) == {
        ("up", "vllm", ""): 0.0,
        ("polls_total", "vllm"): 0.0,
        ("rejected_lines_total", "vllm"): 0.0,
        ("poll_interval_seconds", "vllm"): 2.0,
        ("poll_server_time_ratio", "vllm"): 0.0,
        **{("poll_failures_total", "vllm", reason.value): 0.0 for reason in VLLM_REASONS},
        **{("dropped_values_total", "vllm", anomaly): 0.0 for anomaly in ANOMALIES},
        **{("limit_hits_total", "vllm", limit): 0.0 for limit in LIMITS},
    }


def test_every_number_of_a_health_is_a_series() -> None:
    health = Health("vllm", model_name="m", models=("m", "n"), watched_since=1000.0).succeeded(
        last_success=1234.5,
        seconds=0.25,
        body_bytes=999,
        rejected_lines=3,
        anomalies={"negative": 2},
        limits={"lines": 4},
        server_time_ratio=0.01,
        interval=25.0,
    )
    found = samples(health.failed(Reason.HTTP_5XX, "500"))
    assert {key: value for key, value in found.items() if value} == {
        ("up", "vllm", "m"): 1.0,
        ("model_up", "m"): 1.0,
        ("model_up", "n"): 1.0,
        ("polls_total", "vllm"): 2.0,
        ("rejected_lines_total", "vllm"): 3.0,
        ("poll_interval_seconds", "vllm"): 25.0,
        ("poll_server_time_ratio", "vllm"): 0.01,
        ("poll_failures_total", "vllm", "http_5xx"): 1.0,
        ("dropped_values_total", "vllm", "negative"): 2.0,
        ("limit_hits_total", "vllm", "lines"): 4.0,
        ("watched_since_timestamp_seconds",): 1000.0,
        ("last_success_timestamp_seconds", "vllm"): 1234.5,
        ("poll_duration_seconds", "vllm"): 0.25,
        ("poll_body_bytes", "vllm"): 999.0,
    }


def test_every_series_of_a_health_is_in_the_catalog_with_as_many_labels() -> None:
    for name, labels, _ in every_sample(after("+---").succeeded(last_success=1.0, seconds=1.0)):
        assert len(SIGNALS[name].labels) == len(labels), name
