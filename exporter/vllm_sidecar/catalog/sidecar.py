"""Signals about the sidecar itself and its sources."""

from __future__ import annotations

from vllm_sidecar.catalog.types import Kind, Scope, Signal, Unit


def _own(name: str, kind: Kind, text: str, *labels: str, unit: Unit = Unit.NONE, scope: Scope = Scope.TARGET) -> Signal:
    return Signal(name, kind, unit, text, scope, labels)


OWN: tuple[Signal, ...] = (
    _own("up", Kind.GAUGE,
         "1 while the source is polled successfully, 0 before the first success and after 3 failed polls in a row; "
         "its series are present exactly while it is 1. `model_name` is the model that the server serves, or served "
         "last, and the first of several; empty until it is known, and for the GPUs.",
         "source", "model_name"),
    _own("model_up", Kind.GAUGE,
         "1 while the server of the model is polled successfully, otherwise 0: one series for each model that has "
         "engines, or had them at the last successful poll; absent before the first.",
         "model_name"),
    _own("watched_since_timestamp_seconds", Kind.GAUGE,
         "Unix time since which the sidecar polls this server: when it started, or when the server was added to its "
         "targets.", unit=Unit.TIMESTAMP),
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
    _own("target_certificate_not_after_timestamp_seconds", Kind.GAUGE,
         "Unix time at which a certificate of the connection to the server expires: of the `server` at the last "
         "handshake, also if it is not verified (from Python 3.13 on, as in the image, the first to expire of it and "
         "its issuers), and the one that is shown to it (`client`: cert_file, the first of the file to expire). Absent "
         "without TLS.",
         "certificate", unit=Unit.TIMESTAMP),
    _own("target_certificate_not_before_timestamp_seconds", Kind.GAUGE,
         "Unix time from which a certificate of the connection to the server is valid.", "certificate",
         unit=Unit.TIMESTAMP),
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
    _own("signal_source_info", Kind.INFO, "The metrics that a signal is read from; several are added up.", "signal",
         "source_metric"),
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
    _own("web_requests_total", Kind.COUNTER,
         "Requests that the sidecar answered, by handler and status code; malformed is what is not HTTP, other are "
         "paths that do not exist.",
         "handler", "code", scope=Scope.SIDECAR),
    _own("web_requests_in_flight", Kind.GAUGE, "Requests that the sidecar is answering.", scope=Scope.SIDECAR),
    _own("web_connections", Kind.GAUGE, "Open connections to the sidecar.", scope=Scope.SIDECAR),
    _own("web_connection_limit", Kind.GAUGE,
         "Most connections to the sidecar: web.max_connections, or fewer where open files are scarce.",
         scope=Scope.SIDECAR),
    _own("web_connections_closed_total", Kind.COUNTER,
         "Connections that the sidecar closed: idle, too slow (request_slow, reader_slow, handshake_slow), failed TLS "
         "handshakes, or to make room for new ones at the limit (connection_limit).",
         "reason", scope=Scope.SIDECAR),
    _own("web_accept_failures_total", Kind.COUNTER,
         "Connections that could not be accepted because files or memory were missing.", scope=Scope.SIDECAR),
    _own("web_config_last_reload_successful", Kind.GAUGE,
         "1 if the last load of web.config_file and its certificates succeeded.", scope=Scope.SIDECAR),
    _own("web_certificate_not_after_timestamp_seconds", Kind.GAUGE,
         "Unix time at which the certificate of the sidecar's own port expires; of several in the file the first to "
         "expire. Absent without TLS.", unit=Unit.TIMESTAMP, scope=Scope.SIDECAR),
    _own("web_certificate_not_before_timestamp_seconds", Kind.GAUGE,
         "Unix time from which the certificate of the sidecar's own port is valid.", unit=Unit.TIMESTAMP,
         scope=Scope.SIDECAR),
    _own("log_lines_dropped_total", Kind.COUNTER,
         "Log lines that were not written: repeated, more than ten of a kind in a minute; or stuck, the reader of the "
         "log did not take them.",
         "reason", scope=Scope.SIDECAR),
    _own("event_loop_lag_seconds", Kind.GAUGE,
         "Longest time within the last minute for which the event loop was held, or woken too late: polls and scrapes "
         "waited for so long.",
         unit=Unit.SECONDS, scope=Scope.SIDECAR),
    _own("event_loop_busy_seconds_total", Kind.COUNTER,
         "Time in which the event loop ran tasks; a rate near 1 means that one sidecar has too much to do.",
         unit=Unit.SECONDS, scope=Scope.SIDECAR),
)  # fmt: skip
