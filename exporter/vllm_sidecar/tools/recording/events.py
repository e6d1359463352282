"""The content of a recording, as typed values."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from vllm_sidecar.catalog.reasons import Reason
    from vllm_sidecar.vllm.client import Response

VERSION = 1
"""Of the format; a reader refuses newer ones."""
METRICS = ""
"""Path of an exchange that is a poll of the metrics, whatever its path on the server is."""


class RecordingError(OSError):
    """A recording cannot be written or read; the text is for the user."""


@dataclass(frozen=True, slots=True)
class Server:
    """One recorded server: its name among several (empty for a sole one), and its address without credentials."""

    name: str
    url: str


@dataclass(frozen=True, slots=True)
class Head:
    """The first line of a recording: when it started (Unix time), and what was recorded by which program."""

    started: float
    servers: tuple[Server, ...]
    interval: float
    """Seconds between two polls, as configured."""
    hashed: bool
    program: str


@dataclass(frozen=True, slots=True)
class Exchange:
    """One request and its outcome: an answer, or why there was none.

    `at` and `took` are seconds: from the start of the recording to the request, and from there to the outcome.
    """

    server: int
    at: float
    took: float
    path: str
    response: Response | None = None
    reason: Reason | None = None
    detail: str = ""


@dataclass(frozen=True, slots=True)
class Flags:
    """Flags of a server that were read elsewhere than from its answers: as a command line of vLLM."""

    server: int
    at: float
    arguments: tuple[str, ...]


Event = Exchange | Flags
