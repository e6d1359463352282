"""Traffic of objectives as promtool's series, and what must fire: what the tests of the SLO rules are written in."""

from __future__ import annotations

import functools
import json
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import promtool

from vllm_sidecar.config import ConfigError
from vllm_sidecar.generate.formats import Format, rule_file
from vllm_sidecar.generate.output_files import Origin
from vllm_sidecar.generate.settings.thresholds import Thresholds
from vllm_sidecar.generate.slo_rules import slo_rules

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

STEP = 15
"""Seconds between two scrapes and between two evaluations."""
REPLICA = {"job": "vllm-sidecar", "instance": "a:10190", "model_name": "m", "engine": "0"}
FIRING = 'count by (alertname, model_name, long_window) (ALERTS{alertstate="firing"%s})'


def labelled(name: str, **labels: str) -> str:
    pairs = ",".join(f'{key}="{value}"' for key, value in {**REPLICA, **labels}.items() if value)
    return f"vllm_sidecar_{name}{{{pairs}}}"


@dataclass
class Traffic:
    """Counters that grow by so much a step; `then` goes on with another pace, `again` after a restart."""

    all: str
    good: str

    @classmethod
    def steady(cls, every: float, good: float, steps: int) -> Traffic:
        return cls(f"0+{every:g}x{steps}", f"0+{good:g}x{steps}")

    def then(self, every: float, good: float, steps: int, *, from_zero: bool = False) -> Traffic:
        """Go on from where the counters are, or from 0 as after a restart."""
        base = (0.0, 0.0) if from_zero else (_end(self.all), _end(self.good))
        return Traffic(
            f"{self.all} {base[0] + every:g}+{every:g}x{steps}", f"{self.good} {base[1] + good:g}+{good:g}x{steps}"
        )


def _end(values: str) -> float:
    """Return the last value of promtool's notation."""
    last = values.rsplit(maxsplit=1)[-1]
    start, _, rest = last.partition("+")
    step, _, times = rest.partition("x")
    return float(start) + float(step) * int(times)


def latency(histogram: str, edge: str | None, traffic: Traffic, **labels: str) -> dict[str, str]:
    """Series of a histogram that has this edge, or (None) not the one that is asked for."""
    found = {
        labelled(f"{histogram}_count", **labels): traffic.all,
        labelled(f"{histogram}_bucket", **labels, le="+Inf"): traffic.all,
    }
    return found | {labelled(f"{histogram}_bucket", **labels, le=edge or "0.123"): traffic.good}


def counted(slo: str, traffic: Traffic, threshold: float | None = None, **labels: str) -> dict[str, str]:
    """Series of the sidecar's own counters."""
    engine = {} if threshold is not None else {"engine": ""}
    found = {
        labelled("slo_requests_total", **engine, **labels, slo=slo): traffic.all,
        labelled("slo_good_requests_total", **engine, **labels, slo=slo): traffic.good,
    }
    if threshold is not None:
        found[labelled("slo_threshold_seconds", **{"engine": "", **labels}, slo=slo)] = f"{threshold:g}x4000"
    return found


@dataclass
class Expected:
    """What must fire at a time (seconds): alert, model and long window of each, and what else promtool should say.

    `only` looks at one long window and leaves the others alone.
    """

    at: float
    firing: set[tuple[str, str, str]] = field(default_factory=set)
    values: Mapping[str, Sequence[Mapping[str, Any]]] = field(default_factory=dict)
    only: str = ""


def rules(path: Path, slo: str = "", **settings: Any) -> Path:
    """Write the rules of these settings, all or those of one objective."""
    name, content = _rule_file(slo, json.dumps(settings))
    (path / name).write_bytes(content)
    return path / name


@functools.cache
def _rule_file(slo: str, settings: str) -> tuple[str, bytes]:
    try:
        groups = slo_rules(Thresholds.model_validate(json.loads(settings))).groups
    except ConfigError as error:
        raise AssertionError(str(error)) from None
    groups = [group for group in groups if group["name"].startswith(f"vllm-slo-{slo.replace('_', '-')}")]
    return rule_file("slo", groups, Format.PROMETHEUS, Thresholds(), Origin("rules"))


def play(
    rule_path: Path, folder: Path, series: Mapping[str, str], *expected: Expected, step: int = STEP
) -> promtool.Result:
    """Let promtool play the series to the rules, and say what differs from what is expected."""
    checks = []
    for each in expected:
        samples = [
            {
                "labels": "{"
                + ",".join(
                    f'{name}="{value}"'
                    for name, value in zip(("alertname", "model_name", "long_window"), alert, strict=True)
                    if value
                )
                + "}",
                "value": 1,
            }
            for alert in sorted(each.firing)
        ]
        shown = FIRING % (f',long_window="{each.only}"' if each.only else "")
        checks.append({"expr": shown, "eval_time": f"{each.at:g}s", "exp_samples": samples})
        checks.extend(
            {"expr": expr, "eval_time": f"{each.at:g}s", "exp_samples": list(found)}
            for expr, found in each.values.items()
        )
    test = {
        "rule_files": [str(rule_path)],
        "evaluation_interval": f"{step}s",
        "tests": [
            {
                "interval": f"{step}s",
                "input_series": [{"series": name, "values": values} for name, values in series.items()],
                "promql_expr_test": checks,
            }
        ],
    }
    file = folder / "test.yml"
    file.write_text(json.dumps(test))
    return promtool.test_rules(file)
