"""Bucket edges: where they come from, and what becomes of a threshold that is none."""

from __future__ import annotations

import asyncio
import json
import re
from typing import TYPE_CHECKING

import captured
import pytest
from fake_vllm import FakeVllm
from ports import free_port
from running import config, run

from vllm_sidecar import cli
from vllm_sidecar.catalog import SIGNALS
from vllm_sidecar.catalog.buckets import BUCKETS, FAMILY
from vllm_sidecar.catalog.objectives import SLOS
from vllm_sidecar.catalog.types import Kind, Scope
from vllm_sidecar.generate import bucket_bounds
from vllm_sidecar.generate.bucket_bounds import BucketBounds, LiveError, Replica, le_matcher, live, option, placed

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.io

TTFT = "time_to_first_token_seconds"
BODY = captured.text()


def replica(*edges: float, where: str = "a", model: str = "m") -> Replica:
    return Replica(where, model, TTFT, edges)


@pytest.mark.parametrize("name", [name for name in captured.TEXT_NAMES if name.startswith("0.32.0")])
def test_the_bounds_of_the_catalog_are_those_of_recorded_servers(name: str) -> None:
    found = {
        histogram: seen.bounds
        for group, reading in captured.read(captured.text(name)).groups.items()
        if group.scope is Scope.ENGINE
        for histogram, seen in reading.histograms.items()
        if histogram in FAMILY
    }
    assert found == {histogram: BUCKETS[FAMILY[histogram]] for histogram in found}
    assert len(found) in (0, len(FAMILY))


def test_every_default_threshold_is_a_bound_in_every_profile() -> None:
    for slo in SLOS:
        for threshold in slo.thresholds.values():
            assert slo.histogram
            assert SIGNALS[slo.histogram].kind is Kind.HISTOGRAM
            assert placed(slo.histogram, threshold, BucketBounds(), None, snap=False).mistake is None


@pytest.mark.parametrize(
    ("threshold", "matcher"),
    [
        (2.5, 'le="2.5"'),
        (0.1, 'le="0.1"'),
        (1.0, r'le=~"1(\\.0)?"'),
        (7680.0, r'le=~"7680(\\.0)?"'),
        (0.001, 'le="0.001"'),
    ],
)
def test_a_bound_is_matched_in_every_way_that_it_is_written(threshold: float, matcher: str) -> None:
    assert le_matcher(threshold) == matcher


@pytest.mark.parametrize("histogram", FAMILY)
async def test_the_sidecar_and_vllm_write_bounds_as_the_matcher_expects(histogram: str) -> None:
    async with FakeVllm(BODY.encode()) as fake, run(config(fake.url)) as running:
        await running.poll()
        text = running.exporter.render(openmetrics=False).decode()
    written = re.findall(rf'^vllm_sidecar_{histogram}_bucket{{.*le="([^"]+)"', text, re.MULTILINE)
    assert written
    for edge in written[:-1]:
        _, operator, pattern = re.split(r"(=~|=)", le_matcher(float(edge)))
        pattern = pattern.strip('"').replace("\\\\", "\\")
        assert edge == pattern if operator == "=" else re.fullmatch(pattern, edge)
    assert written[-1] == "+Inf"


def test_a_threshold_that_is_no_bound_is_refused_with_what_would_make_it_one() -> None:
    found = placed(TTFT, 2.0, BucketBounds(), None, snap=False)
    assert found.mistake is not None
    assert found.mistake.startswith(
        "2s is not a bucket bound of vLLM's defaults; nearest are 1s and 2s500ms, or snap: true uses 2s500ms, "
        "or source: sidecar estimates; to have it exactly (vLLM 0.32 or newer): --custom-histogram-buckets '{"
    )
    flag = re.search(r"--custom-histogram-buckets '(.*)'", found.mistake)
    assert flag
    written = json.loads(flag[1])
    assert written == {"time_to_first_token": sorted([*BUCKETS["time_to_first_token"], 2.0])}
    assert placed(TTFT, 2.0, BucketBounds(options=written), None, snap=False).mistake is None


def test_it_is_moved_to_the_nearest_bound_where_that_is_asked_for() -> None:
    found = placed(TTFT, 2.0, BucketBounds(), None, snap=True)
    assert (found.threshold, found.mistake) == (2.5, None)
    assert found.note is not None
    assert found.note.startswith(
        "2s is not a bucket bound of vLLM's defaults: 2s500ms is used instead; to have it exactly"
    )
    assert placed(TTFT, 0.0003, BucketBounds(), None, snap=True).threshold == 0.001
    assert placed(TTFT, 2.5, BucketBounds(), None, snap=True).note is None


def test_the_option_goes_on_from_the_bounds_that_there_are() -> None:
    assert option(TTFT, 2.0, (1.0, 3.0)) == """--custom-histogram-buckets '{"time_to_first_token":[1.0,2.0,3.0]}'"""
    assert "inter_token_latency" in option("time_per_output_token_seconds", 0.06, (0.05,))
    assert "request_latency" in option("request_seconds", 7.0, (5.0,))


def test_all_replicas_must_have_the_bound() -> None:
    edges = BucketBounds((replica(1.0, 2.0, 5.0), replica(1.0, 5.0, where="b")))
    found = placed(TTFT, 2.0, edges, None, snap=False)
    assert found.mistake is not None
    assert found.mistake.startswith("2s is not a bucket bound of b; nearest are 1s and 5s")
    assert placed(TTFT, 2.0, edges, None, snap=True).threshold == 1.0
    assert placed(TTFT, 5.0, edges, None, snap=False).mistake is None
    nothing = placed(TTFT, 2.0, BucketBounds((replica(1.0), replica(3.0, where="b"))), None, snap=True).mistake
    assert nothing is not None
    assert "no bound is in all" in nothing


def test_only_the_replicas_of_a_model_count_for_it() -> None:
    edges = BucketBounds((replica(2.0), replica(3.0, where="b", model="n")), {"time_to_first_token": (4.0,)})
    assert placed(TTFT, 2.0, edges, "m", snap=False).mistake is None
    assert placed(TTFT, 2.0, edges, "n", snap=False).mistake is not None
    assert placed(TTFT, 4.0, edges, "unseen", snap=False).mistake is None


async def test_a_live_vllm_tells_its_bounds() -> None:
    async with FakeVllm(BODY.replace('le="2.5"', 'le="2.0"').encode()) as fake:
        found = await asked(f"{fake.url}/metrics")
    assert placed(TTFT, 2.0, found, "tiny", snap=False).mistake is None
    assert placed(TTFT, 2.5, found, "tiny", snap=False).mistake is not None


async def test_an_address_without_a_path_means_its_metrics() -> None:
    async with FakeVllm(BODY.encode()) as fake:
        assert {each.histogram for each in (await asked(fake.url)).replicas} == set(FAMILY)
        assert [request.path for request in fake.requests] == ["/metrics"]


async def test_a_sidecar_tells_the_bounds_of_its_server() -> None:
    async with FakeVllm(BODY.encode()) as fake, run(config(fake.url)) as running:
        await running.poll()
        body = running.exporter.render(openmetrics=False)
        server = await asked(fake.url)
    async with FakeVllm(body) as sidecar:
        found = await asked(sidecar.url)
    assert {(one.model, one.histogram, one.bounds) for one in found.replicas} == {
        (one.model, one.histogram, one.bounds) for one in server.replicas
    }


async def test_a_server_that_does_not_answer_as_it_should_is_named() -> None:
    closed = f"http://127.0.0.1:{free_port()}"
    with pytest.raises(LiveError, match=rf"^--live {closed}/metrics: .*refused"):
        await asked(closed)
    async with FakeVllm(b"up 1\n") as fake:
        with pytest.raises(LiveError, match="has no histogram of latency"):
            await asked(fake.url)
        fake.status = 503
        with pytest.raises(LiveError, match="answers with HTTP 503"):
            await asked(fake.url)
        fake.status, fake.body = 200, b"<html>"
        with pytest.raises(LiveError, match="--live"):
            await asked(fake.url)


async def test_a_server_that_drips_its_answer_is_given_up_in_time(monkeypatch: pytest.MonkeyPatch) -> None:
    enough, gone = asyncio.Event(), asyncio.Event()

    async def drip(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 100000\r\n\r\n")
        while not enough.is_set():
            writer.write(b"a")
            await asyncio.sleep(0.02)
        writer.close()
        gone.set()

    monkeypatch.setattr(bucket_bounds, "TIMEOUT", 0.2)
    server = await asyncio.start_server(drip, "127.0.0.1", 0)
    address = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    with pytest.raises(LiveError, match=r"did not answer in full within 0\.2 s"):
        await asyncio.wait_for(asked(address), 10.0)
    enough.set()
    await asyncio.wait_for(gone.wait(), 10.0)
    server.close()
    await server.wait_closed()


@pytest.mark.parametrize("url", ["file:///etc/passwd", "host:8000", "http://"])
def test_only_http_is_asked(url: str) -> None:
    with pytest.raises(LiveError, match="must be the address of /metrics"):
        live([url])


async def asked(*urls: str) -> BucketBounds:
    """Ask from a thread, for the server that answers runs in this one."""
    return await asyncio.to_thread(live, urls)


async def test_the_command_asks_live_servers_and_says_what_it_took(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "mine.yaml"
    links = "{runbook_url: https://b, dashboard_url: https://g, slos: {%s}}\n"
    file.write_text(links % "time_to_first_token: {threshold: 2s}")
    arguments = ["generate", "rules", "--thresholds", str(file), "--out", str(tmp_path / "r")]
    assert await asyncio.to_thread(cli.main, arguments) == 1
    refused = capsys.readouterr().err
    assert refused.startswith(
        f"vllm-sidecar: {file}: line 1: slos.time_to_first_token.threshold: 2s is not a bucket bound of vLLM's"
    )
    assert not (tmp_path / "r").exists()

    async with FakeVllm(BODY.replace('le="2.5"', 'le="2.0"').encode()) as fake:
        assert await asyncio.to_thread(cli.main, [*arguments, "--live", fake.url]) == 0
        assert capsys.readouterr().err == ""
        written = (tmp_path / "r" / "vllm-sidecar-slo.rules.yml").read_text()
        assert r'le=~"2(\\.0)?"' in written

    async with FakeVllm(BODY.encode()) as fake:
        file.write_text(links % "snap: true, time_to_first_token: {threshold: 2s}")
        assert await asyncio.to_thread(cli.main, [*arguments, "--live", fake.url]) == 0
        note = capsys.readouterr().err
        assert note.startswith("vllm-sidecar: slos.time_to_first_token.threshold: 2s is not a bucket bound of http://")
        assert "2s500ms is used instead; to have it exactly" in note

    assert await asyncio.to_thread(cli.main, [*arguments, "--live", fake.url]) == 1
    assert re.fullmatch(r"vllm-sidecar: --live http://\S+/metrics: .*refused.*\n", capsys.readouterr().err)
