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
from vllm_sidecar.simulator.scenarios import Scenario
from vllm_sidecar.simulator.script import Phase, Script
from vllm_sidecar.simulator.settings import Conditions, ServerSettings
from vllm_sidecar.vllm.normalize import Normalizer

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

THRESHOLD = 2.5
"""Seconds to the first token: the objective of the profile `standard`, a bucket bound of vLLM."""
GOOD = 0.99
STEADY = {"aborting_ratio": 0.0, "patience_seconds": 3600.0}
REQUESTS = 2500
"""Requests of one run that decides whether the objective holds."""
SEEDS = tuple(range(1, 7))
"""Runs that decide together: late requests come in groups, so one run alone is off by up to a quarter."""
WARM = 90.0
"""Simulated seconds before anything is counted."""
BURST = 20.0
"""Seconds of a burst, and of the pause after it."""
LONGEST = 30_000.0
"""Seconds after which arrivals no longer come in bursts."""


class Shape(NamedTuple):
    """A server, the requests it gets, and the rate at which its objective breaks, or about that rate."""

    server: Mapping[str, float]
    traffic: Mapping[str, float]
    guess: float
    bursts: float = 1.0
    """The rate of arrivals in a burst / that in the pause after it; 1 for a steady rate."""

    def settings(self) -> ServerSettings:
        """Return the settings of the server."""
        return ServerSettings.model_validate(self.server)

    def look(self, rate: float, seed: int) -> Lookalike:
        """Start the server at a rate of requests per second."""
        traffic = Conditions.model_validate({**STEADY, **self.traffic, "rate": rate})
        given = {"phases": ["healthy"], "server": self.settings(), "traffic": traffic, "seed": seed}
        script = Script.model_validate(given)
        if self.bursts != 1.0:
            slow = 2.0 * rate / (1.0 + self.bursts)
            both = [Phase(Scenario("burst", "", {"rate": each}), BURST) for each in (self.bursts * slow, slow)]
            script = script.model_copy(update={"phases": (*both * int(LONGEST / BURST / 2.0), *script.phases)})
        return Lookalike(script, 0.0)


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


def late_requests(shape: Shape, rate: float, seconds: float, seed: int, allowed: float) -> int:
    """Return how many first tokens of a run are late; ends as soon as more than `allowed` are."""
    look = shape.look(rate, seed)
    look.advance(WARM)
    counted, late = FirstTokens(look), 0
    for at in range(30, int(seconds) + 1, 30):
        look.advance(WARM + at)
        _, late = counted.counts()
        waiting = look.engines[0].meters.waiting
        if late > allowed or waiting > allowed + rate * THRESHOLD:
            return max(late, int(allowed) + 1)
    return late


def holds(shape: Shape, rate: float, seconds: float, seeds: Iterable[int]) -> bool:
    """Return whether an engine keeps its objective at a rate, over all runs together."""
    runs = tuple(seeds)
    allowed, late = (1.0 - GOOD) * rate * seconds * len(runs), 0
    for seed in runs:
        late += late_requests(shape, rate, seconds, seed, allowed - late)
        if late > allowed:
            return False
    return True


def breaking_rate(shape: Shape) -> float:
    """Return the rate at which the objective breaks, within 2 % for these seeds."""
    low, high, rate, seconds = 0.0, 0.0, shape.guess, REQUESTS / shape.guess
    while not (low and high) or high / low > 1.04:
        if holds(shape, rate, seconds, SEEDS):
            low = rate
        else:
            high = rate
        rate = (low * high) ** 0.5 if low and high else rate * (1.12 if low else 0.9)
    return float((low * high) ** 0.5)
