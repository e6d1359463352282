"""Series that a sidecar exported, as commands read them."""

from __future__ import annotations

import asyncio

import pytest
from places import CAPTURES, GOLDEN

from vllm_sidecar.catalog.types import Scope
from vllm_sidecar.exposition import DifferentialParser
from vllm_sidecar.exposition.metric_values import Histogram
from vllm_sidecar.series.readings import TARGET, Group
from vllm_sidecar.tools.compare.facts import kv_cache_fact
from vllm_sidecar.tools.compare.measures import READ as COMPARED
from vllm_sidecar.tools.compare.observation import values_of
from vllm_sidecar.tools.exported.series import by_target, metrics, own_labels, readings_of
from vllm_sidecar.tools.observing import ticks
from vllm_sidecar.tools.shape.traffic import READ
from vllm_sidecar.vllm.normalize import Normalizer

ENGINE = Group(Scope.ENGINE, ("m", "0"))
LABELS = {"model_name": "m", "engine": "0"}


def test_series_are_read_under_their_names() -> None:
    readings = readings_of(
        [
            ("request_prompt_tokens_bucket", {**LABELS, "le": "+Inf"}, 3.0),
            ("request_prompt_tokens_bucket", {**LABELS, "le": "10.0"}, 1.0),
            ("request_prompt_tokens_sum", LABELS, 70.0),
            ("request_generation_tokens_bucket", {**LABELS, "le": "10.0"}, 1.0),
            ("requests_running", LABELS, 2.0),
            ("requests_waiting", {**LABELS, "reason": "capacity"}, 1.0),
            ("requests_waiting", {**LABELS, "reason": "deferred"}, 2.0),
            ("requests_finished_total", {**LABELS, "finished_reason": "stop"}, 3.0),
            ("lora_adapter_active", {"lora_adapter": "a", "state": "active"}, 1.0),
            ("config_block_size_tokens", {}, 128.0),
            ("of_another_release", {}, 1.0),
            ("server_info", {"version": "0.32.0"}, 1.0),
        ]
    )
    reading = readings.groups[ENGINE]
    assert reading.histograms == {"request_prompt_tokens": Histogram((10.0,), (1.0, 3.0), 70.0)}, (
        "without +Inf a count is unknown"
    )
    assert reading.gauges == {
        "requests_running": 2.0,
        ("requests_waiting", "capacity"): 1.0,
        ("requests_waiting", "deferred"): 2.0,
        "requests_waiting": 3.0,
    }
    assert reading.counters == {("requests_finished_total", "stop"): 3.0}
    assert readings.adapters is not None
    assert readings.adapters.running == ("a",)
    assert readings.cache_config == {TARGET: {"block_size": "128"}}
    assert set(readings.groups) == {ENGINE, TARGET}


@pytest.mark.parametrize("server", ["0.12.0__v1", "0.32.0__asc2", "0.32.0__lora", "0.32.0__preempt", "0.9.2__v0"])
def test_a_sidecar_exports_the_values_of_its_server(server: str) -> None:
    """What commands compare is the same, read from vLLM and from the sidecar that polled it."""
    capture = DifferentialParser().parse((CAPTURES / f"{server}__after.prom").read_bytes())
    of_server = values_of(Normalizer().normalize(capture))
    exported = DifferentialParser().parse((GOLDEN / f"{server}.prom").read_bytes())
    ((target, samples),) = by_target(exported, metrics(COMPARED)).items()
    assert target == ""
    assert of_server.histograms
    assert values_of(readings_of(samples)) == of_server
    assert kv_cache_fact(readings_of(samples)) == kv_cache_fact(Normalizer().normalize(capture)) != {}


def test_servers_are_told_apart_by_labels_that_the_sidecar_did_not_write() -> None:
    assert {"model_name", "engine", "finished_reason", "le", "lora_adapter"} <= own_labels(READ)
    assert not {"pod", "target", "instance", "version"} & own_labels(READ)


async def test_ticks_end_with_the_time_and_with_a_signal() -> None:
    stop, shown = asyncio.Event(), list[str]()
    whole = [at async for at in ticks(0.05, stop, shown.append)]
    assert len(whole) == 2
    assert whole[-1] >= 0.05
    assert shown == ["observing for 1s more; Ctrl-C shows what is known"]
    asyncio.get_running_loop().call_later(0.02, stop.set)
    cut = [at async for at in ticks(60.0, stop, shown.append)]
    assert len(cut) == 2
    assert cut[-1] < 1.0
