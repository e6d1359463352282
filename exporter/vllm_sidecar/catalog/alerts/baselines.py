"""Models compared with their own past, and replicas with each other: nothing is broken, but something got worse.

A baseline belongs to a model, never to one instance: a new pod has no past, and releases are when regressions happen.
It is the same hour of the previous day, because load follows the time of day. Latency between tokens is compared at a
comparable load, in tokens per second per replica. Batch size is not used for that: it grows when steps become slower.
"""

from __future__ import annotations

from vllm_sidecar.catalog.alerts.alert import (
    MODEL,
    OF_MODEL,
    PEER,
    YESTERDAY,
    Alert,
    Record,
    Severity,
    newest,
    number,
    ratio,
)

LAST_WEEK = "offset 167h30m"
"""With a range of an hour: around the same time of day one week ago, as YESTERDAY is for one day ago."""
_ITL, _TTFT = "~inter_token_latency_seconds", "~time_to_first_token_seconds"
_FINGERPRINT = newest("~server_config_info", "fingerprint")
_WARM = f"({_FINGERPRINT} and on (<<T>>, fingerprint) ~server_config_info offset 25m)"
"""Replicas whose release had served for 15 minutes before the ten that are compared: by then its caches are warm."""


def _by_release(rate: str) -> str:
    return f"sum by (<<F>>, fingerprint) (sum by (<<M>>) ({rate}) * on (<<T>>) group_left (fingerprint) {_WARM})"


_FAILED = _by_release('rate(~requests_finished_total{finished_reason="error"}[10m])')
_ENDED = _by_release('rate(~requests_finished_total{finished_reason!="abort"}[10m])')


def _release_mean(latency: str) -> str:
    """Return the mean latency of the warm replicas of each release, where there were 100 observations."""
    total, count = (_by_release(f"rate({latency}_{part}[10m])") for part in ("sum", "count"))
    return f"{total} / ({count} > 0.16)"


def _past(record: str, when: str) -> str:
    return f"avg_over_time({record}[1h] {when})"


_SERVING = f"(sum by (<<M>>) ({_TTFT}_count) * on (<<T>>) group_left (fingerprint) {_FINGERPRINT})"
_PRESENT = f"count by (<<F>>, fingerprint) {_SERVING}"

_ANSWERS = '(sum by (<<F>>) (increase(~requests_finished_total{finished_reason!="abort"}[30m])) >= 100)'
"""Answers of half an hour, of models with enough of them (100) for a ratio."""

BASELINE_RECORDS: tuple[Record, ...] = (
    Record(
        "replica_inter_token_latency_seconds:mean10m",
        "<<M>>",
        f"sum by (<<M>>) (rate({_ITL}_sum[10m])) / (sum by (<<M>>) (rate({_ITL}_count[10m])) > 0.5)",
    ),
    Record("replica_tokens:rate10m", "<<M>>", f"sum by (<<M>>) (rate({_ITL}_count[10m]))"),
    Record("replica_requests:rate10m", "<<M>>", f"sum by (<<M>>) (rate({_TTFT}_count[10m]))"),
    Record(
        "model_inter_token_latency_seconds:mean10m",
        "<<F>>",
        f"sum by (<<F>>) (rate({_ITL}_sum[10m])) / (sum by (<<F>>) (rate({_ITL}_count[10m])) > 0.5)",
    ),
    Record(
        "model_tokens_per_replica:rate10m",
        "<<F>>",
        "avg by (<<F>>) (@replica_tokens:rate10m)",
    ),
    Record(
        "model_prefix_hits:ratio10m",
        "<<F>>",
        'avg by (<<F>>) (avg_over_time(~recent_cache_hit_ratio{cache="local"}[10m]))',
    ),
    Record(
        "model_cut_short:ratio30m",
        "<<F>>",
        'sum by (<<F>>) (increase(~requests_finished_total{finished_reason=~"length|repetition"}[30m])) '
        f"/ {_ANSWERS}",
    ),
    Record(
        "model_repetitions:ratio30m",
        "<<F>>",
        f'sum by (<<F>>) (increase(~requests_finished_total{{finished_reason="repetition"}}[30m])) / {_ANSWERS}',
    ),
    Record(
        "model_output_tokens:mean30m",
        "<<F>>",
        "sum by (<<F>>) (increase(~request_generation_tokens_sum[30m])) "
        "/ (sum by (<<F>>) (increase(~request_generation_tokens_count[30m])) >= 100)",
    ),
    Record("model_saturation:ratio", "<<F>>", "avg by (<<F>>) (~saturation_ratio)"),
    Record(
        "job_startup_seconds:max",
        "cluster, namespace, job",
        "max by (cluster, namespace, job) (~server_startup_seconds)",
    ),
    Record(
        "release_first_seen:timestamp",
        "<<F>>, fingerprint",
        # The record reads itself, and only while the release serves, so it ends with the release.
        f"(last_over_time(@release_first_seen:timestamp[1d]) and on (<<F>>, fingerprint) {_PRESENT}) "
        f"or (0 * {_PRESENT} + time())",
    ),
    Record("release_time_to_first_token_seconds:mean10m", "<<F>>, fingerprint", _release_mean(_TTFT)),
    Record("release_inter_token_latency_seconds:mean10m", "<<F>>, fingerprint", _release_mean(_ITL)),
    Record(
        "release_failed:ratio10m",
        "<<F>>, fingerprint",
        f"{_FAILED} / ({_ENDED} > 0.16)",
    ),
)
"""Recorded once a minute; comparisons with yesterday read a record, not the series of a whole fleet."""


def _like(record: str, when: str, low: str, high: str) -> str:
    """Write the condition that a record is between `low` and `high` times its value at another time."""
    past = _past(record, when)
    return f"({record} <= {high} * {past} and {record} >= {low} * {past})"


def _comparable(when: str) -> str:
    return f"@model_tokens_per_replica:rate10m <= <<load>> * {_past('@model_tokens_per_replica:rate10m', when)}"


def _slower(when: str) -> str:
    record = "@model_inter_token_latency_seconds:mean10m"
    return f"({record} > <<factor>> * {_past(record, when)} and on (<<F>>) ({_comparable(when)}))"


_NEWEST = (
    "(@release_first_seen:timestamp == on (<<F>>) group_left () max by (<<F>>) (@release_first_seen:timestamp) "
    "unless @release_first_seen:timestamp offset 1d)"
)
"""A release is new for one day: two that serve side by side for longer do so on purpose."""


def _worse(record: str, compared: str) -> str:
    """Write the comparison of the newest release with the last values of the others that served within a day."""
    others = f"avg by (<<F>>) (last_over_time({record}[1d]) unless on (<<F>>, fingerprint) {_NEWEST})"
    return f"({record} > on (<<F>>) group_left () ({compared.format(others)}) and on (<<F>>, fingerprint) {_NEWEST})"


_PEERS = "count by (<<F>>) (@replica_tokens:rate10m) >= <<replicas>>"
_UNEVEN = (
    "unless on (<<F>>) (count by (<<F>>) (~kv_transfers_total)) "
    "unless on (<<F>>) (count by (<<F>>) (@release_first_seen:timestamp) >= 2) "
    "unless on (<<T>>) (max by (<<T>>) (~engine_sleeping) == 1)"
)
"""Prefill and decode replicas, canaries and sleeping replicas have a different load on purpose."""

BASELINES: tuple[Alert, ...] = (
    Alert(
        name="VllmInterTokenLatencyRegressed",
        severity=Severity.TICKET,
        hold="5m",
        expr=f"{_slower(YESTERDAY)} or {_slower('offset 20m')}",
        thresholds=(
            number(
                "factor",
                2,
                "Ten-minute mean, as a multiple of that of the same hour yesterday or of the previous hour.",
            ),
            number("load", 1.5, "Tokens per second per replica, as a multiple of then, above which it does not fire."),
        ),
        batch_hours=True,
        summary=f"tokens of {MODEL} arrive {{{{ $value | humanizeDuration }}}} apart, more than <<factor>> times as "
        "slow as before",
        description="The ten-minute mean is more than <<factor>> times that of the same hour yesterday, or of the "
        "previous hour, at no more than <<load>> times the tokens per second per replica.",
        cause="throttled GPUs, long prompts in the same steps, preemptions, or a changed flag",
        first='PromQL: vllm_sidecar_gpu_throttled{reason!~"idle|sw_power_cap"} == 1; then compare the flags',
        dashboard="vllm-engine",
    ),
    Alert(
        name="VllmReplicaSlow",
        severity=Severity.TICKET,
        hold="10m",
        expr=(
            "@replica_inter_token_latency_seconds:mean10m > on (<<F>>) group_left () "
            "(<<factor>> * quantile by (<<F>>) (0.5, @replica_inter_token_latency_seconds:mean10m)) "
            "and on (<<M>>) (@replica_tokens:rate10m <= on (<<F>>) group_left () "
            "(<<load>> * quantile by (<<F>>) (0.5, @replica_tokens:rate10m))) "
            f"and on (<<F>>) ({_PEERS})"
        ),
        thresholds=(
            number("factor", 1.8, "Mean latency between tokens, as a multiple of the median of the model's replicas."),
            number("load", 1.5, "Tokens per second, as a multiple of the median, above which it does not fire."),
            number("replicas", 3, "Below this many replicas it does not fire, because a median means little."),
        ),
        summary=f"{PEER} is slower than the model's other replicas",
        description="Its tokens arrive {{ $value | humanizeDuration }} apart, more than <<factor>> times the median of "
        "the model's replicas, and it does not do more work.",
        cause="a throttled or failing GPU, a noisy neighbor on its node, or a different flag or version",
        first='PromQL: vllm_sidecar_gpu_throttled{reason!~"idle|sw_power_cap"} == 1 on its node; compare the flags',
        dashboard="vllm-engine",
    ),
    Alert(
        name="VllmReplicaLoadUneven",
        severity=Severity.TICKET,
        hold="15m",
        expr=(
            "((avg_over_time(@replica_tokens:rate10m[30m]) > on (<<F>>) group_left () "
            "(<<most>> * avg by (<<F>>) (avg_over_time(@replica_tokens:rate10m[30m]))) "
            "and @replica_tokens:rate10m offset 30m) "
            "or (avg_over_time(@replica_requests:rate10m[30m]) < on (<<F>>) group_left () "
            "(<<fewest>> * avg by (<<F>>) (avg_over_time(@replica_requests:rate10m[30m]))) "
            "and @replica_requests:rate10m offset 30m)) "
            f"and on (<<F>>) ({_PEERS}) and on (<<F>>) (avg by (<<F>>) (@replica_requests:rate10m) >= <<requests>>) "
            + _UNEVEN
        ),
        thresholds=(
            number("most", 2.5, "Tokens per second, as a multiple of the mean of the replicas."),
            ratio("fewest", 0.1, "Requests per second, as a share of the mean of the replicas."),
            number("replicas", 3, "Below this many replicas it does not fire."),
            number(
                "requests",
                0.1,
                "Below this many requests per second per replica it does not fire, because chance decides.",
            ),
        ),
        batch_hours=True,
        summary=f"{PEER} does not get its share of the load",
        description="In half an hour it generated more than <<most>> times the mean tokens of the model's replicas, or "
        "got less than <<fewest>> of their mean requests.",
        cause="sticky sessions, a router that does not see the replica, or one that sends everything to it",
        first="PromQL: sum by (pod, instance) (rate(vllm_sidecar_generation_tokens_total{" + OF_MODEL + "}[10m]))",
        dashboard="vllm-overview",
    ),
    Alert(
        name="VllmPrefixHitRatioDropped",
        severity=Severity.TICKET,
        hold="75m",
        expr=(
            f"@model_prefix_hits:ratio10m < <<share>> * avg_over_time(@model_prefix_hits:ratio10m[1d]) "
            f"unless on (<<F>>) (@model_prefix_hits:ratio10m >= <<share>> * "
            f"{_past('@model_prefix_hits:ratio10m', YESTERDAY)}) "
            "and on (<<F>>) (avg_over_time(@model_prefix_hits:ratio10m[1d]) > <<worth>>) "
            "and on (<<F>>) (sum by (<<F>>) (increase(~time_to_first_token_seconds_count[10m])) >= <<least_requests>>)"
        ),
        thresholds=(
            ratio("share", 0.5, "Share of the mean of the day, and of the same hour yesterday, below which it fires."),
            ratio("worth", 0.1, "Mean hit ratio of the day below which it does not fire, because little can be lost."),
            number("least_requests", 30, "Below this many requests in ten minutes it does not fire."),
        ),
        batch_hours=True,
        summary=f"prefix-cache hits of {MODEL} fell to {{{{ $value | humanizePercentage }}}}",
        description="For more than an hour they have been below <<share>> of the mean of the day and of the same hour "
        "yesterday: prompts that used to be found in the cache are computed.",
        cause=(
            "something changed at the beginning of the prompts, such as a time in the system prompt or a new template, "
            "or a router that no longer sends a conversation to the same replica"
        ),
        first="compare the first 200 characters of two prompts of the same client; look at the router's changes",
        dashboard="vllm-kv-cache",
    ),
    Alert(
        name="VllmOutputShapeChanged",
        severity=Severity.TICKET,
        hold="30m",
        expr=(
            f"(@model_cut_short:ratio30m > <<share>> + {_past('@model_cut_short:ratio30m', YESTERDAY)} "
            f"unless on (<<F>>) (@model_cut_short:ratio30m <= <<share>> + "
            f"{_past('@model_cut_short:ratio30m', LAST_WEEK)})) "
            f"or (@model_output_tokens:mean30m unless "
            f"{_like('@model_output_tokens:mean30m', YESTERDAY, '(1 / <<factor>>)', '<<factor>>')} "
            f"unless {_like('@model_output_tokens:mean30m', LAST_WEEK, '(1 / <<factor>>)', '<<factor>>')} "
            f"and on (<<F>>) {_past('@model_output_tokens:mean30m', YESTERDAY)}) "
            "or @model_repetitions:ratio30m > <<repeated>>"
        ),
        thresholds=(
            ratio("share", 0.2, "Rise of the share of answers that end because of length or repetition."),
            number("factor", 2, "Factor by which tokens per answer rose or fell, compared with the same hour."),
            ratio("repeated", 0.02, "Share of answers that vLLM ended because they repeat themselves."),
        ),
        batch_hours=True,
        summary=f"answers of {MODEL} differ in length or ending from those at this hour yesterday",
        description="The share that ends because of length or repetition rose by more than <<share>>, or answers are "
        "more than <<factor>> times as long or as short, also compared with last week: the first sign of wrong output.",
        cause="a template, tokenizer, generation config or weights that changed, a quantization that fails, or new "
        "clients",
        first="read three answers of this model; then PromQL: sum by (finished_reason) "
        "(rate(vllm_sidecar_requests_finished_total{" + OF_MODEL + "}[10m]))",
        dashboard="vllm-incident",
    ),
    Alert(
        name="VllmSaturationSustained",
        severity=Severity.TICKET,
        hold="30m",
        expr="avg_over_time(@model_saturation:ratio[2h]) > <<saturation>>",
        thresholds=(ratio("saturation", 0.9, "Mean saturation of the model's engines over two hours."),),
        batch_hours=True,
        summary=f"{MODEL} has been at its limit for hours",
        description="The mean saturation of two hours is {{ $value | humanizePercentage }}: its autoscaler is at its "
        "maximum, or it has none. The next peak will cause a queue.",
        cause="lasting growth of the load, longer answers, or a maximum number of replicas that is too small",
        first="PromQL: vllm_sidecar_saturation_ratio{" + OF_MODEL + "}; raise maxReplicas",
        dashboard="vllm-overview",
    ),
    Alert(
        name="VllmRollbackCandidate",
        severity=Severity.TICKET,
        hold="5m",
        expr=(
            f"{_worse('@release_inter_token_latency_seconds:mean10m', '<<factor>> * {}')} "
            f"or {_worse('@release_time_to_first_token_seconds:mean10m', '<<factor>> * {}')} "
            f"or {_worse('@release_failed:ratio10m', '<<errors>> + {}')}"
        ),
        thresholds=(
            number("factor", 1.5, "Mean latency, as a multiple of that of the replicas with another fingerprint."),
            ratio(
                "errors",
                0.02,
                "Rise of the share of failed requests above that of the replicas with another fingerprint.",
            ),
        ),
        batch_hours=True,
        summary=f"the newest release of {MODEL} is worse than the one before",
        description="Replicas with fingerprint {{ $labels.fingerprint }} (version, models and flags) are more than "
        "<<factor>> times as slow as those with another one, or fail more often, each after 25 minutes of warm-up "
        "and with 100 observations.",
        cause="the change itself",
        first="{{ with $labels.namespace }}kubectl -n {{ . }} rollout history deployment{{ else }}the status page "
        "shows the flags with their changes{{ end }}: roll back first, then look for the reason",
        dashboard="vllm-incident",
    ),
)

STARTS: tuple[Alert, ...] = (
    Alert(
        name="VllmStartupSlow",
        severity=Severity.TICKET,
        hold="2m",
        expr=(
            "~server_startup_seconds > on (cluster, namespace, job) group_left () "
            "(<<factor>> * avg_over_time(@job_startup_seconds:max[1d] offset 1h)) "
            "and ~server_startup_seconds > <<seconds>> "
            "unless ~server_startup_seconds == ~server_startup_seconds offset 1h"
        ),
        thresholds=(
            number("factor", 2, "Duration of the last start, as a multiple of the slowest starts of the previous day."),
            number("seconds", 300, "Shorter starts, in seconds, never fire it."),
        ),
        summary="vLLM took {{ $value | humanizeDuration }} to start: {{ with $labels.pod }}pod {{ . }}{{ else }}"
        "{{ $labels.instance }}{{ end }}{{ with $labels.namespace }} in {{ . }}{{ end }}"
        "{{ with $labels.node }} on node {{ . }}{{ end }}",
        description="More than <<factor>> times as long as starts of its job took the previous day: scaling out and "
        "recovery are just as slow.",
        cause="weights from a slower registry or file system, an image that was not cached, or a compile cache that "
        "was lost",
        first="{{ with $labels.pod }}kubectl -n {{ $labels.namespace }} describe pod {{ . }}{{ else }}"
        "journalctl -u vllm{{ end }}: which step took the time?",
        dashboard="vllm-overview",
    ),
)
