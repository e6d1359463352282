"""Values that a server cannot have change nothing that lasts: they are refused, or held for one poll, and counted."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import captured
import pytest
from captured import ENGINE, read
from growing import grown

from vllm_sidecar.catalog.reasons import PollError, Reason
from vllm_sidecar.exposition import DifferentialParser
from vllm_sidecar.series.good_observations import Objective
from vllm_sidecar.series.slo_counters import SloCounters
from vllm_sidecar.series.store import WindowStore
from vllm_sidecar.vllm.growth import DOUBTS
from vllm_sidecar.vllm.normalize import Normalizer

if TYPE_CHECKING:
    from vllm_sidecar.series.readings import Readings

BODY = captured.text()
TOKENS = "generation_tokens_total"
TTFT = "time_to_first_token_seconds"
FINISHED = ("requests_finished_total", "stop")


class FollowedStages:
    """A server whose polls go through parser, normalizer, windows and SLO counters."""

    def __init__(self) -> None:
        self.parser, self.normalizer = DifferentialParser(), Normalizer()
        self.windows = WindowStore(60.0, 300.0)
        self.slos = SloCounters((Objective("ttft", TTFT, 0.5),), availability=True)
        self.at = 0.0

    def poll(self, body: str) -> Readings:
        self.at += 1.0
        found = self.normalizer.normalize(self.parser.parse(body.encode()), None, self.at)
        self.windows.append(self.at, found)
        self.slos.follow(found, self.windows)
        return found

    def counts(self) -> dict[tuple[str, ...], float]:
        return {(name, *labels): value for name, labels, value in self.slos.rows(up=True) if "requests" in name}


def changed(body: str, series: str, value: str) -> str:
    """Set all series of a name to a value."""
    return re.sub(rf"^({series}(?:\{{[^}}]*\}})?) \S+$", rf"\1 {value}", body, flags=re.MULTILINE)


GLITCHES = {
    "a counter of requests": ("vllm:request_success_total", "1e12"),
    "a counter of tokens": ("vllm:generation_tokens_total", "1e15"),
    "a bucket": ("vllm:time_to_first_token_seconds_bucket", "1e12"),
    "a count": ("vllm:time_to_first_token_seconds_count", "1e12"),
    "a sum": ("vllm:time_to_first_token_seconds_sum", "1e15"),
    "HTTP requests": ("http_requests_total", "1e12"),
    "the largest double": ("vllm:request_success_total", "1.7e308"),
    "above 64 bits": ("vllm:generation_tokens_total", "1e300"),
    "infinity": ("vllm:request_success_total", "+Inf"),
    "NaN": ("vllm:time_to_first_token_seconds_sum", "NaN"),
    "a negative sum": ("vllm:time_to_first_token_seconds_sum", "-5"),
    "a huge gauge": ("vllm:num_requests_running", "1.7e308"),
    "a ratio above 1": ("vllm:kv_cache_usage_perc", "2"),
    "a time after every lifetime": ("process_start_time_seconds", "1e300"),
}


@pytest.mark.parametrize(("series", "value"), GLITCHES.values(), ids=GLITCHES)
def test_one_poll_with_an_impossible_value_changes_no_slo_counter_and_no_later_rate(series: str, value: str) -> None:
    good, bad = FollowedStages(), FollowedStages()
    for n in range(1, 6):
        body = grown(BODY, n)
        good.poll(body)
        bad.poll(changed(body, series, value) if n == 3 else body)
    assert bad.counts() == pytest.approx(good.counts())
    window = bad.windows.get(ENGINE)
    assert window
    growth = window.increase(TOKENS)
    assert growth is not None
    assert 0.0 < growth <= 5 * BODY.count("\n") * 1e4
    assert not bad.windows.several
    assert bad.windows.restarts == 0


@pytest.mark.parametrize(("series", "value"), GLITCHES.values(), ids=GLITCHES)
def test_an_impossible_value_is_counted(series: str, value: str) -> None:
    server = FollowedStages()
    server.poll(grown(BODY, 1))
    assert server.poll(grown(BODY, 2)).anomalies == {}
    assert sum(server.poll(changed(grown(BODY, 3), series, value)).anomalies.values()) >= 1
    assert server.poll(grown(BODY, 4)).anomalies == {}


def test_a_jump_that_the_next_poll_confirms_is_taken_and_no_increase_spans_it() -> None:
    server = FollowedStages()
    for n in (1, 2):
        server.poll(grown(BODY, n))
    before = server.poll(grown(BODY, 3)).groups[ENGINE].counters[TOKENS]
    jumped = changed(grown(BODY, 4), "vllm:generation_tokens_total", "1e15")
    assert server.poll(jumped).groups[ENGINE].counters[TOKENS] == before
    found = server.poll(jumped)
    assert found.groups[ENGINE].counters[TOKENS] == 1e15
    assert found.jumped == {ENGINE}
    window = server.windows.get(ENGINE)
    assert window
    assert (window.polls, window.increase(TOKENS)) == (1, None)
    server.poll(jumped)
    assert window.increase(TOKENS) == 0.0


def test_a_server_that_is_doubted_again_and_again_is_believed() -> None:
    """Two servers behind one address look like that, and `series.restarts` must see their values."""
    server, low, high = FollowedStages(), grown(BODY, 1), changed(grown(BODY, 2), "vllm:request_success_total", "1e12")
    seen = [server.poll(body).groups[ENGINE].counters[FINISHED] == 1e12 for body in [low, high] * DOUBTS + [low]]
    assert not any(seen)
    server = FollowedStages()
    many, few = grown(BODY, 10**9), grown(BODY, 1)
    bodies = [captured.without(body, "process_start_time_seconds|_created") for body in [many, few] * 10]
    with pytest.raises(PollError) as caught:
        list(map(server.poll, bodies))
    assert caught.value.reason is Reason.SEVERAL_SERVERS


def test_a_copy_of_an_api_server_that_is_wrong_once_does_not_spoil_the_sum() -> None:
    line = 'vllm:generation_tokens_total{engine="0",model_name="tiny",pid="%d"} %s\n'
    bucket = 'vllm:time_to_first_token_seconds_bucket{engine="0",model_name="tiny",pid="%d",le="%s"} %s\n'
    server = FollowedStages()
    for n, wrong in enumerate(["", "1.7e308", "", "1e15", ""], 1):
        body = line % (1, 10 * n) + line % (2, wrong or 20 * n)
        body += "".join(bucket % (pid, le, (pid == 2 and wrong) or n) for pid in (1, 2) for le in ("1.0", "+Inf"))
        found = server.poll(body)
    assert found.groups[ENGINE].counters[TOKENS] == 150.0
    assert found.groups[ENGINE].histograms[TTFT].cumulative == (10.0, 10.0)


def test_a_value_that_was_not_a_number_at_first_is_no_jump_later() -> None:
    server = FollowedStages()
    server.poll(changed(BODY, "vllm:generation_tokens_total", "NaN"))
    found = server.poll(changed(BODY, "vllm:generation_tokens_total", "1e14"))
    assert (found.groups[ENGINE].counters[TOKENS], found.jumped, found.anomalies) == (1e14, frozenset(), {})


def test_after_a_restart_nothing_is_compared_with_the_process_before() -> None:
    server = FollowedStages()
    for start, tokens in (("1.8e9", "5"), ("1.80001e9", "1e14")):
        body = changed(changed(BODY, "process_start_time_seconds", start), "vllm:generation_tokens_total", tokens)
        found = server.normalizer.normalize(server.parser.parse(body.encode()), None, float(start))
    assert found.groups[ENGINE].counters[TOKENS] == 1e14


def test_counters_of_work_may_be_larger_than_64_bits() -> None:
    labels = '{engine="0",model_name="tiny"}'
    body = f"vllm:estimated_flops_per_gpu_total{labels} 1e22\nvllm:estimated_read_bytes_per_gpu_total{labels} 3e20\n"
    found = read(body)
    assert found.groups[ENGINE].counters == {"estimated_flops_total": 1e22, "estimated_read_bytes_total": 3e20}
    assert found.anomalies == {}


@pytest.mark.parametrize("value", ["0", "55.5", "-1", "1e12", "NaN", "+Inf"])
def test_a_start_time_that_cannot_be_true_is_unknown(value: str) -> None:
    found = read(changed(BODY, "process_start_time_seconds", value))
    assert found.started is None
    assert sum(found.anomalies.values()) == 1


def test_a_series_that_appears_later_is_not_doubted() -> None:
    server = FollowedStages()
    server.poll(captured.without(BODY, "generation_tokens_total"))
    found = server.poll(changed(BODY, "vllm:generation_tokens_total", "1e14"))
    assert found.groups[ENGINE].counters[TOKENS] == 1e14
    assert found.anomalies == {}
