"""A running sidecar, polled at its own endpoint -> an observation of one of its servers."""

from __future__ import annotations

from typing import TYPE_CHECKING

from vllm_sidecar.catalog.reasons import PollError
from vllm_sidecar.logs import UserError
from vllm_sidecar.tools.compare.facts import SLOTS, exported_facts, facts_of, kv_cache_fact
from vllm_sidecar.tools.compare.measures import READ
from vllm_sidecar.tools.compare.observation import SIDECAR, Growth, Observation, bounds_of, values_of
from vllm_sidecar.tools.exported.series import Sample, by_target, metrics, readings_of
from vllm_sidecar.tools.exported.sidecar import polls, required_status
from vllm_sidecar.tools.targets import names
from vllm_sidecar.vllm.client import Client

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Callable, Mapping
    from typing import Any

    from vllm_sidecar.config import Config

_METRICS = metrics(READ)


async def watch_sidecar(
    config: Config, target: str, seconds: float, stop: asyncio.Event, show: Callable[[str], None]
) -> Observation:
    """Poll the metrics of a sidecar for so many seconds, or until `stop`; `target` names one of several servers.

    Raises:
        UserError: It cannot be reached, is not a sidecar, or watches other servers.
    """
    (name,) = names([str(config.vllm.url)])
    async with Client(config.vllm, config.scrape) as client:
        status = _status_of(await required_status(client, name, SIDECAR), name, target)
        shown = f"{name}#{target}" if target else name
        observation = Observation(shown, f"sidecar {shown}", facts=_facts(status))
        if not status.get("up"):
            error = status.get("last_error") or {}
            observation.notes.append(f"{shown}: its server does not answer: {error.get('reason')}: {error.get('hint')}")
        failed, growth = "", Growth()
        async for at, exported in polls(client, seconds, stop, show):
            if isinstance(exported, PollError):
                failed = exported.detail
                continue
            readings = readings_of(by_target(exported, _METRICS).get(status["target"] or "", ()))
            observation.facts |= kv_cache_fact(readings)
            values = values_of(readings)
            observation.bounds = bounds_of(values) or observation.bounds
            interval = growth.take(at, values)
            if interval is not None:
                observation.intervals.append(interval)
        if failed:
            observation.notes.append(f"{shown}: polls failed: {failed}")
    return observation


def _facts(status: Mapping[str, Any]) -> dict[str, str]:
    slots = ((status.get("signals") or {}).get(SLOTS) or {}).get("series") or ()
    exported: list[Sample] = [(SLOTS, {}, each["value"]) for each in slots if each.get("value") is not None]
    return exported_facts(exported) | facts_of(status.get("identity") or {})


def _status_of(found: Mapping[str, Any], name: str, target: str) -> Mapping[str, Any]:
    """Return the part of a status about one server, which needs no name if there is only one."""
    targets: dict[str, Mapping[str, Any]] = {each["target"] or "": each for each in found["targets"]}
    if target and target not in targets:
        raise UserError(f"the sidecar at {name} has no server {target!r}; it has: {', '.join(targets) or 'none'}")
    if not target and len(targets) != 1:
        ways = f"name one as in {SIDECAR}http://{name}#{next(iter(targets))}" if targets else "it watches none"
        raise UserError(f"the sidecar at {name} has {len(targets)} servers ({', '.join(targets)}): {ways}")
    return targets[target] if target else next(iter(targets.values()))
