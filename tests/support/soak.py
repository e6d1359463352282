"""Days of the loops of several targets on a clock that jumps, while engines, adapters, routes and targets come and go.

What comes is always new: engines, adapters and routes get names that never were before, servers restart, and pods are
replaced. Every `PERIOD` the same number of each exists, so whatever grows from one period to the next is kept for
something that is gone.
"""

from __future__ import annotations

import asyncio
import gc
import logging
import os
import tracemalloc
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, ClassVar

import psutil
import virtual_time

from vllm_sidecar.catalog.reasons import PollError, Reason
from vllm_sidecar.config import Config
from vllm_sidecar.logs import LogfmtFormatter
from vllm_sidecar.serve.metrics import Exporter
from vllm_sidecar.serve.status import status
from vllm_sidecar.serve.target import TargetLoop
from vllm_sidecar.serve.watched_targets import WatchedTargets
from vllm_sidecar.vllm.client import Client, Response

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator, Mapping

    from vllm_sidecar.config import Target
    from vllm_sidecar.vllm.validity import Validity

PERIOD = 600.0
"""Seconds after which new engines, adapters, routes and pods have replaced the ones before."""
LIFETIME = 1800.0
"""Seconds after which a server restarts."""
SCRAPE = 30.0
EPOCH = 1_800_000_000.0
BOUNDS = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 20.0, 40.0)
HISTOGRAMS = {
    "time_to_first_token_seconds": 0.2,
    "inter_token_latency_seconds": 0.03,
    "request_time_per_output_token_seconds": 0.03,
    "e2e_request_latency_seconds": 4.0,
    "request_queue_time_seconds": 0.02,
    "request_prefill_time_seconds": 0.1,
    "request_decode_time_seconds": 3.0,
}
COUNTERS = {"prompt_tokens": 900.0, "generation_tokens": 300.0, "prefix_cache_queries": 900.0, "prefix_cache_hits": 400}
OTHERS = {
    "/version": b'{"version":"0.32.0"}',
    "/v1/models": b'{"object":"list","data":[{"id":"m","root":"/models/m"}]}',
    "/load": b'{"server_load":0}',
    "/health": b"",
}


class SoakServer(Client):
    """Stands for the HTTP client of a target: a server that is never the same for long."""

    certificates: ClassVar[Mapping[str, Validity]] = {}

    def __init__(self, number: int) -> None:
        self._number = number

    async def __aenter__(self) -> SoakServer:
        return self

    async def __aexit__(self, *error: object) -> None:
        """Close nothing."""

    async def get(self, path: str, **_: object) -> Response:
        now = virtual_time.now() - virtual_time.START + 37.0 * self._number
        await asyncio.sleep(0.004)
        if 450.0 <= now % PERIOD < 470.0:
            raise PollError(Reason.REFUSED, "refused")
        if path == "/metrics":
            return Response("".join(self._body(now)).encode(), "text/plain", 0.004)
        if path not in OTHERS:
            raise PollError(Reason.HTTP_404, "status 404")
        return Response(OTHERS[path], "application/json", 0.001)

    def _body(self, now: float) -> Iterator[str]:
        period, age = int(now // PERIOD), now % LIFETIME
        engines = ["0", "1", *([f"guest-{period}"] if 100.0 <= now % PERIOD < 400.0 else [])]
        yield f"process_start_time_seconds {EPOCH + now - age!r}\n"
        for engine in engines:
            labels = f'engine="{engine}",model_name="m"'
            for name, kind in (
                ("num_requests_running", 4.0),
                ("num_requests_waiting", 1.0),
                ("kv_cache_usage_perc", 0.4),
            ):
                yield f"# TYPE vllm:{name} gauge\nvllm:{name}{{{labels}}} {kind + int(now) % 3 / 10!r}\n"
            for name, rate in COUNTERS.items():
                yield f"# TYPE vllm:{name}_total counter\nvllm:{name}_total{{{labels}}} {int(age * rate)}.0\n"
            yield f'vllm:request_success_total{{{labels},finished_reason="stop"}} {int(3 * age)}.0\n'
            for name, mean in HISTOGRAMS.items():
                yield from _histogram(name, labels, int(3 * age), mean)
        for route in range(20):
            labels = f'handler="/v1/x{period}/{route}",method="POST",status="2xx"'
            yield f"http_requests_total{{{labels}}} {int(age)}.0\n"
        adapters = ",".join(f"adapter-{period}-{n}" for n in range(8))
        lists = f'running_lora_adapters="{adapters}",waiting_lora_adapters=""'
        yield f'vllm:lora_requests_info{{max_lora="8",{lists}}} {now}\n'


def _histogram(name: str, labels: str, count: int, mean: float) -> Iterator[str]:
    yield f"# TYPE vllm:{name} histogram\n"
    for bound in BOUNDS:
        below = int(count * bound / (bound + mean))
        yield f'vllm:{name}_bucket{{{labels},le="{bound}"}} {below}.0\n'
    yield f'vllm:{name}_bucket{{{labels},le="+Inf"}} {count}.0\n'
    yield f"vllm:{name}_count{{{labels}}} {count}.0\nvllm:{name}_sum{{{labels}}} {count * mean!r}\n"


@dataclass(frozen=True)
class Checkpoint:
    """What the process held at the end of some periods."""

    seconds: float
    """Simulated seconds since the start."""
    traced: int
    """Bytes that Python allocated since tracemalloc started; 0 without it."""
    resident: int
    tasks: int
    files: int
    log_bytes: int
    """Bytes logged since the last checkpoint."""
    series: int
    """Series of a scrape."""


class _Counting(logging.Handler):
    """Counts what would be written."""

    written = 0

    def emit(self, record: logging.LogRecord) -> None:
        self.written += len(self.format(record)) + 1


async def soak(every: int, interval: str = "1s") -> AsyncIterator[Checkpoint]:
    """Run forever; yield a checkpoint at the end of so many periods. To be run in `virtual_time`."""
    config = Config.model_validate({
        "targets": [{"name": name, "url": f"http://127.0.0.1:{port}"} for port, name in enumerate(("a", "b"), 1)],
        "introspection": {"proc": False}, "gpu": {"devices": "none"}, "scrape": {"interval": interval},
    })  # fmt: skip
    exporter, log = Exporter(config.windows.length), _Counting()
    log.setFormatter(LogfmtFormatter())
    logger = logging.getLogger("vllm_sidecar")
    before, logger.propagate = (logger.propagate, logger.level), False
    logger.setLevel(logging.INFO)
    logger.addHandler(log)
    clock = {"clock": virtual_time.now, "wall": lambda: EPOCH + virtual_time.now() - virtual_time.START}
    group = asyncio.TaskGroup()
    watched = WatchedTargets(group, exporter, lambda: None, partial(_loop, clock))
    await group.__aenter__()
    try:
        written = 0
        for period in range(10**9):
            await watched.use(_targets(config, period), config)
            for _ in range(int(PERIOD / SCRAPE)):
                await asyncio.sleep(SCRAPE)
                text = await _scrape(exporter)
            if (period + 1) % every == 0:
                gc.collect()
                yield _checkpoint((period + 1) * PERIOD, log.written - written, text)
                written = log.written
    finally:
        watched.cancel()
        await group.__aexit__(None, None, None)
        logger.removeHandler(log)
        logger.propagate = before[0]
        logger.setLevel(before[1])


def _loop(clock: dict[str, object], target: Target, config: Config, *rest: object, **more: object) -> TargetLoop:
    return TargetLoop(target, config, *rest, client=SoakServer(int(str(target.url)[-1])), **clock, **more)  # type: ignore[arg-type]


def _targets(config: Config, period: int) -> list[Target]:
    """The two targets that stay, with a label that changes, and a pod that is new in every period."""
    stay = [target.model_copy(update={"labels": {"rollout": f"r{period}"}}) for target in config.all_targets]
    return [*stay, stay[0].model_copy(update={"name": f"pod-{period}"})]


async def _scrape(exporter: Exporter) -> bytes:
    status(list((await exporter.prepare()).values()))
    return exporter.render(openmetrics=False)


def _checkpoint(seconds: float, logged: int, text: bytes) -> Checkpoint:
    traced = tracemalloc.get_traced_memory()[0] if tracemalloc.is_tracing() else 0
    resident = psutil.Process().memory_info().rss
    files, tasks = len(os.listdir("/proc/self/fd")), len(asyncio.all_tasks())  # noqa: PTH208 - no objects for paths
    series = sum(not line.startswith(b"#") for line in text.splitlines())
    return Checkpoint(seconds, traced, resident, tasks, files, logged, series)
