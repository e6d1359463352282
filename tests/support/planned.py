"""Requests of a plan for the simulator: what was sent is known, and a profile can be replayed."""

from __future__ import annotations

import random
from dataclasses import dataclass
from math import inf
from typing import TYPE_CHECKING

import recorded

from vllm_sidecar.simulator.lookalike import Lookalike
from vllm_sidecar.simulator.requests import Request
from vllm_sidecar.simulator.script import read_script

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from pathlib import Path

    from vllm_sidecar.simulator.settings import Conditions
    from vllm_sidecar.tools.shape.profile import Profile

FRONT_END_SECONDS = 0.004


@dataclass(frozen=True)
class Planned:
    """One request: seconds, tokens, and its shared prefix (below 0) with its tokens."""

    at: float
    prompt: int
    output: int
    prefix: int = 0
    prefix_tokens: int = 0


class PlannedClients:
    """Stands for the simulator's clients, and sends the requests of a plan."""

    def __init__(self, plan: Iterable[Planned]) -> None:
        self._plan = list(plan)
        self._next = 0

    def pause(self, _: float) -> float:
        """Return the seconds to the next request."""
        if self._next >= len(self._plan):
            return inf
        before = self._plan[self._next - 1].at if self._next else 0.0
        return self._plan[self._next].at - before

    def request(self, now: float, _: Conditions) -> Request:
        """Return the request that arrives now."""
        planned = self._plan[self._next]
        self._next += 1
        return Request(
            number=self._next,
            arrival=now,
            ready=now + FRONT_END_SECONDS,
            prompt=planned.prompt,
            output=planned.output,
            max_tokens=planned.output,
            prefix=planned.prefix or self._next,
            prefix_tokens=planned.prefix_tokens,
            adapter="",
            ending="length",
            gives_up=inf,
        )

    def goes_to_first(self, _: float) -> bool:
        """Leave the choice of the engine to the load."""
        return False


def record(path: Path, plan: Iterable[Planned], seconds: int, **server: object) -> Path:
    """Record a simulated server that is sent the plan, once a second."""
    look = Lookalike(read_script("healthy", None, server), recorded.STARTED)
    look._clients = PlannedClients(plan)  # type: ignore[assignment] # it has what the simulator uses
    look._next_arrival = look._clients.pause(0.0)
    return recorded.write(path, recorded.played(look, seconds))


def of_profile(profile: Profile) -> Iterator[Planned]:
    """Yield the requests of a profile's replay."""
    replay = profile.replay
    for number, at in enumerate(replay.at):
        yield Planned(
            at,
            replay.prompt_tokens[number],
            replay.output_tokens[number],
            -1 - number % profile.prefix.prefixes,
            replay.shared_tokens[number],
        )


def known(seconds: float, seed: int = 5) -> list[Planned]:
    """Return a load with bursts, of chats that share prefixes and of long prompts with short answers."""
    draw = random.Random(seed)
    plan: list[Planned] = []
    at = 0.5
    while at < seconds:
        if draw.random() < 0.7:
            plan.append(Planned(at, 512 + draw.randint(20, 200), draw.randint(60, 200), -1 - draw.randrange(3), 512))
        else:
            plan.append(Planned(at, draw.randint(1500, 4000), draw.randint(5, 30)))
        at += draw.expovariate(8.0 if at % 30.0 < 6.0 else 1.5)
    return plan
