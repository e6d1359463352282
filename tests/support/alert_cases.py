"""Reads tests/alerts/<Alert>.yml and writes promtool's tests from it.

A file says with which series the alert `fires`, and what is put over them in the cases in which it must not:
`just_below` the threshold, `idle`, and those of `never` by name; those of `also_fires` must fire too. The other cases
follow: each series missing or NaN in turn (but those that are `optional`), after a restart, which resets the counters
of an idle server, and resolved once it is idle. Whatever fires must have been pending for as long as `for` says.

Values of a series, one for each `step` (15 s unless said otherwise): a number; null, absent; `+R`, a counter that rises
by R; `steps N S`, one that rises by 1 each S seconds, N times, until `at`; `early N`, N times in the first minutes;
`bend A B M`, one that rises by A, and by B from minute M on; `change A B M`, a gauge that changes at minute M;
`born V S`, absent until S seconds before `at` (or until minute S in files with a longer step); `until V M`;
`ends R M`, a counter that rises by R and is absent from minute M on; `late L A B M`, `bend` from minute L on;
`levels V M V M ... V`, a gauge that changes at each minute M; `slopes R M R M ... R`, a counter likewise.

A series is one of replica `a`; with `instance` among its labels it is one of another.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from itertools import accumulate, pairwise
from typing import TYPE_CHECKING, Any

import yaml

from vllm_sidecar.catalog.types import PREFIX
from vllm_sidecar.config import parse_duration
from vllm_sidecar.generate.settings.thresholds import labels_of

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

Value = float | None
LABELS = {"model_name": "m", "engine": "0", "gpu": "0", "uuid": "GPU-1"}
WHERE = 'job="vllm-sidecar",instance="a:10190",pod="p"'


@dataclass(frozen=True)
class Case:
    """Series, by their text, and whether the alert fires at a time (seconds)."""

    name: str
    series: dict[str, list[Value]]
    at: float
    fires: bool


@dataclass(frozen=True)
class Spec:
    """One file."""

    alert: str
    step: float
    at: float
    given: dict[str, Any]

    @property
    def samples(self) -> int:
        """Samples until the alert must fire."""
        return round(self.at / self.step) + 1

    def values(self, written: object, count: int) -> list[Value]:
        """Write the values of a series, `count` of them."""
        if written is None or isinstance(written, int | float):
            return [None if written is None else float(written)] * count
        words = str(written).split()
        number = [float(word) for word in words[1:]]
        minute = 60.0 / self.step
        match words[0]:
            case "steps":
                last, apart = self.samples - 1, number[1] / self.step
                rises = [last - 2 - each * apart for each in range(int(number[0]))]
                return [float(sum(index >= rise for rise in rises)) for index in range(count)]
            case "early":
                return [min(index * 1.0, number[0]) for index in range(count)]
            case "bend":
                bend = number[2] * minute
                return [number[0] * min(index, bend) + number[1] * max(0.0, index - bend) for index in range(count)]
            case "change":
                return [number[0] if index < number[2] * minute else number[1] for index in range(count)]
            case "born":
                first = number[1] * minute if self.step >= 60 else self.samples - 1 - number[1] / self.step
                return [number[0] if index >= first else None for index in range(count)]
            case "until":
                return [number[0] if index < number[1] * minute else None for index in range(count)]
            case "clock":
                return [index * self.step + number[0] for index in range(count)]
            case "ends":
                return [number[0] * index if index < number[1] * minute else None for index in range(count)]
            case "late":
                bent = self.values(f"bend {number[1]} {number[2]} {number[3]}", count)
                return [value if index >= number[0] * minute else None for index, value in enumerate(bent)]
            case "levels":
                return [_level(number, index / minute) for index in range(count)]
            case "slopes":
                return [0.0, *accumulate(_level(number, index / minute) for index in range(count - 1))]
            case rising:
                return [float(rising) * index for index in range(count)]


def _level(numbers: list[float], minute: float) -> float:
    """Return what holds at a minute, of values with the minutes at which they change between them."""
    changes = zip(numbers[1::2], numbers[2::2], strict=True)
    return next((value for at, value in reversed(list(changes)) if minute >= at), numbers[0])


def read(path: Path) -> Spec:
    """Read one file."""
    given = _Loader.load(path)
    return Spec(path.stem, parse_duration(given.get("step", "15s")), _minutes(given.get("at", "20m")), given)


class _Loader(yaml.SafeLoader):
    """Keeps `+1` as text: it is a counter, not a number."""

    @classmethod
    def load(cls, path: Path) -> dict[str, Any]:
        document: dict[str, Any] = yaml.load(path.read_text(), cls)  # noqa: S506 - a safe loader
        return document


_Loader.yaml_implicit_resolvers = {
    key: [(tag, pattern) for tag, pattern in found if key != "+"]
    for key, found in yaml.SafeLoader.yaml_implicit_resolvers.items()
}


def _minutes(text: str) -> float:
    return 60.0 * float(text.removesuffix("m"))


def cases(spec: Spec) -> list[Case]:
    """Return all cases of an alert."""
    given, base = spec.given, spec.given["fires"]
    optional = set(given.get("optional", ()))

    def case(name: str, over: dict[str, object], *, fires: bool) -> Case:
        return Case(name, _series(spec, {**base, **over}, spec.samples), spec.at, fires)

    found = [case("fires", {}, fires=True), case("just below", given["just_below"], fires=False)]
    found.append(case("idle", given["idle"], fires=False))
    found += [case(name, over, fires=False) for name, over in given.get("never", {}).items()]
    found += [case(name, over, fires=True) for name, over in given.get("also_fires", {}).items()]
    found += [
        case(f"missing {name}", {name: None}, fires=False)
        for name in base
        if name not in optional and name not in given.get("missing_not", ())
    ]
    found += [
        case(f"NaN {name}", {name: float("nan")}, fires=False)
        for name in base
        if name not in optional and name not in given.get("nan_not", ())
    ]
    return [*found, _after_restart(spec), _resolved(spec)]


def _series(spec: Spec, written: dict[str, object], count: int) -> dict[str, list[Value]]:
    return {_full(name): spec.values(value, count) for name, value in written.items()}


def _after_restart(spec: Spec) -> Case:
    """An idle server that had counted a lot starts anew: nothing of that is an incident."""
    idle = _series(spec, {**spec.given["fires"], **spec.given["idle"]}, spec.samples)
    half = spec.samples // 2
    series = {
        name: [1000.0] * half + [0.0] * (spec.samples - half)
        if re.match(rf"{PREFIX}\w+(_total|_sum|_count|_bucket)\{{", name)
        else values
        for name, values in idle.items()
    }
    return Case("after a restart", series, spec.at, False)


def _resolved(spec: Spec) -> Case:
    after = round(_minutes(spec.given.get("resolve_after", "30m")) / spec.step)
    firing = _series(spec, spec.given["fires"], spec.samples)
    over = spec.given.get("resolved", spec.given["idle"])
    calm = _series(spec, {**spec.given["fires"], **over}, spec.samples + after)
    series = {}
    for name, values in firing.items():
        written = calm[name]
        last = values[-1]
        counter = re.match(rf"{PREFIX}\w+(_total|_sum|_count|_bucket)\{{", name)
        rest = [last] * after if counter and last is not None else written[len(values) :]
        series[name] = [*values, *rest]
    return Case("resolves", series, spec.at + after * spec.step, False)


def _full(name: str) -> str:
    """Write a series with the labels that its metric has and that are not given."""
    metric, _, rest = name.partition("{")
    if metric.startswith("/"):  # not of the sidecar
        return f'{metric[1:]}{{instance="a:10190",{rest}'
    given = rest.removesuffix("}")
    own = [f'{label}="{LABELS[label]}"' for label in labels_of(metric) if label in LABELS and f'{label}="' not in given]
    where = "" if 'instance="' in given else WHERE
    return f"{PREFIX}{metric}{{{','.join(filter(None, (where, *own, given)))}}}"


def promtool_test(found: list[Case], spec: Spec, hold: float, rules: str) -> dict[str, object]:
    """Write the cases as a file of promtool's, for an alert whose `for` is so many seconds."""
    return {
        "rule_files": [rules],
        "evaluation_interval": f"{spec.step:g}s",
        "tests": [
            {
                "name": case.name,
                "interval": f"{spec.step:g}s",
                "input_series": [
                    {"series": name, "values": " ".join(_words(values))} for name, values in case.series.items()
                ],
                "promql_expr_test": _expected(case, spec, hold),
            }
            for case in found
        ],
    }


def _words(values: list[Value]) -> Iterator[str]:
    """Write values as promtool reads them; the end of a series is marked, as a scrape does it."""
    for before, value in pairwise([None, *values]):
        yield repr(value) if value is not None else "_" if before is None else "stale"


def _expected(case: Case, spec: Spec, hold: float) -> list[dict[str, object]]:
    state = f'ALERTS{{alertname="{spec.alert}",alertstate="%s"}}'
    one = [{"labels": "{}", "value": 1}]
    fires = {"expr": f"count({state % 'firing'})", "eval_time": f"{case.at:g}s", "exp_samples": one * case.fires}
    pending = max(1, round(hold / spec.step) - 1)
    waited = f"count(count_over_time({state % 'pending'}[{case.at:g}s]) >= {pending})"
    return [fires, {"expr": waited, "eval_time": f"{case.at:g}s", "exp_samples": one}] if case.fires else [fires]
