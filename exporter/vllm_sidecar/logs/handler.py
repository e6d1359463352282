"""The handler of the root logger: it formats, limits repeats, and counts what was not written."""

from __future__ import annotations

import logging
from contextlib import nullcontext
from typing import TYPE_CHECKING, TextIO

from vllm_sidecar.logs.repeats import PERIOD_SECONDS, Repeats

if TYPE_CHECKING:
    from contextlib import AbstractContextManager

    from vllm_sidecar.logs.output import Output

_NAME = "vllm_sidecar"


class EventHandler(logging.Handler):
    """Writes records to an output that never waits."""

    def __init__(self, stream: TextIO, output: Output, repeats: Repeats | None = None) -> None:
        super().__init__()
        self.set_name(_NAME)
        self.stream = stream
        self.repeats = repeats or Repeats()
        self.output = output
        self.failed = 0
        """Records that could not be formatted."""
        self._reported = 0

    def emit(self, record: logging.LogRecord) -> None:
        """Write a record, unless many of its kind were written lately."""
        try:
            if self.repeats.allows(record):
                self.output.write(self.format(record) + "\n")
        except Exception:  # noqa: BLE001 - a line that fails must not fail its caller
            self.handleError(record)

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: ARG002, N802 - logging's name
        """Count a record that could not be written; logging itself would print a traceback."""
        self.failed += 1

    def summarize(self) -> None:
        """Write how many lines were left out: repeats of the last minute, and lines that the reader did not take."""
        with self._locked():
            for (component, name, *about), count in self.repeats.ended():
                fields = {"of": name, "times": count, "seconds": f"{PERIOD_SECONDS:g}"}
                self._write(
                    str(component), logging.WARNING, "repeated", fields | ({"about": about[0]} if about else {})
                )
            new = self.output.dropped - self._reported
            if new and self.output.flush():
                self._reported += new
                self._write(__name__, logging.WARNING, "log_lines_dropped", {"lines": new})

    def _locked(self) -> AbstractContextManager[object]:
        return self.lock or nullcontext()

    def _write(self, component: str, level: int, name: str, fields: dict[str, object]) -> None:
        record = logging.LogRecord(component, level, __file__, 0, name, (), None)
        record.fields = fields
        self.output.write(self.format(record) + "\n")

    def flush(self) -> None:
        """Write what waits for the reader, as far as it takes it."""
        with self._locked():
            self.output.flush()

    def close(self) -> None:
        """Give a slow reader a last short time."""
        self.output.close()
        super().close()


def dropped_lines() -> dict[str, int]:
    """Return how many lines were not written, by reason: repeated, or stuck (the reader did not take them)."""
    handlers = [each for each in logging.getLogger().handlers if isinstance(each, EventHandler)]
    return {
        "repeated": sum(each.repeats.suppressed for each in handlers),
        "stuck": sum(each.output.dropped + each.failed for each in handlers),
    }
