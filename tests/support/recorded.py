"""Recordings of simulated servers, made without a network."""

from __future__ import annotations

import gzip
from typing import TYPE_CHECKING

from vllm_sidecar.catalog.reasons import Reason
from vllm_sidecar.simulator.body import exposition
from vllm_sidecar.simulator.lookalike import Lookalike
from vllm_sidecar.simulator.script import read_script
from vllm_sidecar.tools.recording.events import METRICS, Exchange, Head, Server
from vllm_sidecar.tools.recording.writer import Writer
from vllm_sidecar.vllm.client import Response

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from vllm_sidecar.tools.recording.events import Event

STARTED = 1_800_000_000.0
"""Unix time at which every such recording starts: 08:00 UTC."""


def head(*names: str) -> Head:
    servers = tuple(Server(name, f"http://{name or 'vllm'}:8000") for name in (names or ("",)))
    return Head(STARTED, servers, 1.0, hashed=False, program="vllm-sidecar test")


def answer(body: bytes, at: float, content_type: str = "text/plain; version=0.0.4") -> Response:
    return Response(body, content_type, 0.004, float(int(STARTED + at)))


def polls(script: str, seconds: int, server: int = 0, **overrides: object) -> Iterator[Exchange]:
    """Yield one poll a second of a simulated server; a crashed one refuses."""
    yield from played(Lookalike(read_script(script, None, overrides), STARTED), seconds, server)


def played(look: Lookalike, seconds: int, server: int = 0) -> Iterator[Exchange]:
    """Yield one poll a second of a simulated server; a crashed one refuses."""
    for second in range(1, seconds + 1):
        at = float(second)
        look.advance(at)
        if look.listening:
            yield Exchange(server, at, 0.004, METRICS, answer(exposition(look), at))
        else:
            yield Exchange(server, at, 0.001, METRICS, None, Reason.REFUSED, "nothing listens")


def write(path: Path, events: Iterator[Event] | list[Event], *names: str) -> Path:
    """Write a recording."""
    with Writer(path) as writer:
        writer.head(head(*names))
        for event in events:
            writer.write(event)
    return path


def lines(path: Path) -> list[str]:
    """Return the lines of a recording."""
    return gzip.decompress(path.read_bytes()).decode().splitlines()
