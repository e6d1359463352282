"""The ways in which servers and polls behave while every signal is compared with the request log."""

from __future__ import annotations

import random
from math import inf

from truth.body import Layout
from truth.play import Variation

SMALL = {"step_seconds": 0.02}
"""Fewer steps than on a fast GPU, so that a log has fewer tokens."""
SHORT = {"output_tokens": 80.0}
GAP = range(180, 260)
"""Seconds without any answer: longer than a window."""


def sometimes_lost(second: int) -> bool:
    """Lose one poll in five, now and then several in a row, and all of a gap."""
    return second in GAP or second % 60 in (20, 21, 22, 23, 24, 25) or random.Random(second).random() < 0.2


VARIATIONS = (
    Variation("a poll each second", "healthy", server={**SMALL, "data_parallel_size": 2}, traffic=SHORT),
    Variation("lost polls and a gap", "healthy", server={**SMALL, "data_parallel_size": 2}, traffic=SHORT,
              lost=sometimes_lost),
    Variation("restarts", "healthy", server={**SMALL, "data_parallel_size": 2},
              traffic={**SHORT, "crash_seconds": 95.0}),
    Variation("three API servers, of which one is replaced", "healthy", server=SMALL, traffic=SHORT,
              layout=Layout(3, {1: 200.5}), lenient=0.06),
    Variation("engines that come and go", "healthy", server={**SMALL, "data_parallel_size": 3}, traffic=SHORT,
              layout=Layout(present={1: ((99.025, 220.0), (260.0, inf)), 2: ((0.0, 180.0),)}), lenient=0.01),
    Variation("a full batch", "healthy 90s -> queue-buildup", server={**SMALL, "max_num_seqs": 8},
              traffic={**SHORT, "rate": 3.0, "patience_seconds": 600.0}),
    Variation("a full KV cache", "healthy 90s -> kv-exhaustion", server={"step_seconds": 0.02}),
    Variation("speculation, errors and aborts", "healthy 120s -> error-burst",
              server={**SMALL, "speculative_tokens": 3}, traffic={**SHORT, "aborting_ratio": 0.1}),
    Variation("adapters", "healthy 60s -> lora-thrash", server=SMALL, traffic=SHORT),
    Variation("a stall, clients that left, sleep",
              "healthy 90s -> stall 180s -> healthy 120s -> stale-gauges 100s -> healthy 80s -> sleep 60s -> healthy",
              seconds=660.0, server=SMALL, traffic=SHORT),
)  # fmt: skip
