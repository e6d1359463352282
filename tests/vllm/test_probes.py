"""Which probes are sent, when, and what becomes of the answers."""

from __future__ import annotations

import asyncio
import itertools
import threading
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from places import CAPTURES

from vllm_sidecar.catalog.reasons import PollError, Reason
from vllm_sidecar.vllm.client import Response
from vllm_sidecar.vllm.probes import MAX_BODY, ProbeClient, Prober, Probing
from vllm_sidecar.vllm.probes.local_process import ProcessFinder

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

pytestmark = pytest.mark.io

VERSION, MODELS, INFO, LOAD = "/version", "/v1/models", "/server_info?config_format=json", "/load"
SERVER_INFO = (CAPTURES / "endpoints/0.32.0-server_info.json").read_bytes()
CACHE = {"block_size": "16", "cache_dtype": "fp8", "num_gpu_blocks": "8192"}
SECRET = "sk-Zq81-very-secret"


def models(length: int = 2048) -> bytes:
    card = f'{{"id":"tiny","object":"model","created":1795471651,"root":"/models/tiny","max_model_len":{length}}}'
    return f'{{"object":"list","data":[{card}]}}'.encode()


class FakeClient:
    """Answers from a table, in 0.25 s each unless `seconds` says another time, and notes what it was asked."""

    def __init__(self, timeout: float = 3.0) -> None:
        self.timeout = timeout
        self.seconds: dict[str, float] = {}
        self.meanwhile: Callable[[], None] | None = None
        self.answers: dict[str, bytes | Reason] = {
            VERSION: b'{"version":"0.32.0"}',
            MODELS: models(),
            INFO: Reason.HTTP_404,
            LOAD: b'{"server_load":0}',
        }
        self.asked: list[str] = []

    async def get(
        self,
        path: str,
        *,
        query: Sequence[tuple[str, str]] = (),
        accept: str = "",
        timeout: float = 0.0,  # noqa: ASYNC109
        max_size: int = 0,
    ) -> Response:
        assert (accept, timeout, max_size) == ("application/json", self.timeout, MAX_BODY)
        key = "?".join([path, *(f"{name}={value}" for name, value in query)])
        self.asked.append(key)
        answer = self.answers[key]
        if self.meanwhile:
            self.meanwhile()
        if isinstance(answer, Reason):
            raise PollError(answer, f"no answer, and here is {SECRET}")
        return Response(answer, "application/json", self.seconds.get(key, 0.25))


PROBING = Probing(
    interval=60.0,
    timeout=3.0,
    server_time_ratio=0.1,
    args=(),
    proc=False,
    url="http://127.0.0.1:8000",
    unix_socket=None,
)


def prober(
    client: ProbeClient, args: Sequence[str] = (), proc_root: Path | None = None, *, timeout: float = 3.0
) -> Prober:
    probing = replace(PROBING, timeout=timeout, args=args, proc=proc_root is not None)
    return Prober(client, probing, wall=lambda: 1.7e9, proc_root=proc_root or Path("/nowhere"))


async def walk(probing: Prober, start: float, steps: int, *, asleep: bool = False) -> int:
    """Make steps one second apart and return how many probes were sent."""
    return sum([await probing.step(start + i, asleep=asleep) for i in range(steps)])


async def test_one_endpoint_a_step_in_order_and_then_nothing_until_the_interval_is_over() -> None:
    client = FakeClient()
    probing = prober(client)
    assert await probing.step(100.0)
    assert client.asked == [VERSION]
    assert await walk(probing, 101.0, 3) == 3
    assert client.asked == [VERSION, MODELS, INFO, LOAD]
    assert await walk(probing, 104.0, 9) == 0
    client.asked.clear()
    await walk(probing, 113.0, 60)
    assert [path for path in client.asked if path != LOAD] == [VERSION, MODELS]


async def test_the_requests_in_flight_are_asked_for_more_often_than_what_hardly_changes() -> None:
    client = FakeClient()
    await walk(prober(client), 0.0, 600)
    assert {path: client.asked.count(path) for path in (VERSION, MODELS, INFO, LOAD)} == {
        VERSION: 10, MODELS: 10, INFO: 1, LOAD: 60,
    }  # fmt: skip


async def test_the_identity_of_a_server_without_dev_mode() -> None:
    probing = prober(FakeClient(), ["--gpu-memory-utilization=0.8", "-tp", "2"])
    probing.observe_cache_config(CACHE)
    await walk(probing, 0.0, 4)
    identity = probing.identity
    assert identity.version == "0.32.0"
    assert [model.id for model in identity.models] == ["tiny"]
    assert identity.flags == {
        "model": "/models/tiny",
        "served_model_name": "tiny",
        "max_model_len": 2048,
        "gpu_memory_utilization": 0.8,
        "tensor_parallel_size": 2,
        "kv_cache_dtype": "fp8",
        "block_size": 16,
    }
    assert identity.flag_sources["tensor_parallel_size"] == "vllm.args"
    assert identity.source_errors == {"/server_info": "http_404"}
    assert identity.changes == 0
    assert identity.fingerprint


async def test_dev_mode_tells_the_rest() -> None:
    client = FakeClient()
    client.answers[INFO] = SERVER_INFO
    probing = prober(client)
    await walk(probing, 0.0, 4)
    assert probing.identity.flags["generation_config"] == "auto"
    assert probing.identity.flag_sources["generation_config"] == "/server_info"
    assert probing.identity.source_errors == {}


@pytest.mark.parametrize("reason", [Reason.HTTP_401, Reason.HTTP_403, Reason.HTTP_404, Reason.HTTP_4XX])
async def test_an_endpoint_that_is_closed_is_asked_again_after_ten_intervals_only(reason: Reason) -> None:
    client = FakeClient()
    client.answers[MODELS] = reason
    probing = prober(client)
    await walk(probing, 0.0, 600)
    assert client.asked.count(MODELS) == 1
    await walk(probing, 600.0, 10)
    assert client.asked.count(MODELS) == 2
    assert probing.identity.source_errors["/v1/models"] == reason.value
    assert probing.identity.fingerprint is not None


async def test_a_source_that_fails_for_a_while_keeps_what_it_told() -> None:
    client = FakeClient()
    probing = prober(client)
    await walk(probing, 0.0, 4)
    known = probing.identity
    client.answers.update({VERSION: Reason.TIMEOUT, MODELS: b"<html>", LOAD: Reason.HTTP_5XX})
    await walk(probing, 60.0, 4)
    assert (probing.identity.version, probing.identity.models) == (known.version, known.models)
    assert probing.identity.fingerprint == known.fingerprint
    assert probing.identity.source_errors == {
        "/version": "timeout",
        "/v1/models": "bad_body",
        "/server_info": "http_404",
        "/load": "http_5xx",
    }


async def test_a_server_that_is_not_up_yet_is_asked_again_soon_and_has_no_fingerprint() -> None:
    client = FakeClient()
    answers = client.answers
    client.answers = dict.fromkeys(answers, Reason.REFUSED)
    probing = prober(client)
    await walk(probing, 0.0, 6)
    assert client.asked == [VERSION, MODELS, INFO, LOAD]
    assert probing.identity.fingerprint is None
    client.answers = answers
    await walk(probing, 6.0, 4)
    assert probing.identity.version == "0.32.0"
    assert probing.identity.fingerprint is not None


async def test_an_endpoint_that_never_answers_does_not_hold_the_fingerprint_back() -> None:
    client = FakeClient()
    client.answers[INFO] = Reason.TIMEOUT
    probing = prober(client)
    await walk(probing, 0.0, 4)
    assert probing.identity.fingerprint is not None


async def test_a_rollout_is_one_change_with_one_new_fingerprint() -> None:
    client = FakeClient()
    probing = prober(client)
    probing.observe_cache_config(CACHE)
    await walk(probing, 0.0, 4)
    before = probing.identity
    client.answers.update({VERSION: b'{"version":"0.33.0"}', MODELS: models(4096)})
    probing.restart()
    probing.observe_cache_config({**CACHE, "block_size": "32"})
    seen = []
    for i in range(4):
        await probing.step(20.0 + i)
        seen.append((probing.identity.fingerprint == before.fingerprint, probing.identity.changes))
    assert seen == [(True, 0), (True, 0), (False, 1), (False, 1)]
    assert probing.identity.last_change == 1.7e9
    assert client.asked[4:] == [VERSION, MODELS, INFO, LOAD]


async def test_an_identical_restart_is_no_change_whatever_memory_was_free() -> None:
    probing = prober(FakeClient())
    probing.observe_cache_config(CACHE)
    await walk(probing, 0.0, 4)
    before = probing.identity
    probing.restart()
    probing.observe_cache_config({**CACHE, "num_gpu_blocks": "8000"})
    await walk(probing, 20.0, 4)
    assert probing.identity == before


async def test_what_a_new_process_does_not_tell_any_more_is_forgotten() -> None:
    client = FakeClient()
    client.answers[INFO] = SERVER_INFO
    probing = prober(client)
    probing.observe_cache_config(CACHE)
    await walk(probing, 0.0, 4)
    probing.restart()
    client.answers[INFO] = Reason.HTTP_404
    probing.observe_cache_config(None)
    await walk(probing, 20.0, 4)
    assert probing.identity.flags == {"model": "/models/tiny", "served_model_name": "tiny", "max_model_len": 2048}


async def test_a_poll_without_cache_config_forgets_nothing_in_the_same_process() -> None:
    probing = prober(FakeClient())
    probing.observe_cache_config(CACHE)
    probing.observe_cache_config(None)
    assert probing.identity.flags == {"kv_cache_dtype": "fp8", "block_size": 16}
    known = probing.identity
    probing.observe_cache_config(dict(CACHE))
    assert probing.identity is known


async def test_a_sleeping_engine_is_only_asked_for_its_version() -> None:
    client = FakeClient()
    probing = prober(client)
    await walk(probing, 0.0, 300, asleep=True)
    assert client.asked == [VERSION] * 5
    await walk(probing, 300.0, 4)
    assert client.asked[5:] == [MODELS, INFO, LOAD, VERSION]


async def test_requests_in_flight_are_shown_once_they_were_above_zero() -> None:
    client = FakeClient()
    probing = prober(client)
    await walk(probing, 0.0, 4)
    assert probing.identity.requests_in_flight is None
    for at, body, shown in [(60.0, b'{"server_load":2}', 2.0), (120.0, b'{"server_load":0}', 0.0)]:
        client.answers[LOAD] = body
        await walk(probing, at, 4)
        assert probing.identity.requests_in_flight == shown
    client.answers[LOAD] = Reason.TIMEOUT
    await walk(probing, 180.0, 4)
    assert probing.identity.requests_in_flight is None
    probing.restart()
    client.answers[LOAD] = b'{"server_load":0}'
    await walk(probing, 190.0, 4)
    assert probing.identity.requests_in_flight is None


async def test_a_number_of_requests_in_flight_is_not_shown_when_it_is_old() -> None:
    client = FakeClient()
    client.answers[LOAD] = b'{"server_load":7}'
    probing = prober(client)
    await walk(probing, 0.0, 4)
    probing.expire(33.0)
    assert probing.identity.requests_in_flight == 7.0
    probing.expire(33.1)
    assert probing.identity.requests_in_flight is None


async def test_a_probe_that_times_out_is_sent_half_as_often_each_time_up_to_ten_minutes() -> None:
    client = FakeClient()
    client.answers[VERSION] = Reason.TIMEOUT
    probing = prober(client)
    sent = []
    for second in range(3600):
        before = client.asked.count(VERSION)
        await probing.step(float(second))
        if client.asked.count(VERSION) > before:
            sent.append(second)
    assert [b - a for a, b in itertools.pairwise(sent)] == pytest.approx([120, 240, 480, 600, 600, 600, 600], abs=2)
    assert probing.probes["/version"].failures == len(sent)
    assert client.asked.count(MODELS) == 60
    client.answers[VERSION] = b'{"version":"0.32.0"}'
    await walk(probing, 4300.0, 5)
    assert probing.probes["/version"].interval == 60.0


async def test_answers_that_take_long_make_their_own_probe_rarer_and_no_other() -> None:
    client = FakeClient()
    client.seconds[MODELS] = 5.0
    probing = prober(client)
    await walk(probing, 0.0, 600)
    assert (client.asked.count(VERSION), client.asked.count(MODELS)) == (10, 3)
    assert probing.probes["/v1/models"].interval == 200.0  # a quarter of the allowed tenth
    assert probing.probes["/v1/models"].server_time_ratio == 0.025


async def test_a_slow_answer_that_is_not_vllms_costs_as_much() -> None:
    client = FakeClient()
    client.seconds[LOAD], client.answers[LOAD] = 5.0, b"<html>"
    await walk(prober(client), 0.0, 600)
    assert client.asked.count(LOAD) == 3


async def test_what_each_probe_cost_and_how_it_went_is_known() -> None:
    client = FakeClient()
    probing = prober(client)
    await walk(probing, 0.0, 4)
    found = probing.probes
    assert set(found) == {VERSION, MODELS, "/server_info", LOAD}
    assert (found[VERSION].last_success, found[VERSION].seconds, found[VERSION].failures) == (1.7e9, 0.25, 0)
    assert (found["/server_info"].last_success, found["/server_info"].failures) == (None, 1)
    assert (found[LOAD].interval, found["/server_info"].interval) == (10.0, 600.0)
    probing.restart()
    assert probing.probes["/server_info"].failures == 1


async def test_an_answer_of_the_process_before_a_restart_is_not_one_of_the_process_after() -> None:
    client = FakeClient()
    probing = prober(client)
    await walk(probing, 0.0, 4)
    client.answers[VERSION] = b'{"version":"0.31.0"}'
    await walk(probing, 50.0, 2)
    client.meanwhile = probing.restart
    await probing.step(60.0)
    assert client.asked[-1] == VERSION
    assert probing.identity.version == "0.32.0"
    client.answers[VERSION], client.meanwhile = b'{"version":"0.33.0"}', None
    await walk(probing, 61.0, 4)
    assert (probing.identity.version, probing.identity.changes) == ("0.33.0", 1)


async def test_what_several_servers_said_in_turn_is_neither_known_nor_a_change() -> None:
    client = FakeClient()
    probing = prober(client, ["--max-num-seqs", "16"])
    probing.observe_cache_config(CACHE)
    await walk(probing, 0.0, 4)
    probing.start_over()
    assert (probing.identity.version, probing.identity.models, probing.identity.fingerprint) == (None, (), None)
    assert probing.identity.flags == {"max_num_seqs": 16}
    client.answers.update({VERSION: b'{"version":"0.33.0"}', MODELS: models(4096)})
    await walk(probing, 100.0, 4)
    assert (probing.identity.version, probing.identity.changes) == ("0.33.0", 0)
    assert probing.identity.fingerprint is not None


async def test_endpoints_that_all_hang_do_not_hold_the_fingerprint_of_the_known_flags_back() -> None:
    client = FakeClient()
    client.answers = dict.fromkeys(client.answers, Reason.TIMEOUT)
    probing = prober(client, ["--max-num-seqs", "16"])
    await walk(probing, 0.0, 10)
    assert probing.identity.fingerprint is None
    await walk(probing, 10.0, 130)
    assert probing.identity.fingerprint is not None


async def test_a_search_of_proc_that_hangs_holds_no_other_probe_up(monkeypatch: pytest.MonkeyPatch) -> None:
    hangs, searches = threading.Event(), []

    def find(_: ProcessFinder) -> None:
        searches.append(threading.current_thread())
        hangs.wait(10.0)

    monkeypatch.setattr(ProcessFinder, "find", find)
    client = FakeClient(timeout=0.05)
    probing = prober(client, proc_root=Path("/nowhere"), timeout=0.05)
    await walk(probing, 0.0, 400)
    assert probing.identity.source_errors["/proc"] == "timeout"
    assert client.asked[:4] == [VERSION, MODELS, INFO, LOAD]
    assert [search.daemon for search in searches] == [True]
    hangs.set()
    while probing._search is not None and not probing._search.done():  # noqa: ASYNC110 - a thread ends without telling
        await asyncio.sleep(0)
    await walk(probing, 2000.0, 5)
    assert (len(searches), probing.identity.source_errors["/proc"]) == (2, "no_process")


async def test_the_process_of_a_local_server_tells_its_command_line(tmp_path: Path) -> None:
    (tmp_path / "7").mkdir()
    command = tmp_path / "7" / "cmdline"
    command.write_bytes(f"vllm\0serve\0/models/tiny\0--api-key\0{SECRET}\0--max-num-seqs\x0016\0".encode())
    probing = prober(FakeClient(), proc_root=tmp_path)
    await walk(probing, 0.0, 4)
    assert probing.identity.flags["max_num_seqs"] == 16
    assert probing.identity.flag_sources["max_num_seqs"] == "/proc"
    assert SECRET not in repr(probing.identity)
    assert probing.server_pid == 7
    command.unlink()
    await walk(probing, 60.0, 5)
    assert probing.identity.source_errors["/proc"] == "no_process"
    assert probing.identity.flags["max_num_seqs"] == 16
    assert probing.server_pid is None
    probing.restart()
    await walk(probing, 70.0, 1)
    assert "max_num_seqs" not in probing.identity.flags


async def test_no_failure_carries_its_detail_into_the_identity() -> None:
    client = FakeClient()
    client.answers = dict.fromkeys(client.answers, Reason.HTTP_5XX)
    probing = prober(client, ["m", "--api-key", SECRET])
    await walk(probing, 0.0, 8)
    assert SECRET not in repr(probing.identity)
    assert set(probing.identity.source_errors.values()) == {"http_5xx"}


async def test_changed_settings_leave_what_is_known() -> None:
    client, other = FakeClient(), FakeClient(timeout=1.0)
    probing = prober(client, ["--max-num-seqs", "8"])
    await walk(probing, 0.0, 4)
    before = probing.identity
    probing.use(other, replace(PROBING, timeout=1.0, args=["--max-num-seqs", "16"]))
    assert (probing.identity.version, probing.identity.models) == (before.version, before.models)
    assert probing.identity.flags["max_num_seqs"] == 16
    assert probing.probes[INFO.partition("?")[0]].failures == 1
    await walk(probing, 4.0, 60)
    assert VERSION in other.asked
    probing.use(other, replace(PROBING, timeout=1.0, interval=30.0))
    assert "max_num_seqs" not in probing.identity.flags
    assert probing.identity.version == before.version
    assert probing.probes[VERSION].interval == 30.0
