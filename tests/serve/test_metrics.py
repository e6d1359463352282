"""The bytes that scrapers get: shared until the next poll, with ages that are not, whatever the GPUs do."""

from __future__ import annotations

import gzip
import zlib
from typing import TYPE_CHECKING

import pytest
from fake_vllm import FakeVllm
from places import CAPTURES
from prometheus_client.openmetrics.parser import text_string_to_metric_families as parse_openmetrics
from running import config, run

from vllm_sidecar.series.health import Health
from vllm_sidecar.serve.metrics import Exporter

if TYPE_CHECKING:
    from vllm_sidecar.serve.metrics import Samples

pytestmark = pytest.mark.io

BODY = (CAPTURES / "0.32.0__baseline__load.prom").read_bytes()
AGE = 'last_success_age_seconds{source="vllm"}'


async def test_ages_grow_between_polls_by_the_monotonic_clock_alone() -> None:
    async with FakeVllm(BODY) as fake, run(config(fake.url)) as running:
        assert AGE not in running.samples()
        assert (await running.poll())[AGE] == 0.0
        running.clock[0] += 12.5
        assert running.samples()[AGE] == 12.5
        fake.status = 503
        for _ in range(4):
            await running.poll()
        samples = running.samples()
        assert (samples['up{source="vllm",model_name="tiny"}'], samples[AGE]) == (0.0, 16.5)
        fake.status = 200
        assert (await running.poll())[AGE] == 0.0


async def test_the_age_has_the_labels_of_its_target() -> None:
    async with FakeVllm(BODY) as fake, run(config(fake.url, vllm={"labels": {"team": "a"}})) as running:
        assert (await running.poll())['last_success_age_seconds{team="a",source="vllm"}'] == 0.0


async def test_only_the_ages_differ_between_two_scrapes_of_one_poll() -> None:
    async with FakeVllm(BODY) as fake, run(config(fake.url)) as running:
        await running.poll()
        one = running.exporter.render(openmetrics=False)
        running.clock[0] += 3.0
        other = running.exporter.render(openmetrics=False)
        assert len(one.splitlines()) == len(other.splitlines())
        ((before, after),) = ((a, b) for a, b in zip(one.splitlines(), other.splitlines(), strict=True) if a != b)
        assert before.startswith(b"vllm_sidecar_last_success_age_seconds")
        assert after == b'vllm_sidecar_last_success_age_seconds{source="vllm"} 3.0'


async def test_compressed_bodies_are_one_stream_with_the_ages_of_now() -> None:
    async with FakeVllm(BODY) as fake, run(config(fake.url)) as running:
        await running.poll()
        for openmetrics in (False, True):
            for _ in range(3):
                running.clock[0] += 1.0
                packed = running.exporter.render(openmetrics=openmetrics, compressed=True)
                plain = running.exporter.render(openmetrics=openmetrics)
                assert gzip.decompress(packed) == plain
                reader = zlib.decompressobj(16 + zlib.MAX_WBITS)
                assert (reader.decompress(packed), reader.eof, reader.unused_data) == (plain, True, b"")
                assert len(packed) < len(plain) / 4


async def test_openmetrics_ends_after_the_ages() -> None:
    async with FakeVllm(BODY) as fake, run(config(fake.url)) as running:
        await running.poll()
        text = running.exporter.render(openmetrics=True).decode()
        assert text.endswith('vllm_sidecar_last_success_age_seconds{source="vllm"} 0.0\n# EOF\n')
        assert "vllm_sidecar_last_success_age_seconds" in {family.name for family in parse_openmetrics(text)}


class Gpus:
    """GPUs whose series can fail to be made."""

    def __init__(self) -> None:
        self.health = Health("nvml")
        self.last_success_age: float | None = 4.0
        self.error: Exception | None = None

    def samples(self) -> Samples:
        if self.error is not None:
            raise self.error
        return {"gpu_devices": [("", 8.0)]}


def test_a_bug_in_the_gpu_part_costs_the_gpus_alone_and_is_counted() -> None:
    exporter, gpus = Exporter(60.0), Gpus()
    exporter.node = gpus
    assert b"\nvllm_sidecar_gpu_devices 8.0\n" in exporter.render(openmetrics=False)
    assert b'\nvllm_sidecar_internal_errors_total{part="gpu_series"} 0.0\n' in exporter.render(openmetrics=False)
    gpus.error = ZeroDivisionError("bug")
    exporter.changed()
    body = exporter.render(openmetrics=False)
    assert b"gpu_devices" not in body
    assert b'\nvllm_sidecar_internal_errors_total{part="gpu_series"} 1.0\n' in body
    assert b'\nvllm_sidecar_last_success_age_seconds{source="nvml"} 4.0\n' in body
    gpus.error = None
    exporter.changed()
    assert b"\nvllm_sidecar_gpu_devices 8.0\n" in exporter.render(openmetrics=False)


def test_a_bug_in_the_gpu_part_is_logged_once(caplog: pytest.LogCaptureFixture) -> None:
    exporter, gpus = Exporter(60.0), Gpus()
    exporter.node, gpus.error = gpus, ZeroDivisionError("bug")
    for _ in range(10):
        exporter.changed()
        exporter.render(openmetrics=False)
    assert [record.getMessage() for record in caplog.records] == ["internal_error"]
