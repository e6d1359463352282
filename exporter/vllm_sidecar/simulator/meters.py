"""The counts of one engine, under short names; `families` has the exported ones."""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter

LATENCY = (0.3, 0.5, 0.8, 1.0, 1.5, 2.0, 2.5, 5.0, 10.0, 15.0, 20.0, 30.0, 40.0, 50.0, 60.0,
           120.0, 240.0, 480.0, 960.0, 1920.0, 7680.0)  # fmt: skip
FIRST_TOKEN = (0.001, 0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0, 20.0, 40.0,
               80.0, 160.0, 640.0, 2560.0)  # fmt: skip
TOKEN = (0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0, 20.0, 40.0, 80.0)
STEP_TOKENS = tuple(float(2**power) for power in (0, *range(3, 15)))
PARAMS_N = (1.0, 2.0, 5.0, 10.0, 20.0)
PREEMPTIONS = (1.0, 2.0, 3.0, 4.0, 5.0, 10.0, 20.0)
FINISHED_REASONS = ("stop", "length", "abort", "error", "repetition")


def token_bounds(max_model_len: int) -> tuple[float, ...]:
    """Return vLLM's bounds for token counts: 1, 2, 5, 10, ... up to `max_model_len`."""
    series = (float(digit * 10**power) for power in range(10) for digit in (1, 2, 5))
    return tuple(bound for bound in series if bound <= max_model_len)


class HistogramMeter:
    """Counts per bucket, and the sum."""

    __slots__ = ("bounds", "counts", "total")

    def __init__(self, bounds: tuple[float, ...]) -> None:
        self.bounds = bounds
        self.counts = [0] * (len(bounds) + 1)
        self.total = 0.0

    def observe(self, value: float, times: int = 1) -> None:
        """Count a value, or `count` equal ones."""
        self.counts[bisect_left(self.bounds, value)] += times
        self.total += value * times


class Meters:
    """All counts of one engine since its start, and its gauges after the last step."""

    def __init__(self, max_model_len: int) -> None:
        tokens = token_bounds(max_model_len)
        self.histograms = {
            "first_token": HistogramMeter(FIRST_TOKEN),
            "inter_token": HistogramMeter(TOKEN),
            "per_output_token": HistogramMeter(TOKEN),
            "end_to_end": HistogramMeter(LATENCY),
            "queue": HistogramMeter(LATENCY),
            "inference": HistogramMeter(LATENCY),
            "prefill": HistogramMeter(LATENCY),
            "decode": HistogramMeter(LATENCY),
            "prompt": HistogramMeter(tokens),
            "generation": HistogramMeter(tokens),
            "max_generation": HistogramMeter(tokens),
            "max_tokens": HistogramMeter(tokens),
            "computed": HistogramMeter(tokens),
            "step_tokens": HistogramMeter(STEP_TOKENS),
            "params_n": HistogramMeter(PARAMS_N),
            "request_preemptions": HistogramMeter(PREEMPTIONS),
        }
        self.counters: Counter[str] = Counter()
        self.finished: Counter[str] = Counter(dict.fromkeys(FINISHED_REASONS, 0))
        self.accepted_at: Counter[int] = Counter()
        """Accepted draft tokens by their position in the draft."""
        self.running = 0
        self.waiting = 0
        self.deferred = 0
        """Waiting requests that wait for a LoRA slot."""
        self.kv_usage = 0.0
        self.sleeping = False
        self.running_adapters: frozenset[str] = frozenset()
        self.waiting_adapters: frozenset[str] = frozenset()
