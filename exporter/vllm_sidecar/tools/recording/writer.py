"""Events -> a file; all but the last few seconds can be read after the program was killed."""

from __future__ import annotations

import json
import math
import time
import zlib
from typing import TYPE_CHECKING, Any, Self

from vllm_sidecar.tools.recording.differences import as_json, difference, lines_of
from vllm_sidecar.tools.recording.events import METRICS, VERSION, Exchange, Flags, RecordingError

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from vllm_sidecar.tools.recording.differences import Lines
    from vllm_sidecar.tools.recording.events import Event, Head

FLUSH_SECONDS = 5.0
"""Most seconds that are lost when the program is killed."""
GZIP_FORMAT = 16 + zlib.MAX_WBITS
"""Makes zlib write gzip's header and checksum."""


class Writer:
    """Writes one recording to a new file."""

    def __init__(self, path: Path, *, replace: bool = False, clock: Callable[[], float] = time.monotonic) -> None:
        """Create the file.

        Raises:
            RecordingError: It exists and `replace` is not set, or it cannot be created.
        """
        self.path = path
        self._clock = clock
        self._flushed = clock()
        self._bodies: dict[int, Lines] = {}
        self._last: dict[tuple[int, str], dict[str, Any]] = {}
        self._compressor = zlib.compressobj(9, zlib.DEFLATED, GZIP_FORMAT)
        self.size = 0
        """Bytes written so far."""
        try:
            self._file = path.open("wb" if replace else "xb")
        except FileExistsError:
            raise RecordingError(f"{path} exists: choose another file, or add --force to replace it") from None
        except OSError as error:
            raise RecordingError(f"cannot create {path}: {error.strerror}") from None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def head(self, head: Head) -> None:
        """Write the first line."""
        servers = [{"name": each.name, "url": each.url} for each in head.servers]
        self._line(
            {
                "recording": VERSION,
                "started": head.started,
                "servers": servers,
                "interval": head.interval,
                "hashed": head.hashed,
                "program": head.program,
            }
        )
        self._flush()

    def write(self, event: Event) -> None:
        """Write one event.

        Raises:
            RecordingError: The file cannot be written, as on a full disk.
        """
        line = _flags(event) if isinstance(event, Flags) else self._exchange(event)
        self._line({"server": event.server, **line} if event.server else line)
        if self._clock() - self._flushed >= FLUSH_SECONDS:
            self._flush()

    def close(self) -> None:
        """End the file; it is complete afterwards."""
        if not self._file.closed:
            try:
                with self._file:
                    self._put(self._compressor.flush(zlib.Z_FINISH))
            except RecordingError:
                raise
            except OSError as error:
                raise self._failed(error) from None

    def _exchange(self, event: Exchange) -> dict[str, Any]:
        line: dict[str, Any] = {"at": round(event.at, 3), "took": round(event.took, 4)}
        if event.path != METRICS:
            line["path"] = event.path
        if event.response is None:
            return {**line, "failed": str(event.reason), "detail": event.detail}
        response = event.response
        line["seconds"] = round(response.seconds, 4)
        known = self._last.setdefault((event.server, event.path), {})
        now = {"type": response.content_type, "date": _since(response.date, line["at"])}
        line |= {name: value for name, value in now.items() if name not in known or known[name] != value}
        known |= now
        if event.path == METRICS:
            return line | self._body(event.server, lines_of(response.body))
        if known.get("body") == response.body:
            return line
        known["body"] = response.body
        return {**line, "body": response.body.decode("utf-8", "surrogateescape")}

    def _body(self, server: int, lines: Lines) -> dict[str, Any]:
        before = self._bodies.get(server)
        self._bodies[server] = lines
        changed = difference(before, lines) if before is not None else None
        return {"lines": lines} if changed is None else as_json(changed)

    def _line(self, line: dict[str, Any]) -> None:
        self._put(self._compressor.compress(json.dumps(line, separators=(",", ":")).encode() + b"\n"))

    def _flush(self) -> None:
        self._put(self._compressor.flush(zlib.Z_SYNC_FLUSH))
        self._flushed = self._clock()
        try:
            self._file.flush()
        except OSError as error:
            raise self._failed(error) from None

    def _put(self, data: bytes) -> None:
        try:
            self._file.write(data)
        except OSError as error:
            raise self._failed(error) from None
        self.size += len(data)

    def _failed(self, error: OSError) -> RecordingError:
        return RecordingError(f"cannot write {self.path}: {error.strerror}; what was written before can be replayed")


def _since(date: float | None, at: float) -> float | None:
    """Return the server's clock relative to the recording's: it rarely changes, and compresses to nothing."""
    return None if date is None else math.floor(round(date - at, 3))


def _flags(event: Flags) -> dict[str, Any]:
    return {"at": round(event.at, 3), "arguments": list(event.arguments)}
