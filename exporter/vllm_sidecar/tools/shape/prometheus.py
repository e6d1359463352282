"""The past of a sidecar in Prometheus -> traffic. The API is also that of VictoriaMetrics, Thanos and Mimir."""

from __future__ import annotations

from itertools import pairwise
from statistics import median
from typing import TYPE_CHECKING

from vllm_sidecar.catalog.reasons import PollError
from vllm_sidecar.catalog.types import PREFIX
from vllm_sidecar.config import format_duration
from vllm_sidecar.logs import UserError
from vllm_sidecar.tools.exported.series import readings_of
from vllm_sidecar.tools.exported.stored import stored
from vllm_sidecar.tools.shape.traffic import LONGEST_GAP, PROMPTS, READ, ServerFollower, Traffic

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from vllm_sidecar.config import Config
    from vllm_sidecar.tools.exported.stored import Polls, Server

MISSED = 4.0
"""Times the usual scrape interval without a scrape after which windows start again."""
REQUIRED = f"{PROMPTS}_bucket"


async def prometheus(config: Config, select: str, end: float, window: float, show: Callable[[str], None]) -> Traffic:
    """Return the traffic of the `window` seconds before a Unix time.

    Args:
        config: With the address of Prometheus as its server.
        select: Label matchers of the sidecars, such as `pod="vllm-0"`; empty for all.
        end: Unix time.
        window: Seconds.
        show: Takes the text of the progress.

    Raises:
        UserError: It cannot be read, or has no series of a sidecar in this time.
    """
    url = config.vllm.url
    found = await stored(config, READ, select, end, window, "--select", show)
    servers = {server: polls for server, polls in found.items() if _serves(polls)}
    if not servers:
        where = f"{{{select}}}" if select else "any labels"
        raise UserError(
            f"{url}: no sample of {PREFIX}{REQUIRED} with {where} in the {format_duration(round(window))} before "
            f"{end:.0f}. Check --at and --window against the retention, the matchers of --select, and that the sidecar "
            "is scraped"
        )
    return traffic_of(f"{url.rpartition('@')[2]}", servers)


def _serves(polls: Polls) -> bool:
    return any(name == REQUIRED for samples in polls.values() for name, _, _ in samples)


def traffic_of(source: str, servers: Mapping[Server, Polls]) -> Traffic:
    """Return the traffic of all servers, on one clock."""
    traffic = Traffic(source)
    first = min(min(polls) for polls in servers.values())
    last = max(max(polls) for polls in servers.values())
    steps = [later - at for polls in servers.values() for at, later in pairwise(sorted(polls))]
    usual = median(steps) if steps else 0.0
    gap = max(LONGEST_GAP, MISSED * usual)
    followers = {
        server: ServerFollower(traffic, number, longest_gap=gap) for number, server in enumerate(sorted(servers))
    }
    for at, server in sorted((at, server) for server, polls in servers.items() for at in polls):
        try:
            followers[server].take(at - first, readings_of(servers[server][at]))
        except PollError as error:
            traffic.failed += 1
            traffic.notes.append(f"samples left out: {error.detail}")
    traffic.started, traffic.seconds = first, last - first
    traffic.notes.append(
        f"Prometheus scraped each {usual:.3g} s: arrivals within an interval are spread evenly, and shorter bursts "
        "are not seen"
    )
    traffic.notes = list(dict.fromkeys(traffic.notes))
    return traffic
