"""SLO counters that follow polls of a server, and the polls."""

from __future__ import annotations

from typing import TYPE_CHECKING

from readings import START, TARGET, readings

from vllm_sidecar.catalog.types import Scope
from vllm_sidecar.series.good_observations import Objective
from vllm_sidecar.series.readings import Group
from vllm_sidecar.series.slo_counters import SloCounters
from vllm_sidecar.series.store import WindowStore

if TYPE_CHECKING:
    from vllm_sidecar.exposition.metric_values import Histogram
    from vllm_sidecar.series.readings import Readings


TTFT = "time_to_first_token_seconds"


AT_BOUND = Objective("ttft", TTFT, 2.0)


BETWEEN = Objective("ttft", TTFT, 1.5)


COMPLETIONS = "/v1/completions"


BEGAN = 1.79e9


class FollowedCounters:
    """SLO counters that have followed some polls, with their windows."""

    def __init__(self, *polls: Readings, objective: Objective = AT_BOUND, gap: float = 1.0) -> None:
        self.counters = SloCounters((objective,), availability=True)
        self.windows = WindowStore(60.0, 300.0)
        self.at = START
        for poll in polls:
            self.poll(poll, gap)

    def poll(self, poll: Readings, after: float = 1.0) -> None:
        self.at += after
        self.windows.append(self.at, poll)
        self.counters.follow(poll, self.windows)

    def rows(self, *, up: bool = True) -> dict[str, dict[tuple[str, ...], float]]:
        found: dict[str, dict[tuple[str, ...], float]] = {}
        for name, labels, value in self.counters.rows(up=up):
            assert labels not in found.setdefault(name, {})
            found[name][labels] = value
        return found

    def count(self, *labels: str) -> tuple[float, float]:
        """Return all and good, of the engine's latency by default."""
        rows = self.rows()
        key = labels or ("m", "0", "ttft")
        return rows["slo_requests_total"][key], rows["slo_good_requests_total"][key]


def ttft(seen: Histogram, **more: object) -> Readings:
    return readings({TTFT: seen}, **more)  # type: ignore[arg-type]


def ended(rejected: float = 0, http: dict[str, float] | None = None, model: str = "m", **reasons: float) -> Readings:
    groups = {
        Group(Scope.ENGINE, (model, "0")): {("requests_finished_total", name): n for name, n in reasons.items()},
        Group(Scope.MODEL, (model,)): {("requests_rejected_total", "max_num_queued_reqs"): rejected},
        TARGET: {("http_requests_total", COMPLETIONS, "POST", status): n for status, n in (http or {}).items()},
    }
    return readings(groups, started=BEGAN)  # type: ignore[arg-type]


def available(*polls: Readings) -> tuple[float, float]:
    return FollowedCounters(*polls).count("m", "", "availability")
