"""The past of a sidecar in Prometheus -> traffic. The API is also that of VictoriaMetrics, Thanos and Mimir."""

from __future__ import annotations

from collections import defaultdict
from itertools import pairwise
from statistics import median
from typing import TYPE_CHECKING

from vllm_sidecar.catalog.reasons import PollError, Reason
from vllm_sidecar.catalog.types import PREFIX
from vllm_sidecar.config import format_duration
from vllm_sidecar.logs import UserError
from vllm_sidecar.tools.prometheus_api import OtherProgramError, raw_samples
from vllm_sidecar.tools.shape.canonical import NAMES, OWN_LABELS, readings_of
from vllm_sidecar.tools.shape.traffic import LONGEST_GAP, PROMPTS, ServerFollower, Traffic
from vllm_sidecar.vllm.client import Client

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from vllm_sidecar.config import Config
    from vllm_sidecar.tools.prometheus_api import Series

    Sample = tuple[str, Mapping[str, str], float]
    Polls = dict[tuple[tuple[str, str], ...], dict[float, list[Sample]]]
    """Samples by the labels of their server and by time."""

MISSED = 4.0
"""Times the usual scrape interval without a scrape after which windows start again."""
_HINTS = {
    Reason.HTTP_404: "Is it the address of Prometheus, with the prefix of its path?",
    Reason.HTTP_4XX: "Prometheus refuses the query: check the matchers of --select, such as 'pod=\"vllm-0\"'.",
    Reason.TIMEOUT: "Take a longer --timeout, a shorter --window, or fewer sidecars with --select.",
    Reason.TOO_LARGE: "Take a shorter --window, or fewer sidecars with --select.",
}
"""Hints that differ from those for servers."""
REQUIRED = f"{PREFIX}{PROMPTS}_bucket"


async def prometheus(
    config: Config, select: str, end: float, window: float, timeout_seconds: float, show: Callable[[str], None]
) -> Traffic:
    """Return the traffic of the `window` seconds before a Unix time.

    Args:
        config: With the address of Prometheus as its server.
        select: Label matchers of the sidecars, such as `pod="vllm-0"`; empty for all.
        end: Unix time.
        window: Seconds.
        timeout_seconds: Of each request.
        show: Takes the text of the progress.

    Raises:
        UserError: It cannot be read, or has no series of a sidecar in this time.
    """
    url = config.vllm.url
    polls: Polls = defaultdict(lambda: defaultdict(list))
    async with Client(config.vllm, config.scrape) as client:
        for number, name in enumerate(NAMES):
            show(f"reading {name} ({number + 1} of {len(NAMES)})")
            for labels, samples in await _query(client, f"{name}{{{select}}}", end, window, timeout_seconds):
                server = tuple(sorted(item for item in labels.items() if item[0] not in OWN_LABELS))
                for at, value in samples:
                    polls[server][at].append((name, labels, value))
    polls = {server: found for server, found in polls.items() if _serves(found)}
    if not polls:
        where = f"{{{select}}}" if select else "any labels"
        raise UserError(
            f"{url}: no sample of {REQUIRED} with {where} in the {format_duration(round(window))} before "
            f"{end:.0f}. Check --at and --window against the retention, the matchers of --select, and that the sidecar "
            "is scraped"
        )
    return _traffic(f"{url.rpartition('@')[2]}", polls)


def _serves(found: Mapping[float, list[Sample]]) -> bool:
    return any(name == REQUIRED for samples in found.values() for name, _, _ in samples)


def _traffic(source: str, polls: Polls) -> Traffic:
    traffic = Traffic(source)
    first = min(min(found) for found in polls.values())
    last = max(max(found) for found in polls.values())
    steps = [later - at for found in polls.values() for at, later in pairwise(sorted(found))]
    usual = median(steps) if steps else 0.0
    gap = max(LONGEST_GAP, MISSED * usual)
    followers = {
        server: ServerFollower(traffic, number, longest_gap=gap) for number, server in enumerate(sorted(polls))
    }
    for at, server in sorted((at, server) for server, found in polls.items() for at in found):
        try:
            followers[server].take(at - first, readings_of(polls[server][at]))
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


async def _query(client: Client, selector: str, end: float, window: float, timeout_seconds: float) -> list[Series]:
    try:
        return await raw_samples(client, selector, window, end, timeout_seconds)
    except PollError as error:
        hint = _HINTS.get(error.reason, error.reason.hint)
        raise UserError(f"Prometheus cannot be read: {error.detail}. {hint}") from None
    except OtherProgramError:
        raise UserError("the address of --prometheus answers, but not as Prometheus does") from None
