"""Series of sidecars that Prometheus stored -> observations; any server with its HTTP API, such as VictoriaMetrics.

The raw samples of a window are read, not rates: every scrape is a poll, and increases and restarts are those of polls.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from vllm_sidecar.catalog.types import PREFIX
from vllm_sidecar.config import format_duration
from vllm_sidecar.logs import UserError
from vllm_sidecar.tools.compare.facts import EXPORTED, exported_facts, kv_cache_fact
from vllm_sidecar.tools.compare.measures import READ
from vllm_sidecar.tools.compare.observation import Growth, Observation, bounds_of, values_of
from vllm_sidecar.tools.exported.series import readings_of
from vllm_sidecar.tools.exported.stored import stored
from vllm_sidecar.tools.prometheus_api import unix_time

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from vllm_sidecar.config import Config
    from vllm_sidecar.tools.exported.series import Sample
    from vllm_sidecar.tools.exported.stored import Polls, Server

MOST_NAMED = 5
"""Servers that an error lists."""


@dataclass(frozen=True)
class Window:
    """A stretch of time of some servers: `seconds` until the Unix time `end`, of series with these matchers."""

    end: float
    seconds: float
    matchers: str

    @property
    def text(self) -> str:
        """Its time, and its matchers."""
        end = datetime.fromtimestamp(self.end, UTC).strftime("%Y-%m-%d %H:%M:%S UTC")
        which = f" of {{{self.matchers}}}" if self.matchers else ""
        return f"{format_duration(self.seconds)} until {end}{which}"


async def window_of(config: Config, window: Window, name: str, show: Callable[[str], None]) -> Observation:
    """Read a window of one server, or of all that the matchers select: these are compared as one.

    Raises:
        UserError: Prometheus cannot be reached or refuses, has no such series, or has several servers without matchers.
    """
    found = await stored(config, (*READ, *EXPORTED), window.matchers, window.end, window.seconds, "--selector", show)
    if not found:
        raise UserError(
            f"Prometheus has no {PREFIX}* series in {window.text}; check --at and --selector, and that it "
            "scrapes a sidecar"
        )
    if len(found) > 1 and not window.matchers:
        several = "\n".join(f"  {_shown(server)}" for server in sorted(found)[:MOST_NAMED])
        raise UserError(
            f"Prometheus has {len(found)} servers in {window.text}; choose with --selector, such as 'pod=\"...\"':\n"
            f"{several}"
        )
    return _observation(found, window, name)


def _observation(found: Mapping[Server, Polls], window: Window, name: str) -> Observation:
    observation = Observation(name, f"Prometheus, {window.text}", servers=len(found))
    facts: list[dict[str, str]] = []
    for times in found.values():
        growth = Growth()
        last: dict[tuple[str, str], Sample] = {}
        sizes: dict[str, str] = {}
        for at, samples in sorted(times.items()):
            readings = readings_of(samples)
            sizes |= kv_cache_fact(readings)
            values = values_of(readings)
            if values.histograms or values.counters:
                interval = growth.take(at, values)
                observation.bounds = bounds_of(values) or observation.bounds
                if interval is not None:
                    observation.intervals.append(interval)
            last |= {(sample[0], str(sorted(sample[1].items()))): sample for sample in samples if sample[0] in EXPORTED}
        facts.append(exported_facts(last.values()) | sizes)
    observation.facts = _merged(facts)
    if len(found) > 1:
        observation.notes.append(f"{name}: {len(found)} servers are compared as one")
    return observation


def _merged(facts: Sequence[dict[str, str]]) -> dict[str, str]:
    """Return the facts of several servers; different ones are listed."""
    names = {name for each in facts for name in each}
    return {name: " or ".join(sorted({each[name] for each in facts if name in each})) for name in names}


def _shown(server: Server) -> str:
    return ", ".join(f'{name}="{value}"' for name, value in server)


def time_of(text: str, now: float) -> float:
    """Read a time: `now`, `now-24h`, a Unix time, or ISO 8601 (UTC without a zone).

    Raises:
        ValueError: It is none of these; the text says what is allowed.
    """
    from vllm_sidecar.config import parse_duration

    allowed = "a time such as now, now-24h, 2027-01-15T08:00:00Z or a Unix time"
    try:
        if text == "now":
            return now
        if text.startswith("now-"):
            return now - parse_duration(text.removeprefix("now-"), 10 * 365 * 86_400.0)
        return unix_time(text)
    except ValueError:
        raise ValueError(allowed) from None
