"""Records -> one line each, as logfmt or JSON, for any characters in the values."""

from __future__ import annotations

import json
import logging
import math
import re
import traceback
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from vllm_sidecar.redaction import public

if TYPE_CHECKING:
    from collections.abc import Iterator

_OWN_KEYS = ("ts", "level", "component", "event")
_BAD_IN_KEY = re.compile(r"[^\w.-]")


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
