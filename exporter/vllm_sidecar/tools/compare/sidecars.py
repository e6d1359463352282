"""A running sidecar, polled at its own endpoint -> an observation of one of its servers."""

from __future__ import annotations

import asyncio
import contextlib
import json
import time
from typing import TYPE_CHECKING

from vllm_sidecar.catalog.reasons import PollError
from vllm_sidecar.config import format_duration
from vllm_sidecar.exposition import DifferentialParser
from vllm_sidecar.logs import UserError
from vllm_sidecar.tools.compare.exported import canonical, values_from
from vllm_sidecar.tools.compare.facts import facts_of
from vllm_sidecar.tools.compare.observation import Growth, Observation, bounds_of
from vllm_sidecar.tools.targets import names
from vllm_sidecar.vllm.client import Client

if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from vllm_sidecar.config import Config
    from vllm_sidecar.tools.compare.exported import Sample

TICK = 1.0


async def watch_sidecar(
    config: Config, target: str, seconds: float, stop: asyncio.Event, show: Callable[[str], None]
) -> Observation:
    """Poll the metrics of a sidecar for so many seconds, or until `stop`; `target` names one of several servers.

    Raises:
        UserError: It cannot be reached, is not a sidecar, or watches other servers.
    """
    (name,) = names([str(config.vllm.url)])
    async with Client(config.vllm, config.scrape) as client:
        status = await _status(client, name, target)
        shown = f"{name}#{target}" if target else name
        observation = Observation(shown, f"sidecar {shown}", facts=facts_of(status.get("identity") or {}))
        if not status.get("up"):
            error = status.get("last_error") or {}
            observation.notes.append(f"{shown}: its server does not answer: {error.get('reason')}: {error.get('hint')}")
        await _poll(client, target, observation, seconds, stop, show)
    return observation


async def _status(client: Client, name: str, target: str) -> dict[str, Any]:
    try:
        answer = await client.get("/api/v1/status", accept="application/json")
        targets: dict[str, dict[str, Any]] = {each["target"] or "": each for each in json.loads(answer.body)["targets"]}
    except PollError as error:
        raise UserError(f"no status of a sidecar: {error.detail}") from None
    except (ValueError, KeyError, TypeError):
        raise UserError(f"{name} answers, but it is not a sidecar; without sidecar+ its metrics are read") from None
    if target and target not in targets:
        raise UserError(f"the sidecar at {name} has no server {target!r}; it has: {', '.join(targets) or 'none'}")
    if not target and len(targets) != 1:
        ways = f"name one as in sidecar+http://{name}#{next(iter(targets))}" if targets else "it watches none"
        raise UserError(f"the sidecar at {name} has {len(targets)} servers ({', '.join(targets)}): {ways}")
    return targets[target] if target else next(iter(targets.values()))


async def _poll(
    client: Client,
    target: str,
    observation: Observation,
    seconds: float,
    stop: asyncio.Event,
    show: Callable[[str], None],
) -> None:
    parser, growth = DifferentialParser(), Growth()
    began = time.monotonic()
    failed = ""
    while not stop.is_set() and (left := seconds - (time.monotonic() - began)) > 0.0:
        show(f"observing for {format_duration(round(left) or 1)} more; Ctrl-C shows what is known")
        try:
            answer = await client.get("/metrics")
            exposition = parser.parse(answer.body, answer.content_type)
        except PollError as error:
            failed = error.detail
        else:
            values = values_from(_samples(exposition.layout.series, exposition.values, target))
            observation.bounds = bounds_of(values) or observation.bounds
            interval = growth.take(time.monotonic(), values)
            if interval is not None:
                observation.intervals.append(interval)
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(stop.wait(), min(TICK, left))
    if failed:
        observation.notes.append(f"{observation.name}: polls failed: {failed}")


def _samples(series: Any, values: Any, target: str) -> list[Sample]:
    return [
        (name, labels, value)
        for each, value in zip(series, values, strict=True)
        if (name := canonical(each.name)) is not None and (labels := dict(each.labels)).get("target", target) == target
    ]
