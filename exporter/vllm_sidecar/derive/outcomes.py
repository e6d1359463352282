"""Outcomes of requests: finished, aborted, failed or rejected; and the share of errors."""

from __future__ import annotations

from typing import TYPE_CHECKING

from vllm_sidecar.catalog.routes import reaches_an_engine
from vllm_sidecar.catalog.upstream import ABORTED, FAILED

if TYPE_CHECKING:
    from vllm_sidecar.derive.inputs import EngineInputs, ModelInputs, ServerInputs
    from vllm_sidecar.series.window import Window


def outcomes(engine: EngineInputs) -> dict[str, float]:
    """Return how many requests ended in the window: finished, failed, and aborted.

    The Python front end does not count disconnected clients, except in the histogram of first tokens: a request that
    had a first token, did not finish and is no longer inside was aborted or failed. Requests inside that still wait for
    their first token hide as many aborts until they get it (see `ProgressTracker`), so the numbers are lower bounds.
    Empty if the server does not count outcomes, because aborted requests then cannot be distinguished from finished
    ones.
    """
    window = engine.window
    ended = window.increases("requests_finished_total")
    if not ended:
        return {}
    failed = sum(count for (reason,), count in ended.items() if reason in FAILED)
    counted = sum(count for (reason,), count in ended.items() if reason in ABORTED)
    unseen = window.progress.left_unfinished - failed
    return {"finished": sum(ended.values()) - failed - counted, "failed": failed, "aborted": max(counted, unseen)}


def rejected(model: ModelInputs) -> dict[str, float]:
    """Return how many requests admission control rejected in the window by reason; empty if vLLM does not expose it."""
    if model.window is None:
        return {}
    return {reason: count for (reason,), count in model.window.increases("requests_rejected_total").items()}


def http_errors(server: ServerInputs) -> dict[str, float]:
    """Return the share of HTTP POST requests of the window that ended as `client` (4xx) and `server` (5xx) error.

    Empty if none ended. vLLM 0.22 answers bad requests with 400 and counts them as 5xx; its metrics do not distinguish
    them.
    """
    ended = _posts(server.window)
    whole = sum(ended.values())
    if whole <= 0.0:
        return {}
    return {"client": ended.get("4xx", 0.0) / whole, "server": ended.get("5xx", 0.0) / whole}


def error_ratio(server: ServerInputs) -> float | None:
    """Return the share of requests in the window that failed for a reason on the server's side.

    Failed requests are those that ended as `error` in an engine, or HTTP 5xx answers, whichever are more: one failure
    is in both, and a request that admission control rejects is a 503. Requests whose clients give up while engines
    answer none end with status 200, and are failures too. The total is the larger of the HTTP requests and the requests
    that ended in the engines. None if none ended.
    """
    posts = _posts(server.window)
    failed = ended = 0.0
    for window in server.engines.values():
        by_reason = window.increases("requests_finished_total")
        failed += sum(count for (reason,), count in by_reason.items() if reason in FAILED)
        ended += sum(by_reason.values())
    front, unsuccessful = server.front_end, posts.get("5xx", 0.0)
    if front.ends_unanswered:
        unsuccessful += max(0.0, posts.get("2xx", 0.0) - ended / front.requests_per_post)
    whole = max(sum(posts.values()), ended)
    return min(1.0, max(failed, unsuccessful) / whole) if whole > 0.0 else None


def _posts(window: Window | None) -> dict[str, float]:
    """Increases of the HTTP requests to engines by status class; other routes are not included."""
    ended: dict[str, float] = {}
    for (handler, method, status), count in (window.increases("http_requests_total") if window else {}).items():
        if reaches_an_engine(handler, method):
            ended[status] = ended.get(status, 0.0) + count
    return ended
