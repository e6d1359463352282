"""Series of the sidecar's own HTTP server, log and event loop."""

from __future__ import annotations

from typing import TYPE_CHECKING

from vllm_sidecar.exposition import labels_text
from vllm_sidecar.logs import dropped_lines

if TYPE_CHECKING:
    from collections.abc import Mapping

    from vllm_sidecar.exposition.metric_values import Value
    from vllm_sidecar.serve.event_loop import LoopTime
    from vllm_sidecar.serve.listener.server import WebServer
    from vllm_sidecar.vllm.validity import Validity


def own_samples(server: WebServer, times: LoopTime) -> Mapping[str, list[tuple[str, Value]]]:
    """Return signal -> its series, as they are now."""
    answered = server.requests.answered
    return {
        "web_requests_total": [
            (labels_text((("handler", handler), ("code", code))), float(count))
            for (handler, code), count in sorted(answered.items())
        ],
        "web_requests_in_flight": [("", float(server.requests.in_flight))],
        "web_connections": [("", float(len(server.connections)))],
        "web_connection_limit": [("", float(server.connections.limit))],
        "web_connections_closed_total": [
            (labels_text((("reason", reason),)), float(count)) for reason, count in server.connections.closed.items()
        ],
        "web_accept_failures_total": [("", float(server.accept_failures))],
        "web_config_last_reload_successful": [("", float(server.file.successful))],
        **_certificate_samples(server.file.validity),
        "log_lines_dropped_total": [
            (labels_text((("reason", reason),)), float(count)) for reason, count in dropped_lines().items()
        ],
        "event_loop_lag_seconds": [("", round(times.lag_seconds, 6))],
        "event_loop_busy_seconds_total": [("", round(times.busy_seconds, 6))],
    }


def _certificate_samples(validity: Validity | None) -> Mapping[str, list[tuple[str, Value]]]:
    if validity is None:
        return {}
    return {
        "web_certificate_not_after_timestamp_seconds": [("", validity.not_after)],
        "web_certificate_not_before_timestamp_seconds": [("", validity.not_before)],
    }
