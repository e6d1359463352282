"""The load at which an engine breaks its objective for the time to the first token.

A model of queues, because the answer cannot be observed before it is too late. At `factor` times the present load:

- A step takes `fixed / (1 - factor * work)`, where `work` is the share of the time that prompts and sequences need
  per second beyond the fixed part: steps get slower as the load rises, so requests stay longer and need more seats.
- Seats (`--max-num-seqs`, or as many requests as the KV cache holds) are a queue of requests with many servers. Its
  number of requests is a birth-death process with a step time that grows with them, and the wait of those who find all
  seats taken is exponential (Erlang C).
- Both are counted in units that are larger than a request (Hayward's approximation): while a prompt is computed, no
  other request ends, so their number varies more than that of requests which arrive alone. In the KV cache the sizes of
  the requests are a part of the unit, too: a few long ones fill it, and units become free more slowly.
- Prompts share the token budget of a step: a queue with one server (M/G/1) and lengths of a gamma distribution.
- LoRA slots: a request whose adapter has none waits until an adapter in use has no request left (`adapter_slots`).

Each returns the share of the requests that wait for longer than the objective allows; the limit is reached where the
sum exceeds the share that may miss it.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import exp, inf
from typing import TYPE_CHECKING, NamedTuple

from vllm_sidecar.derive.adapter_slots import SlotLoad, late_for_slots

if TYPE_CHECKING:
    from vllm_sidecar.series.step_costs import Costs

CAPACITY_LIMITS = ("batch", "kv_cache", "adapter", "prefill", "decode", "unknown")
"""The limit that is reached first: all seats of --max-num-seqs are taken, the KV cache is full, all LoRA slots are
taken, prompts need more than the token budget of the steps, decoding needs all the time, or it is unknown."""
MISSING = 0.01
"""Share of the requests that may miss the objective: the objectives of the catalog are 99 %."""
MOST = 100.0
"""Largest factor that is tried: a load a hundred times the present one is not predictable."""
STRIDE = 1.5
"""Factor between the loads that are tried first."""
TOLERANCE = 1.01
NEGLIGIBLE = 1e-6
LEAST_VARIATION = 0.05
"""Variation that prompts of equal length are given: without any, their distribution cannot be computed this way."""
BUSIEST = 1.0 - 1e-6
"""Share of the time with prompts from which on they are too many: nearer to 1 only rounding would decide."""
ALMOST = 0.999
"""Share of the largest decay at which the search for it may begin."""
PRECISE = 1e-4
MOST_ROUNDS = 20
"""Rounds of that search; five are usual."""
UNFILLED = 0.5
"""Share of a large request that stays free in the KV cache while the first waiting one needs more than that: anything
from nothing to all of it. Large ones wait most, and their mean size is 1 + the variation of the sizes."""
FEWEST_UNITS = 1.0
DEFAULT_BUDGET = 2048.0
"""vLLM's usual --max-num-batched-tokens."""


@dataclass(frozen=True, slots=True)
class Load:
    """The present load of an engine, per second, and the limits that it approaches."""

    requests: float
    """Requests per second."""
    prompt_tokens: float
    """Prompt tokens per second that are computed."""
    sequence_steps: float
    """Sequences that take part in a step, summed over the steps of a second."""
    running: float
    """Mean of the running requests."""
    costs: Costs
    threshold: float
    """Seconds within which the first token must arrive."""
    seats: float = inf
    """--max-num-seqs; infinite if unknown."""
    cached_requests: float = inf
    """Mean requests that fill the KV cache; infinite if unknown."""
    budget: float = DEFAULT_BUDGET
    slots: float = inf
    """LoRA adapters in one batch."""
    adapters: int = 0
    """LoRA adapters in use."""
    prompt_variation: float = 0.5
    """Variance / mean squared of the length of prompts."""
    output_variation: float = 0.5
    size_variation: float = 0.5
    """The same of what a request holds in the KV cache."""


class Capacity(NamedTuple):
    """The highest load within the objective, as a multiple of the present one, and the limit that it meets."""

    factor: float
    limit: str


def capacity(load: Load) -> Capacity:
    """Return where the objective breaks; for one that breaks without any load, where the queue grows without end."""
    threshold = load.threshold if sum(misses(load, 1.0 / MOST, load.threshold).values()) <= MISSING else inf
    low = high = 1.0 / MOST
    # The smallest load counts: the share that waits for adapters falls again where every adapter is always in use.
    while sum(misses(load, high, threshold).values()) <= MISSING:
        low, high = high, STRIDE * high
        if high > MOST:
            return Capacity(MOST, "unknown")
    while high / low > TOLERANCE:
        middle = (low * high) ** 0.5
        if sum(misses(load, middle, threshold).values()) > MISSING:
            high = middle
        else:
            low = middle
    found = misses(load, high, threshold)
    return Capacity(low, max(found, key=found.__getitem__))


def misses(load: Load, factor: float, threshold: float) -> dict[str, float]:
    """Return the share of requests that wait for longer than `threshold` at each limit, at a multiple of the load."""
    fixed, sequence, token = load.costs
    prefill, decode = token * load.prompt_tokens, sequence * load.sequence_steps
    if factor * (prefill + decode) >= 1.0:
        return {"prefill" if prefill > decode else "decode": 1.0}
    free, now = 1.0 - factor * prefill, max(1e-3, 1.0 - prefill)
    growth = factor * decode / free
    # As many requests run now as were measured; at a higher load each stays for as long as its steps are slower.
    base = factor * load.running * max(0.0, 1.0 - decode / now) * now / free
    running = base / (1.0 - growth)
    step = fixed / (1.0 - factor * (prefill + decode))
    patience = max(0.0, threshold - step)
    found = {"prefill": _prefill(load, factor, running, threshold)}
    ending = 2.0 / (1.0 + load.output_variation)  # answers of equal length make room twice as fast as exponential ones
    # While its prompt is computed, no other request ends: as if this many arrived at once.
    together = 1.0 / free
    peaks = 1.0 + 0.5 * ending * (together**2 - 1.0)
    largest = 1.0 + load.size_variation
    for limit, seats, unit in (
        ("batch", load.seats, peaks),
        ("kv_cache", load.cached_requests - UNFILLED * largest, peaks + load.size_variation),
    ):
        if seats < inf:
            arriving = factor * load.requests / unit
            found[limit] = _seats(max(FEWEST_UNITS, seats / unit), base / unit, growth, ending * arriving * patience)
    if load.adapters > load.slots:
        requests = factor * load.requests
        slots = SlotLoad(load.adapters, int(load.slots), requests, running / requests, load.output_variation)
        found["adapter"] = late_for_slots(slots, patience)
    return found


def _seats(seats: float, base: float, growth: float, arrivals: float) -> float:
    """Return the share that waits for a seat for too long; `base + growth * n` requests run while n are inside.

    `arrivals` is how many arrive while a request has patience, times how much faster than exponential ones answers end.
    """
    if base + growth * seats >= seats:
        return 1.0
    if base + growth * seats <= 0.0:  # answers of one token: no poll has seen one of them
        return 0.0
    spare = seats / (base + growth * seats) - 1.0
    waits = exp(-spare * arrivals) if arrivals < inf else 0.0
    return waits * _all_taken(seats, base, growth)


def _all_taken(seats: float, base: float, growth: float) -> float:
    """Return the probability that all seats are taken: Erlang C with a step time that grows with the requests."""
    beyond = 1.0 / (1.0 - (base + growth * seats) / seats)
    weight, below, inside = 1.0, 0.0, seats
    while inside > 0.0:
        arriving = base + growth * inside
        weight *= inside / arriving if arriving > 0.0 else inf
        below += weight
        inside -= 1.0
        if weight > 1e12 or (weight < NEGLIGIBLE * below and arriving > inside):
            break
    return beyond / (beyond + below)


def _prefill(load: Load, factor: float, running: float, threshold: float) -> float:
    """Return the share whose prompt is not computed in time, with the wait for the token budget.

    The time in the system of an M/G/1 queue is exponential in its tail, and the decay solves M(d) = 1 + d / rate, where
    M is the moment generating function of the time of one prompt (Cramér-Lundberg).
    """
    if load.prompt_tokens <= 0.0 or load.requests <= 0.0:
        return 0.0
    fixed, sequence, token = load.costs
    step = fixed + sequence * running
    # A step has at most as many prompts as seats, which matters for short ones.
    room = max(1.0, min(load.budget - running, load.seats * load.prompt_tokens / load.requests))
    per_token = step / room + token
    busy = factor * load.prompt_tokens * per_token
    if busy >= BUSIEST:
        return 1.0
    if threshold == inf or per_token <= 0.0 or busy <= 0.0:
        return 0.0
    seconds, variation = load.prompt_tokens / load.requests * per_token, max(LEAST_VARIATION, load.prompt_variation)
    decay, slope = _decay(busy, variation)
    if busy * slope <= 1.0:  # so rarely busy that nothing waits
        return 0.0
    share = (1.0 - busy) / (busy * slope - 1.0) * (1.0 + decay / busy)
    # The step that runs at an arrival ends first, and prompts that arrived later fill the last step.
    filled = 0.5 * min(room * token, busy * threshold)
    patience = max(0.0, threshold - step - filled)
    return min(1.0, share * exp(-decay * patience / seconds))


def _decay(busy: float, variation: float) -> tuple[float, float]:
    """Return the decay of the time in the system, per mean time of a prompt, and the slope of M there."""
    # Newton's method on a convex function from above its root: without M's higher terms the root would be here. M is
    # finite below 1 / variation.
    decay = min(2.0 * (1.0 / busy - 1.0) / (1.0 + variation), ALMOST / variation)
    slope = inf
    for _ in range(MOST_ROUNDS):
        shape = 1.0 - decay * variation
        moment = shape ** (-1.0 / variation)
        slope = moment / shape
        if busy * slope <= 1.0:
            break
        change = (moment - 1.0 - decay / busy) / (slope - 1.0 / busy)
        if not PRECISE * decay < change < decay:
            break
        decay -= change
    return decay, slope
