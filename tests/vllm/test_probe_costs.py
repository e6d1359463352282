"""How often a probe is sent: less often when it times out, takes long, or is refused."""

from __future__ import annotations

import asyncio
import itertools
import threading
from pathlib import Path

import pytest
from probed_server import INFO, LOAD, MODELS, VERSION, FakeClient, prober, walk

from vllm_sidecar.catalog.reasons import Reason
from vllm_sidecar.vllm.probes.local_process import ProcessFinder

pytestmark = pytest.mark.io


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
