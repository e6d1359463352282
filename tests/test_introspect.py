"""What the introspector asks, when, and what it makes of the answers."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from vllm_sidecar.introspect import Introspector
from vllm_sidecar.model import PollError, Reason, Response

if TYPE_CHECKING:
    from collections.abc import Sequence

VERSION, MODELS, INFO, LOAD = "/version", "/v1/models", "/server_info?config_format=json", "/load"
SERVER_INFO = (Path(__file__).parent / "captures/endpoints/0.32.0-server_info.json").read_bytes()
CACHE = {"block_size": "16", "cache_dtype": "fp8", "num_gpu_blocks": "8192"}
SECRET = "sk-Zq81-very-secret"


def models(length: int = 2048) -> bytes:
    card = f'{{"id":"tiny","object":"model","created":1795471651,"root":"/models/tiny","max_model_len":{length}}}'
    return f'{{"object":"list","data":[{card}]}}'.encode()


class FakeClient:
    """Answers from a table, in 0.25 s each, and notes what it was asked."""

    def __init__(self) -> None:
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
    ) -> Response:
        assert (accept, timeout) == ("application/json", 3.0)
        key = "?".join([path, *(f"{name}={value}" for name, value in query)])
        self.asked.append(key)
        answer = self.answers[key]
        if isinstance(answer, Reason):
            raise PollError(answer, f"no answer, and here is {SECRET}")
        return Response(answer, "application/json", 0.25, len(answer))


def introspector(client: FakeClient, args: Sequence[str] = (), proc_root: Path | None = None) -> Introspector:
    return Introspector(
        client,
        interval=60.0,
        timeout=3.0,
        args=args,
        proc=proc_root is not None,
        url="http://127.0.0.1:8000",
        unix_socket=None,
        wall=lambda: 1.7e9,
        proc_root=proc_root or Path("/nowhere"),
    )


async def walk(asking: Introspector, start: float, steps: int, *, asleep: bool = False) -> float:
    """Make steps one second apart and return the seconds that the server spent."""
    return sum([await asking.step(start + i, asleep=asleep) for i in range(steps)])


async def test_one_endpoint_a_step_in_order_and_then_nothing_until_the_interval_is_over() -> None:
    client = FakeClient()
    asking = introspector(client)
    assert await asking.step(100.0) == 0.25
    assert client.asked == [VERSION]
    await walk(asking, 101.0, 59)
    assert client.asked == [VERSION, MODELS, INFO, LOAD]
    assert await asking.step(159.9) == 0.0
    await walk(asking, 160.0, 10)
    assert client.asked[4:] == [VERSION, MODELS, LOAD]


async def test_the_identity_of_a_server_without_dev_mode() -> None:
    asking = introspector(FakeClient(), ["--gpu-memory-utilization=0.8", "-tp", "2"])
    asking.observe_cache_config(CACHE)
    await walk(asking, 0.0, 4)
    identity = asking.identity
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
    asking = introspector(client)
    await walk(asking, 0.0, 4)
    assert asking.identity.flags["generation_config"] == "auto"
    assert asking.identity.flag_sources["generation_config"] == "/server_info"
    assert asking.identity.source_errors == {}


@pytest.mark.parametrize("reason", [Reason.HTTP_401, Reason.HTTP_403, Reason.HTTP_404, Reason.HTTP_4XX])
async def test_an_endpoint_that_is_closed_is_asked_again_after_ten_intervals_only(reason: Reason) -> None:
    client = FakeClient()
    client.answers[MODELS] = reason
    asking = introspector(client)
    await walk(asking, 0.0, 600)
    assert client.asked.count(MODELS) == 1
    await walk(asking, 600.0, 10)
    assert client.asked.count(MODELS) == 2
    assert asking.identity.source_errors["/v1/models"] == reason.value
    assert asking.identity.fingerprint is not None


async def test_a_source_that_fails_for_a_while_keeps_what_it_told() -> None:
    client = FakeClient()
    asking = introspector(client)
    await walk(asking, 0.0, 4)
    known = asking.identity
    client.answers.update({VERSION: Reason.TIMEOUT, MODELS: b"<html>", LOAD: Reason.HTTP_5XX})
    await walk(asking, 60.0, 4)
    assert (asking.identity.version, asking.identity.models) == (known.version, known.models)
    assert asking.identity.fingerprint == known.fingerprint
    assert asking.identity.source_errors == {
        "/version": "timeout",
        "/v1/models": "bad_body",
        "/server_info": "http_404",
        "/load": "http_5xx",
    }


async def test_a_server_that_is_not_up_yet_is_asked_again_soon_and_has_no_fingerprint() -> None:
    client = FakeClient()
    answers = client.answers
    client.answers = dict.fromkeys(answers, Reason.REFUSED)
    asking = introspector(client)
    await walk(asking, 0.0, 6)
    assert client.asked == [VERSION, MODELS, INFO, LOAD]
    assert asking.identity.fingerprint is None
    client.answers = answers
    await walk(asking, 6.0, 4)
    assert asking.identity.version == "0.32.0"
    assert asking.identity.fingerprint is not None


async def test_an_endpoint_that_never_answers_does_not_hold_the_fingerprint_back() -> None:
    client = FakeClient()
    client.answers[INFO] = Reason.TIMEOUT
    asking = introspector(client)
    await walk(asking, 0.0, 4)
    assert asking.identity.fingerprint is not None


async def test_a_rollout_is_one_change_with_one_new_fingerprint() -> None:
    client = FakeClient()
    asking = introspector(client)
    asking.observe_cache_config(CACHE)
    await walk(asking, 0.0, 4)
    before = asking.identity
    client.answers.update({VERSION: b'{"version":"0.33.0"}', MODELS: models(4096)})
    asking.restart()
    asking.observe_cache_config({**CACHE, "block_size": "32"})
    seen = []
    for i in range(4):
        await asking.step(20.0 + i)
        seen.append((asking.identity.fingerprint == before.fingerprint, asking.identity.changes))
    assert seen == [(True, 0), (True, 0), (False, 1), (False, 1)]
    assert asking.identity.last_change == 1.7e9
    assert client.asked[4:] == [VERSION, MODELS, INFO, LOAD]


async def test_an_identical_restart_is_no_change_whatever_memory_was_free() -> None:
    asking = introspector(FakeClient())
    asking.observe_cache_config(CACHE)
    await walk(asking, 0.0, 4)
    before = asking.identity
    asking.restart()
    asking.observe_cache_config({**CACHE, "num_gpu_blocks": "8000"})
    await walk(asking, 20.0, 4)
    assert asking.identity == before


async def test_what_a_new_life_does_not_tell_any_more_is_forgotten() -> None:
    client = FakeClient()
    client.answers[INFO] = SERVER_INFO
    asking = introspector(client)
    asking.observe_cache_config(CACHE)
    await walk(asking, 0.0, 4)
    asking.restart()
    client.answers[INFO] = Reason.HTTP_404
    asking.observe_cache_config(None)
    await walk(asking, 20.0, 4)
    assert asking.identity.flags == {"model": "/models/tiny", "served_model_name": "tiny", "max_model_len": 2048}


async def test_a_poll_without_cache_config_forgets_nothing_in_the_same_life() -> None:
    asking = introspector(FakeClient())
    asking.observe_cache_config(CACHE)
    asking.observe_cache_config(None)
    assert asking.identity.flags == {"kv_cache_dtype": "fp8", "block_size": 16}
    known = asking.identity
    asking.observe_cache_config(dict(CACHE))
    assert asking.identity is known


async def test_a_sleeping_engine_is_only_asked_for_its_version() -> None:
    client = FakeClient()
    asking = introspector(client)
    await walk(asking, 0.0, 300, asleep=True)
    assert client.asked == [VERSION] * 5
    await walk(asking, 300.0, 4)
    assert client.asked[5:] == [MODELS, INFO, LOAD, VERSION]


async def test_requests_in_flight_are_shown_once_they_were_above_zero() -> None:
    client = FakeClient()
    asking = introspector(client)
    await walk(asking, 0.0, 4)
    assert asking.identity.requests_in_flight is None
    for at, body, shown in [(60.0, b'{"server_load":2}', 2.0), (120.0, b'{"server_load":0}', 0.0)]:
        client.answers[LOAD] = body
        await walk(asking, at, 4)
        assert asking.identity.requests_in_flight == shown
    client.answers[LOAD] = Reason.TIMEOUT
    await walk(asking, 180.0, 4)
    assert asking.identity.requests_in_flight is None
    asking.restart()
    client.answers[LOAD] = b'{"server_load":0}'
    await walk(asking, 190.0, 4)
    assert asking.identity.requests_in_flight is None


async def test_the_process_of_a_local_server_tells_its_command_line(tmp_path: Path) -> None:
    (tmp_path / "7").mkdir()
    command = tmp_path / "7" / "cmdline"
    command.write_bytes(f"vllm\0serve\0/models/tiny\0--api-key\0{SECRET}\0--max-num-seqs\x0016\0".encode())
    asking = introspector(FakeClient(), proc_root=tmp_path)
    await walk(asking, 0.0, 4)
    assert asking.identity.flags["max_num_seqs"] == 16
    assert asking.identity.flag_sources["max_num_seqs"] == "/proc"
    assert SECRET not in repr(asking.identity)
    command.unlink()
    await walk(asking, 60.0, 1)
    assert asking.identity.source_errors["/proc"] == "no_process"
    assert asking.identity.flags["max_num_seqs"] == 16
    asking.restart()
    await walk(asking, 70.0, 1)
    assert "max_num_seqs" not in asking.identity.flags


async def test_no_failure_carries_its_detail_into_the_identity() -> None:
    client = FakeClient()
    client.answers = dict.fromkeys(client.answers, Reason.HTTP_5XX)
    asking = introspector(client, ["m", "--api-key", SECRET])
    await walk(asking, 0.0, 8)
    assert SECRET not in repr(asking.identity)
    assert set(asking.identity.source_errors.values()) == {"http_5xx"}
