"""Signals about the sidecar itself and its sources."""

from __future__ import annotations

from vllm_sidecar.catalog.types import Kind, Scope, Signal, Unit


def _own(name: str, kind: Kind, text: str, *labels: str, unit: Unit = Unit.NONE, scope: Scope = Scope.TARGET) -> Signal:
    return Signal(name, kind, unit, text, scope, labels)


OWN: tuple[Signal, ...] = (
    _own("up", Kind.GAUGE,
         "1 while the source is polled successfully, 0 before the first success and after 3 misses in a row; "
         "its series are present exactly while it is 1. The model is the one that the server serves, or served last; "
         "empty until it is known, and for the GPUs.",
         "source", "model_name"),
    _own("last_success_timestamp_seconds", Kind.GAUGE, "Unix time of the last successful poll.", "source",
         unit=Unit.TIMESTAMP),
    _own("last_success_age_seconds", Kind.GAUGE,
         "Seconds since the last successful poll when this was scraped, by the sidecar's own monotonic clock.",
         "source", unit=Unit.SECONDS),
    _own("poll_failures_total", Kind.COUNTER, "Failed polls by reason.", "source", "reason"),
    _own("polls_total", Kind.COUNTER, "Polls, failed ones included.", "source"),
    _own("poll_duration_seconds", Kind.GAUGE, "Response time of the last successful poll.", "source",
         unit=Unit.SECONDS),
    _own("poll_interval_seconds", Kind.GAUGE,
         "Time between polls: as configured, or stretched so that the server spends little of its time on them.",
         "source", unit=Unit.SECONDS),
    _own("poll_server_time_ratio", Kind.GAUGE,
         "Share of the server's time that polls take, as the shortest of the last response times say.",
         "source", unit=Unit.RATIO),
    _own("poll_body_bytes", Kind.GAUGE, "Size of the last body.", "source", unit=Unit.BYTES),
    _own("probe_failures_total", Kind.COUNTER,
         "Probes that failed, those of an endpoint that is closed or missing included; the status has the last reason.",
         "probe"),
    _own("probe_last_success_timestamp_seconds", Kind.GAUGE, "Unix time of the last successful probe.", "probe",
         unit=Unit.TIMESTAMP),
    _own("probe_duration_seconds", Kind.GAUGE, "Response time of the last successful probe.", "probe",
         unit=Unit.SECONDS),
    _own("probe_interval_seconds", Kind.GAUGE,
         "Time between two probes: as configured, or longer because the probe costs the server much or fails; it never "
         "changes the time between polls.",
         "probe", unit=Unit.SECONDS),
    _own("probe_server_time_ratio", Kind.GAUGE,
         "Share of the server's time that the probe takes, as the shortest of the last response times say.",
         "probe", unit=Unit.RATIO),
    _own("rejected_lines_total", Kind.COUNTER, "Lines of bodies that were no valid samples; the others were used.",
         "source"),
    _own("dropped_values_total", Kind.COUNTER,
         "Values that were left out. Cannot be true: not_finite, negative, bad_histogram, sum_fell, impossible; of "
         "GPUs also sentinel, zero, out_of_range. Belong to no engine that can be told, or to one beyond the limit of "
         "256: unattributed, too_many_engines.",
         "source", "anomaly"),
    _own("window_gaps_total", Kind.COUNTER, "Times at which windows began anew because polls had failed for too long."),
    _own("unknown_families", Kind.GAUGE,
         "vLLM metric families that this release does not know; the status lists them."),
    _own("unknown_labels", Kind.GAUGE,
         "Labels of known vLLM families that this release does not know; the status lists them. Where they differ they "
         "tell engines apart."),
    _own("signal_missing", Kind.GAUGE, "1 for each signal of the checklist that the server does not give, else 0.",
         "signal"),
    _own("signal_source_info", Kind.INFO, "The name that a signal is read from.", "signal", "source_metric"),
    _own("build_info", Kind.INFO, "The sidecar.", "version", "python_version", scope=Scope.SIDECAR),
    _own("window_seconds", Kind.GAUGE, "Length of the trailing window of recent signals.", unit=Unit.SECONDS,
         scope=Scope.SIDECAR),
    _own("config_last_reload_successful", Kind.GAUGE, "1 if the last load of the configuration succeeded.",
         scope=Scope.SIDECAR),
    _own("config_restart_needed", Kind.GAUGE,
         "1 while the last load of the configuration changed something that only a restart applies: the section web.",
         scope=Scope.SIDECAR),
    _own("internal_errors_total", Kind.COUNTER,
         "Bugs of the sidecar that it survived: in the loop of a target or of the gpus, which began again, or in "
         "the making of gpu_series, which were left out. The log has the first of each.",
         "part", scope=Scope.SIDECAR),
    _own("config_last_reload_success_timestamp_seconds", Kind.GAUGE, "Unix time of the last successful load.",
         unit=Unit.TIMESTAMP, scope=Scope.SIDECAR),
)  # fmt: skip
