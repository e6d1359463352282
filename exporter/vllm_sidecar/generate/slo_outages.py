"""An outage costs error budget: requests that clients would have sent while nothing served a model count as failed.

A server that is gone counts nothing, so an hour without any server would leave the budget unchanged. The missed
requests are estimated by the rate while the model was last served, unless it was not in use then, as after a drain,
before it is scaled to zero, or at night.
"""

from __future__ import annotations

from vllm_sidecar.catalog.alerts.replicas import MODEL_UP, UNCERTAIN
from vllm_sidecar.catalog.types import RECORD_PREFIX
from vllm_sidecar.generate.slo_observations import BY, MODEL

EVALUATED = f"{RECORD_PREFIX}slo_evaluated:bool"
SERVING = f"{RECORD_PREFIX}slo_serving:bool"
STEADY = f"{RECORD_PREFIX}slo_steady:bool"
COUNTED = f"{RECORD_PREFIX}slo_counted:rate5m"
SERVED = f"{RECORD_PREFIX}slo_served:rate5m"
IS_EVALUATED, IS_SERVING, IS_STEADY, IS_COUNTED, WAS_SERVED, ALL_OF_IT = "\2", "\3", "\4", "\5", "\6", "\7"
"""Placeholders of these records, and of that of all observations, in expressions."""

NOW = "vector(1)"
"""Recorded so that an evaluation can check that there was one before: while Prometheus is down nothing is measured."""
_COUNTS = '~slo_requests_total{slo="availability"}'
_COUNTING = f"({_COUNTS} or ~requests_finished_total)"
"""Series of the replicas that count requests of a model; `up` may lack the label model_name."""
_UNREACHABLE = f"last_over_time({_COUNTS}[10m]) and on (cluster, namespace, job, instance) up{{<<sidecar>>}} == 0"
"""Replicas of which perhaps only the sidecar is gone: for a while it is unknown whether they serve."""
_UNCERTAIN = f"{MODEL_UP} == 0 and on (<<T>>) {UNCERTAIN}"
"""Servers that answer something else than their metrics: a changed token, or a wrong address, does not affect users."""
SERVES = (
    f'group by ({BY}) ({_COUNTING} and on (<<T>>) ~up{{source="vllm"}} == 1) '
    f"or group by ({BY}) ({_UNREACHABLE}) or group by ({BY}) ({_UNCERTAIN})"
)
"""Models that a replica serves now, or may serve."""

_MEASURED = f"(rate({_COUNTS}[1m]) or rate(~requests_finished_total[1m]))"
IS_UP = (
    f"group by ({MODEL}) ({_COUNTING} and on (<<T>>) {_MEASURED} "
    'and on (<<T>>) min_over_time(~up{source="vllm"}[1m]) == 1)'
)
"""Models with a server that has been up for a minute: in a crash loop it is up for seconds.

A series that was scraped once in a minute has no rate: it is unknown, and not idle.
"""
_IN_USE = f"~requests_running > 0 or rate({_COUNTS}[1m]) > 0 or rate(~requests_finished_total[1m]) > 0"
SERVES_RATE = (
    f"({IS_COUNTED} and on ({MODEL}) ({_IN_USE}) "
    f"or on ({BY}) (0 * {IS_COUNTED} or on ({BY}) 0 * (last_over_time({WAS_SERVED}[6h]) > 0))) "
    f"and on ({MODEL}) {IS_STEADY}"
)
"""The rate of requests while the model is served, and 0 where it was not in use in the last minute.

A job that disappears while another one serves the model gets one 0, and only one: its clients have moved.
"""
MISSED = f"last_over_time({WAS_SERVED}[6h]) > 0 unless on ({MODEL}) {IS_SERVING} and on () ({IS_EVALUATED} offset 1m)"
"""The rate of requests that nothing serves; it ends 6 h after the model was last served."""
