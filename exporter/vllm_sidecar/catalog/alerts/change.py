"""Did a release cause it?"""

from __future__ import annotations

from vllm_sidecar.catalog.alerts.types import Alert, Severity, number, ratio


def _mean(latency: str, range_: str, offset: str = "") -> str:
    labels = "cluster, namespace, job, model_name"
    back = f" offset {offset}" if offset else ""
    total, count = (f"sum by ({labels}) (rate(~{latency}_{part}[{range_}]{back}))" for part in ("sum", "count"))
    return f"{total} / {count}"


def _slower(latency: str) -> str:
    """Say that a mean latency of one server is above that of its whole job before the change."""
    of_server = " / ".join(f"sum by (<<M>>) (rate(~{latency}_{part}[10m]))" for part in ("sum", "count"))
    return (
        f"({of_server} > on (cluster, namespace, job, model_name) group_left () "
        f"(<<factor>> * ({_mean(latency, '1h', '1h')})))"
    )


CHANGE: tuple[Alert, ...] = (
    Alert(
        name="VllmRollbackCandidate",
        severity=Severity.TICKET,
        hold="5m",
        expr=(
            "(~server_config_info unless on (cluster, namespace, job, fingerprint) ~server_config_info offset 1h) "
            "and on (cluster, namespace, job) (~server_config_info offset 1h) "
            "and on (<<T>>) ("
            f"{_slower('inter_token_latency_seconds')} or {_slower('time_to_first_token_seconds')} "
            "or ~recent_error_ratio > <<errors>>)"
        ),
        thresholds=(
            number("factor", 1.5, "Mean latency now over that of the job before the change."),
            ratio("errors", 0.02, "Share of failed requests."),
        ),
        summary="{{ $labels.instance }} is worse since it runs with other flags or another version",
        description="Its fingerprint {{ $labels.fingerprint }} is new within the hour, and its latency is more than "
        "<<factor>> times what its job had before, or more than <<errors>> of its requests fail.",
        cause="the change itself",
        first="the status page shows the flags with their changes: roll back first, then find out",
        board="vllm-incident",
    ),
)
