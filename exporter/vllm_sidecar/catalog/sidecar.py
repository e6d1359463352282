"""Signals about the sidecar itself and its sources."""

from __future__ import annotations

from vllm_sidecar.catalog.types import Kind, Scope, Signal, Unit


def _own(name: str, kind: Kind, text: str, *labels: str, unit: Unit = Unit.NONE, scope: Scope = Scope.TARGET) -> Signal:
    return Signal(name, kind, unit, text, scope, labels)


OWN: tuple[Signal, ...] = (
    _own("up", Kind.GAUGE,
         "1 while the source is polled successfully, 0 before the first success and after 3 failed polls in a row; "
         "its series are present exactly while it is 1. `model_name` is the model that the server serves, or served "
         "last; empty until it is known, and for the GPUs.",
         "source", "model_name"),
    _own("last_success_timestamp_seconds", Kind.GAUGE, "Unix time of the last successful poll.", "source",
         unit=Unit.TIMESTAMP),
    _own("last_success_age_seconds", Kind.GAUGE,
         "Seconds from the last successful poll to this scrape, by the sidecar's own monotonic clock.",
         "source", unit=Unit.SECONDS),
    _own("poll_failures_total", Kind.COUNTER, "Failed polls by reason.", "source", "reason"),
    _own("polls_total", Kind.COUNTER, "Polls, failed ones included.", "source"),
    _own("poll_duration_seconds", Kind.GAUGE, "Response time of the last successful poll.", "source",
         unit=Unit.SECONDS),
    _own("poll_interval_seconds", Kind.GAUGE,
         "Time between polls: as configured, or stretched so that the server spends little of its time on them.",
         "source", unit=Unit.SECONDS),
    _own("poll_server_time_ratio", Kind.GAUGE,
         "Share of the server's time that polls take, based on the shortest of the last response times.",
         "source", unit=Unit.RATIO),
    _own("poll_body_bytes", Kind.GAUGE, "Size of the last body.", "source", unit=Unit.BYTES),
    _own("probe_failures_total", Kind.COUNTER,
         "Failed probes, including those of an endpoint that is closed or missing; the status has the last reason.",
         "probe"),
    _own("probe_last_success_timestamp_seconds", Kind.GAUGE, "Unix time of the last successful probe.", "probe",
         unit=Unit.TIMESTAMP),
    _own("probe_duration_seconds", Kind.GAUGE, "Response time of the last successful probe.", "probe",
         unit=Unit.SECONDS),
    _own("probe_interval_seconds", Kind.GAUGE,
         "Time between two probes: as configured, or longer because the probe is expensive or fails; it never "
         "changes the time between polls.",
         "probe", unit=Unit.SECONDS),
    _own("probe_server_time_ratio", Kind.GAUGE,
         "Share of the server's time that the probe takes, based on the shortest of the last response times.",
         "probe", unit=Unit.RATIO),
    _own("rejected_lines_total", Kind.COUNTER, "Lines that were not valid samples; the other lines were used.",
         "source"),
    _own("dropped_values_total", Kind.COUNTER,
         "Values that were left out. Invalid: not_finite, negative, bad_histogram, sum_fell, impossible; of GPUs also "
         "sentinel, zero, out_of_range. Of an engine that cannot be identified, or beyond the limit of 256 engines: "
         "unattributed, too_many_engines.",
         "source", "anomaly"),
    _own("limit_hits_total", Kind.COUNTER,
         "Polls at which the server exposed more than a limit of the sidecar allows; what exceeds it was left out, and "
         "the rest was used. docs/metrics.md lists the limits.",
         "source", "limit"),
    _own("window_gaps_total", Kind.COUNTER, "Resets of windows because polls had failed for too long."),
    _own("unknown_families", Kind.GAUGE,
         "vLLM metric families that are unknown to this release; the status lists them."),
    _own("unknown_labels", Kind.GAUGE,
         "Labels of known vLLM families that are unknown to this release; the status lists them. Different values of "
         "them belong to different engines."),
    _own("signal_missing", Kind.GAUGE, "1 for each signal of the checklist that the server lacks, otherwise 0.",
         "signal"),
    _own("signal_source_info", Kind.INFO, "The metric name that a signal is read from.", "signal", "source_metric"),
    _own("build_info", Kind.INFO, "The sidecar.", "version", "python_version", scope=Scope.SIDECAR),
    _own("window_seconds", Kind.GAUGE, "Length of the trailing window of recent signals.", unit=Unit.SECONDS,
         scope=Scope.SIDECAR),
    _own("config_last_reload_successful", Kind.GAUGE, "1 if the last load of the configuration succeeded.",
         scope=Scope.SIDECAR),
    _own("config_restart_needed", Kind.GAUGE,
         "1 while the last load of the configuration changed something that only a restart applies: the section web.",
         scope=Scope.SIDECAR),
    _own("internal_errors_total", Kind.COUNTER,
         "Internal errors that the sidecar survived: in the loop of a target or of the gpus, which was restarted, or "
         "in gpu_series, which were left out. The log has the first of each.",
         "part", scope=Scope.SIDECAR),
    _own("config_last_reload_success_timestamp_seconds", Kind.GAUGE, "Unix time of the last successful load.",
         unit=Unit.TIMESTAMP, scope=Scope.SIDECAR),
)  # fmt: skip
