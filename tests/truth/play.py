"""Plays a request log to the whole sidecar, and compares each derived signal with the log."""

from __future__ import annotations

import random
import re
from collections import defaultdict
from dataclasses import dataclass, field
from functools import cache
from math import inf
from statistics import fmean
from typing import TYPE_CHECKING

from field.cases import EPOCH, Server
from field.play import Address
from truth.body import MODEL, Bodies, Layout
from truth.recording import record
from truth.signals import key
from truth.table import TRUTHS
from truth.view import Span, View, Whole
from vllm_sidecar.config import Config
from vllm_sidecar.serve.metrics import Exporter
from vllm_sidecar.serve.target import TargetLoop

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from truth.signals import Key, Values

WINDOW = 60.0
EVERY = 5
"""Successful polls between two comparisons."""
JITTER = 0.02
_SAMPLE = re.compile(r"vllm_sidecar_(\w+?)(?:\{(.*)\})? (\S+)")
_LABEL = re.compile(r'(\w+)="([^"]*)"')


@dataclass(frozen=True)
class Variation:
    """One way in which a server and its polls behave."""

    name: str
    phases: str
    seconds: float = 360.0
    server: Mapping[str, object] = field(default_factory=dict)
    traffic: Mapping[str, float] = field(default_factory=dict)
    layout: Layout = field(default_factory=Layout)
    lost: Callable[[int], bool] = lambda _: False
    """Whether the poll of a second gets no answer."""
    lenient: float = 0.0
    """Relative error of what is counted that is allowed because no poll saw all of it."""


@dataclass
class Errors:
    """Errors of one signal: of every series at every comparison."""

    found: list[tuple[float, float, Key, float | None, float | None]] = field(default_factory=list)
    """Error, time, labels, the sidecar's value and the truth."""

    @property
    def most(self) -> float:
        return max((each[0] for each in self.found), default=0.0)

    @property
    def mean(self) -> float:
        return fmean(each[0] for each in self.found) if self.found else 0.0


class Windows:
    """Which polls the windows of a sidecar begin and end at, by its documented rules."""

    def __init__(self, layout: Layout) -> None:
        self._layout = layout
        self._process: float | None = None
        self._polls: list[float] = []
        self._from: dict[int, float] = {}
        """Engine -> the poll at which its window may begin at the earliest."""
        self._known: set[int] = set()
        self.counted_from: dict[int, float] = {}

    def polled(self, at: float, process: float, engines: list[int]) -> None:
        restarted = process != self._process
        if restarted or (self._polls and at - self._polls[-1] > WINDOW):
            self._polls.clear()
            self._from.clear()
        if restarted:
            self._process, self.counted_from = process, {}
        for engine in engines:
            # A new engine next to known ones began at 0 after the poll before.
            joined = self._polls and engine not in self._known
            self._from.setdefault(engine, self._layout.since(engine) if joined else at)
            self.counted_from.setdefault(engine, max(process, self._layout.since(engine)) - 1e-6)
            self._known.add(engine)
        for engine in self._from.keys() - set(engines):
            del self._from[engine]
        self._polls.append(at)

    def span(self, earliest: float) -> Span:
        now = self._polls[-1]
        before = [at for at in self._polls if earliest <= at <= now - WINDOW]
        return Span(before[-1] if before else max(earliest, self._polls[0]), now)

    def view(self, whole: Whole) -> View:
        spans = {engine: self.span(at) for engine, at in self._from.items()}
        return View(whole, self._polls[-1], spans, self.span(self._polls[0]), self.counted_from)


@cache
def recorded(
    phases: str, seconds: float, server: tuple[tuple[str, object], ...], traffic: tuple[tuple[str, float], ...]
) -> Whole:
    return Whole(record(phases, seconds, server=dict(server), traffic=dict(traffic))[0])


async def play(variation: Variation) -> dict[str, Errors]:
    """Play a variation; return the errors of each signal."""
    whole = recorded(
        variation.phases, variation.seconds, tuple(variation.server.items()), tuple(variation.traffic.items())
    )
    log, bodies, windows = whole.log, Bodies(whole.log, variation.layout, EPOCH), Windows(variation.layout)
    body: list[str | None] = [None]
    server = Server(lambda _: (200, body[0] or ""), models=(MODEL,), silent=lambda _: body[0] is None)
    clock, draw = [1000.0], random.Random(7)
    settings = Config.model_validate({
        "introspection": {"proc": False}, "gpu": {"devices": "none"},
        "vllm": {"args": [f"--max-num-seqs={log.settings.max_num_seqs}"]},
    })  # fmt: skip
    exporter = Exporter(settings.windows.length)
    target_loop = TargetLoop(
        settings.all_targets[0], settings, exporter.changed, client=Address(server),  # type: ignore[arg-type]
        clock=lambda: clock[0], wall=lambda: EPOCH + clock[0] - 1000.0,
    )  # fmt: skip
    exporter.set_sources([target_loop], settings.windows.length)
    errors: dict[str, Errors] = defaultdict(Errors)
    polls = 0
    for second in range(1, int(variation.seconds)):
        now = second + draw.uniform(0.0, JITTER)
        clock[0] = 1000.0 + now
        text = bodies.at(now)
        body[0] = None if variation.lost(second) else text
        await target_loop.poll_once()
        await target_loop.probe_once()
        if body[0] is None:
            continue
        polls += 1
        shown = [engine for engine in log.engines if variation.layout.shows(engine, now)]
        windows.polled(now, log.process(now)[0], shown)
        if polls % EVERY == 0:
            _compare(windows.view(whole), _samples(exporter), errors)
    return errors


def _samples(exporter: Exporter) -> dict[str, Values]:
    found: dict[str, Values] = defaultdict(dict)
    for line in exporter.render(openmetrics=False).decode().splitlines():
        if match := _SAMPLE.fullmatch(line):
            name, text, value = match.groups()
            labels = {label: text for label, text in _LABEL.findall(text or "") if label not in ("model_name", "model")}
            found[name][key(**labels)] = float(value)
    return found


def _compare(view: View, samples: Mapping[str, Values], errors: dict[str, Errors]) -> None:
    if any(span.seconds <= 0.0 for span in (*view.spans.values(), view.server)):
        return
    for name, truth in TRUTHS.items():
        ours, true = dict(samples.get(name, {})), truth.of(view)
        if name == "recent_latency_bound_seconds":
            ours, true = _inside(ours, true), dict.fromkeys(true, 0.0)
        for labels in true.keys() | (set() if truth.sometimes else ours.keys()):
            one, other = ours.get(labels), true.get(labels)
            if one is None or other is None:
                error = inf
            else:
                error = abs(one - other) / (max(abs(other), truth.floor) if truth.floor else 1.0)
            errors[name].found.append((error, view.at, labels, one, other))


def _inside(ours: Values, true: Values) -> Values:
    """Return by how many seconds each true value is outside of its bounds."""
    found: Values = {}
    for labels, value in true.items():
        lower, upper = (ours.get(labels | {("bound", side)}) for side in ("lower", "upper"))
        if lower is not None:
            found[labels] = max(0.0, lower - value, value - (inf if upper is None else upper))
    return found
