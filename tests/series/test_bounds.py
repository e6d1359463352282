"""What is remembered per name has a bound, also for a server that makes up new names at each poll."""

from __future__ import annotations

from followed_counters import FollowedCounters
from readings import readings

from vllm_sidecar.series.readings import MOST_ABSENT, TARGET, drop_absent
from vllm_sidecar.series.restarts import MOST_TIMES, RECENT, Restarts

NEW = 700
"""New series of each poll."""


def test_series_that_a_poll_lacks_are_remembered_until_they_are_too_many() -> None:
    known = {f"a{n}": n for n in range(MOST_ABSENT + 1)}
    before = dict(known)
    drop_absent(known, ["a0"])
    assert known == before
    known["one more"] = 1
    drop_absent(known, ["a0"])
    assert known == {"a0": 0}


def test_a_server_with_new_routes_at_each_poll_takes_no_more_memory() -> None:
    followed = FollowedCounters()
    for poll in range(10):
        keys = {("http_requests_total", f"/{poll}/{n}", "POST", "2xx"): 1.0 for n in range(NEW)}
        followed.poll(readings({TARGET: keys}))
    front_end, slos = followed.windows.front_end._counts, followed.counters._series[TARGET]
    process = followed.windows._restarts._known[0]
    tables = (front_end, slos, process.values[TARGET], process.left_out[TARGET])
    assert all(0 < len(table) <= MOST_ABSENT + 2 * NEW for table in tables)


def test_restarts_of_the_last_minutes_are_counted_up_to_a_bound() -> None:
    restarts = Restarts()
    for n in range(2 * MOST_TIMES):
        restarts.follow(float(n), readings({"requests_running": 1.0}, started=1.79e9 + n), 1.79e9 + n)
    assert restarts.count == 2 * MOST_TIMES - 1
    assert restarts.recent(2.0 * MOST_TIMES) == MOST_TIMES
    assert restarts.recent(2.0 * MOST_TIMES + RECENT) == 0
