"""A running sidecar -> traffic, from its /metrics once a second."""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING

from vllm_sidecar.catalog.reasons import PollError
from vllm_sidecar.catalog.types import PREFIX
from vllm_sidecar.logs import UserError
from vllm_sidecar.redaction import public
from vllm_sidecar.tools.exported.series import by_target, metrics, readings_of
from vllm_sidecar.tools.exported.sidecar import polls
from vllm_sidecar.tools.observing import set_by_signals
from vllm_sidecar.tools.shape.traffic import LONGEST_GAP, READ, ServerFollower, Traffic
from vllm_sidecar.vllm.client import Client

if TYPE_CHECKING:
    from collections.abc import Callable

    from vllm_sidecar.config import Config
    from vllm_sidecar.exposition.layout import Exposition

_METRICS = metrics(READ)


async def sidecar(config: Config, seconds: float, show: Callable[[str], None]) -> Traffic:
    """Follow a sidecar for so many seconds, or until SIGINT.

    Raises:
        UserError: It cannot be reached at all, or is not a sidecar.
    """
    traffic, followers = Traffic(f"sidecar {public(config.vllm.url)}"), dict[str, ServerFollower]()
    stop, error = asyncio.Event(), ""
    traffic.started = time.time()
    with set_by_signals(stop):
        async with Client(config.vllm, config.scrape) as client:
            async for at, exported in polls(client, seconds, stop, show):
                if not isinstance(exported, PollError):
                    _take(traffic, followers, exported, at)
                    traffic.seconds = at
                elif traffic.polls:
                    error = exported.detail
                    traffic.failed += 1
                else:
                    raise UserError(f"no metrics of a sidecar: {exported.detail}; {exported.reason.hint}")
    if traffic.failed:
        traffic.notes.append(f"{traffic.failed} polls of the sidecar failed: {error}")
    return traffic


def _take(traffic: Traffic, followers: dict[str, ServerFollower], exported: Exposition, at: float) -> None:
    if not any(name.startswith(f"{PREFIX}build_info") for name, _ in exported.layout.series):
        raise UserError(f"{traffic.source} answers, but it is not a sidecar; without --from its metrics are read")
    for target, samples in by_target(exported, _METRICS).items():
        if target not in followers:
            followers[target] = ServerFollower(traffic, len(followers), longest_gap=LONGEST_GAP)
        followers[target].take(at, readings_of(samples))
