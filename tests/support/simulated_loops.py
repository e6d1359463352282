"""The two loops of one target in simulated time, and a server without sockets that they poll and probe."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
from collections import defaultdict
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import virtual_time
from places import CAPTURES
from running import config

from vllm_sidecar.catalog.reasons import PollError, Reason
from vllm_sidecar.serve.target import TargetLoop
from vllm_sidecar.vllm.client import Client, Response

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from vllm_sidecar.vllm.validity import Validity

BODY = (CAPTURES / "0.32.0__baseline__load.prom").read_bytes()
NO_LOG_STATS = (CAPTURES / "0.32.0__nologstats__idle.prom").read_bytes()
ANSWERS = {
    "/version": b'{"version":"0.32.0"}',
    "/v1/models": b'{"object":"list","data":[{"id":"tiny","root":"/models/tiny"}]}',
    "/server_info": b'{"vllm_config":"model=\'/models/tiny\', seed=0"}',
    "/load": b'{"server_load":3}',
    "/health": b"",
}
POLL_SECONDS = 0.004
FOREVER = 1e9


@dataclass(frozen=True)
class Behaviour:
    """What an endpoint does with a request: answer after some seconds, or raise after them."""

    seconds: float = 0.001
    error: BaseException | None = None


HANG = Behaviour(FOREVER)
DROP = Behaviour(0.01, PollError(Reason.DISCONNECTED, "closed without a whole answer"))


class Server(Client):
    """A server without sockets, in place of the HTTP client; notes what was open at which time."""

    certificates: ClassVar[Mapping[str, Validity]] = {}

    def __init__(self, does: Callable[[str], Behaviour] = lambda _: Behaviour(), body: bytes = BODY) -> None:
        self.does = does
        self.body = body
        self.poll_seconds: Callable[[], float] = lambda: POLL_SECONDS
        self.scraped: list[float] = []
        self.probed: defaultdict[str, list[float]] = defaultdict(list)
        self.open_probes = 0
        self.most_open_probes = 0
        self.busy = 0.0

    async def __aenter__(self) -> Server:
        return self

    async def __aexit__(self, *_: object) -> None:
        pass

    async def get(
        self,
        path: str,
        *,
        query: Sequence[tuple[str, str]] = (),  # noqa: ARG002
        accept: str = "",  # noqa: ARG002
        timeout: float | None = None,  # noqa: ASYNC109
        max_size: int | None = None,  # noqa: ARG002
    ) -> Response:
        if path == "/metrics":
            self.scraped.append(virtual_time.now())
            seconds = self.poll_seconds()
            await asyncio.sleep(seconds)
            return Response(self.body, "text/plain; version=0.0.4", seconds)
        self.probed[path].append(virtual_time.now())
        self.open_probes += 1
        self.most_open_probes = max(self.most_open_probes, self.open_probes)
        try:
            return await self._answer(path, timeout or FOREVER)
        finally:
            self.open_probes -= 1

    async def _answer(self, path: str, limit: float) -> Response:
        does = self.does(path)
        await asyncio.sleep(min(does.seconds, limit))
        self.busy += min(does.seconds, limit)
        if does.seconds > limit:
            raise PollError(Reason.TIMEOUT, "gave up")
        if does.error is not None:
            raise does.error
        return Response(ANSWERS[path], "application/json", does.seconds)

    def intervals(self) -> list[float]:
        """Return the seconds from each poll to the next."""
        return [after - before for before, after in itertools.pairwise(self.scraped)]


def target(server: Server, changed: Callable[[], None] = lambda: None, interval: str = "1s") -> TargetLoop:
    """Make the pipeline of a server; must be called while the loop runs."""
    settings = config(scrape={"interval": interval})
    return TargetLoop(settings.all_targets[0], settings, changed, client=server, clock=asyncio.get_running_loop().time)


async def play(server: Server, seconds: float, interval: str = "1s") -> TargetLoop:
    """Run the loops of a target for so many simulated seconds from its start."""
    target_loop = target(server, interval=interval)
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(seconds):
            await target_loop.run()
    return target_loop
