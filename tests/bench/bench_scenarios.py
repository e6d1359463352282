"""What the sidecar says of each scenario of the simulator: signals before, during and after, as a Markdown table."""

from __future__ import annotations

import asyncio
import logging
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "support"))

from scenario_run import CALM, INCIDENT, RECOVERY, SCRAPE, ScenarioRun, around, run_scenario

from vllm_sidecar.simulator.scenarios import SCENARIOS

COLUMNS = {
    "live wait, s": ("live_queue_wait_seconds", ""),
    "TTFT p95, s": ("recent_time_to_first_token_seconds", 'quantile="0.95"'),
    "ITL p95, ms": ("recent_inter_token_latency_seconds", 'quantile="0.95"'),
    "KV peak, %": ("recent_kv_cache_usage_peak_ratio", ""),
    "preempted per request": ("recent_preemptions_per_request", ""),
    "prefix hits, %": ("recent_cache_hit_ratio", 'cache="local"'),
    "tokens/s": ("recent_generation_tokens_per_second", ""),
    "own": ("", ""),
}
OWN = {
    "stall": ("stalled", ""),
    "crash-loop": ("server_restarts_total", ""),
    "spec-collapse": ("recent_spec_decode_acceptance_ratio", ""),
    "error-burst": ("recent_error_ratio", ""),
    "stale-gauges": ("gauges_stale", ""),
    "dp-imbalance": ("recent_data_parallel_imbalance_ratio", 'load="generation_tokens"'),
    "lora-thrash": ("requests_waiting", 'reason="deferred"'),
    "sleep": ("engine_sleeping", ""),
}
"""The signal that tells a scenario, where it is none of the columns."""
TIMES = {"before": CALM - SCRAPE, "during": CALM + INCIDENT - SCRAPE, "after": CALM + INCIDENT + RECOVERY}


def shown(played: ScenarioRun, seconds: float, signal: str, label: str) -> str:
    """Write the highest of a signal's series that have a label."""
    values = [value for labels, value in played.at(seconds, signal).items() if label in labels]
    if not values:
        return "-"
    value = max(values)
    return f"{value:.3g}" if abs(value) < 1000 else f"{value:.0f}"


def main() -> None:
    """Play all scenarios and print the table."""
    logging.disable(logging.CRITICAL)
    print("| Scenario | " + " | ".join(COLUMNS) + " |")
    print("| --- " * (len(COLUMNS) + 1) + "|")
    for name in SCENARIOS:
        played = asyncio.run(run_scenario(around(name), CALM + INCIDENT + RECOVERY))
        cells = []
        for signal, label in COLUMNS.values():
            own, its = (signal, label) if signal else OWN.get(name, ("", ""))
            factor = {"recent_inter_token_latency_seconds": 1000, "recent_kv_cache_usage_peak_ratio": 100}.get(own, 1)
            factor = 100 if own == "recent_cache_hit_ratio" else factor
            three = [scaled(shown(played, at, own, its), factor) if own else "-" for at in TIMES.values()]
            cells.append((f"`{own}` " if not signal and own else "") + " / ".join(three))
        print(f"| {name} | " + " | ".join(cells) + " |")


def scaled(text: str, factor: float) -> str:
    """Multiply a number that is written, if it is one."""
    return text if text == "-" or factor == 1 else f"{float(text) * factor:.3g}"


if __name__ == "__main__":
    main()
