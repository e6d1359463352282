"""Events -> one line each on standard error, without ever waiting for its reader.

Events are snake_case names with fields, never sentences that contain values, so that they can be searched and counted.
"""

from __future__ import annotations

import logging
import sys
from typing import TYPE_CHECKING, Literal, TextIO

from vllm_sidecar.logs.formats import JsonFormatter, LogfmtFormatter
from vllm_sidecar.logs.handler import EventHandler, dropped_lines
from vllm_sidecar.logs.output import output_of
from vllm_sidecar.redaction import public

if TYPE_CHECKING:
    import threading

__all__ = [
    "PROGRAM",
    "JsonFormatter",
    "LogfmtFormatter",
    "UserError",
    "dropped_lines",
    "event",
    "flush",
    "print_error",
    "setup",
    "take_uncaught",
]

PROGRAM = "vllm-sidecar"


class UserError(Exception):
    """An error that the user can fix; each line of its text is printed unchanged."""


def print_error(text: str) -> None:
    """Write one line for the user on standard error."""
    print(f"{PROGRAM}: {public(text)}", file=sys.stderr)


def event(logger: logging.Logger, level: int, name: str, /, *, exc_info: object = None, **fields: object) -> None:
    """Log the event `name` with its fields; an exception in `exc_info` adds its traceback as one more field."""
    # `object`, so that a caller can pass any mapping of fields.
    error = exc_info if isinstance(exc_info, BaseException) else None
    logger.log(level, name, exc_info=error, stacklevel=2, extra={"fields": fields})


def setup(
    level: Literal["debug", "info", "warning", "error"],
    fmt: Literal["logfmt", "json"],
    stream: TextIO | None = None,
) -> None:
    """Send all logging to standard error (or `stream`); may be called again, for a changed config."""
    root = logging.getLogger()
    formatter = JsonFormatter() if fmt == "json" else LogfmtFormatter()
    ours = _handlers()
    # The same handler stays where it writes to the same place: it has the counts of repeats and what waits to be read.
    handler = next((each for each in ours if each.stream is (stream or sys.stderr)), None)
    if handler is None:
        handler = EventHandler(stream or sys.stderr, output_of(stream or sys.stderr))
        root.addHandler(handler)
    handler.setFormatter(formatter)
    # Only handlers of earlier calls are removed: others belong to an embedding program or a test.
    for old in ours:
        if old is not handler:
            root.removeHandler(old)
            old.close()
    root.setLevel(level.upper())
    # aiohttp logs each request as info, which would hide the events at a scrape every few seconds.
    logging.getLogger("aiohttp.access").setLevel(max(logging.WARNING, root.level))


def flush() -> None:
    """Write what waits for the reader of the log, and the counts of repeated lines; to be called every few seconds."""
    for handler in _handlers():
        handler.summarize()
        handler.flush()


def take_uncaught() -> None:
    """Log exceptions that Python would print, because printing waits for a reader of standard error that is stuck."""
    import threading

    logger = logging.getLogger(__name__)

    def unraisable(hook: sys.UnraisableHookArgs) -> None:
        event(logger, logging.ERROR, "internal_error", exc_info=hook.exc_value, where=repr(hook.object))

    def in_thread(hook: threading.ExceptHookArgs) -> None:
        event(logger, logging.ERROR, "internal_error", exc_info=hook.exc_value, where=repr(hook.thread))

    sys.unraisablehook = unraisable
    threading.excepthook = in_thread


def _handlers() -> list[EventHandler]:
    return [each for each in logging.getLogger().handlers if isinstance(each, EventHandler)]
