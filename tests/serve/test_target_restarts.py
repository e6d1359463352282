"""Restarts of a server, from socket to series."""

from __future__ import annotations

import re
from email.utils import formatdate

import pytest
from exported_samples import changed
from fake_vllm import FakeVllm
from places import CAPTURES
from running import WALL, config, run

pytestmark = pytest.mark.io

BODY = (CAPTURES / "0.32.0__baseline__load.prom").read_bytes()


def restarted(started: float) -> bytes:
    """The body of a new process, whose counters were created again, and have the same values."""
    body = changed(BODY, b"process_start_time", b"%f" % started)
    return re.sub(rb"(?m)^(vllm:\w+_created\{.*\}) .*$", rb"\g<1> %f" % (started + 0.5), body)


async def test_a_restart_begins_a_new_process_without_a_negative_or_spiked_rate() -> None:
    rate = 'recent_generation_tokens_per_second{model_name="tiny",engine="0"}'
    async with FakeVllm(BODY) as fake, run(config(fake.url)) as running:
        await running.poll()
        fake.body = changed(BODY, b"vllm:generation_tokens_total", b"4214.0")
        assert (await running.poll())[rate] == 10.0
        # The new process's counter is already higher than the old one's: only start and creation times tell.
        fake.body = changed(restarted(1.8e9), b"vllm:generation_tokens_total", b"90000.0")
        samples = await running.poll()
        assert samples["server_restarts_total"] == 1.0
        assert rate not in samples
        fake.body = changed(fake.body, b"vllm:generation_tokens_total", b"90020.0")
        assert (await running.poll())[rate] == 20.0


async def test_the_age_of_a_process_is_told_by_the_servers_own_clock() -> None:
    """The server is an hour behind the sidecar: only its Date header makes its new process young."""
    behind = WALL - 3600.0
    async with FakeVllm(changed(BODY, b"process_start_time", b"%d" % (behind - 900))) as fake:
        fake.headers["Date"] = formatdate(behind + 1.0, usegmt=True)
        async with run(config(fake.url)) as running:
            await running.poll()
            fake.headers["Date"] = formatdate(behind + 2.0, usegmt=True)
            fake.body = restarted(behind + 1.0)
            assert (await running.poll())["server_restarts_total"] == 1.0


async def test_after_a_restart_the_server_is_asked_who_it_is_again() -> None:
    async with FakeVllm(BODY) as fake, run(config(fake.url)) as running:
        for _ in range(5):
            await running.poll()
        fake.requests.clear()
        fake.body = restarted(1.8e9)
        for _ in range(4):
            await running.poll()
        asked = [request.path for request in fake.requests if request.path != "/metrics"]
        assert asked[:3] == ["/version", "/v1/models", "/server_info?config_format=json"]
