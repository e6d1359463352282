"""A file -> its events, as far as it can be read: a recording that was cut off is a shorter recording."""

from __future__ import annotations

import json
import math
import zlib
from typing import TYPE_CHECKING, Any

from vllm_sidecar.catalog.reasons import Reason
from vllm_sidecar.tools.recording.differences import applied, body_of, from_json
from vllm_sidecar.tools.recording.events import METRICS, VERSION, Exchange, Flags, Head, RecordingError, Server
from vllm_sidecar.tools.recording.writer import GZIP_FORMAT
from vllm_sidecar.vllm.client import Response

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from vllm_sidecar.tools.recording.differences import Lines
    from vllm_sidecar.tools.recording.events import Event

MAGIC = b"\x1f\x8b"
_CHUNK = 1 << 16
_MOST_LINE = 1 << 26
"""Bytes of the longest line that is read."""
HINT = "a recording is made with: vllm-sidecar record URL -o FILE"


class Reader:
    """Reads one recording."""

    def __init__(self, path: Path) -> None:
        """Open the file and read its first line.

        Raises:
            RecordingError: It cannot be read, or is not a recording.
        """
        self.path = path
        self.cut_off = ""
        """Why the recording ends early; empty for a complete one, and until its end was read."""
        self._number = 0
        self._bodies: dict[int, Lines] = {}
        self._last: dict[tuple[int, str], dict[str, Any]] = {}
        if not is_recording(path):
            raise RecordingError(f"{path} is not a recording; {HINT}")
        self._lines = self._unpacked()
        first = next(self._lines, None)
        if first is None:
            raise RecordingError(f"{path}: holds no complete line{self._why()}; {HINT}")
        self.head = self._head(first)

    def __iter__(self) -> Iterator[Event]:
        """Read the events in order.

        Raises:
            RecordingError: A line is not one of a recording.
        """
        for line in self._lines:
            try:
                yield self._event(line)
            except (ValueError, KeyError, TypeError, AttributeError) as error:
                raise RecordingError(f"{self.path}: line {self._number} is not one of a recording: {error}") from None

    def _why(self) -> str:
        return f" ({self.cut_off})" if self.cut_off else ""

    def _unpacked(self) -> Iterator[bytes]:
        """Yield complete lines; sets `cut_off` at a premature end."""
        unpacker = zlib.decompressobj(GZIP_FORMAT)
        rest = b""
        for piece in self._pieces():
            try:
                rest += unpacker.decompress(piece)
            except zlib.error as error:
                self.cut_off = f"damaged: {error}"
                return
            *lines, rest = rest.split(b"\n")
            if len(rest) > _MOST_LINE:
                raise RecordingError(f"{self.path}: line {self._number + 1} is longer than {_MOST_LINE} bytes; {HINT}")
            for line in lines:
                self._number += 1
                yield line
        if not unpacker.eof:
            self.cut_off = (
                "the file ends early: the program that wrote it was killed, still runs, or the copy is partial"
            )

    def _pieces(self) -> Iterator[bytes]:
        try:
            with self.path.open("rb") as file:
                while piece := file.read(_CHUNK):
                    yield piece
        except OSError as error:
            raise unreadable(self.path, error) from None

    def _head(self, text: bytes) -> Head:
        try:
            line = json.loads(text)
            version = line["recording"]
        except (ValueError, KeyError, TypeError):
            raise RecordingError(f"{self.path} is compressed, but it is not a recording; {HINT}") from None
        if version != VERSION:
            raise RecordingError(f"{self.path} has version {version} of the format, and this program reads {VERSION}")
        try:
            servers = tuple(Server(str(each["name"]), str(each["url"])) for each in line["servers"])
            return Head(
                float(line["started"]), servers, float(line["interval"]), bool(line["hashed"]), str(line["program"])
            )
        except (ValueError, KeyError, TypeError) as error:
            raise RecordingError(f"{self.path}: its first line is not that of a recording: {error}") from None

    def _event(self, text: bytes) -> Event:
        line = json.loads(text)
        server, at = int(line.get("server", 0)), float(line["at"])
        if not 0 <= server < len(self.head.servers):
            raise ValueError(f"server {server} of {len(self.head.servers)}")
        if "arguments" in line:
            return Flags(server, at, tuple(map(str, line["arguments"])))
        took, path = float(line["took"]), str(line.get("path", METRICS))
        if "failed" in line:
            return Exchange(server, at, took, path, None, Reason(line["failed"]), str(line["detail"]))
        known = self._last.setdefault((server, path), {})
        known |= {name: line[name] for name in ("type", "date", "body") if name in line}
        body = self._body(server, line) if path == METRICS else str(known["body"]).encode("utf-8", "surrogateescape")
        date = None if known["date"] is None else float(math.ceil(round(known["date"] + at, 3)))
        return Exchange(server, at, took, path, Response(body, str(known["type"]), float(line["seconds"]), date))

    def _body(self, server: int, line: dict[str, Any]) -> bytes:
        if "lines" in line:
            lines = [str(each) for each in line["lines"]]
        elif server in self._bodies:
            lines = applied(self._bodies[server], from_json(line))
        else:
            raise ValueError("a difference to a body that is missing")
        self._bodies[server] = lines
        return body_of(lines)


def is_recording(path: Path) -> bool:
    """Return whether a file is compressed as recordings are; a saved body is plain text.

    Raises:
        RecordingError: The file cannot be read.
    """
    try:
        with path.open("rb") as file:
            return file.read(len(MAGIC)) == MAGIC
    except OSError as error:
        raise unreadable(path, error) from None


def unreadable(path: Path, error: OSError) -> RecordingError:
    """Return why a file cannot be read, also if an address was meant."""
    name = str(path)
    if name.startswith(("http:/", "https:/")):
        return RecordingError(f"{name.replace(':/', '://', 1)} is an address, and a file is needed; {HINT}")
    meant = isinstance(error, FileNotFoundError) and path.name == name
    hint = f"; the address of a server begins with http://, as in http://{name}" if meant else ""
    return RecordingError(f"cannot read {name}: {error.strerror}{hint}")
