"""Simulated engines under a steady load: where their objective breaks, and the signals that the sidecar derives."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from vllm_sidecar.catalog.types import Scope
from vllm_sidecar.derive.inputs import EngineInputs, ServerInputs
from vllm_sidecar.exposition import DifferentialParser
from vllm_sidecar.series.readings import TARGET
from vllm_sidecar.series.store import WindowStore
from vllm_sidecar.simulator.body import exposition
from vllm_sidecar.simulator.lookalike import Lookalike
from vllm_sidecar.simulator.script import Script
from vllm_sidecar.simulator.settings import Conditions, ServerSettings
from vllm_sidecar.vllm.normalize import Normalizer

if TYPE_CHECKING:
    from collections.abc import Mapping

THRESHOLD = 2.5
"""Seconds to the first token: the objective of the profile `standard`, a bucket bound of vLLM."""
GOOD = 0.99
STEADY = {"aborting_ratio": 0.0, "patience_seconds": 3600.0}
REQUESTS = 2500
"""Requests that decide whether the objective holds: 1 % of fewer is chance."""
WARM = 90.0
"""Simulated seconds before anything is counted."""


class Shape(NamedTuple):
    """A server, the requests it gets, and about the rate at which its objective breaks."""

    server: Mapping[str, float]
    traffic: Mapping[str, float]
    guess: float

    def settings(self) -> ServerSettings:
        """Return the settings of the server."""
        return ServerSettings.model_validate(self.server)

    def look(self, rate: float, seed: int) -> Lookalike:
        """Start the server at a rate of requests per second."""
        traffic = Conditions.model_validate({**STEADY, **self.traffic, "rate": rate})
        given = {"phases": ["healthy"], "server": self.settings(), "traffic": traffic, "seed": seed}
        return Lookalike(Script.model_validate(given), 0.0)


class FirstTokens:
    """Counts of the first tokens of a simulated engine, within the objective and later."""

    def __init__(self, look: Lookalike) -> None:
        self._look = look
        self._base = (0, 0)
        self._base = self.counts()

    def counts(self) -> tuple[int, int]:
        """Return how many were good and how many were late since this was made."""
        found = self._look.engines[0].meters.histograms["first_token"]
        good = sum(found.counts[: found.bounds.index(THRESHOLD) + 1])
        return good - self._base[0], sum(found.counts) - good - self._base[1]


class FollowedEngine:
    """The stages of the sidecar on the bodies of one simulated server, without sockets."""

    def __init__(self, look: Lookalike, length: float = 60.0) -> None:
        self._look = look
        self._parser, self._normalizer = DifferentialParser(), Normalizer()
        self._windows = WindowStore(length, length)
        settings = look.settings
        self._flags = {
            name: getattr(settings, name) for name in ("max_num_seqs", "max_num_batched_tokens", "max_loras")
        }
        self._inputs: EngineInputs | None = None

    def poll(self, at: float) -> None:
        """Advance the server and poll it."""
        self._look.advance(at)
        readings = self._normalizer.normalize(self._parser.parse(exposition(self._look)))
        windows = self._windows
        windows.append(at, readings)
        group, window = next(iter(windows.of(Scope.ENGINE).items()))
        server = ServerInputs(
            windows.get(TARGET),
            self._flags,
            readings.adapters,
            engines={group.labels: window},
            front_end=windows.front_end,
            adapters_in_use=windows.adapters_in_use,
        )
        self._inputs = EngineInputs(group.labels[0], window, server, readings.cache_config.get(group, {}))

    @property
    def engine(self) -> EngineInputs:
        """The inputs of the derivations after the last poll."""
        assert self._inputs is not None
        return self._inputs


def holds(shape: Shape, rate: float, seconds: float, seed: int) -> bool:
    """Return whether an engine keeps its objective at a rate; ends as soon as it certainly does not."""
    look = shape.look(rate, seed)
    look.advance(WARM)
    counted, late, allowed = FirstTokens(look), 0, (1.0 - GOOD) * rate * seconds
    for at in range(30, int(seconds) + 1, 30):
        look.advance(WARM + at)
        _, late = counted.counts()
        if late > allowed or look.engines[0].meters.waiting > 20.0 + 2.0 * rate * THRESHOLD:
            return False
    return late <= allowed


def breaking_rate(shape: Shape, requests: int = REQUESTS, seed: int = 1) -> float:
    """Return the rate at which the objective breaks, within 2 %."""
    low, high, rate, seconds = 0.0, 0.0, shape.guess, requests / shape.guess
    while not (low and high) or high / low > 1.04:
        if holds(shape, rate, seconds, seed):
            low = rate
        else:
            high = rate
        rate = (low * high) ** 0.5 if low and high else rate * (1.25 if low else 0.8)
    return float((low * high) ** 0.5)
