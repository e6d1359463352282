"""How many requests fill the KV cache, where some of it is shared by many of them.

A request takes room of its own: the prompt tokens that it computes and the tokens that it generates. The rest of what
is in use are prefixes that other requests had computed. If these are shared by requests that run at the same time, each
further request adds less of them: with prefixes that are equally popular, `all * (1 - exp(-running / reach))`. If each
request has a prefix of its own, as the turns of a conversation do, the rest grows in proportion to the requests. How
the usage followed the running requests from poll to poll says which of both it is.
"""

from __future__ import annotations

from math import exp, expm1, inf
from typing import TYPE_CHECKING, NamedTuple

from vllm_sidecar.derive.kv_cache import USAGE, capacity_tokens

if TYPE_CHECKING:
    from collections.abc import Callable

    from vllm_sidecar.derive.inputs import EngineInputs
    from vllm_sidecar.series.step_costs import StepCosts

LEAST_GROWTH = 0.02
"""Growth of the shared part, in proportion to the requests, below which all of it is in use."""
BLOCK = 16.0
"""vLLM's usual --block-size: half of a request's last block is empty."""
ROUNDS = 20
"""Of halving an interval."""


class CacheRoom(NamedTuple):
    """The requests that fill the KV cache, and the room of one of the last of them."""

    requests: float
    """Infinite if the server does not expose the usage, and while nothing runs."""
    tokens: float | None
    """Tokens that one more request takes near the limit; None if the size of the cache is unknown."""
    shared: float
    """Share of the room of shared prefixes that does not grow with the requests, 0 to 1."""


UNLIMITED = CacheRoom(inf, None, 0.0)


def cache_room(engine: EngineInputs) -> CacheRoom:
    """Return how many requests like those of the window fill the KV cache."""
    window = engine.window
    used, running = window.extent(USAGE), window.extent("requests_running")
    if used is None or running is None or min(used.mean, running.mean) <= 0.0:
        return UNLIMITED
    size, alike = capacity_tokens(engine), running.mean / used.mean
    own = own_tokens(window.step_costs)
    if size is None or own is None:
        return CacheRoom(alike, size and size / alike, 0.0)
    rest = size * used.mean - own * running.mean
    reach = _reach(window.step_costs, size, own)
    if rest <= 0.0 or reach == inf:
        return CacheRoom(alike, size / alike, 0.0)
    everything = rest / -expm1(-running.mean / reach)
    requests = _filling(size, own, everything, reach)
    more = everything * exp(-requests / reach) / reach
    return CacheRoom(requests, own + more, 1.0 - more * requests / max(size - own * requests, 1e-9))


def own_tokens(learned: StepCosts) -> float | None:
    """Return the tokens that a running request holds and no other does; None before one finished.

    Its answer is half there on average, and longer answers run for longer.
    """
    prompt, answer = learned.computed_prompt, learned.outputs.mean
    if prompt is None or answer is None:
        return None
    return prompt + 0.5 * answer * (1.0 + learned.outputs.variation) + 0.5 * BLOCK


def _reach(learned: StepCosts, size: float, own: float) -> float:
    """Return the running requests that hold 63 % of all shared prefixes; infinite if nothing is shared."""
    room = learned.room
    if room.x <= 0.0:
        return inf
    each = size * room.y / room.x
    rest = each - own
    if rest <= 0.0:
        return inf
    growth = (size * room.slope(each / size, rest / size) - own) / rest
    return room.x / _exponent(growth) if growth < 1.0 - LEAST_GROWTH else inf


def _exponent(growth: float) -> float:
    """Return x where 1 - exp(-x) grows by this share of its growth in proportion: x / (exp(x) - 1)."""
    return _last(10.0, lambda x: x / expm1(x) > max(LEAST_GROWTH, growth))


def _filling(size: float, own: float, everything: float, reach: float) -> float:
    """Return the requests whose own room and shared prefixes fill a cache of so many tokens."""
    return _last(size / own, lambda requests: own * requests - everything * expm1(-requests / reach) < size)


def _last(most: float, holds: Callable[[float], bool]) -> float:
    """Return the largest number from 0 to `most` for which a condition holds that fails from there on."""
    low, high = 0.0, most
    for _ in range(ROUNDS):
        middle = 0.5 * (low + high)
        low, high = (middle, high) if holds(middle) else (low, middle)
    return low
