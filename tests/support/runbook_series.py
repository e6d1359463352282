"""Series with the labels of the runbooks' example, for promtool: a query that finds nothing among them has a slip.

Series and label values are those of the recorded servers in `golden`; what none of them has is made from the catalog.
"""

from __future__ import annotations

import re
from collections import defaultdict
from typing import TYPE_CHECKING, Any

import yaml
from places import ROOT, TESTS
from runbook_pages import EXAMPLE, LABELS

from vllm_sidecar.catalog import SIGNALS, signal_of
from vllm_sidecar.catalog.canary import FAILURES, OutputState
from vllm_sidecar.catalog.gpu_fields import RECOVERY_ACTIONS, THROTTLE_BITS
from vllm_sidecar.catalog.reasons import GPU_REASONS
from vllm_sidecar.catalog.types import PREFIX, Kind
from vllm_sidecar.catalog.upstream import KV_TRANSFERS
from vllm_sidecar.derive.admission import LIMITS
from vllm_sidecar.derive.stalls import CORROBORATING

if TYPE_CHECKING:
    from collections.abc import Iterator


SLO_RULES = ROOT / "rules" / "vllm-sidecar-slo.rules.yml"
STEP, STEPS = "2m", 780
"""A little more than a day, for queries that compare with yesterday."""
AT = "26h"
TARGET = {LABELS[name]: EXAMPLE[name] for name in ("NAMESPACE", "POD", "INSTANCE", "NODE", "CLUSTER")} | {"job": "any"}
OWN = {"model_name": EXAMPLE["MODEL"], "uuid": EXAMPLE["UUID"]}
VALUES: dict[tuple[str, str], tuple[str, ...]] = {
    ("http_requests_total", "status"): ("2xx", "4xx", "5xx"),
    ("up", "source"): ("vllm", "gpu"),
    ("gpu_throttled", "reason"): tuple(THROTTLE_BITS),
    ("gpu_recovery_action", "action"): RECOVERY_ACTIONS,
    ("gpu_xid_errors_total", "severity"): ("critical", "warning", "info"),
    ("gpu_ecc_volatile_errors_total", "error"): ("corrected", "uncorrected"),
    ("gpu_failing", "reason"): tuple(GPU_REASONS),
    ("admission_limit", "limit"): LIMITS,
    ("canary_output_state", "state"): tuple(OutputState),
    ("canary_failures_total", "reason"): FAILURES,
    ("kv_transfers_total", "result"): tuple(dict.fromkeys(each.result for each in KV_TRANSFERS)),
    ("stall_corroborated", "signal"): CORROBORATING,
}
"""Values of labels that no recorded server has all of."""
EXTERNAL = (
    "up",
    "scrape_duration_seconds",
    "process_cpu_seconds_total",
    'kube_pod_container_status_restarts_total{container="vllm"}',
    'kube_pod_container_status_waiting_reason{container="vllm",reason="CrashLoopBackOff"}',
    'kube_pod_container_resource_limits{container="vllm",resource="memory",unit="byte"}',
    'container_memory_working_set_bytes{container="vllm"}',
    'container_cpu_cfs_throttled_seconds_total{container="vllm-sidecar"}',
    'prometheus_rule_group_iterations_missed_total{rule_group="/rules/a.yml;vllm-models"}',
    'prometheus_rule_evaluation_failures_total{rule_group="/rules/a.yml;vllm-models"}',
    'prometheus_rule_group_last_duration_seconds{rule_group="/rules/a.yml;vllm-models"}',
    'prometheus_rule_group_interval_seconds{rule_group="/rules/a.yml;vllm-models"}',
    'ALERTS{alertname="VllmWatchdog",alertstate="firing"}',
)
"""Series of others: Prometheus itself, cAdvisor and kube-state-metrics."""

Labels = tuple[tuple[str, str], ...]


def _recorded() -> dict[str, set[Labels]]:
    """Every series of the recorded servers, with the example's model and GPU."""
    found: dict[str, set[Labels]] = defaultdict(set)
    for path in sorted((TESTS / "golden").glob("*.prom")):
        for line in path.read_text().splitlines():
            match = re.match(rf"{PREFIX}(\w+?)(?:\{{(.*)\}})? \S+$", line)
            if match:
                labels = dict(re.findall(r'(\w+)="((?:[^"\\]|\\.)*)"', match[2] or ""))
                found[match[1]].add(tuple(sorted((labels | {k: OWN[k] for k in OWN if k in labels}).items())))
    return found


def _catalogued() -> Iterator[tuple[str, Labels]]:
    """Every metric of the catalog once, and once more for each further value of a label."""
    for signal in SIGNALS.values():
        names = [signal.name]
        if signal.kind in (Kind.HISTOGRAM, Kind.SUMMARY):
            names = [f"{signal.name}_sum", f"{signal.name}_count"]
            if signal.kind is Kind.HISTOGRAM:
                yield f"{signal.name}_bucket", (("le", "1.0"),)
                yield f"{signal.name}_bucket", (("le", "+Inf"),)
            else:
                yield signal.name, (("quantile", "0.95"),)
        for name in names:
            yield name, ()
            for label in signal.label_names:
                for value in VALUES.get((signal.name, label), ()):
                    yield name, ((label, value),)


def _series() -> dict[str, set[Labels]]:
    found = _recorded()
    for name, given in _catalogued():
        signal = signal_of(name)
        assert signal is not None
        first = dict(min(found[name])) if found[name] else {}
        labels = dict.fromkeys(signal.label_names, "any") | first | {k: OWN[k] for k in OWN if k in signal.label_names}
        if not given and found[name]:
            continue
        found[name].add(tuple(sorted((labels | dict(given)).items())))
    for name in [name for name in found if name.endswith("_info")]:
        found[name] = {min(found[name])}  # a pod has one of each
    return found


def _bound(labels: Labels) -> float:
    return float(dict(labels).get("le", "inf").replace("+Inf", "inf"))


def _text(name: str, labels: dict[str, str]) -> str:
    return name + "{" + ",".join(f'{label}="{value}"' for label, value in sorted(labels.items())) + "}"


def input_series() -> list[dict[str, str]]:
    """Return the series as promtool takes them: gauges are 1, counters rise, and buckets rise with their bound."""
    rows = []
    for name, group in _series().items():
        signal = signal_of(name)
        rises = name.endswith(("_total", "_bucket", "_sum", "_count")) and (
            signal is None or signal.kind in (Kind.COUNTER, Kind.HISTOGRAM, Kind.SUMMARY)
        )
        for rank, labels in enumerate(sorted(group, key=_bound), start=1):
            slope = (rank if name.endswith("_bucket") else len(group)) if rises else 0
            rows.append({"series": _text(PREFIX + name, dict(labels) | TARGET), "values": f"1+{slope}x{STEPS}"})
    records = {
        rule["record"]
        for group in yaml.safe_load(SLO_RULES.read_text())["groups"]
        for rule in group["rules"]
        if "record" in rule
    }
    scope = {"namespace": EXAMPLE["NAMESPACE"], "model_name": EXAMPLE["MODEL"]}
    rows += [
        {"series": _text(name, scope | {"slo": slo}), "values": f"1+0x{STEPS}"}
        for name in sorted(records)
        for slo in ("time_to_first_token", "inter_token_latency", "time_per_output_token", "availability")
    ]
    for text in EXTERNAL:
        name, _, rest = text.partition("{")
        rows.append(
            {"series": _text(name, dict(re.findall(r'(\w+)="([^"]*)"', rest)) | TARGET), "values": f"1+1x{STEPS}"}
        )
    return rows


def finds_something(queries: list[str]) -> dict[str, Any]:
    """Return a file of unit tests that fails for each query whose result is empty or is not a number."""
    return {
        "evaluation_interval": STEP,
        "tests": [
            {
                "interval": STEP,
                "input_series": input_series(),
                "promql_expr_test": [
                    {
                        "expr": f"count(({query}) == ({query})) > bool 0",
                        "eval_time": AT,
                        "exp_samples": [{"labels": "{}", "value": 1}],
                    }
                    for query in queries
                ],
            }
        ],
    }
