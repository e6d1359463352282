"""Which probes are sent, when, and what becomes of the answers."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import pytest
from places import CAPTURES
from probed_server import INFO, LOAD, MODELS, PROBING, SECRET, VERSION, FakeClient, models, prober, walk

from vllm_sidecar.catalog.reasons import Reason

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.io

SERVER_INFO = (CAPTURES / "endpoints/0.32.0-server_info.json").read_bytes()
CACHE = {"block_size": "16", "cache_dtype": "fp8", "num_gpu_blocks": "8192"}


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
