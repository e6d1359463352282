"""A running sidecar -> traffic, from its /metrics once a second."""

from __future__ import annotations

import asyncio
import contextlib
import signal
import time
from typing import TYPE_CHECKING

from vllm_sidecar.catalog.reasons import PollError
from vllm_sidecar.catalog.types import PREFIX
from vllm_sidecar.config import format_duration
from vllm_sidecar.exposition import DifferentialParser
from vllm_sidecar.logs import UserError
from vllm_sidecar.redaction import public
from vllm_sidecar.tools.shape.canonical import NAMES, readings_of
from vllm_sidecar.tools.shape.traffic import LONGEST_GAP, ServerFollower, Traffic
from vllm_sidecar.vllm.client import Client

if TYPE_CHECKING:
    from collections.abc import Callable

    from vllm_sidecar.config import Config
    from vllm_sidecar.exposition.layout import Exposition

TICK = 1.0
_NAMES = frozenset(NAMES)


async def sidecar(config: Config, seconds: float, timeout_seconds: float, show: Callable[[str], None]) -> Traffic:
    """Follow a sidecar for so many seconds, or until SIGINT.

    Raises:
        UserError: It cannot be reached at all, or is not a sidecar.
    """
    traffic, followers = Traffic(f"sidecar {public(config.vllm.url)}"), dict[str, ServerFollower]()
    parser, stop = DifferentialParser(), asyncio.Event()
    loop = asyncio.get_running_loop()
    loop.add_signal_handler(signal.SIGINT, stop.set)
    began, error = time.monotonic(), ""
    try:
        async with Client(config.vllm, config.scrape) as client:
            while not stop.is_set() and (at := time.monotonic() - began) <= seconds:
                try:
                    answer = await client.get("/metrics", timeout=timeout_seconds)
                    _take(traffic, followers, parser.parse(answer.body, answer.content_type), at)
                    traffic.seconds = at
                except PollError as failed:
                    error = failed.detail
                    traffic.failed += 1
                    if not traffic.polls:
                        raise UserError(f"no metrics of a sidecar: {error}") from None
                show(f"observing for {format_duration(round(seconds - at) or 1)} more; Ctrl-C uses what was seen")
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(stop.wait(), began + at + TICK - time.monotonic())
    finally:
        loop.remove_signal_handler(signal.SIGINT)
    traffic.started = time.time() - (time.monotonic() - began)
    if traffic.failed:
        traffic.notes.append(f"{traffic.failed} polls of the sidecar failed: {error}")
    return traffic


def _take(traffic: Traffic, followers: dict[str, ServerFollower], exposition: Exposition, at: float) -> None:
    series = exposition.layout.series
    if not any(each.name.startswith(f"{PREFIX}build_info") for each in series):
        raise UserError(f"{traffic.source} answers, but it is not a sidecar; without --from its metrics are read")
    by_target: dict[str, list[tuple[str, dict[str, str], float]]] = {}
    for each, value in zip(series, exposition.values, strict=True):
        if each.name in _NAMES:
            labels = dict(each.labels)
            by_target.setdefault(labels.get("target", ""), []).append((each.name, labels, value))
    for target, samples in by_target.items():
        if target not in followers:
            followers[target] = ServerFollower(traffic, len(followers), longest_gap=LONGEST_GAP)
        followers[target].take(at, readings_of(samples))
