"""Series of sidecars that Prometheus stored -> observations; any server with its HTTP API, such as VictoriaMetrics.

The raw samples of a window are read, not rates: every scrape is a poll, and increases and restarts are those of polls.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from vllm_sidecar.catalog import SIGNALS
from vllm_sidecar.catalog.reasons import HINTS, PollError, Reason
from vllm_sidecar.catalog.types import PREFIX
from vllm_sidecar.config import format_duration
from vllm_sidecar.logs import UserError
from vllm_sidecar.tools.compare.exported import canonical, values_from
from vllm_sidecar.tools.compare.facts import EXPORTED, exported_facts
from vllm_sidecar.tools.compare.measures import COUNTERS, GAUGES, HISTOGRAMS
from vllm_sidecar.tools.compare.observation import Growth, Observation, bounds_of
from vllm_sidecar.tools.prometheus_api import OtherProgramError, raw_samples, unix_time
from vllm_sidecar.vllm.client import Client

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from vllm_sidecar.config import Config
    from vllm_sidecar.tools.compare.exported import Sample
    from vllm_sidecar.tools.prometheus_api import Series

Server = tuple[tuple[str, str], ...]
"""The labels that distinguish servers: those that the sidecar did not write."""
Stored = dict[Server, dict[float, list["Sample"]]]
"""Samples by server and Unix time of the scrape."""
MOST_NAMED = 5
"""Servers that an error lists."""
_HINTS = {
    Reason.HTTP_4XX: "Check --selector: matchers are written as in PromQL, such as 'pod=\"vllm-0\"'",
    Reason.HTTP_404: "The address is not that of Prometheus, or lacks the path before /api/v1",
}
_OWN = {"__name__", "le", *(label for signal in SIGNALS.values() for label in signal.label_names)} - {"target"}


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


async def stored(config: Config, window: Window, name: str, show: Callable[[str], None]) -> Observation:
    """Read a window of one server, or of all that the matchers select: these are compared as one.

    Raises:
        UserError: Prometheus cannot be reached or refuses, has no such series, or has several servers without matchers.
    """
    found: Stored = defaultdict(lambda: defaultdict(list))
    async with Client(config.vllm, config.scrape) as client:
        queries = list(_queries(window.matchers))
        for number, query in enumerate(queries):
            show(f"reading {window.text}: {number / len(queries):.0%}")
            for server, metric, (labels, samples) in await _series(client, query, window):
                for at, value in samples:
                    found[server][at].append((metric, labels, value))
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


def _queries(matchers: str) -> Iterator[str]:
    more = f", {matchers}" if matchers else ""
    for names in (
        *(f"{PREFIX}{name}_(bucket|sum|count)" for name in HISTOGRAMS),
        f"{PREFIX}({'|'.join((*COUNTERS, *GAUGES))})",
        f"{PREFIX}({'|'.join(EXPORTED)})",
    ):
        yield f'{{__name__=~"{names}"{more}}}'


async def _series(client: Client, selector: str, window: Window) -> Iterator[tuple[Server, str, Series]]:
    try:
        found = await raw_samples(client, selector, window.seconds, window.end, None)
    except PollError as error:
        hint = _HINTS.get(error.reason, HINTS[error.reason])
        raise UserError(f"Prometheus: {error.reason}: {error.detail}. {hint}") from None
    except OtherProgramError:
        raise UserError("the address answers, but not as the HTTP API of Prometheus; name it without /api/v1") from None
    return ((_server(each[0]), name, each) for each in found if (name := canonical(each[0].get("__name__", ""))))


def _server(labels: dict[str, str]) -> Server:
    return tuple(sorted((key, value) for key, value in labels.items() if key not in _OWN))


def _observation(found: Stored, window: Window, name: str) -> Observation:
    observation = Observation(name, f"Prometheus, {window.text}", servers=len(found))
    facts: list[dict[str, str]] = []
    for times in found.values():
        growth = Growth()
        last: dict[tuple[str, str], Sample] = {}
        for at, samples in sorted(times.items()):
            values = values_from(samples)
            if values.histograms or values.counters:
                interval = growth.take(at, values)
                observation.bounds = bounds_of(values) or observation.bounds
                if interval is not None:
                    observation.intervals.append(interval)
            last |= {(sample[0], str(sorted(sample[1].items()))): sample for sample in samples if sample[0] in EXPORTED}
        facts.append(exported_facts(last.values()))
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
