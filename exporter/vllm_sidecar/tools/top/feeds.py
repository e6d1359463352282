"""Where the screen takes its values from: vLLM servers that the command polls itself, or sidecars that do."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any, Protocol, Self

from vllm_sidecar.catalog.reasons import PollError, Reason
from vllm_sidecar.discovery.report import status as discovery_status
from vllm_sidecar.serve.app import Sidecar
from vllm_sidecar.serve.state import without_targets
from vllm_sidecar.serve.status import NodeGpus, status_steps
from vllm_sidecar.slices import in_slices
from vllm_sidecar.tools.exported.sidecar import OTHER_PROGRAM, NotASidecarError, answer_of, status_of
from vllm_sidecar.tools.targets import names, with_own_gpus
from vllm_sidecar.tools.top.drawing import SPAN
from vllm_sidecar.vllm.client import Client

if TYPE_CHECKING:
    from collections.abc import Awaitable, Mapping, Sequence

    from vllm_sidecar.config import Config

_OTHER_PROGRAM = OTHER_PROGRAM.format("--from")
HISTORY = "/api/v1/history"


class FeedError(Exception):
    """A feed has no values now; the text says why."""


class Feed(Protocol):
    """One origin of values."""

    name: str

    async def status(self) -> Mapping[str, Any]:
        """Return what /api/v1/status returns.

        Raises:
            FeedError: It cannot be read.
        """

    async def history(self, target: str) -> Sequence[Mapping[str, Any]]:
        """Return the engines of a target in /api/v1/history for the last `SPAN` seconds.

        Raises:
            FeedError: It cannot be read.
        """

    async def __aenter__(self) -> Self: ...

    async def __aexit__(self, *error: object) -> None: ...


class PolledServers:
    """vLLM servers that are polled here with the loops of the sidecar, and the GPUs next to them."""

    def __init__(self, config: Config) -> None:
        targets = config.all_targets
        self.name = names([targets[0].url])[0] if len(targets) == 1 else "servers"
        self._config = with_own_gpus(config)
        self._sidecar = Sidecar(self._config, lambda: self._config)

    async def __aenter__(self) -> Self:
        await self._sidecar.start()
        return self

    async def __aexit__(self, *error: object) -> None:
        await self._sidecar.stop()

    async def status(self) -> Mapping[str, Any]:
        """Return the status of all servers; it is computed in slices, so that polls stay on time."""
        exporter = self._sidecar.exporter
        snapshots = await exporter.prepare()
        gpus = NodeGpus(exporter.node.health, exporter.node_samples()) if exporter.node else None
        discovery = discovery_status(self._sidecar.finder)
        reason = None if snapshots else without_targets(self._config, discovery)
        return await in_slices(status_steps(snapshots.values(), gpus, reason, discovery))

    async def history(self, target: str) -> Sequence[Mapping[str, Any]]:
        """Return the stored polls of a target."""
        found = await self._sidecar.exporter.history(time.time() - SPAN, target, None)
        return found.get(target, ())


class RunningSidecar:
    """A sidecar that runs elsewhere: its status and its history over HTTP."""

    def __init__(self, name: str, config: Config) -> None:
        self.name = name
        self._client = Client(config.vllm, config.scrape)

    async def __aenter__(self) -> Self:
        await self._client.__aenter__()
        return self

    async def __aexit__(self, *error: object) -> None:
        await self._client.__aexit__(*error)

    async def status(self) -> Mapping[str, Any]:
        """Request the status."""
        return await self._answer(status_of(self._client))

    async def history(self, target: str) -> Sequence[Mapping[str, Any]]:
        """Request the history of a target."""
        wanted = [("target", target)] if target else []
        query = [("since", f"{time.time() - SPAN:.0f}"), *wanted]
        try:
            found = await answer_of(self._client, HISTORY, query)
        except PollError as error:
            if error.reason is Reason.HTTP_404:  # the target left after the status was read
                return ()
            raise FeedError(str(error)) from None
        except NotASidecarError:
            raise FeedError(_OTHER_PROGRAM) from None
        engines: Sequence[Mapping[str, Any]] = next(
            (each["engines"] for each in found["targets"] if (each["target"] or "") == target), ()
        )
        return engines

    @staticmethod
    async def _answer(request: Awaitable[Mapping[str, Any]]) -> Mapping[str, Any]:
        try:
            return await request
        except PollError as error:
            hint = f"; {_OTHER_PROGRAM}" if error.reason is Reason.HTTP_404 else ""
            raise FeedError(f"{error}{hint}") from None
        except NotASidecarError:
            raise FeedError(_OTHER_PROGRAM) from None
