"""Requests: their clients' demands, and their progress in the engine."""

from __future__ import annotations

import random
from dataclasses import dataclass, field
from math import inf, log
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from vllm_sidecar.simulator.blocks import BlockKey
    from vllm_sidecar.simulator.settings import Conditions, ServerSettings


@dataclass(slots=True, eq=False)
class Request:
    """One request; times are simulated seconds, lengths are tokens."""

    number: int
    arrival: float
    """When it arrived at the front end."""
    ready: float
    """When it arrived at the engine."""
    prompt: int
    output: int
    max_tokens: int
    prefix: int
    """Its prefix; its own number if it shares none."""
    prefix_tokens: int
    adapter: str
    ending: str
    """Its finish reason, unless its client gives up."""
    gives_up: float
    """When its client leaves if no token has arrived."""
    generated: int = 0
    computed: int = 0
    """Tokens whose KV is in the cache."""
    cached: int = 0
    """Prompt tokens that the prefix cache provided."""
    queued: float = inf
    """When the scheduler first saw it: vLLM's queue time begins here, at the end of the step that was running."""
    scheduled: float = inf
    first_token: float = inf
    last_token: float = inf
    preemptions: int = 0
    ended: str = ""
    """How it ended: its finish reason, or `abort`; empty while it is open."""
    blocks: list[BlockKey] = field(default_factory=list)
    content: tuple[int, ...] = ()
    """Token ids of the prompt, if its client sent them: requests share the blocks of equal beginnings."""
    _hashes: list[int] = field(default_factory=list)

    @property
    def tokens(self) -> int:
        """Tokens so far."""
        return self.prompt + self.generated

    def key(self, index: int, block_size: int) -> BlockKey:
        """Return the key of the block at a position."""
        if (index + 1) * block_size <= len(self.content):
            return (self._hash(index, block_size), index)
        return (self.prefix if (index + 1) * block_size <= self.prefix_tokens else self.number, index)

    def _hash(self, index: int, block_size: int) -> int:
        """Return the hash of all content up to a block, as vLLM chains those of its blocks."""
        while len(self._hashes) <= index:
            begin = len(self._hashes) * block_size
            before = self._hashes[-1] if self._hashes else hash(self.adapter)
            self._hashes.append(hash((before, self.content[begin : begin + block_size])))
        return self._hashes[index]


class Clients:
    """Creates the requests of a Poisson process."""

    def __init__(self, settings: ServerSettings, seed: int) -> None:
        self._settings = settings
        self._random = random.Random(seed)  # noqa: S311 # traffic, no secrets
        self._made = 0

    def pause(self, rate: float) -> float:
        """Return the seconds until the next arrival; infinite where the rate is 0."""
        return self._random.expovariate(rate) if rate > 0.0 else inf

    def request(self, now: float, conditions: Conditions) -> Request:
        """Create the request that arrives now."""
        draw, settings = self._random, self._settings
        self._made += 1
        shared = draw.random() < conditions.shared_ratio
        which = -1 - draw.randrange(conditions.prefixes)
        longest = settings.max_model_len - 2
        prefix_tokens = min(conditions.prefix_tokens, longest - 1)
        body = self._length(conditions.prompt_tokens, conditions.prompt_sigma)
        prompt = min(prefix_tokens + body, longest)
        wanted = self._length(conditions.output_tokens, conditions.output_sigma)
        max_tokens = min(2 * int(conditions.output_tokens), settings.max_model_len - prompt)
        output = min(wanted, max_tokens)
        ending = "length" if wanted >= max_tokens else "stop"
        fate = draw.random()
        if fate < conditions.failing_ratio:
            output, ending = 1, "error"
        elif fate < conditions.failing_ratio + conditions.aborting_ratio:
            output, ending = max(1, int(output * draw.random())), "abort"
        wanted_adapters = min(settings.adapters, conditions.adapters_wanted)
        adapter = f"adapter-{draw.randrange(wanted_adapters) + 1}" if wanted_adapters else ""
        return Request(
            number=self._made,
            arrival=now,
            ready=now + settings.front_end_seconds,
            prompt=prompt,
            output=output,
            max_tokens=max_tokens,
            prefix=which if shared else self._made,
            prefix_tokens=prefix_tokens,
            adapter=adapter,
            ending=ending,
            gives_up=now + conditions.patience_seconds,
        )

    def sent(self, now: float, prompt: int, output: int, max_tokens: int, adapter: str, ending: str) -> Request:
        """Return the request of a real client, which waits for its answer."""
        self._made += 1
        return Request(
            number=self._made,
            arrival=now,
            ready=now + self._settings.front_end_seconds,
            prompt=prompt,
            output=output,
            max_tokens=max_tokens,
            prefix=self._made,
            prefix_tokens=0,
            adapter=adapter,
            ending=ending,
            gives_up=inf,
        )

    def _length(self, median: float, sigma: float) -> int:
        return max(1, round(self._random.lognormvariate(log(median), sigma)))

    def goes_to_first(self, skew_ratio: float) -> bool:
        """Return whether a request goes to engine 0 regardless of its load."""
        return skew_ratio > 0.0 and self._random.random() < skew_ratio
