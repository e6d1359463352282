"""Sidecar: whether the sidecars work, and whether their data is complete."""

from __future__ import annotations

from vllm_sidecar.catalog.dashboards.factories import NO_SIDECAR_SHORT, SERVER, lines, number, states, table
from vllm_sidecar.catalog.dashboards.panel import YES, Color, Dashboard, Query, Row, Word
from vllm_sidecar.catalog.types import Unit

_NONE = "No sidecar: Prometheus scrapes vLLM itself."
_ANSWERS = (Word(0, "no answer", Color.BAD), Word(1, "answers", Color.GOOD))

SIDECAR_DASHBOARD = Dashboard(
    "vllm-sidecar",
    "vLLM · Sidecar",
    "Health of the sidecars themselves: what they read, from where, how often, and what is missing.",
    (
        Row(
            "Do they answer, and do their sources?",
            (
                number("Sidecars that answer", "Targets of Prometheus in the sidecars' job.", Unit.NONE, "count(<<sidecars>> == 1) or vector(0)",
                       decimals=0),
                number("Sidecars that do not", "Their servers are not monitored: see kubectl get pods.", Unit.NONE,
                       "count(<<sidecars>> == 0) or vector(0)", bad="one", decimals=0),
                number("Missing signals", "Signals of the checklist that a server does not expose; the table below lists them.", Unit.NONE,
                       "sum(~signal_missing)", watch="one", decimals=0, empty=NO_SIDECAR_SHORT),
                number("Unknown names", "Metric families and labels of vLLM that are unknown to this release: read the changelog.", Unit.NONE,
                       "max(~unknown_families + ~unknown_labels)", watch="one", decimals=0, empty=NO_SIDECAR_SHORT),
                number("Oldest success", "Longest time since the last successful poll of a source.", Unit.SECONDS,
                       "max(~last_success_age_seconds)", decimals=0, empty=NO_SIDECAR_SHORT),
                number("Failed polls", "Share of polls in five minutes.", Unit.RATIO,
                       "sum(rate(~poll_failures_total[5m])) / (sum(rate(~polls_total[5m])) > 0)", bad="VllmSidecarPollsFailing.failing", decimals=1,
                       empty=NO_SIDECAR_SHORT),
                states("Which source answered when?", "vllm is the server, nvml its GPUs; three failed polls in a row count as no answer.",
                       Query("max by (<<T>>, source) (~up)", f"{{{{source}}}} {SERVER}"), words=_ANSWERS, width=16),
                lines("Why do polls fail?", "Failed polls per second by reason; docs/troubleshooting.md has a hint for each.", Unit.NONE,
                      Query("sum by (source, reason) (rate(~poll_failures_total[$__rate_interval]) > 0)", "{{source}} {{reason}}"),
                      empty="No poll fails."),
            ),
        ),
        Row(
            "What do polls cost, and are they in time?",
            (
                lines("How long does a poll take?", "Response time of the last successful poll.", Unit.SECONDS,
                      Query("~poll_duration_seconds", f"{{{{source}}}} {SERVER}", Color.P95), empty=_NONE),
                lines("How often is vLLM polled?", "Stretched when answers are slow, so that polls never take more than 1 % of the server's time.",
                      Unit.SECONDS, Query('~poll_interval_seconds{source="vllm"}', SERVER), bad="VllmSidecarIntervalStretched.interval", empty=_NONE),
                lines("What does it cost the server?", "Share of its time spent on answering polls.", Unit.RATIO,
                      Query("~poll_server_time_ratio", SERVER, Color.WAITING), decimals=2, empty=_NONE),
                lines("How much is read?", "Size of the last body.", Unit.BYTES, Query("~poll_body_bytes", SERVER, Color.RUNNING), empty=_NONE),
                lines("Which values were invalid?", "Dropped values and lines per second, by what is wrong with them, and polls beyond a limit.", Unit.NONE,
                      Query("sum by (source, anomaly) (rate(~dropped_values_total[$__rate_interval]))", "{{source}} {{anomaly}}"),
                      Query("sum by (source) (rate(~rejected_lines_total[$__rate_interval]))", "{{source}} rejected lines"),
                      Query("sum by (source, limit) (rate(~limit_hits_total[$__rate_interval]) > 0)", "{{source}} limit {{limit}}"), empty=_NONE),
                lines("How often were windows reset?", "After gaps too long to bridge: recent values are missing until windows fill again.", Unit.NONE,
                      Query("sum(increase(~window_gaps_total[$__rate_interval]))", "gaps", Color.WAITING), decimals=0, empty=_NONE),
                lines("How often is each probe sent?", "Longer while a probe is slow or fails; polls do not wait for probes.", Unit.SECONDS,
                      Query("max by (probe) (~probe_interval_seconds)", "{{probe}}"), empty=_NONE),
                lines("How long does a probe take?", "The slowest of the last successful ones.", Unit.SECONDS,
                      Query("max by (probe) (~probe_duration_seconds)", "{{probe}}"), empty="No probe has succeeded."),
                lines("Which probes fail?", "Per second; an endpoint that is closed or missing fails every ten minutes.", Unit.NONE,
                      Query("sum by (probe) (rate(~probe_failures_total[$__rate_interval]) > 0)", "{{probe}}"), empty="No probe fails."),
            ),
        ),
        Row(
            "Is a sidecar itself in trouble?",
            (
                lines("Is the event loop held?", "Longest time of the last minute in which neither polls nor scrapes continued.", Unit.SECONDS,
                      Query("max by (<<S>>) (~event_loop_lag_seconds)", "{{instance}}"), bad="VllmSidecarOverloaded.lag", empty=_NONE),
                lines("How busy is it?", "Share of the time in which the event loop runs tasks: near 1 the sidecar has too many servers, or too "
                      "little CPU.", Unit.RATIO,
                      Query("sum by (<<S>>) (rate(~event_loop_busy_seconds_total[$__rate_interval]))", "{{instance}}"), empty=_NONE),
                lines("Are connections scarce?", "Open ones as a share of the limit (web.max_connections); at the limit the oldest are closed.",
                      Unit.RATIO, Query("max by (<<S>>) (~web_connections / (~web_connection_limit > 0))", "{{instance}}"), empty=_NONE),
                lines("Who reads the sidecar, and with what result?", "Requests per second by handler and status code; 401 and 403 are "
                      "credentials, 503 at metrics a scrape that gave up.", Unit.NONE,
                      Query("sum by (handler, code) (rate(~web_requests_total[$__rate_interval]) > 0)", "{{handler}} {{code}}"), empty=_NONE),
                lines("Which connections does it close or refuse?", "Per second by reason; accept failures mean that files or memory are "
                      "missing.", Unit.NONE,
                      Query("sum by (reason) (rate(~web_connections_closed_total[$__rate_interval]) > 0)", "{{reason}}"),
                      Query("sum by (<<S>>) (rate(~web_accept_failures_total[$__rate_interval]) > 0)", "accept failures {{instance}}"),
                      empty="It closes no connections."),
                lines("Which errors did it survive?", "Internal errors, and log lines that were not written; the log "
                      "has the first of each error. Report them.", Unit.NONE,
                      Query("sum by (part) (increase(~internal_errors_total[$__rate_interval]) > 0)", "error in {{part}}", Color.BAD),
                      Query("sum by (reason) (increase(~log_lines_dropped_total[$__rate_interval]) > 0)", "log lines {{reason}}"),
                      decimals=0, empty="There was none."),
                lines("When do certificates expire?", "Time that is left: of the sidecar's own port, and of the connections to its servers. At 0 "
                      "polls or scrapes fail.", Unit.SECONDS,
                      Query("min by (<<T>>, certificate) (~target_certificate_not_after_timestamp_seconds - time())", f"{{{{certificate}}}} of {SERVER}"),
                      Query("min by (<<S>>) (~web_certificate_not_after_timestamp_seconds - time())", "port of {{instance}}"),
                      empty="TLS is not used."),
                lines("How many servers does discovery find?", "Entries of the last lists by what became of them.", Unit.NONE,
                      Query("sum by (discovery, state) (~discovery_targets)", "{{discovery}} {{state}}"), decimals=0,
                      empty="Discovery is not used."),
                lines("Why does discovery fail?", "Failed refreshes per second by reason; the last list stays in use.", Unit.NONE,
                      Query("sum by (discovery, reason) (rate(~discovery_failures_total[$__rate_interval]) > 0)", "{{discovery}} {{reason}}"),
                      empty="No refresh fails."),
                lines("Do pushes over OTLP arrive?", "Failed pushes and rejected points per second.", Unit.NONE,
                      Query("sum by (<<S>>) (rate(~otlp_push_failures_total[$__rate_interval]) > 0)", "{{instance}} failed"),
                      Query("sum by (<<S>>) (rate(~otlp_rejected_points_total[$__rate_interval]) > 0)", "{{instance}} rejected points"),
                      empty="No push fails, or none is configured."),
            ),
        ),
        Row(
            "Which version and metric names does each server use?",
            (
                table("Which version, front end and engine?", "As the server reports it, or as its metrics suggest.",
                      Query("max by (<<T>>, version, front_end, engine_generation) (~server_info)", ""),
                      labels=("instance", "target", "version", "front_end", "engine_generation"), width=12, height=7, empty=_NONE),
                table("Which sidecar watches?", "Versions of the sidecars; an older one may export other metrics.",
                      Query("max by (<<S>>, version, python_version) (~build_info)", ""),
                      Query("max by (<<S>>) (~config_last_reload_successful)", "Configuration loaded"),
                      Query("max by (<<S>>) (~config_restart_needed)", "Restart needed"),
                      labels=("instance", "version", "python_version"), width=12, height=7, empty=_NONE),
                table("Which signals are missing?", "Signals of the checklist that a server does not expose, such as with --disable-log-stats.",
                      Query("max by (<<T>>, signal) (~signal_missing) == 1", ""), labels=("instance", "target", "signal"), width=12, height=8,
                      empty="None is missing."),
                table("Where does each signal come from?", "vLLM's name of each signal; shows what was renamed by an upgrade.",
                      Query("count by (signal, source_metric) (~signal_source_info)", "Servers"), labels=("signal", "source_metric"), width=12, height=8,
                      empty=_NONE),
                states("Can GPUs be read?", "A bar while NVML as a whole cannot be read, with the reason.",
                       Query("max by (instance, reason) (~gpu_failing == 1)", "{{instance}} {{reason}}"), words=YES, height=6,
                       empty="All selected GPUs can be read."),
            ),
        ),
    ),
)  # fmt: skip
