"""Prefixes that requests share with earlier ones, so that a cache hits as often as it did; and adapters."""

from __future__ import annotations

from bisect import bisect_right
from math import log
from typing import TYPE_CHECKING

from vllm_sidecar.tools.shape.traffic import COMPUTED, PROMPTS

if TYPE_CHECKING:
    from collections.abc import Sequence

    from vllm_sidecar.tools.shape.traffic import Traffic

BINS = 20
"""Parts of the window in each of which the hit ratio is taken, if they are long enough."""
MOST_REPAID = 4
"""Blocks by which a request shares at most more than it did, to make up for earlier ones."""
LEAST_SECONDS = 15.0
LEAST_TOKENS = 2000.0
"""Tokens of a part that must have been looked up; otherwise the ratio of the whole window is used."""


class HitRatio:
    """The prefix-cache hit ratio over the window."""

    def __init__(self, traffic: Traffic) -> None:
        width = max(LEAST_SECONDS, traffic.seconds / BINS)
        self._starts: list[float] = []
        self._ratios: list[float] = []
        sums: dict[int, list[float]] = {}
        for each in traffic.intervals:
            if each.hits is not None and each.queried is not None:
                found = sums.setdefault(int(each.ended / width), [0.0, 0.0])
                found[0] += each.hits
                found[1] += each.queried
        hits, queried = (sum(found[column] for found in sums.values()) for column in (0, 1))
        self.whole = hits / queried if queried else _computed(traffic)
        """Of the whole window; None if it is unknown."""
        for number, (part_hits, part_queried) in sorted(sums.items()):
            if part_queried >= LEAST_TOKENS:
                self._starts.append(number * width)
                self._ratios.append(min(1.0, part_hits / part_queried))

    def at(self, seconds: float) -> float:
        """Return the ratio at a time; 0 if it is unknown."""
        place = bisect_right(self._starts, seconds) - 1
        return self._ratios[max(0, place)] if self._ratios else self.whole or 0.0


def _computed(traffic: Traffic) -> float | None:
    """Return the share of prompt tokens that were not computed, of servers without counters of the cache."""
    pairs = [(each.observed.get(COMPUTED), each.observed.get(PROMPTS)) for each in traffic.intervals]
    sums = [(computed.total or 0.0, prompts.total or 0.0) for computed, prompts in pairs if computed and prompts]
    whole = sum(prompts for _, prompts in sums)
    return 1.0 - sum(computed for computed, _ in sums) / whole if whole else None


def shared_tokens(prompts: Sequence[int], wanted: Sequence[float], block: int, prefixes: int) -> list[int]:
    """Return how many leading tokens of each prompt are those of its prefix, in whole blocks.

    Request i begins with prefix i modulo `prefixes`. A cache without eviction that has seen the earlier requests then
    hits about the wanted share of all prompt tokens so far: what a request is short of, the next ones that share
    anything have more. vLLM computes at least the last token of a prompt.

    Args:
        prompts: Tokens of each prompt, in the order of arrival.
        wanted: The share of each prompt's tokens that should hit.
        block: Tokens of a block.
        prefixes: Number of different prefixes.
    """
    seen = [0] * prefixes
    """Leading tokens of each prefix that a request already had."""
    shared: list[int] = []
    owed = 0.0
    for number, (prompt, share) in enumerate(zip(prompts, wanted, strict=True)):
        owed += prompt * share
        most = min(prompt - 1, prompt * share + MOST_REPAID * block) if share > 0.0 else 0.0
        tokens = int(max(0.0, min(most // block, round(owed / block)))) * block
        known = seen[number % prefixes]
        owed -= min(tokens, known)
        seen[number % prefixes] = max(known, tokens)
        shared.append(tokens)
    return shared


def adapter_shares(traffic: Traffic, open_mean: float | None) -> dict[str, float]:
    """Estimate the share of the requests of each adapter, from the share of the polls at which it had any.

    If requests of an adapter arrive independently, it has none with probability exp(-m) for m open requests on average
    (an M/G/infinity queue). Shares are those of m in all open requests; the rest is the base model.
    """
    polls = traffic.adapter_polls
    if not polls:
        return {}
    means = {
        name: -log(max(0.5 / polls, 1.0 - present / polls))
        for name, present in sorted(traffic.adapters.items())
        if name
    }
    whole = max(sum(means.values()), open_mean or 0.0)
    return {name: mean / whole for name, mean in means.items()} if whole else {}
