"""A recording, or a server that is recorded for a while -> traffic."""

from __future__ import annotations

import asyncio
import math
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from vllm_sidecar.catalog.reasons import PollError, Reason
from vllm_sidecar.config import format_duration
from vllm_sidecar.exposition import DifferentialParser
from vllm_sidecar.logs import UserError
from vllm_sidecar.tools.observing import unanswered
from vllm_sidecar.tools.recording.events import METRICS, Exchange
from vllm_sidecar.tools.recording.playback import outline
from vllm_sidecar.tools.recording.reader import Reader
from vllm_sidecar.tools.recording.session import Limits, Session
from vllm_sidecar.tools.recording.writer import Writer
from vllm_sidecar.tools.shape.streaming import AnswerSizes
from vllm_sidecar.tools.shape.traffic import LONGEST_GAP, ServerFollower, Traffic
from vllm_sidecar.vllm.normalize import Normalizer
from vllm_sidecar.vllm.probes.endpoints import parse_models

if TYPE_CHECKING:
    from collections.abc import Callable

    from vllm_sidecar.config import Config

MOST_BYTES = 200 << 20
"""Size of the temporary recording of a server."""


def live(config: Config, seconds: float, show: Callable[[str], None]) -> Traffic:
    """Record servers for so many seconds, or until Ctrl-C, and return their traffic.

    Raises:
        UserError: No poll succeeded.
        OSError: The temporary recording cannot be written.
    """
    with tempfile.TemporaryDirectory(prefix="vllm-sidecar-") as folder:
        path = Path(folder) / "traffic"
        with Writer(path) as writer:
            session = Session(config, writer, None, Limits(seconds, MOST_BYTES))

            def progress(now: Session) -> None:
                left = format_duration(round(max(1.0, seconds - now.seconds)))
                show(f"observing for {left} more; Ctrl-C uses what was seen so far")

            asyncio.run(session.run(progress))
        counts = session.counts
        if counts.failed == counts.polls:
            raise UserError("\n".join(_why(counts.reasons)) or unanswered(session.seconds, config))
        names = ", ".join(target.url.rpartition("@")[2] for target in config.all_targets)
        return recording(path, math.inf, name=names)


def _why(reasons: dict[str, str]) -> list[str]:
    return [f"no traffic was seen: {reason}: {detail}. {Reason(reason).hint}" for reason, detail in reasons.items()]


def recording(path: Path, window: float, name: str = "") -> Traffic:
    """Return the traffic of the last `window` seconds of a recording.

    Raises:
        RecordingError: It cannot be read.
        UserError: Every poll of it failed.
    """
    found = outline(path)
    since = max(0.0, found.seconds - window)
    traffic = Traffic(name or str(path))
    servers = [_RecordedServer(traffic, number, since) for number in range(len(found.head.servers))]
    first = last = None
    for event in Reader(path):
        if not isinstance(event, Exchange):
            continue
        if event.path == METRICS:
            taken = servers[event.server].take(event, found.head.started)
            if taken and event.at >= since:
                first, last = event.at if first is None else first, event.at
            traffic.failed += not taken and event.at >= since
        elif event.path == "/v1/models" and event.response is not None:
            traffic.max_model_len = _max_model_len(event.response.body) or traffic.max_model_len
    traffic.answer_sizes = [poll for server in servers for poll in server.sizes.polls]
    if found.cut_off:
        traffic.notes.append(f"the recording is not complete: {found.cut_off}")
    reasons = {reason: each for server in servers for reason, each in server.reasons.items()}
    if traffic.polls == 0:
        raise UserError("\n".join(_why(reasons)) or f"{traffic.source}: holds no poll")
    if traffic.failed:
        traffic.notes.append(
            f"{traffic.failed} polls failed ({', '.join(sorted(reasons))}): arrivals in between are spread evenly"
        )
    if first is not None and last is not None:
        traffic.started, traffic.seconds = found.head.started + first, last - first
    return traffic


class _RecordedServer:
    """Reads the polls of one server of a recording."""

    def __init__(self, traffic: Traffic, number: int, since: float) -> None:
        self._follower = ServerFollower(traffic, number, longest_gap=LONGEST_GAP, since=since)
        self._parser, self._normalizer = DifferentialParser(), Normalizer()
        self._since = since
        self.sizes = AnswerSizes()
        self.reasons: dict[str, str] = {}
        """Last detail of each reason of failed polls."""

    def take(self, event: Exchange, started: float) -> bool:
        """Take one poll; return whether it could be used."""
        try:
            if event.response is None:
                raise PollError(event.reason or Reason.INTERNAL, event.detail)  # noqa: TRY301
            exposition = self._parser.parse(event.response.body, event.response.content_type)
            readings = self._normalizer.normalize(exposition, at=event.at)
            if not readings.engines:
                kind = readings.not_an_engine or "another program, or vLLM with --disable-log-stats"
                hint = "; give a sidecar with --from" if "sidecar" in kind else ""
                raise PollError(Reason.NO_VLLM_METRICS, f"no engine in the body: {kind}{hint}")  # noqa: TRY301
            date = event.response.date
            self._follower.take(event.at, readings, started + event.at if date is None else date)
            self.sizes.take(exposition, used=event.at >= self._since)
        except PollError as error:
            self.reasons[error.reason] = error.detail
            if error.reason is not Reason.SEVERAL_SERVERS:
                self._follower.missed()
            return False
        return True


def _max_model_len(body: bytes) -> int | None:
    try:
        found = parse_models(body).flags.get("max_model_len")
    except ValueError:
        return None
    return int(found) if isinstance(found, int | float) else None
