"""Plays a field case to the whole sidecar on one simulated clock: a poll each second, a scrape each fifteen."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar

from scenario_run import SCRAPE, ScenarioRun

from field.cases import EPOCH, Case, Server
from vllm_sidecar.catalog.reasons import PollError, Reason
from vllm_sidecar.config import Config
from vllm_sidecar.serve.metrics import Exporter
from vllm_sidecar.serve.state import target_state
from vllm_sidecar.serve.status import status
from vllm_sidecar.serve.target import TargetLoop
from vllm_sidecar.vllm.client import Response

if TYPE_CHECKING:
    from collections.abc import Mapping

    from vllm_sidecar.serve.state import State
    from vllm_sidecar.vllm.validity import Validity

TEXT = "text/plain; version=1.0.0; charset=utf-8"
SECONDS = 0.004
"""What an answer takes."""


class Address:
    """Stands for the HTTP client of a target: the server of the case answers, at the time of the case."""

    certificates: ClassVar[Mapping[str, Validity]] = {}

    def __init__(self, server: Server) -> None:
        self.server, self.now = server, 0.0
        self._endpoints = {
            "/health": lambda: (200, None),
            "/version": lambda: (200, {"version": "0.32.0"}),
            "/load": lambda: (200, {"server_load": 0}),
            "/v1/models": lambda: (200, {"object": "list", "data": [
                {"id": model, "root": model, "parent": None, "max_model_len": 32768} for model in server.models]}),
            **server.endpoints,
        }  # fmt: skip

    async def get(self, path: str, **_: object) -> Response:
        """Answer as the server does.

        Raises:
            PollError: It does not answer, or with another status than 200.
        """
        if self.server.silent(self.now):
            raise PollError(Reason.TIMEOUT, "no answer")
        status, body = self._answer(path)
        if status != 200:
            raise PollError({404: Reason.HTTP_404, 503: Reason.HTTP_5XX}[status], f"status {status}")
        return Response(body, TEXT if path == "/metrics" else "application/json", SECONDS)

    def _answer(self, path: str) -> tuple[int, bytes]:
        if path == "/metrics":
            status, text = self.server.metrics(self.now)
            return status, text.encode()
        status, value = self._endpoints.get(path, lambda: (404, None))()
        return status, b"" if value is None else json.dumps(value).encode()

    async def __aenter__(self) -> Address:
        return self

    async def __aexit__(self, *error: object) -> None:
        """Close nothing."""


@dataclass
class Played:
    """What was seen of one case."""

    scrapes: ScenarioRun = field(default_factory=ScenarioRun)
    states: list[tuple[float, State]] = field(default_factory=list)
    """The target's state at each scrape."""
    status: dict[str, Any] = field(default_factory=dict)
    """What the sidecar's API shows at the end."""
    ran: int = 0
    """Requests that finished behind the address since the first poll."""
    fault: float | None = None
    """When the server fell ill."""

    @property
    def state(self) -> State:
        """The target's state at the end."""
        return self.states[-1][1]

    def values(self, name: str, *having: str) -> dict[str, float]:
        """Return the series of a metric at the last scrape, by the text of their labels, that hold some texts."""
        found = self.scrapes.at(self.scrapes.scrapes * SCRAPE, name)
        return {labels: value for labels, value in found.items() if all(text in labels for text in having)}

    def ever(self, name: str, *having: str) -> list[float]:
        """Return all values that series of a metric ever had."""
        return [
            value
            for text, values in self.scrapes.series.items()
            if text.partition("{")[0] == name and all(part in text for part in having)
            for value in values
            if value is not None
        ]

    def counted(self) -> float | None:
        """Return the requests that the objective of availability counted; None where it is absent at the end."""
        found = self.values("slo_requests_total", 'slo="availability"')
        return sum(found.values()) if found else None


async def play(case: Case) -> Played:
    """Play a case from its beginning to its end."""
    server = case.make()
    address, clock, played = Address(server), [1000.0], Played()
    settings = Config.model_validate({"introspection": {"proc": False}, "gpu": {"devices": "none"}, **case.config})
    exporter = Exporter(settings.windows.length)
    target_loop = TargetLoop(
        settings.all_targets[0], settings, exporter.changed, client=address,  # type: ignore[arg-type] # has what is used
        clock=lambda: clock[0], wall=lambda: EPOCH + clock[0] - 1000.0,
    )  # fmt: skip
    exporter.set_sources([target_loop], settings.windows.length)
    before = None
    for second in range(1, round(case.minutes * 60.0) + 1):
        address.now, clock[0] = float(second), 1000.0 + second
        for world in server.worlds:
            world.advance(float(second))
        before = server.finished if before is None else before
        await target_loop.poll_once()
        await target_loop.probe_once()
        if second % SCRAPE == 0:
            played.scrapes.add(_samples(exporter))
            played.states.append((float(second), target_state(target_loop.snapshot())))
    played.status = json.loads(json.dumps(status([target_loop.snapshot()])))
    played.ran = server.finished - (before or 0)
    played.fault = next((world.fault for world in server.worlds if world.fault is not None), None)
    return played


def _samples(exporter: Exporter) -> dict[str, float]:
    lines = exporter.render(openmetrics=False).decode().splitlines()
    pairs = (line.rsplit(" ", 1) for line in lines if not line.startswith("#"))
    return {name.removeprefix("vllm_sidecar_"): float(value) for name, value in pairs}
