"""The running sidecar next to many servers of which each has its fault, and one that stays as it is.

A batch of servers is healthy, then has its faults for some polls, then is healthy again. Each fault is judged by what
the sidecar exports of its server, and all of them by what they cost the others.
"""

from __future__ import annotations

import asyncio
import json
import math
import re
import tempfile
import time
import urllib.request
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import psutil
from prometheus_client.parser import text_string_to_metric_families
from sidecar_process import Started, started
from table import Group, Row
from upstream import Upstream

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from upstream import Answer

BATCH = 24
INTERVAL, TIMEOUT = 0.5, 1.5
FAULTY_SECONDS, PATIENCE = 4.0, 20.0
LINES = 12
"""Most lines of the log for one fault: it begins, changes and ends."""


class Fault(NamedTuple):
    """What a server answers, and what the sidecar must make of it."""

    name: str
    answer: Callable[[], Answer]
    expected: str
    """Reasons of failed polls, separated by blanks; or `up`, with counters of which one must grow after a colon; or
    several of these, separated by bars, of which one must be true."""
    path: str = "/metrics"

    @property
    def promise(self) -> str:
        """Return the expectation in words."""
        return ", or ".join(_in_words(each) for each in self.expected.split("|"))

    def held(self, up: float, counts: Counter[str]) -> bool:
        """Return whether one of the alternatives is what was seen."""
        for each in self.expected.split("|"):
            kind, _, counters = each.partition(":")
            wanted = (counters if kind == "up" else kind).split()
            if (kind != "up" or up == 1.0) and (not wanted or any(counts[one] for one in wanted)):
                return True
        return False


def _in_words(expected: str) -> str:
    kind, _, counters = expected.partition(":")
    if kind != "up":
        return f"a named reason: {' or '.join(kind.split())}"
    return f"up, counted: {' or '.join(counters.split())}" if counters else "up"


class Seen(NamedTuple):
    """Of one server at one moment."""

    up: float
    counts: Counter[str]
    """Failed polls by reason, and what was dropped, rejected or limited by its name."""
    requests: float
    """All SLO counters added up."""
    finite: bool


_COUNTED = {
    "vllm_sidecar_poll_failures_total": "reason",
    "vllm_sidecar_dropped_values_total": "anomaly",
    "vllm_sidecar_limit_hits_total": "limit",
    "vllm_sidecar_rejected_lines_total": "",
}
"""Counters of what was wrong with a server, and their label that names it. Probes of endpoints that a server lacks fail
next to healthy polls, too, and have no reasons."""


class Watched:
    """The sidecar and its servers."""

    def __init__(self, upstream: Upstream, running: Started, base: str) -> None:
        self.upstream, self._running, self._base = upstream, running, base
        self._process = psutil.Process(running.process.pid)

    async def seen(self) -> dict[str, Seen]:
        """Return what is exported of each server."""
        text = await asyncio.to_thread(self._scrape)
        return _seen(text)

    async def lag(self) -> float:
        """Return the longest time that the event loop was held, within the last minute."""
        found = re.search(
            r"^vllm_sidecar_event_loop_lag_seconds (\S+)", await asyncio.to_thread(self._scrape), re.MULTILINE
        )
        return float(found[1]) if found else math.nan

    def memory(self) -> float:
        """Return resident MB."""
        return float(self._process.memory_info().rss) / 1e6

    @property
    def log(self) -> str:
        """Return the log so far."""
        return self._running.log

    def _scrape(self) -> str:
        with urllib.request.urlopen(f"{self._base}/metrics", timeout=30) as answer:  # noqa: S310 - loopback
            return str(answer.read().decode())


def _seen(text: str) -> dict[str, Seen]:
    up: dict[str, float] = {}
    counts: dict[str, Counter[str]] = {}
    requests: Counter[str] = Counter()
    broken = set()
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            target = sample.labels.get("target", "")
            if sample.name == "vllm_sidecar_up" and sample.labels.get("source") == "vllm":
                up[target] = sample.value
            if sample.name in _COUNTED:
                what = sample.labels.get(_COUNTED[sample.name], "rejected_lines")
                counts.setdefault(target, Counter())[what] += int(sample.value)
            if sample.name.startswith("vllm_sidecar_slo_") and sample.name.endswith("requests_total"):
                requests[target] += sample.value
            if not math.isfinite(sample.value) and sample.labels.get("quantile") is None:
                broken.add(target)
    return {
        name: Seen(value, counts.get(name, Counter()), requests[name], name not in broken) for name, value in up.items()
    }


def run(title: str, faults: Sequence[Fault], batch: int = BATCH) -> Group:
    """Inject all faults, a batch at a time; return their rows."""
    return asyncio.run(judged(title, faults, batch))


async def judged(title: str, faults: Sequence[Fault], batch: int = BATCH) -> Group:
    """Inject all faults, a batch at a time; return their rows."""
    rows: list[Row] = []
    lag = slip = memory = 0.0
    names = [f"server-{number}" for number in range(min(batch, len(faults)))]
    async with Upstream() as upstream:
        with (
            tempfile.TemporaryDirectory() as folder,
            started("--config.file", _configured(upstream, names, folder)) as (
                running,
                base,
            ),
        ):
            watched = Watched(upstream, running, base)
            await _until(watched, [*names, "control"], up=True)
            for first in range(0, len(faults), len(names)):
                rows += await _batch(watched, dict(zip(names, faults[first : first + len(names)], strict=False)))
                lag, memory = max(lag, await watched.lag()), max(memory, watched.memory())
            slip = max(b - a for a, b in zip(upstream.polled[4:], upstream.polled[5:], strict=False)) - INTERVAL
    return Group(
        title, rows, f"The event loop was held for {1e3 * lag:.0f} ms at most, polls of a healthy server next to them "
        f"slipped by {max(0.0, slip):.2f} s at most, and {memory:.0f} MB were resident with {len(names) + 1} servers.",
    )  # fmt: skip


def _configured(upstream: Upstream, names: list[str], folder: str) -> str:
    path = Path(folder) / "config.yaml"
    document = {
        "targets": [{"name": name, "url": f"{upstream.url}/{name}"} for name in (*names, "control")],
        "scrape": {"interval": f"{1e3 * INTERVAL:.0f}ms", "timeout": f"{1e3 * TIMEOUT:.0f}ms", "connect_timeout": "1s",
                   "server_time_ratio": 1.0, "max_interval": "1s"},
        "introspection": {"interval": "1s", "timeout": "1s", "proc": False},
        "gpu": {"devices": "none"},
    }  # fmt: skip
    path.write_text(json.dumps(document), encoding="utf-8")
    return str(path)


async def _until(watched: Watched, names: Sequence[str], *, up: bool) -> set[str]:
    """Wait until servers are up; return those that are not after some patience."""
    end = time.monotonic() + PATIENCE
    while True:
        seen = await watched.seen()
        missing = {name for name in names if (seen[name].up == 1.0) is not up}
        if not missing or time.monotonic() > end:
            return missing
        await asyncio.sleep(0.5)


async def _batch(watched: Watched, faults: dict[str, Fault]) -> list[Row]:
    await asyncio.sleep(2.0)
    before, log = await watched.seen(), len(watched.log)
    for name, fault in faults.items():
        watched.upstream.faults[name, fault.path] = fault.answer
    await asyncio.sleep(FAULTY_SECONDS)
    during = await watched.seen()
    watched.upstream.faults.clear()
    down = await _until(watched, list(faults), up=True)
    after = await watched.seen()
    lines = watched.log[log:]
    return [
        _row(fault, name, before[name], during[name], after[name], name in down, lines)
        for name, fault in faults.items()
    ]


def _row(fault: Fault, name: str, before: Seen, during: Seen, after: Seen, down: bool, log: str) -> Row:
    counts = during.counts - before.counts
    wrong = ["not as promised"] * (not fault.held(during.up, counts))
    wrong += ["stays down"] * down
    wrong += ["SLO counters"] * (not before.requests <= after.requests < before.requests + 1e7)
    wrong += ["not finite"] * (not (during.finite and after.finite))
    lines = len(re.findall(rf"\btarget={name}\b", log))
    wrong += [f"{lines} log lines"] * (lines > LINES)
    wrong += ["traceback"] * (f"target={name} " in log and "Traceback" in log and "internal" in counts)
    observed = "up" if during.up == 1.0 else "down"
    found = ", ".join(f"{what} {many}" for what, many in sorted(counts.items()) if many)
    return Row(fault.name, fault.promise, f"{observed}{': ' if found else ''}{found}; {lines} log lines"
               + (f" [{', '.join(wrong)}]" if wrong else ""), not wrong)  # fmt: skip
