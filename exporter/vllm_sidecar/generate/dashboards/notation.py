"""The catalog's notation of expressions and texts -> PromQL with Grafana's variables."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, cast

from vllm_sidecar.catalog.alerts import ALERTS
from vllm_sidecar.catalog.alerts.alert import LABEL_SETS
from vllm_sidecar.catalog.objectives import SLOS
from vllm_sidecar.catalog.types import PREFIX, RECORD_PREFIX
from vllm_sidecar.config import format_duration
from vllm_sidecar.generate import lint
from vllm_sidecar.generate.dashboards.variables import ENGINE, MODEL, WHERE
from vllm_sidecar.generate.expressions import in_cluster, quoted
from vllm_sidecar.generate.settings.thresholds import KINDS, labels_of, resolve
from vllm_sidecar.generate.slo_resolution import resolve_objectives
from vllm_sidecar.generate.templating import render

if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Any

    from vllm_sidecar.catalog.dashboards import Query
    from vllm_sidecar.generate.settings.thresholds import Thresholds

_METRIC = re.compile(r"([~@])([a-z0-9_:]+)(?:\{([^}]*)\})?")
_SEVERITY = re.compile(r'\bseverity="(page|ticket|info)"')
_USERS = "\0"
"""Placeholder of the matcher of the sidecars' job. It is inserted last, so that nothing in it is rewritten."""
_PLACES = ",".join(f'{name}=~"${name}"' for name in WHERE)
_INSTANCE, _MODEL, _ENGINE = (f'{name}=~"${name}"' for name in ("instance", MODEL, ENGINE))
_MODEL_OR_NONE = f'{MODEL}=~"(${MODEL})?"'
"""Also matches series without a model: of GPUs, of a server that has not answered yet, and of a plain Prometheus."""
_FIRING = ",".join(
    (
        'alertname=~"Vllm.+",alertname!="VllmWatchdog",alertstate="firing"',
        *(f'{name}=~"(${name})?"' for name in (*WHERE, "instance", MODEL)),
    )
)
"""Alerts that lack a label are shown whatever is chosen: those of a model have neither job nor instance."""
_WATCHDOG = 'alertname="VllmWatchdog",alertstate="firing"'


class Notation:
    """The numbers of one user's thresholds, and how expressions that name them are written."""

    def __init__(self, thresholds: Thresholds) -> None:
        self.thresholds = thresholds
        self._numbers = _numbers(thresholds)
        self._words = {
            **LABEL_SETS,
            **self._numbers,
            "firing": "ALERTS",
            "alerts": _FIRING,
            "watchdog": _WATCHDOG,
            "sidecars": f"up{{{_USERS},{_PLACES},{_INSTANCE}}}",
        }

    def text(self, text: str) -> str:
        """Insert numbers into a text."""
        return render(text, **self._words)

    def finished(self, document: dict[str, Any]) -> dict[str, Any]:
        """Insert the user's texts into a whole dashboard, last: the label of clusters and the job of the sidecars."""
        return cast("dict[str, Any]", self._finished(document))

    def _finished(self, node: object) -> object:
        if isinstance(node, dict):
            return {self._finished(key): self._finished(value) for key, value in node.items()}
        if isinstance(node, list):
            return [self._finished(each) for each in node]
        if not isinstance(node, str):
            return node
        return in_cluster(node, self.thresholds).replace(_USERS, f"job=~{quoted(self.thresholds.sidecar_job)}")

    def limit(self, name: str) -> float | None:
        """Return the number that a panel names, such as `VllmQueueWaitHigh.wait`; None if the user has none."""
        if not name:
            return None
        group, _, key = name.partition(".")
        found = self._numbers[group]
        return found[key] if key else found  # type: ignore[no-any-return]

    def query(self, query: Query) -> str:
        """Write a query, with the alternative for a plain Prometheus.

        Raises:
            LintError: It is wrong.
        """
        expr = self._query(query)
        lint.check("a panel", re.sub(r"\[\$__\w+\]", "[1h]", expr).replace(_USERS, 'job="x"'), least_range=0.0)
        return expr

    def _query(self, query: Query) -> str:
        expr, plain = self.promql(query.expr), self.promql(query.plain)
        if query.top:
            most = f"topk({query.top}, max" if query.top > 0 else f"bottomk({-query.top}, min"
            # The same few over the whole range: ranked at each step, they would change every minute.
            expr = f"{expr} and {most}_over_time({expr}[$__range] @ end()))"
            return f"({expr}) or on () topk({abs(query.top)}, {plain})" if plain else expr
        # Each side has only some of these labels; labels that both lack are equal.
        return f"({expr}) or on ({LABEL_SETS['E']}) ({plain})" if plain else expr

    def promql(self, text: str) -> str:
        """Write an expression of the catalog."""
        house = _SEVERITY.sub(lambda found: f'severity="{self.thresholds.severity(found[1])}"', self.text(text))
        return _METRIC.sub(lambda found: _selected(found[1], found[2], found[3] or ""), house)


def _selected(mark: str, name: str, own: str) -> str:
    """Add the matchers of the variables that a metric has labels for."""
    if mark == "@":
        labels: tuple[str, ...] = (MODEL,)
        matchers = [own, _PLACES]
    else:
        labels = labels_of(name)
        matchers = [own, _PLACES, _INSTANCE]
    model = _MODEL_OR_NONE if (mark, name) == ("~", "up") else _MODEL
    matchers += [model] * (MODEL in labels) + [_ENGINE] * (ENGINE in labels)
    prefix = RECORD_PREFIX if mark == "@" else PREFIX
    return f"{prefix}{name}{{{','.join(each for each in matchers if each)}}}"


def _numbers(thresholds: Thresholds) -> dict[str, Any]:
    found: dict[str, Any] = {alert.name: resolve(thresholds, alert).values for alert in ALERTS}
    return {
        **found,
        "slo": _objectives(thresholds),
        **_burns(thresholds),
        "one": 1.0,
        "above_zero": 0.001,
        "spent": 0.0,
    }


def _objectives(thresholds: Thresholds) -> Mapping[str, float | None]:
    """Return the threshold of each latency objective; disabled ones have their defaults."""
    general = {slo.name: variants[-1].settings.threshold for slo, variants in resolve_objectives(thresholds).objectives}
    defaults = {
        slo.name: {kind.value: value for kind, value in slo.thresholds.items()}.get(thresholds.profile) for slo in SLOS
    }
    return defaults | general


def _burns(thresholds: Thresholds) -> dict[str, Any]:
    """Return factors and windows of the first and the last pair that page, and of the last of all."""
    burns = list(thresholds.slos.burn)
    pages = [burn for burn in burns if KINDS.get(burn.severity, burn.severity) == "page"] or burns
    named = {"page": pages[0], "page_slow": pages[-1], "ticket_slow": burns[-1]}
    windows = {name: format_duration(burn.long) for name, burn in named.items()}
    return {
        "burn": {name: burn.factor for name, burn in named.items()},
        "windows": windows | {"short": format_duration(pages[0].short)},
    }
