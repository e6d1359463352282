"""How long requests wait for a LoRA slot.

Every adapter is idle, waits for a slot, or holds one: a machine-repair model, in which the adapters are the machines
and the slots repair them. An adapter that is idle wants a slot with its next request; it holds one until none of its
requests is left (the busy period of a queue with unlimited servers, which is longer the more requests waited for it).
The number of adapters that want a slot is a birth-death process. Only requests of adapters without a slot wait.
"""

from __future__ import annotations

from math import exp, log, sqrt
from typing import NamedTuple

MOST_ADAPTERS = 512
"""With more, as many share the requests: each of them is then so rare that their number no longer matters."""
LONGEST_BUSY = 20.0
"""Requests of one adapter at a time with which its slot practically never becomes free."""
ROUNDS = 12
"""Of the wait and the length of a hold, which depend on each other; half of each change is kept."""
NEGLIGIBLE = 1e-9
EULER = 0.5772156649
"""Euler's constant."""


class SlotLoad(NamedTuple):
    """Requests of adapters that are equally popular."""

    adapters: int
    slots: int
    requests: float
    """Requests per second."""
    residence: float
    """Seconds that a request runs."""
    variation: float
    """Variance / mean squared of these seconds."""


def late_for_slots(load: SlotLoad, patience: float) -> float:
    """Return the share of the requests that wait for a slot for longer than `patience` seconds."""
    if load.requests <= 0.0 or load.residence <= 0.0 or load.adapters <= load.slots:
        return 0.0
    adapters = max(load.slots + 1, min(load.adapters, MOST_ADAPTERS))
    each = load.requests / adapters
    if each * load.residence > LONGEST_BUSY:
        return 1.0 - load.slots / adapters
    # How much sooner holds of unequal length end than exponential ones: only a hold of one request varies less.
    alone = exp(-each * load.residence)
    sooner = 2.0 / (2.0 - alone * (1.0 - min(1.0, load.variation)))
    wait, hold, found = 0.0, load.residence, list[float]()
    for _ in range(ROUNDS):
        hold = _hold(load, each, 1.0 + each * wait)
        found = _wanting(adapters, load.slots, each * hold)
        ahead = sum(share * k for k, share in enumerate(found, 1))
        wait = 0.5 * (wait + ahead * hold / load.slots / sooner)
    first, more = _later(found, load.slots / hold * sooner, patience)
    # Of all requests between two idle times of an adapter: its first one, and those that arrive while it waits.
    return min(1.0, (first + each * more) / (1.0 + each * (wait + hold)))


def _hold(load: SlotLoad, each: float, waited: float) -> float:
    """Return the mean seconds that an adapter holds its slot, if so many of its requests waited for it.

    The last of several that begin together ends later than one alone, the more their seconds vary.
    """
    last = log(waited + 0.5) + EULER + 1.0 / (24.0 * (waited + 0.5) ** 2)  # 1 + 1/2 + ... + 1/waited
    begun = (exp(each * load.residence) - 1.0) / each
    return begun + load.residence * (last - 1.0) * sqrt(min(1.0, load.variation))


def _wanting(adapters: int, slots: int, offered: float) -> list[float]:
    """Return the share of idle adapters that want a slot while 0, 1, ... other adapters wait and all slots are taken.

    `offered` is the mean hold / the mean idle time of an adapter.
    """
    weight = total = float(adapters)
    waiting: list[float] = [weight] if slots == 0 else []
    for n in range(1, adapters):
        # The states weighted with the idle adapters, whose next request finds them.
        weight *= (adapters - n) * offered / min(n, slots)
        total += weight
        if n >= slots:
            waiting.append(weight)
        if weight > 1.0 / NEGLIGIBLE**10:
            weight, total, waiting = 1.0, total / weight, [each / weight for each in waiting]
        if n >= slots and weight < NEGLIGIBLE * total:
            break
    return [each / total for each in waiting]


def _later(found: list[float], rate: float, patience: float) -> tuple[float, float]:
    """Return the probability of a longer wait than `patience`, and the mean seconds beyond it.

    An adapter behind k - 1 others waits until k slots became free, at `rate` per second: an Erlang distribution.
    """
    mean = rate * patience
    term = exp(-min(mean, 700.0))
    below, first, more = 0.0, 0.0, 0.0
    for k, share in enumerate(found, 1):
        below += term  # the probability of fewer than k within the patience
        term *= mean / k
        first += share * below
        more += share * max(0.0, k * (below + term) / rate - patience * below)
    return first, more
