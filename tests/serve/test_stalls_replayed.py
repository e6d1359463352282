"""A stall is found from what clients wait for, and an idle server never stalls."""

from __future__ import annotations

import random
from math import inf

import pytest
from readings import ENGINE, OTHER_ENGINE
from waiting_clients import PAGE, Backend, Clients, asleep, busy, corroborated

from vllm_sidecar.derive.admission import admission_limit
from vllm_sidecar.derive.kv_cache import pressure
from vllm_sidecar.derive.outcomes import error_ratio
from vllm_sidecar.derive.queue import live_wait_seconds
from vllm_sidecar.derive.saturation import saturation
from vllm_sidecar.derive.stalls import sleeping, waited_seconds
from vllm_sidecar.series.store import WindowStore


@pytest.mark.parametrize("patience", [60.0, 200.0, inf])
@pytest.mark.parametrize("shows", ["posts files", "posts", "posts load", "posts files load"])
def test_an_engine_that_hangs_with_requests_is_stalled(shows: str, patience: float) -> None:
    server = busy(shows=shows, patience=patience)
    server.engines[ENGINE].hung = True
    assert 120.0 <= server.when(200)["stalled"] <= PAGE


@pytest.mark.parametrize("rate", [0.0, 1 / 60])
def test_an_engine_that_hangs_is_stalled_though_nobody_or_few_come(rate: float) -> None:
    server = busy(seconds=5.0)
    server.engines[ENGINE].hung, server.rate = True, rate
    found = server.when(300)
    assert 120.0 <= found["stalled"] <= PAGE
    assert found.keys() == {"fine", "stalled"}
    assert "requests_open" in corroborated(server)
    assert server.says() == "stalled"


def test_an_engine_that_hangs_behind_a_full_queue_is_stalled_though_all_others_are_refused() -> None:
    """Requests that admission control refuses end, too, but none of them is one that the engine holds."""
    server = busy()
    server.engines[ENGINE].hung, server.rate = True, 0.0
    refused = ("http_requests_total", "/v1/completions", "POST", "5xx")

    def refuse(_: float) -> None:
        server.http[refused] = server.http.get(refused, 0.0) + 5.0

    assert 120.0 <= server.when(200, each=refuse)["stalled"] <= PAGE


@pytest.mark.parametrize(
    ("shows", "patience", "sign"),
    [
        ("posts", 20.0, "http_traffic"),
        ("posts", 60.0, "http_traffic"),
        ("posts files", 60.0, "http_traffic"),
        ("posts files", inf, "connections_grew"),
        ("posts load", inf, "http_in_flight"),
        ("posts load", 60.0, "http_traffic"),
    ],
)
def test_an_engine_that_takes_nothing_in_is_stalled_though_its_gauges_say_idle(
    shows: str, patience: float, sign: str
) -> None:
    server = busy(shows=shows, patience=patience)
    server.engines[ENGINE].deaf = True
    server.run(4)  # what is inside finishes
    assert 116.0 <= server.when(160)["stalled"] <= PAGE
    assert sign in corroborated(server)
    assert server.engines[ENGINE].running == 0


def test_an_engine_that_hangs_in_its_first_step_is_stalled_by_what_is_open() -> None:
    server = Clients(shows="posts load", rate=0.0)
    server.engines[ENGINE].finished = server.posts = 0.0
    server.run(600)
    server.engines[ENGINE].deaf, server.rate = True, 0.5
    assert 120.0 <= server.when(160)["stalled"] <= 125.0


@pytest.mark.parametrize("shows", ["posts load", "posts files load"])
def test_a_request_after_an_hour_without_any_has_its_own_time(shows: str) -> None:
    """It is not stalled because the last progress is long ago; a hang that begins with it is one after stall_after."""
    server = busy(shows=shows)
    server.rate = 0.0
    assert server.when(3600).keys() == {"fine"}
    server.rate, server.seconds = 1.0, 100.0
    server.run(1)
    server.rate = 0.0
    assert server.when(110).keys() == {"fine"}
    server.engines[ENGINE].deaf, server.rate = True, 0.5
    assert 119.0 <= server.when(200)["stalled"] <= 125.0


def test_clients_that_wait_are_told_before_it_is_a_stall() -> None:
    server = busy(shows="posts files load")
    assert waited_seconds(server.view()) == 0.0
    server.engines[ENGINE].deaf = True
    server.run(60)
    assert 50.0 <= waited_seconds(server.view()) <= 60.0
    assert server.says() == "fine"


@pytest.mark.parametrize("shows", ["posts files", "posts", "posts load", "posts files load"])
@pytest.mark.parametrize("rate", [0.4, 1.0, 20.0])
def test_after_a_mass_abort_a_server_is_idle_within_a_minute(shows: str, rate: float) -> None:
    server = busy(shows=shows, rate=rate, seconds=5.0)
    server.abort()
    found = server.when(900)
    assert found.keys() == {"fine", "idle"}
    assert found["idle"] <= 60.0
    view = server.view()
    assert (live_wait_seconds(view), saturation(view), pressure(view)) == (0.0, {"m": 0.0}, 0.0)
    assert admission_limit(view) == {}


def test_a_client_that_leaves_long_before_the_engine_notices_is_no_stall() -> None:
    """An abort reaches the engine late: it goes on making tokens for the request, and its gauges then stay at 1."""
    server = busy(rate=0.2, seconds=30.0)
    backend = server.engines[ENGINE]
    server.posts += len(backend.open)
    backend.open, server.rate = [], 0.0

    def still_works(passed: float) -> None:
        backend.tokens += 10.0 * (passed < 5)

    assert server.when(300, each=still_works).keys() == {"fine", "idle"}


def test_a_list_of_prompts_that_its_client_aborts_is_no_stall() -> None:
    """One HTTP request is a hundred requests in the engine."""
    server = Clients(rate=0.0)
    backend = server.engines[ENGINE]
    server.posts, backend.finished = 5.0, 500.0
    server.run(5)
    backend.running, backend.tokens = 100, 900
    server.run(3)
    server.posts += 1
    assert server.when(300).keys() == {"fine", "idle"}


def test_when_requests_come_again_after_a_mass_abort_all_is_as_before() -> None:
    server = busy(seconds=5.0)
    server.abort()
    server.run(300)
    assert server.says() == "idle"
    server.rate = 1.0
    server.run(10)
    view = server.view()
    assert server.says() == "fine"
    assert (live_wait_seconds(view), pressure(view)) == (0.0, 0.0)
    server.engines[ENGINE].hung = True
    assert 120.0 <= server.when(200)["stalled"] <= PAGE


def test_new_clients_of_an_engine_that_hangs_after_a_mass_abort_are_seen() -> None:
    server = busy(shows="posts files load", seconds=5.0)
    server.abort()
    server.engines[ENGINE].hung = True
    server.run(200)
    assert server.says() == "idle"
    server.rate = 0.5
    assert 120.0 <= server.when(200)["stalled"] <= PAGE


def test_without_any_view_of_the_front_end_frozen_gauges_are_stale_and_nothing_is_said_from_them() -> None:
    server = busy(shows="", seconds=5.0)
    server.engines[ENGINE].waiting = 9
    server.run(5)
    server.engines[ENGINE].hung = True
    found = server.when(300)
    assert found.keys() == {"fine", "stale"}
    assert 120.0 <= found["stale"] <= PAGE
    view = server.view()
    assert (live_wait_seconds(view), saturation(view), pressure(view)) == (None, {}, None)
    assert admission_limit(view) == {}


def slow_pool(server: Clients) -> None:
    server.idle_files += 0.1


def burst_of_a_pool(server: Clients) -> None:
    server.idle_files = 50.0 if server.at > 700 else 0.0


def burst_of_a_pool_when_traffic_ends(server: Clients) -> None:
    server.idle_files = 25.0 * min(2.0, max(0.0, server.at - 130.0))


def leak(server: Clients) -> None:
    server.idle_files += 0.002


def health_checks(server: Clients) -> None:
    server.idle_files = float(int(server.at) % 3)


def other_routes(server: Clients) -> None:
    for key in (
        ("http_requests_total", "/tokenize", "POST", "2xx"),
        ("http_requests_total", "/v1/messages/count_tokens", "POST", "2xx"),
        ("http_requests_total", "/v1/load_lora_adapter", "POST", "2xx"),
        ("http_requests_total", "none", "POST", "4xx"),
        ("http_requests_total", "/v1/completions", "POST", "4xx"),
        ("http_requests_total", "/v1/completions", "POST", "5xx"),
        ("http_requests_total", "/v1/models", "GET", "2xx"),
    ):
        server.http[key] = server.http.get(key, 0.0) + 1.0


def requests_that_load_never_forgets(server: Clients) -> None:
    """A client cancels before the engine sees the request, which ends, and `/load` goes on counting it."""
    if server.at % 100 == 0:
        server.posts += 1
        server.forgotten += 1  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    "each",
    [
        slow_pool,
        burst_of_a_pool,
        burst_of_a_pool_when_traffic_ends,
        leak,
        health_checks,
        other_routes,
        requests_that_load_never_forgets,
    ],
    ids=lambda each: each.__name__.replace("_", " "),
)
@pytest.mark.parametrize("shows", ["posts files", "posts files load"])
def test_an_idle_server_never_stalls(each: object, shows: str) -> None:
    server = busy(shows=shows)
    server.rate, server.forgotten = 0.0, 0.0  # type: ignore[attr-defined]
    poll = server.poll

    def forgetful() -> None:
        server.load += server.forgotten  # type: ignore[attr-defined]
        poll()

    server.poll = forgetful  # type: ignore[method-assign]
    assert server.when(4000, each=lambda _: each(server)).keys() == {"fine"}  # type: ignore[operator]


@pytest.mark.parametrize("seconds", [8, 300])
def test_a_pool_that_grows_when_traffic_ends_is_none_of_requests(seconds: int) -> None:
    """It grows more slowly than requests came, also where the sidecar has seen little of them."""
    server = Clients()
    server.run(seconds)
    server.rate = 0.0

    def grow(passed: float) -> None:
        server.idle_files = float(int(passed / 4.0))

    assert server.when(600, each=grow).keys() == {"fine"}


@pytest.mark.parametrize("rate", [0.01, 0.2, 5.0])
def test_a_server_that_works_never_stalls(rate: float) -> None:
    server = Clients(rate=rate, seconds=7.0, shows="posts files load")
    assert server.when(1500, each=lambda _: slow_pool(server)).keys() == {"fine"}


@pytest.mark.parametrize("seed", range(12))
def test_whatever_clients_of_a_server_that_works_do_it_never_stalls(seed: int) -> None:
    """They come in bursts, leave when they like, also the last one, and keep connections that they do not use."""
    chance = random.Random(seed)
    engines = {ENGINE: Backend(), OTHER_ENGINE: Backend()} if seed % 2 else None
    shows = chance.choice(["posts", "posts files", "posts load", "posts files load"])
    server = Clients(engines, seconds=chance.uniform(0.5, 20.0), shows=shows)

    def live(_: float) -> None:
        if chance.random() < 0.01:
            server.rate = chance.choice([0.0, 0.0, 0.02, 0.3, 2.0])
        if chance.random() < 0.05:
            server.cancel(chance.choice([0.0, 0.5, 5.0]))
        if chance.random() < 0.02:
            server.idle_files = max(0.0, server.idle_files + chance.choice([-3.0, -1.0, 1.0, 1.0, 3.0]))
        if chance.random() < 0.002:
            server.abort()

    assert server.when(4000, each=live).keys() <= {"fine", "idle"}


def test_a_long_prompt_that_moves_only_the_kv_cache_is_progress() -> None:
    server = busy(shows="posts files load")
    server.rate = 0.0
    server.run(10)
    server.rate, server.engines[ENGINE].deaf = 1 / 30, True

    def prefill(passed: float) -> None:
        server.engines[ENGINE].usage = 0.001 * passed
        server.engines[ENGINE].running = 1

    assert server.when(600, each=prefill).keys() == {"fine"}


def test_a_slow_stream_is_progress() -> None:
    server = busy(shows="posts files load")
    server.rate = 0.0
    backend = server.engines[ENGINE]
    backend.deaf, backend.running = True, 1

    def token(passed: float) -> None:
        backend.tokens += passed % 40 == 0

    assert server.when(900, each=token).keys() == {"fine"}


def test_a_sleeping_engine_does_not_stall() -> None:
    server = busy(shows="posts files load", patience=60.0)
    server.engines[ENGINE].deaf = True
    asleep(server.engines[ENGINE])
    assert server.when(600).keys() == {"fine"}
    assert sleeping(server.view()) == 1.0


@pytest.mark.parametrize(("hold", "release"), [("/pause", "/resume"), ("/sleep", "/wake_up")])
def test_an_engine_that_was_told_to_pause_does_not_stall_until_it_is_told_to_go_on(hold: str, release: str) -> None:
    server = busy(shows="posts files load", seconds=10.0)
    server.engines[ENGINE].hung = True
    server.http[("http_requests_total", hold, "POST", "2xx")] = 1.0
    assert server.when(600).keys() == {"fine"}
    server.http[("http_requests_total", release, "POST", "2xx")] = 1.0
    server.second()
    assert server.says() == "stalled"


def test_an_engine_that_vllm_calls_unhealthy_is_stalled_at_once() -> None:
    server = busy()
    server.engines[ENGINE].more["engine_healthy"] = 1.0
    assert server.when(10).keys() == {"fine"}
    server.engines[ENGINE].more["engine_healthy"] = 0.0
    assert server.when(1) == {"stalled": 1.0}
    assert corroborated(server) == {"engine_unhealthy"}


def test_an_open_session_that_is_silent_is_no_stall_by_itself() -> None:
    server = busy(shows="posts")
    server.rate = 0.0
    server.run(10)
    backend = server.engines[ENGINE]
    backend.waiting = backend.more[("requests_waiting", "deferred")] = 1
    server.second()
    backend.tokens += 1
    assert server.when(300).keys() == {"fine", "stale"}


def test_requests_whose_clients_give_up_with_status_200_are_failures() -> None:
    server = busy(patience=20.0)
    assert error_ratio(server.view().server) == 0.0
    server.engines[ENGINE].deaf = True
    server.run(60)
    ratio = error_ratio(server.view().server)
    assert ratio is not None
    assert 0.9 <= ratio < 1.0
    server.run(60)
    assert error_ratio(server.view().server) == 1.0
    server.engines[ENGINE].deaf = False
    server.run(65)
    assert error_ratio(server.view().server) == 0.0


@pytest.mark.parametrize("shows", ["posts files", "posts", "posts load"])
def test_gauges_that_froze_before_the_sidecar_started_are_not_a_stall(shows: str) -> None:
    """A sidecar that restarts next to an idle server does not know whether the clients of its gauges have left."""
    server = busy(shows=shows)
    server.abort()
    server.run(60)
    server.windows = WindowStore(60.0, 300.0)
    found = server.when(400)
    assert found.keys() == {"fine", "stale"}
    assert 120.0 <= found["stale"] <= PAGE


@pytest.mark.parametrize(("shows", "end"), [("posts", "stale"), ("posts load", "stalled")])
def test_a_hang_that_began_before_the_sidecar_started_is_seen(shows: str, end: str) -> None:
    """It is called a stall where something else than the gauges shows that clients wait."""
    server = busy(shows=shows, rate=0.5)
    server.engines[ENGINE].hung = True
    server.run(60)
    server.windows = WindowStore(60.0, 300.0)
    assert 120.0 <= server.when(200)[end] <= PAGE
    assert server.says() == end


def test_work_that_arrives_after_the_first_poll_is_not_old() -> None:
    server = busy()
    server.abort()
    server.engines[ENGINE].running = 0.0
    server.windows = WindowStore(60.0, 300.0)
    server.run(30)
    server.rate = 1.0
    server.run(5)
    server.engines[ENGINE].hung = True
    assert 120.0 <= server.when(200)["stalled"] <= PAGE
