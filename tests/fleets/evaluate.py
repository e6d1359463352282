"""Evaluates generated rules over days of series in a real Prometheus: records day by day, then every alert.

`promtool test rules` evaluates all groups at one interval, one instant after the other; a week takes it half an hour.
Here Prometheus answers each expression for a whole day at the interval of its group, what it records is written back,
and only the states of alerts (pending, firing, kept firing) are followed outside it.
"""

from __future__ import annotations

import re
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import chain, repeat
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import yaml
from prometheus_process import configuration, prometheus

from fleets.clock import DAY, EPOCH, written
from fleets.remote_write import FLAGS, STALE, ended, labels_of, push
from fleets.states import Spell, States
from vllm_sidecar.config import parse_duration
from vllm_sidecar.generate.formats import Format
from vllm_sidecar.generate.outputs import rule_files, slo_files
from vllm_sidecar.generate.settings.thresholds import Thresholds

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence
    from pathlib import Path

    from prometheus_process import Prometheus

    from fleets.clock import Floats, Mask
    from fleets.export import Series

WORD = re.compile(r"[a-zA-Z_:][\w:]*")
THREADS = 2
IGNORED = frozenset(("VllmWatchdog",))


class Fired(NamedTuple):
    """One alert that fired."""

    alert: str
    spell: Spell

    @property
    def severity(self) -> str:
        """Its severity."""
        return self.spell.labels["severity"]

    @property
    def model(self) -> str:
        """The model that it names; empty where it names none."""
        return self.spell.labels.get("model_name", "")

    def __str__(self) -> str:
        """Say what, for whom and when."""
        whom = " ".join(self.spell.labels.get(name, "") for name in ("model_name", "pod", "long_window"))
        return (
            f"{written(self.spell.begin)} until {written(self.spell.end)} {self.severity} {self.alert} {whom.strip()}"
        )


@dataclass(frozen=True)
class Rule:
    """One rule of a file."""

    given: Mapping[str, Any]
    interval: float

    @property
    def name(self) -> str:
        """Record or alert."""
        found: str = self.given.get("record") or self.given["alert"]
        return found

    @property
    def reads(self) -> frozenset[str]:
        """Every word of its expression, names of metrics among them."""
        return frozenset(WORD.findall(self.given["expr"]))

    def labels(self, metric: Mapping[str, str]) -> dict[str, str]:
        """Return the labels of what it makes of a series."""
        kept = {name: value for name, value in metric.items() if name != "__name__"}
        own = {name: value for name, value in self.given.get("labels", {}).items() if "{{" not in value}
        return kept | own

    def seconds(self, key: str) -> float:
        """Return a time of it, such as `for`."""
        return parse_duration(self.given[key]) if key in self.given else 0.0


def rules_of(files: Iterable[Path]) -> list[Rule]:
    """Read rule files; every group has an interval of its own."""
    groups = [group for file in files for group in yaml.safe_load(file.read_text())["groups"]]
    return [Rule(rule, parse_duration(group["interval"])) for group in groups for rule in group["rules"]]


def levels(rules: Sequence[Rule]) -> list[list[Rule]]:
    """Put records in an order in which each reads only what was recorded before it, or itself."""
    left, done = [rule for rule in rules if "record" in rule.given], []
    while left:
        names = {rule.name for rule in left}
        ready = [rule for rule in left if not rule.reads & (names - {rule.name})]
        assert ready, f"records that read each other cannot be evaluated day by day: {sorted(names)}"
        done.append(ready)
        left = [rule for rule in left if rule not in ready]
    return done


def fired(
    folder: Path,
    series: Series,
    thresholds: Mapping[str, object],
    since: float = 0.0,
    away: Sequence[tuple[float, float]] = (),
    epoch: float = EPOCH,
) -> list[Fired]:
    """Generate rules with thresholds, evaluate them over series, and return what fired since a second."""
    given = Thresholds.model_validate(thresholds)
    slos, _ = slo_files(given, Format.PROMETHEUS)
    files = []
    for name, content in (rule_files(given, Format.PROMETHEUS) | slos).items():
        files.append(folder / name)
        files[-1].write_bytes(content)
    with prometheus(folder, configuration(60), *FLAGS) as running:
        return Evaluation(running, rules_of(files), away, epoch).run(series, since)


class Evaluation:
    """Rules over the series of a grid, in a Prometheus that is empty at first."""

    def __init__(
        self,
        running: Prometheus,
        rules: Sequence[Rule],
        away: Sequence[tuple[float, float]] = (),
        epoch: float = EPOCH,
    ) -> None:
        """Make one; `away` are the times at which nothing is evaluated, `epoch` is the Unix time of second 0."""
        self.running, self.away, self.epoch = running, away, epoch
        self.levels = levels(rules)
        self._last: dict[str, set[tuple[tuple[str, str], ...]]] = {}
        self.alerts = [(rule, States(rule.seconds("for"), rule.seconds("keep_firing_for")))
                       for rule in rules if "alert" in rule.given and rule.name not in IGNORED]  # fmt: skip
        self.reads = frozenset().union(*(rule.reads for rule in rules))

    def run(self, series: Series, since: float = 0.0) -> list[Fired]:
        """Evaluate; return what fired since a second, with the names of the alerts."""
        grid = series.grid
        begin = grid.begin
        while begin < grid.end:
            end = min(grid.end, (begin // DAY + 1) * DAY)
            self._write(series, begin, end)
            with ThreadPoolExecutor(THREADS) as pool:
                for level in self.levels:
                    steady = [rule for rule in level if rule.name not in rule.reads]
                    found = pool.map(self._recorded, steady, repeat(begin), repeat(end))
                    push(self.running.url, chain.from_iterable(found))
                    for rule in level:
                        if rule.name in rule.reads:
                            self._record_one_by_one(rule, begin, end)
                rules, states = zip(*self.alerts, strict=True)
                list(pool.map(self._judge, rules, states, repeat(begin), repeat(end)))
            begin = end
        return [
            Fired(rule.name, spell) for rule, states in self.alerts for spell in states.spells if spell.end >= since
        ]

    def _write(self, series: Series, begin: float, end: float) -> None:
        """Write the scrapes of a part of a day of whatever the rules read."""
        first, last = np.searchsorted(series.grid.times, (begin, end))
        times = series.grid.times[first:last]
        scraped = ~self._away(times)
        found = []
        for text in series:
            if text.partition("{")[0] in self.reads:
                now = series.values(text, first, last)[scraped]
                before = first > 0 and not np.isnan(series.values(text, first - 1, first)[0])
                if before or not np.isnan(now).all():
                    found.append((labels_of(text), *ended(times[scraped] + self.epoch, now, before=before)))
        push(self.running.url, found)

    def _away(self, times: Floats) -> Mask:
        found: Mask = np.zeros(times.shape, dtype=bool)
        for begin, end in self.away:
            found |= (times >= begin) & (times < end)
        return found

    def _answers(self, rule: Rule, begin: float, end: float) -> tuple[Floats, list[tuple[Mapping[str, str], Floats]]]:
        """Return the evaluations of a part of a day, and the series that the expression has, NaN where it is absent."""
        first = -(-begin // rule.interval) * rule.interval
        times = np.arange(first, end, rule.interval)
        found = []
        if len(times):
            answer = self.running.query_range(
                rule.given["expr"], first + self.epoch, times[-1] + self.epoch, rule.interval
            )
            for one in answer:
                values = np.full(times.shape, np.nan)
                for stamp, value in one["values"]:
                    values[round((float(stamp) - self.epoch - first) / rule.interval)] = float(value)
                found.append((one["metric"], values))
        evaluated = ~self._away(times)
        return times[evaluated], [(metric, values[evaluated]) for metric, values in found]

    def _recorded(self, rule: Rule, begin: float, end: float) -> list[tuple[Mapping[str, str], Floats, Floats]]:
        times, found = self._answers(rule, begin, end)
        return [
            ({**rule.labels(metric), "__name__": rule.name}, *ended(times + self.epoch, values))
            for metric, values in found
        ]

    def _record_one_by_one(self, rule: Rule, begin: float, end: float) -> None:
        """Evaluate a record that reads itself: each time it needs what it was the time before."""
        times = np.arange(-(-begin // rule.interval) * rule.interval, end, rule.interval)
        last: set[tuple[tuple[str, str], ...]] = self._last.get(rule.name, set())
        for now in times[~self._away(times)] + self.epoch:
            stamp = np.array([now])
            found = {tuple(sorted(rule.labels(one["metric"]).items())): float(one["value"][1])
                     for one in self.running.query(rule.given["expr"], time=now)}  # fmt: skip
            values = {**dict.fromkeys(last - found.keys(), STALE), **found}
            push(self.running.url, [({**dict(key), "__name__": rule.name}, stamp, np.array([value]))
                                    for key, value in values.items()])  # fmt: skip
            last = set(found)
        self._last[rule.name] = last

    def _judge(self, rule: Rule, states: States, begin: float, end: float) -> None:
        times, found = self._answers(rule, begin, end)
        keys = [(tuple(sorted(rule.labels(metric).items())), ~np.isnan(values)) for metric, values in found]
        for index, now in enumerate(times):
            states.evaluate(float(now), [key for key, there in keys if there[index]])
