"""Rules and scrapes -> when each alert fired, evaluated by Prometheus' own engine in promtool.

promtool only compares: it is asked for the alerts at every evaluation with no expected answer, and its report of the
difference is the answer.
"""

from __future__ import annotations

import ast
import json
import re
import tempfile
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vllm_sidecar.tools import promtool

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from vllm_sidecar.tools.replay.rules import Rules
    from vllm_sidecar.tools.replay.scrapes import Scrapes

RULES = "recording.rules.yml"
LONGEST = 1800.0
"""Seconds that promtool may take: a day of a server is some minutes."""
_STRING = r'"(?:[^"\\]|\\.)*"'
_SET = rf"\{{(?:[^\"{{}}]|{_STRING})*\}}"
_SAMPLES = re.compile(r'^\s*expr: "ALERTS", time: (\S+?),\s*\n\s*exp: ?.*\n\s*got: ?(.*)$', re.MULTILINE)
_PAIR = re.compile(rf"(\w+)=({_STRING})")
_TEXTS = re.compile(rf"Labels:({_SET})\s*Annotations:({_SET})")
_ALERT_TEST = re.compile(r"^\s*alertname: (\w+), time: (\S+?),\s*$", re.MULTILINE)
_TIME = re.compile(r"(\d+)(ms|[ywdhms])")
_SECONDS = {"y": 31_536_000.0, "w": 604_800.0, "d": 86_400.0, "h": 3600.0, "m": 60.0, "s": 1.0, "ms": 0.001}


@dataclass(frozen=True, slots=True)
class Fired:
    """One alert, from when it was pending to its end; seconds of the recording.

    `firing` is None if it was only pending, `end` is None if it was so until the end of the recording.
    """

    alert: str
    labels: Mapping[str, str]
    pending: float
    firing: float | None
    end: float | None
    summary: str = ""

    @property
    def severity(self) -> str:
        """Value of the label `severity`."""
        return self.labels.get("severity", "")


class Evaluation:
    """One evaluation of rule files over scrapes."""

    def __init__(self, rules: Rules, scrapes: Scrapes) -> None:
        """Evaluate the rules at the interval of their thresholds."""
        self._rules, self._scrapes, self._evaluate = rules, scrapes, rules.evaluate

    def alerts(self) -> list[Fired]:
        """Return all alerts in the order of time.

        Raises:
            PromtoolError: promtool is missing, too old, or failed.
        """
        steps = int((self._scrapes.count - 1) * self._scrapes.scrape / self._evaluate)
        times = [round(step * self._evaluate, 3) for step in range(steps + 1)]
        with tempfile.TemporaryDirectory(prefix="vllm-sidecar-") as folder:
            output = self._run(Path(folder), self._rules, {"promql_expr_test": [
                {"expr": "ALERTS", "eval_time": _written(at)} for at in times
            ]})  # fmt: skip
            found = list(_spells(dict(_samples(output)), times))
            texts = self._texts(Path(folder), found)
        shown = [replace(each, summary=texts.get(_key(each.alert, each.labels), "")) for each in found]
        return sorted(
            (self._shifted(each) for each in shown), key=lambda each: (each.firing or each.pending, each.alert)
        )

    def _texts(self, folder: Path, found: Sequence[Fired]) -> dict[tuple[str, frozenset[tuple[str, str]]], str]:
        asked = {(each.alert, each.firing) for each in found if each.firing is not None}
        if not asked:
            return {}
        tests = [{"alertname": alert, "eval_time": _written(at), "exp_alerts": []} for alert, at in sorted(asked)]
        output = self._run(folder, self._rules.only({alert for alert, _ in asked}), {"alert_rule_test": tests})
        _, *parts = _ALERT_TEST.split(output)
        return {
            _key(alert, _labels(labels)): _labels(texts).get("summary", "")
            for alert, text in zip(parts[::3], parts[2::3], strict=True)
            for labels, texts in _TEXTS.findall(text)
        }

    def _run(self, folder: Path, rules: Rules, asked: dict[str, Any]) -> str:
        (folder / RULES).write_text(rules.text, encoding="utf-8")
        interval = _written(self._scrapes.scrape)
        test = {"interval": interval, "input_series": list(self._scrapes.input_series()), **asked}
        document = {"rule_files": [RULES], "evaluation_interval": _written(self._evaluate), "tests": [test]}
        path = folder / "recording.yml"
        path.write_text(json.dumps(document), encoding="utf-8")
        result = promtool.test_rules(path, timeout=LONGEST)
        if result.ok or "got:" in result.output:
            return result.output
        raise promtool.PromtoolError(f"promtool failed: {result.output[:500]}")

    def _shifted(self, fired: Fired) -> Fired:
        """Return an alert in the time of the recording, whose first scrape is after one interval."""
        shift = self._scrapes.scrape
        return replace(
            fired,
            pending=fired.pending + shift,
            firing=None if fired.firing is None else fired.firing + shift,
            end=None if fired.end is None else fired.end + shift,
        )


def _samples(output: str) -> Iterator[tuple[float, list[dict[str, str]]]]:
    for time, got in _SAMPLES.findall(output):
        yield _read_time(time), [_labels(each) for each in re.findall(_SET, got)]


def _spells(seen: Mapping[float, list[dict[str, str]]], times: Sequence[float]) -> Iterator[Fired]:
    """Join the samples of each alert at successive times."""
    open_: dict[tuple[str, frozenset[tuple[str, str]]], Fired] = {}
    for at in times:
        now = {}
        for labels in seen.get(at, ()):
            state = labels.pop("alertstate")
            labels.pop("__name__", None)
            alert = labels.pop("alertname")
            key = _key(alert, labels)
            known = open_.pop(key, None) or Fired(alert, labels, at, None, None)
            now[key] = replace(known, firing=at) if state == "firing" and known.firing is None else known
        yield from (replace(each, end=at) for each in open_.values())
        open_ = now
    yield from open_.values()


def _key(alert: str, labels: Mapping[str, str]) -> tuple[str, frozenset[tuple[str, str]]]:
    return alert, frozenset((name, value) for name, value in labels.items() if name != "alertname")


def _labels(text: str) -> dict[str, str]:
    # Go's quotes are valid literals of Python.
    return {name: str(ast.literal_eval(value)) for name, value in _PAIR.findall(text)}


def _written(seconds: float) -> str:
    return f"{round(seconds * 1000)}ms"


def _read_time(text: str) -> float:
    return round(sum(float(number) * _SECONDS[unit] for number, unit in _TIME.findall(text)), 3)
