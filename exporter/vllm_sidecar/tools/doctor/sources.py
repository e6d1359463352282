"""A server, a sidecar, saved bodies or a recording -> the status of the sidecar about it."""

from __future__ import annotations

import asyncio
import json
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from yarl import URL

from vllm_sidecar.logs import UserError
from vllm_sidecar.redaction import public
from vllm_sidecar.serve.app import Sidecar
from vllm_sidecar.serve.status import NodeGpus, status
from vllm_sidecar.tools.doctor.commands import Place
from vllm_sidecar.tools.doctor.diagnosis import Source
from vllm_sidecar.tools.doctor.new_connections import NewConnections
from vllm_sidecar.tools.doctor.state_ages import StateAges
from vllm_sidecar.tools.exported.sidecar import required_status
from vllm_sidecar.tools.observing import set_by_signals, ticks, unanswered
from vllm_sidecar.tools.recording.events import METRICS, Exchange, Head, Server
from vllm_sidecar.tools.recording.playback import Playback, outline
from vllm_sidecar.tools.recording.writer import Writer
from vllm_sidecar.tools.targets import with_own_gpus
from vllm_sidecar.vllm.client import Client, Response

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from vllm_sidecar.config import Config

Observed = tuple[dict[str, Any], Source]
STALL_SECONDS = 120.0
_NOT_RECORDED = "a recording holds the answers of servers only"
_NO_GPUS = "a body of /metrics is about the server only"


async def live(config: Config, seconds: float, show: Callable[[str], None]) -> Observed:
    """Watch servers with the sidecar itself for so many seconds, or until SIGINT; without an HTTP server."""
    watched = with_own_gpus(config)
    sidecar = Sidecar(watched, lambda: watched)
    stop = asyncio.Event()
    began = time.monotonic()
    ages, connections = StateAges(), NewConnections()
    with set_by_signals(stop):
        await sidecar.start()
        try:
            exporter = sidecar.exporter
            async for _ in ticks(seconds, stop, show):
                ages.follow(exporter.snapshots.values(), time.monotonic())
                connections.follow(exporter.snapshots.values())
            gpus = NodeGpus(exporter.node.health, exporter.node_samples()) if exporter.node else None
            found = json.loads(json.dumps(status(exporter.snapshots.values(), gpus)))
        finally:
            await sidecar.stop()
    observed = time.monotonic() - began
    notes = []
    if any(target["state"]["name"] == "starting" for target in found["targets"]):
        notes.append(f"whether a server answers: {unanswered(observed, config)}")
    if observed < STALL_SECONDS:
        notes.append(f"a stall: it is called one after {STALL_SECONDS:.0f} s, and {observed:.0f} s were observed")
    urls = {target.name or "": str(URL(target.url).with_user(None)) for target in config.all_targets}
    return found, Source(
        ", ".join(urls.values()),
        observed,
        tuple(notes),
        ages.at(time.monotonic()),
        places={name: Place(url) for name, url in urls.items()},
        connections=connections.found(),
    )


async def sidecar_status(config: Config) -> Observed:
    """Take the status that a running sidecar has, whose address and credentials are those of the sole target.

    Raises:
        UserError: It cannot be reached, or is not a sidecar.
    """
    url = public(config.vllm.url)
    async with Client(config.vllm, config.scrape) as client:
        found = await required_status(client, url, "--from")
    if not found["targets"]:
        raise UserError(f"the sidecar at {url} watches no server")
    return found, Source(f"sidecar {url}", None, places={"": Place(sidecar=url)})


async def recording(path: Path, show: Callable[[str], None]) -> Observed:
    """Play a recording to its end, or until Ctrl-C.

    Raises:
        RecordingError: It cannot be read.
    """
    found = outline(path)
    playback = Playback(path, found)

    ages, connections = StateAges(), NewConnections()

    async def pause() -> None:
        snapshots = [each.snapshot() for each in playback.loops]
        ages.follow(snapshots, playback.at)
        connections.follow(snapshots)
        show(f"playing: {playback.at / max(found.seconds, 1.0):.0%}")

    stop = asyncio.Event()
    with set_by_signals(stop):
        await playback.run(5.0, pause, stop)
    seconds = playback.at if stop.is_set() else found.seconds
    ages.follow((each.snapshot() for each in playback.loops), seconds)
    notes = [f"the recording is not complete: {found.cut_off}"] if found.cut_off else []
    if stop.is_set():
        notes.append(f"what follows in the recording: {seconds:.0f} of {found.seconds:.0f} s were played")
    if seconds < STALL_SECONDS:
        notes.append(f"a stall: it is called one after {STALL_SECONDS:.0f} s, and {seconds:.0f} s were recorded")
    report = json.loads(json.dumps(status([each.snapshot() for each in playback.loops])))
    return report, Source(
        f"{'a part' if stop.is_set() else 'end'} of {path}",
        seconds,
        tuple(notes),
        ages.at(seconds),
        _NOT_RECORDED,
        {each.name: Place(each.url) for each in found.head.servers if each.url},
        connections.found(),
    )


async def bodies(paths: Sequence[Path], apart: float) -> Observed:
    """Read one saved body of /metrics, or two that were saved `apart` seconds one after the other.

    Raises:
        OSError: A file cannot be read.
    """
    with tempfile.TemporaryDirectory(prefix="vllm-sidecar-") as folder:
        path = Path(folder) / "bodies"
        with Writer(path) as writer:
            writer.head(Head(time.time(), (Server("", ""),), max(apart, 1.0), hashed=False, program=""))
            for number, file in enumerate(paths):
                at = 1.0 + number * apart
                writer.write(Exchange(0, at, 0.0, METRICS, Response(file.read_bytes(), "text/plain", 0.0)))
        report, _ = await recording(path, lambda _: None)
    shown = " and ".join(map(str, paths))
    if len(paths) == 1:
        note, seconds = "rates, recent latencies and stalls: one body has no time", None
    else:
        note, seconds = f"a stall: the bodies are {apart:.0f} s apart", apart
    return report, Source(shown, seconds, (note,), no_gpus=_NO_GPUS)
