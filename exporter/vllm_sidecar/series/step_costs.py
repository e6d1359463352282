"""The cost of an engine's steps, learned from its own polls, and the requests that it serves.

A step is modeled as `fixed + sequence * decoding sequences + prompt_token * prompt tokens`, in seconds. Every ten
seconds of work are one observation of the mean step (the inter-token latency), of its sequences and of its prompt
tokens. Older observations lose weight, so that the estimate follows a throttled GPU or longer contexts; intervals
without work change nothing.

Answers of one token have no time between tokens, and those of a few tokens have it in steps with many prompts. Their
steps are those of prompts: the mean prefill time is a line over the tokens of the steps in which prompts are computed,
whose slope is the cost of a token.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import exp, inf, sqrt
from typing import TYPE_CHECKING, NamedTuple

from vllm_sidecar.series.lines import Line

if TYPE_CHECKING:
    from vllm_sidecar.exposition.metric_values import Histogram
    from vllm_sidecar.series.readings import Reading
    from vllm_sidecar.series.stored_reading import StoredReading

INTERVAL = 10.0
"""Seconds of one observation: long enough that the prompts counted in it were computed in it."""
FORGET = 900.0
"""Seconds of work after which an observation has lost 63 % of its weight."""
FEWEST_TOKENS = 10.0
"""Inter-token latencies of an interval below which it is not an observation of the mean step."""
LARGEST_GROWTH = 1.0
"""Largest expected growth of a step from none to `GROWTH_SEQUENCES` sequences, as a multiple of its fixed part."""
GROWTH_SEQUENCES = 50.0
COLD_REQUESTS = 5.0
"""First requests of a process that are not observed: kernels are compiled while they wait."""
OUTLIER = 4.0
"""Largest prefill time of an interval, as a multiple of the usual one for its prompts: one hang is not a cost."""
USUAL_VARIATION = 0.5
"""Variance / mean squared of the lengths of chats."""
ROUNDS = 7
"""Of the cost of a token and the tokens that share its step; half of each change is kept, because a higher cost means
more tokens that share it, and these a lower cost."""
BUSIEST = 0.9
"""Largest share of the time with prompts for which the steps that arrivals meet can be computed."""
SHORT_ANSWERS = 0.05
"""Largest number of decoded tokens per computed prompt token with which the tokens of a step are those of prompts."""
FEWEST_IN_BUDGET = 4.0
"""Prompts that fit into the token budget of a step, below which prompts are split among steps too often to be counted
with the steps that their first tokens ended."""
LEAST_SHARE = 0.3
"""Smallest share of a step's tokens in its duration, where only prompts are computed. Fewer tokens than a GPU computes
while it reads the weights seem to cost nothing, which does not continue."""
OVERFLOW = 2.0
"""Upper bound of the last bucket, as a multiple of its lower one."""

STEPS = "iteration_tokens"
GAPS = "inter_token_latency_seconds"
PREFILL = "request_prefill_seconds"
FIRST = "time_to_first_token_seconds"
PROMPTS = "request_prompt_tokens"
COMPUTED = "request_prefill_computed_tokens"
OUTPUTS = "request_generation_tokens"
COUNTED = (STEPS, GAPS, PREFILL, FIRST, PROMPTS, COMPUTED, OUTPUTS)


@dataclass(slots=True)
class Sizes:
    """Mean and variation of a length in tokens; the buckets determine the variation, the sum the mean."""

    count: float = 0.0
    total: float = 0.0
    middles: float = 0.0
    """Sum of the middles of the buckets."""
    squares: float = 0.0
    """Sum of the squares of the middles, less what the width of the buckets adds (Sheppard's correction)."""

    def add(self, keep: float, old: Histogram | None, new: Histogram | None) -> None:
        """Keep a share of the weight, and add the observations between two readings of a histogram."""
        self.count, self.total = keep * self.count, keep * self.total
        self.middles, self.squares = keep * self.middles, keep * self.squares
        if old is None or new is None or old.bounds != new.bounds:
            return
        before = lower = 0.0
        for bound, was, count in zip(
            (*new.bounds, OVERFLOW * new.bounds[-1]), old.cumulative, new.cumulative, strict=True
        ):
            grown = count - was
            self.middles += (grown - before) * 0.5 * (lower + bound)
            self.squares += (grown - before) * (lower**2 + 4.0 * lower * bound + bound**2) / 6.0
            before, lower = grown, bound
        self.count += before
        self.total += (new.total or 0.0) - (old.total or 0.0)

    @property
    def mean(self) -> float | None:
        """Their mean; None without any."""
        return self.total / self.count if self.count > 0.0 else None

    @property
    def variation(self) -> float:
        """Variance / mean squared; `USUAL_VARIATION` without any."""
        return max(0.0, self.count * self.squares / self.middles**2 - 1.0) if self.middles > 0.0 else USUAL_VARIATION


class Costs(NamedTuple):
    """Seconds of a step: the fixed part, per decoding sequence, and per computed prompt token."""

    fixed: float
    sequence: float
    prompt_token: float


class _Base(NamedTuple):
    at: float
    computed: float
    histograms: dict[str, Histogram]
    running: float | None
    usage: float | None


class StepCosts:
    """Learns the costs of one engine between process restarts."""

    def __init__(self) -> None:
        self._base: _Base | None = None
        self._weight = 0.0
        self._sums = [0.0, 0.0, 0.0]
        """Of the sequences, prompt tokens and seconds of a mean step."""
        self._products = [0.0] * 6
        """Of sequences x (sequences, prompt tokens, seconds), prompt tokens x (itself, seconds), seconds x itself."""
        self._prefill_seconds = self._prefills = 0.0
        self._computed = self._first_tokens = self._elapsed = 0.0
        self._prompt_steps = Line()
        """Prefill time over the tokens that are computed in the same steps, while few tokens are decoded."""
        self.room = Line()
        """Usage of the KV cache over running requests."""
        self.prompts = Sizes()
        """Prompts of finished requests."""
        self.computed_prompts = Sizes()
        """The part of these prompts that no cache provided; from vLLM 0.13 on."""
        self.outputs = Sizes()
        """Generated tokens of finished requests."""

    def follow(self, at: float, reading: Reading) -> None:
        """Take a newer reading."""
        base = self._base
        if base is not None and at - base.at < INTERVAL:
            return
        if GAPS not in reading.histograms and FIRST not in reading.histograms:
            return
        known = {name: reading.histograms[name] for name in COUNTED if name in reading.histograms}
        gauges = reading.gauges.get("requests_running"), reading.gauges.get("kv_cache_usage_ratio")
        self._base = _Base(at, computed_prompt_tokens(reading), known, *gauges)
        if base is not None:
            self._learn(base, self._base)

    def _learn(self, base: _Base, new: _Base) -> None:
        grown = {name: _growth(base.histograms.get(name), found) for name, found in new.histograms.items()}
        first, _ = grown.get(FIRST, (0.0, 0.0))
        gaps, seconds = grown.get(GAPS, (0.0, 0.0))
        if (first <= 0.0 and gaps <= 0.0) or _first_tokens(base) < COLD_REQUESTS:
            return
        elapsed, computed = new.at - base.at, max(0.0, new.computed - base.computed)
        keep = exp(-elapsed / FORGET)
        prefills, prefill_seconds = grown.get(PREFILL, (0.0, 0.0))
        if self._prefill_seconds > 0.0 and self._computed > 0.0:
            usual = self._prefill_seconds / self._computed * computed
            prefill_seconds = min(prefill_seconds, OUTLIER * max(usual, self._prefill_seconds / self._prefills))
        self._prefills = keep * self._prefills + prefills
        self._prefill_seconds = keep * self._prefill_seconds + prefill_seconds
        self._first_tokens = keep * self._first_tokens + first
        self._computed = keep * self._computed + computed
        self._elapsed = keep * self._elapsed + elapsed
        lengths = ((self.prompts, PROMPTS), (self.computed_prompts, COMPUTED), (self.outputs, OUTPUTS))
        for sizes, name in lengths:
            sizes.add(keep, base.histograms.get(name), new.histograms.get(name))
        if new.running is not None and new.usage is not None:
            self.room.add(keep, new.running, new.running, new.usage)
        steps, _ = grown.get(STEPS, (0.0, 0.0))
        if gaps <= SHORT_ANSWERS * computed and min(prefills, steps, first, computed) > 0.0:
            shared = _tokens_of_steps(base.histograms[STEPS], new.histograms[STEPS], computed)
            guide = computed / first * requests_met(first / steps)
            self._prompt_steps.add(keep, guide, shared, prefill_seconds / prefills)
        if gaps >= FEWEST_TOKENS and seconds > 0.0:
            step = seconds / gaps
            # Prompts are computed at any time, gaps only observe the time in which sequences decode.
            self._observe(keep, gaps / (steps or elapsed / step), computed / max(steps, elapsed / step), step)

    def _observe(self, keep: float, sequences: float, prompt_tokens: float, seconds: float) -> None:
        self._weight = keep * self._weight + 1.0
        values = (sequences, prompt_tokens, seconds)
        self._sums = [keep * old + value for old, value in zip(self._sums, values, strict=True)]
        pairs = ((0, 0), (0, 1), (0, 2), (1, 1), (1, 2), (2, 2))
        self._products = [keep * old + values[i] * values[j] for old, (i, j) in zip(self._products, pairs, strict=True)]

    def estimate(self, budget: float | None) -> Costs | None:
        """Return the costs; `budget` is --max-num-batched-tokens, None if unknown. None before the first observation.

        The rest of the mean step beyond its prompts is a line over its sequences, whose slope is drawn to 0 as long as
        the number of sequences has varied too little to measure it (ridge regression).
        """
        if self._first_tokens <= 0.0 or self._computed <= 0.0:
            prompt, prefill = 0.0, None
        else:
            prompt = self._computed / self._first_tokens
            prefill = self._prefill_seconds / self._prefills if self._prefills > 0.0 else None
        short = prefill and prompt * FEWEST_IN_BUDGET <= (budget or inf) and self._prompt_steps.count >= self._weight
        if short and (alone := self._of_prompts_alone(prompt)):
            return alone
        if self._weight <= 0.0:  # answers of one token have no gaps: the fixed part counts as a part of each token
            if not prefill or not prompt:
                return None
            return Costs(0.0, 0.0, self._token_cost(prompt, prefill, 0.0, 0.0, budget or inf))
        sequences, prompts, step = (total / self._weight for total in self._sums)
        token = self._token_cost(prompt, prefill, prompts, step, budget or inf) if prefill and prompt else 0.0
        ss, sp, st, pp, pt, tt = (total / self._weight for total in self._products)
        spread, together = ss - sequences**2, st - sequences * step - token * (sp - sequences * prompts)
        noise = (tt - step**2) - 2.0 * token * (pt - prompts * step) + token**2 * (pp - prompts**2)
        base = max(0.1 * step, step - token * prompts)
        usual = LARGEST_GROWTH * base / GROWTH_SEQUENCES
        slope = max(0.0, together) / (spread + max(noise, 1e-12) / (self._weight * usual**2))
        slope = min(slope, 0.9 * base / sequences) if sequences > 0.0 else slope
        return Costs(base - slope * sequences, slope, token)

    def _of_prompts_alone(self, prompt: float) -> Costs | None:
        """Return the costs where nearly all tokens are those of prompts; None without the tokens of each step.

        The fixed part is expected to be 0, which reads too high, as long as the tokens of the steps have not varied.
        """
        line = self._prompt_steps
        # A long prompt makes a long step, but shares it with as few prompts as a short one does.
        tokens = line.x - self.computed_variation * prompt
        if tokens <= 0.0:
            return None
        whole = line.y / tokens
        token = min(whole, max(LEAST_SHARE * whole, line.slope(whole, whole)))
        return Costs(line.y - token * tokens, 0.0, token)

    def _token_cost(self, prompt: float, prefill: float, prompts: float, step: float, budget: float) -> float:
        """Return the seconds per prompt token, from the mean prefill: its steps, its tokens, and those of others.

        A prompt shares its steps with those that arrived during the same step, as far as the token budget has room.
        More arrive during long steps, which are those with many prompts: the mean step that an arrival meets follows
        from the variance of what arrives in one step and fills the next. It depends on the product of cost and load, so
        a few rounds of both find the cost.
        """
        load, spread = self._computed / self._elapsed, 1.0 + self.computed_variation
        token = max(0.0, prefill - step) / prompt
        for _ in range(ROUNDS):
            busy = min(BUSIEST, token * load)
            base = max(0.1 * step, step - token * prompts)
            # A prompt begins anywhere in a step, where the one before it ended; without one, at its beginning.
            steps = max(1.0, prompt / budget + 0.5 + 0.5 * busy)
            met = base + busy * token * min(prompt, budget) * spread
            others = min(load * met, steps * budget - prompt)
            token = 0.5 * (token + max(0.0, prefill - steps * base) / (prompt + others))
        return token

    @property
    def computed_prompt(self) -> float | None:
        """Mean of the computed tokens of a prompt; None without any."""
        return self._computed / self._first_tokens if self._first_tokens > 0.0 else None

    @property
    def computed_variation(self) -> float:
        """Variance / mean squared of the computed tokens of a prompt; that of whole prompts if vLLM has only these."""
        sizes, computed = self.computed_prompts, self.computed_prompt or 0.0
        if sizes.count > 0.0 or not self.prompts.mean or computed <= 0.0:
            return sizes.variation
        # Cached prefixes make the mean smaller, but not the difference between prompts.
        return self.prompts.variation * (self.prompts.mean / computed) ** 2


def computed_prompt_tokens(reading: Reading | StoredReading) -> float:
    """Return the prompt tokens so far that were computed, not taken from a cache, as far as vLLM exposes it."""
    computed = reading.counter(("prompt_tokens_by_source_total", "local_compute"))
    if computed is not None:
        return computed
    cached = reading.counter("prompt_tokens_cached_total")
    if cached is None:
        cached = reading.counter("prefix_cache_hit_tokens_total") or 0.0
    return (reading.counter("prompt_tokens_total") or 0.0) - cached


def requests_met(mean: float) -> float:
    """Return the requests in the step of a request, from their mean over the steps; arrivals are a Poisson process.

    A step that none waited for has one request, any other has those that arrived during the step before it.
    """
    mean = max(1.0, mean)  # steps that only decode are steps, too
    arrivals = mean - 1.0 if mean > 2.0 else sqrt(2.0 * (mean - 1.0))
    for _ in range(ROUNDS):  # the mean is arrivals + exp(-arrivals)
        arrivals -= (arrivals + exp(-arrivals) - mean) / max(0.01, 1.0 - exp(-arrivals))
    return 1.0 + arrivals**2 / mean


def _tokens_of_steps(old: Histogram, new: Histogram, computed: float) -> float:
    """Return the mean tokens of the step of a token, from the tokens of each step; their sum is `computed`."""
    sizes = Sizes()
    sizes.add(0.0, old, new)
    return computed * sizes.squares / sizes.middles**2 if sizes.middles > 0.0 else 0.0


def _first_tokens(base: _Base) -> float:
    found = base.histograms.get(FIRST)
    return found.cumulative[-1] if found else COLD_REQUESTS


def _growth(old: Histogram | None, new: Histogram) -> tuple[float, float]:
    """Return the observations between two readings and their sum."""
    if old is None or old.bounds != new.bounds:
        return 0.0, 0.0
    return new.cumulative[-1] - old.cumulative[-1], (new.total or 0.0) - (old.total or 0.0)
