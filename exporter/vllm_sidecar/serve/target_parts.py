"""Parts of one target's loop that depend on settings; a reload keeps the data of the previous part."""

from __future__ import annotations

from hashlib import blake2b
from typing import TYPE_CHECKING

from vllm_sidecar.catalog.derived import LATENCIES
from vllm_sidecar.catalog.reasons import PollError, Reason
from vllm_sidecar.catalog.types import Scope
from vllm_sidecar.catalog.upstream import ASLEEP
from vllm_sidecar.series.good_observations import Objective
from vllm_sidecar.series.slo_counters import SloCounters
from vllm_sidecar.serve.snapshot import MAX_MODELS
from vllm_sidecar.vllm.probes import Prober, Probing

if TYPE_CHECKING:
    from collections.abc import Callable

    from vllm_sidecar.config import Config, SloSettings, Target
    from vllm_sidecar.exposition.layout import Exposition
    from vllm_sidecar.series.readings import Readings
    from vllm_sidecar.vllm.client import Client
    from vllm_sidecar.vllm.probes.identity import ServerIdentity


HEALTH_TIMEOUT = 2.0
NO_METRICS = "no vLLM metric in the body"


def make_prober(
    known: Prober | None, target: Target, config: Config, client: Client, wall: Callable[[], float]
) -> Prober | None:
    """Return a prober with these settings, and with the data of the previous one; None if probes are disabled."""
    probes = config.introspection
    if not probes.enabled:
        return None
    probing = Probing(
        interval=probes.interval,
        timeout=probes.timeout,
        server_time_ratio=config.scrape.server_time_ratio,
        args=target.args,
        proc=probes.proc,
        url=str(target.url),
        unix_socket=target.unix_socket,
    )
    if known is None:
        return Prober(client, probing, wall=wall)
    known.use(client, probing)
    return known


def objectives(slos: SloSettings) -> list[Objective]:
    """Return the objectives of the configuration."""
    return [Objective(each.name, LATENCIES[each.latency], each.threshold, each.model) for each in slos.latencies]


def make_slo_counters(counted: SloCounters | None, slos: SloSettings) -> SloCounters | None:
    """Return the counters of these objectives, with their previous counts; None if they are disabled."""
    if not slos.enabled:
        return None
    found = objectives(slos)
    if counted is None:
        return SloCounters(found, availability=slos.availability)
    counted.use(found, availability=slos.availability)
    return counted


def check_usable(readings: Readings, exposition: Exposition, health_detail: str | None) -> None:
    """Check that a body is that of an engine; `health_detail` is the result of `why_no_metrics`, None if unknown.

    Raises:
        PollError: NOT_AN_ENGINE, NO_VLLM_METRICS or UNREADABLE.
    """
    if readings.not_an_engine:
        raise PollError(Reason.NOT_AN_ENGINE, f"the metrics are those of {readings.not_an_engine}")
    if not readings.dialect.prefix:
        raise PollError(Reason.NO_VLLM_METRICS, health_detail or NO_METRICS)
    if not readings.engines and exposition.rejected:
        first = exposition.rejected[0]
        raise PollError(Reason.UNREADABLE, f"no series of an engine could be read; line {first.line}: {first.why}")


async def why_no_metrics(client: Client) -> str:
    """Find out with `/health` why there are no metrics: a healthy server probably runs with them disabled."""
    try:
        await client.get("/health", timeout=HEALTH_TIMEOUT)
    except PollError as error:
        return f"{NO_METRICS}, and /health fails: {error.detail}"
    return f"{NO_METRICS} though /health is fine: is vLLM running with --disable-log-stats?"


def exceeded(readings: Readings, identity: ServerIdentity) -> list[str]:
    """Return the names of the limits that a server exceeds (see `catalog.limits`)."""
    models = ["models"] if len(identity.models) > MAX_MODELS else []
    return [*models, *(name for name, count in readings.limits.items() if count)]


def asleep(readings: Readings) -> bool:
    """Return whether an engine sleeps; only some probes may then be sent."""
    return any(
        reading.gauges.get(("engine_sleep_state", state), 0.0) > 0.0
        for group, reading in readings.groups.items()
        if group.scope is Scope.ENGINE
        for state in ASLEEP
    )


def poll_phase(name: str | None) -> float:
    """Return where in its interval a target is polled, from 0 to 1, so that the polls of many are spread; 0 for one."""
    return int.from_bytes(blake2b(name.encode(), digest_size=4).digest()) / 2**32 if name else 0.0
