"""Events -> one line each on standard error, as logfmt or JSON, for any characters in the values.

Events are snake_case names with fields, never sentences that contain values, so that they can be searched and counted.
"""

from __future__ import annotations

import json
import logging
import math
import re
import sys
import traceback
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Literal, TextIO

from vllm_sidecar.redaction import public

if TYPE_CHECKING:
    from collections.abc import Iterator

PROGRAM = "vllm-sidecar"
_HANDLER_NAME = "vllm_sidecar"
_OWN_KEYS = ("ts", "level", "component", "event")
_BAD_IN_KEY = re.compile(r"[^\w.-]")


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
    handler = logging.StreamHandler(stream or sys.stderr)
    handler.set_name(_HANDLER_NAME)
    handler.setFormatter(JsonFormatter() if fmt == "json" else LogfmtFormatter())
    # Only the handler of an earlier call is removed: others belong to an embedding program or a test.
    for old in [one for one in root.handlers if one.get_name() == _HANDLER_NAME]:
        root.removeHandler(old)
    root.addHandler(handler)
    root.setLevel(level.upper())
    # aiohttp logs each request as info, which would hide the events at a scrape every few seconds.
    logging.getLogger("aiohttp.access").setLevel(max(logging.WARNING, root.level))


class LogfmtFormatter(logging.Formatter):
    """Writes `ts=... level=info component=serve.target event=target_up target=a`."""

    def format(self, record: logging.LogRecord) -> str:
        """Write one record as one line."""
        return " ".join(f"{key}={_logfmt_value(value)}" for key, value in _pairs(record))


class JsonFormatter(logging.Formatter):
    """Writes one JSON object with the same keys as logfmt; numbers, bools and null keep their type."""

    def format(self, record: logging.LogRecord) -> str:
        """Write one record as one line."""
        return json.dumps({key: _json_value(value) for key, value in _pairs(record)})


def _pairs(record: logging.LogRecord) -> Iterator[tuple[str, object]]:
    """List the pairs of a line, in order; records of other libraries become the event `log` with a message."""
    moment = datetime.fromtimestamp(record.created, UTC)
    yield "ts", f"{moment:%Y-%m-%dT%H:%M:%S}.{moment.microsecond // 1000:03d}Z"
    yield "level", record.levelname.lower()
    yield "component", record.name.removeprefix("vllm_sidecar.")
    fields = getattr(record, "fields", None)
    if isinstance(fields, dict):
        yield "event", record.getMessage()
        for key, value in fields.items():
            clean = _BAD_IN_KEY.sub("_", str(key)) or "_"
            yield (f"{clean}_" if clean in _OWN_KEYS else clean), value
    else:
        yield "event", "log"
        yield "message", record.getMessage()
    if record.exc_info and record.exc_info[1] is not None:
        yield "exception", "".join(traceback.format_exception(*record.exc_info)).rstrip()
    if record.stack_info:
        yield "stack", record.stack_info


def _logfmt_value(value: object) -> str:
    if value is None or isinstance(value, bool):
        return json.dumps(value)
    text = public(str(value))
    if text and text.isprintable() and not any(character in text for character in ' "=\\'):
        return text
    # json escapes quotes, backslashes and ASCII control characters; the other unprintable ones, such as U+2028 which
    # some viewers take for a line break, are left to do here.
    quoted = json.dumps(text, ensure_ascii=False)
    return "".join(one if one.isprintable() else json.dumps(one)[1:-1] for one in quoted.replace("\x7f", "\\u007f"))


def _json_value(value: object) -> object:
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)  # JSON has no NaN and no infinity
    return value if value is None or isinstance(value, bool | int | float) else public(str(value))
