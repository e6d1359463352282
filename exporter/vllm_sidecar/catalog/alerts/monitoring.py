"""The monitoring itself: whether its data is right, and whether alerts arrive."""

from __future__ import annotations

from vllm_sidecar.catalog.alerts.alert import (
    ENGINE,
    REPLICA,
    STATUS,
    Alert,
    Measure,
    Severity,
    Threshold,
    number,
    ratio,
)

_LOGS = (
    "{{ with $labels.pod }}kubectl -n {{ $labels.namespace }} logs {{ . }} -c vllm-sidecar --previous{{ else }}"
    "journalctl -u vllm-sidecar -n 200{{ end }}"
)
_WORKS = "sum by (<<T>>) (increase({}[30m])) > 0"
_SERVES = " or ".join(
    _WORKS.format(counter)
    for counter in ("~generation_tokens_total", "~prompt_tokens_total", "~requests_finished_total")
)
"""A server that has served nothing may expose a gauge only with its first request."""
_EXPIRES = (
    "(~{0}_certificate_not_after_timestamp_seconds - time() < <<remaining>> and "
    "~{0}_certificate_not_after_timestamp_seconds - time() < <<share>> * "
    "(~{0}_certificate_not_after_timestamp_seconds - ~{0}_certificate_not_before_timestamp_seconds))"
)
"""Of a certificate for hours or days only the last quarter counts: it is renewed earlier, and never has 14 days."""

MONITORING: tuple[Alert, ...] = (
    Alert(
        name="VllmSidecarDown",
        severity=Severity.TICKET,
        hold="15m",
        expr="up{<<sidecar>>} == 0",
        summary=f"the sidecar in {REPLICA} does not answer",
        description="Prometheus cannot scrape it: its vLLM server is not monitored, but may be fine.",
        cause="its container died, or a network policy keeps Prometheus out",
        first=_LOGS,
        dashboard="vllm-sidecar",
    ),
    Alert(
        name="VllmGaugesStale",
        severity=Severity.TICKET,
        hold="1m",
        expr="~gauges_stale == 1",
        summary=f"the gauges of {ENGINE} are frozen",
        description="They show running or waiting requests, but nothing moves. If vllm_sidecar_clients_left is 1, the "
        "clients have left and the engine is idle; otherwise it is unknown whether clients wait.",
        cause="clients that all left at once, after which an idle vLLM does not update its gauges",
        first="send one short request, which corrects the gauges; until then do not scale by them",
        dashboard="vllm-engine",
    ),
    Alert(
        name="VllmSignalMissing",
        severity=Severity.TICKET,
        hold="30m",
        expr=f"~signal_missing == 1 and on (<<T>>) ({_SERVES})",
        summary=f"vLLM in {REPLICA} does not expose {{{{ $labels.signal }}}}",
        description="Panels and alerts that need it are silent for this server.",
        cause="a very old vLLM, a front end that hides metrics, or a rename that is unknown to this release",
        first=f"{STATUS}: missing and unknown families",
        dashboard="vllm-sidecar",
    ),
    Alert(
        name="VllmVersionUnknown",
        severity=Severity.INFO,
        hold="1h",
        expr="~unknown_families > <<families>>",
        thresholds=(number("families", 0, "Unknown metric families that are accepted."),),
        summary=f"vLLM in {REPLICA} has {{{{ $value }}}} metrics that are unknown to this release",
        description="Known metrics are exported as usual; a newer sidecar may support the others.",
        cause="a newer vLLM than this sidecar",
        first=f"{STATUS}: unknown families; look for a newer release",
        dashboard="vllm-sidecar",
    ),
    Alert(
        name="VllmSidecarPollsFailing",
        severity=Severity.TICKET,
        hold="10m",
        expr=(
            'sum without (reason) (increase(~poll_failures_total{source="vllm"}[10m])) / '
            '(increase(~polls_total{source="vllm"}[10m]) > 0) > <<failing>> and on (<<T>>) (~up{source="vllm"} == 1)'
        ),
        thresholds=(ratio("failing", 0.1, "Share of polls that fail."),),
        summary=f"{{{{ $value | humanizePercentage }}}} of the polls of {REPLICA} fail",
        description="vLLM answers only some polls: more than <<failing>> of them fail, so peaks are missed.",
        cause="an API server that is short of CPU, or a proxy in between",
        first="PromQL: sum by (reason) (rate(vllm_sidecar_poll_failures_total[10m]))",
        dashboard="vllm-sidecar",
    ),
    Alert(
        name="VllmSidecarIntervalStretched",
        severity=Severity.TICKET,
        hold="15m",
        expr=(
            '~poll_interval_seconds{source="vllm"} > <<interval>> '
            'and on (<<T>>) (~poll_server_time_ratio{source="vllm"} > <<ratio>>)'
        ),
        thresholds=(
            Threshold("interval", Measure.SECONDS, 5, "Time between two polls."),
            ratio("ratio", 0.008, "Share of the server's time above which the interval is stretched, not configured."),
        ),
        summary=f"the sidecar of {REPLICA} polls only every {{{{ $value | humanizeDuration }}}}",
        description="/metrics is slow, and polls may take only a small share of the server's time: peaks are missed.",
        cause="very many series, or an API server that is short of CPU",
        first="PromQL: vllm_sidecar_poll_duration_seconds, next to the CPU of the API server",
        dashboard="vllm-sidecar",
    ),
    Alert(
        name="VllmSidecarBehind",
        severity=Severity.TICKET,
        hold="5m",
        expr=(
            '~last_success_age_seconds{source="vllm"} > <<intervals>> '
            '* ~poll_interval_seconds{source="vllm"} and on (<<T>>) (~up{source="vllm"} == 1)'
        ),
        thresholds=(number("intervals", 5, "Age of the last successful poll, in poll intervals."),),
        summary=f"the sidecar of {REPLICA} falls behind",
        description="Its data is {{ $value | humanizeDuration }} old although no poll failed.",
        cause="too little CPU for the sidecar, or too many servers for one",
        first="PromQL: rate(process_cpu_seconds_total[5m]) of the sidecar next to its CPU limit",
        dashboard="vllm-sidecar",
    ),
    Alert(
        name="VllmSidecarOverloaded",
        severity=Severity.TICKET,
        hold="10m",
        expr="~event_loop_lag_seconds > <<lag>>",
        thresholds=(Threshold("lag", Measure.SECONDS, 1, "Longest time in a minute without a poll or a scrape."),),
        summary=f"the sidecar in {REPLICA} is held for {{{{ $value | humanizeDuration }}}} at a time",
        description="Neither polls nor scrapes continue meanwhile: peaks and stalls between polls are missed.",
        cause="a CPU limit, too many servers or engines for one sidecar, or a body that is unusually large",
        first="PromQL: rate(vllm_sidecar_event_loop_busy_seconds_total[5m]), next to its CPU limit",
        dashboard="vllm-sidecar",
    ),
    Alert(
        name="VllmSidecarReloadFailed",
        severity=Severity.TICKET,
        hold="5m",
        expr="~config_last_reload_successful == 0 or ~web_config_last_reload_successful == 0",
        summary=f"the sidecar in {REPLICA} refused its new configuration",
        description="It still runs with the old one; after a restart it will not start.",
        cause="a mistake in the file, or in the one of web.config_file or its certificates",
        first="vllm-sidecar check-config FILE lists every mistake",
        dashboard="vllm-sidecar",
    ),
    Alert(
        name="VllmDiscoveryFailing",
        severity=Severity.TICKET,
        hold="15m",
        expr="~discovery_last_refresh_successful == 0",
        summary=f"the sidecar in {REPLICA} cannot read its list of servers {{{{ $labels.discovery }}}}",
        description="It still watches the servers of the last list, or none after a restart: newer servers are not "
        "monitored, and those that were removed are reported as down.",
        cause="a role, token or certificate, a network policy, or a list with a mistake",
        first=f"{STATUS}: discovery has the error and what to do",
        dashboard="vllm-sidecar",
    ),
    Alert(
        name="VllmCertificateExpiring",
        severity=Severity.TICKET,
        hold="30m",
        expr=f"{_EXPIRES.format('target')} or {_EXPIRES.format('web')}",
        thresholds=(
            Threshold("remaining", Measure.SECONDS, 14 * 86400, "Time before a certificate expires."),
            ratio("share", 0.25, "Share of its lifetime below which a certificate of a few days should be renewed."),
        ),
        summary="{{ with $labels.certificate }}the {{ . }} certificate of the connection to vLLM{{ else }}the "
        f"certificate of the sidecar's port{{{{ end }}}} in {REPLICA} "
        "{{ if lt $value 0.0 }}has expired{{ else }}expires in {{ $value | humanizeDuration }}{{ end }}",
        description="Then polls fail, or Prometheus can no longer scrape the sidecar: the server is not monitored.",
        cause="a renewal that fails, a certificate that nobody renews, or a vLLM that has not loaded the new one",
        first="PromQL: vllm_sidecar_target_certificate_not_after_timestamp_seconds or "
        "vllm_sidecar_web_certificate_not_after_timestamp_seconds",
        dashboard="vllm-sidecar",
    ),
    Alert(
        name="VllmRuleEvaluationsMissed",
        severity=Severity.TICKET,
        hold="5m",
        expr='increase(prometheus_rule_group_iterations_missed_total{rule_group=~".*;vllm-.*"}[15m]) > <<missed>>',
        thresholds=(number("missed", 2, "Evaluations in fifteen minutes that may be missed."),),
        summary="Prometheus missed {{ $value | humanize }} evaluations of {{ $labels.rule_group }}",
        description="The rules take longer than their interval: alerts arrive late, or not at all.",
        cause="too many series for one Prometheus, too little CPU, or slow storage",
        first="PromQL: prometheus_rule_group_last_duration_seconds next to prometheus_rule_group_interval_seconds",
        dashboard="vllm-sidecar",
    ),
    Alert(
        name="VllmWatchdog",
        severity=Severity.WATCHDOG,
        hold="",
        expr="vector(1)",
        summary="alerts arrive",
        description="It always fires; when it stops, Prometheus or Alertmanager does not work.",
        cause="nothing",
        first="nothing",
        dashboard="vllm-sidecar",
    ),
)
