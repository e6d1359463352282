"""Counts of requests, and the log of those that could not be read or answered."""

from __future__ import annotations

import logging
from collections import Counter
from typing import TYPE_CHECKING, Any

from aiohttp import web
from aiohttp.abc import AbstractAccessLogger
from aiohttp.http_exceptions import HttpProcessingError

if TYPE_CHECKING:
    from vllm_sidecar.serve.listener.connections import Connections

MALFORMED = "malformed"
"""The handler of what is not an HTTP request."""
OTHER = "other"
"""The handler of paths that do not exist."""
_FROM_THE_START = (("metrics", "200"), ("metrics", "500"), ("metrics", "503"))
"""Counters that begin at 0, so that their first increase is seen."""
HANDLER: Any = web.RequestKey("handler", str) if hasattr(web, "RequestKey") else "handler"
"""Key under which a request has the name of its handler; releases of aiohttp before 3.14 use plain texts."""


class Requests:
    """Requests that were answered, and those that are being answered."""

    def __init__(self) -> None:
        self.answered: Counter[tuple[str, str]] = Counter(dict.fromkeys(_FROM_THE_START, 0))
        """Answers by handler and status code."""
        self.in_flight = 0


def observer(requests: Requests, connections: Connections) -> type[AbstractAccessLogger]:
    """Return the class that aiohttp calls at the end of each answer, also of one to a malformed request."""

    class Observer(AbstractAccessLogger):
        def log(self, request: web.BaseRequest, response: web.StreamResponse, time: float) -> None:  # noqa: ARG002
            requests.answered[request.get(HANDLER, MALFORMED), str(response.status)] += 1
            connections.finish(request.transport)

    return Observer


def request_logger() -> logging.Logger:
    """Return the logger for aiohttp: what a client sent wrongly is one short line without a traceback."""
    logger = logging.getLogger("vllm_sidecar.serve.requests")
    if not any(isinstance(each, _Shorten) for each in logger.filters):
        logger.addFilter(_Shorten())
    return logger


class _Shorten(logging.Filter):
    """Turns aiohttp's records into events."""

    def filter(self, record: logging.LogRecord) -> bool:
        """Rewrite a record; a traceback stays only where the error is one of the program."""
        error = record.exc_info[1] if record.exc_info else None
        detail = f"{type(error).__name__}: {error}" if error else record.getMessage()
        if isinstance(error, HttpProcessingError):
            record.levelno, record.levelname = logging.WARNING, "WARNING"
            record.exc_info = None
            record.msg, fields = "malformed_request", {"detail": " ".join(detail.split())[:200]}
        else:
            record.msg, fields = "request_failed", {"detail": record.getMessage()[:200]}
        remote = record.args[0] if isinstance(record.args, tuple) and record.args else None
        record.fields = {"client": remote, **fields}
        record.args = None
        return logging.getLogger().isEnabledFor(record.levelno)
