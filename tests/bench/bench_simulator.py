"""How near the simulator is to a real vLLM: both under the same mix of requests, side by side; and how fast it is.

The real one is the recording in tests/captures/series: vLLM 0.32 on two CPU cores with a tiny model, 3 requests a
second, each prompt unlike the others. The simulator gets the times that a step of that server takes, fitted by
hand to its inter-token latency and its time to the first token, and everything else from its model.
"""

from __future__ import annotations

import resource
import time
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

from bodies import recorded

from vllm_sidecar.catalog.types import Scope
from vllm_sidecar.derive.inputs import EngineInputs, ServerInputs
from vllm_sidecar.derive.latency import quantiles_of
from vllm_sidecar.exposition import DifferentialParser
from vllm_sidecar.series.readings import Group
from vllm_sidecar.series.store import WindowStore
from vllm_sidecar.simulator.body import exposition
from vllm_sidecar.simulator.lookalike import Lookalike
from vllm_sidecar.simulator.script import read_script
from vllm_sidecar.vllm.normalize import Normalizer

if TYPE_CHECKING:
    from vllm_sidecar.series.window import Window

SECONDS = 120
SCRIPT = """\
phases: [healthy]
server:
  model_name: tiny
  max_model_len: 2048
  max_num_seqs: 16
  num_gpu_blocks: 4000
  block_size: 128
  step_seconds: 0.0046
  prefill_token_seconds: 0.00014
  sequence_seconds: 0.0012
  context_token_seconds: 0.0
  front_end_seconds: 0.004
traffic:
  rate: 3.0
  prompt_tokens: 108.0
  prompt_sigma: 0.02
  prefix_tokens: 0
  shared_ratio: 0.0
  output_tokens: 45.0
  output_sigma: 0.55
  aborting_ratio: 0.0
"""


def windows_of(bodies: list[bytes]) -> Window:
    """Feed bodies, one each second, to the sidecar's stages; return the engine's window."""
    parser, normalizer, windows = DifferentialParser(), Normalizer(), WindowStore(float(SECONDS), float(SECONDS))
    group = None
    for second, body in enumerate(bodies):
        found = normalizer.normalize(parser.parse(body))
        windows.append(float(second), found)
        group = next(group for group in found.groups if group.scope is Scope.ENGINE)
    window = windows.get(group or Group(Scope.ENGINE, ()))
    assert window is not None
    return window


def simulated() -> list[bytes]:
    """Return the bodies of a simulated run under the same mix."""
    with TemporaryDirectory() as folder:
        file = Path(folder) / "script.yaml"
        file.write_text(SCRIPT)
        look = Lookalike(read_script(None, file, {}), 0.0)
    bodies = []
    for second in range(SECONDS):
        look.advance(float(second))
        bodies.append(exposition(look))
    return bodies


def figures(window: Window) -> dict[str, float]:
    """Read off a window what operators look at."""
    engine = EngineInputs("tiny", window, ServerInputs(window=window))
    found: dict[str, float] = {}
    for title, name in (
        ("TTFT", "time_to_first_token_seconds"),
        ("ITL", "inter_token_latency_seconds"),
        ("queue", "request_queue_seconds"),
        ("prefill", "request_prefill_seconds"),
        ("request", "request_seconds"),
    ):
        observed = window.observed(name)
        if observed and observed.observations and observed.total is not None:
            found[f"{title} mean, ms"] = 1000.0 * observed.total / observed.observations
        summary = quantiles_of(name)(engine)
        for q, value in summary.quantiles if summary else ():
            if q in (0.5, 0.95):
                found[f"{title} p{100 * q:g}, ms"] = 1000.0 * value
    for title, key in (("running, mean", "requests_running"), ("KV usage, peak %", "kv_cache_usage_ratio")):
        extent = window.extent(key)
        if extent:
            found[title] = extent.mean if "mean" in title else 100.0 * extent.peak
    seconds = window.seconds
    for title, name in (("prompt tokens/s", "prompt_tokens_total"), ("generated tokens/s", "generation_tokens_total")):
        found[title] = (window.increase(name) or 0.0) / seconds
    queries = window.increase("prefix_cache_queried_tokens_total") or 0.0
    found["prefix hits, %"] = 100.0 * (window.increase("prefix_cache_hit_tokens_total") or 0.0) / max(1.0, queries)
    steps = window.observed("iteration_tokens")
    if steps:
        found["steps/s"] = steps.observations / seconds
    return found


def compare() -> None:
    """Print both side by side."""
    real, model = figures(windows_of(list(recorded()))), figures(windows_of(simulated()))
    print(f"{'':<22}{'real':>10}{'simulated':>12}{'ratio':>8}")
    for name, value in real.items():
        other = model.get(name, float("nan"))
        ratio = f"{other / value:>8.2f}" if value else f"{'-':>8}"
        print(f"{name:<22}{value:>10.2f}{other:>12.2f}{ratio}")


def speed() -> None:
    """Print what an hour of each load costs, and that memory stays level."""
    for text in ("healthy", "kv-exhaustion", "queue-buildup"):
        look = Lookalike(read_script(f"{text} 24h" if text != "healthy" else text, None, {}), 0.0)
        look.advance(600.0)
        before, began = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.process_time()
        look.advance(600.0 + 3600.0)
        took = time.process_time() - began
        grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
        print(f"an hour of {text}: {took:.1f} s of CPU, {3600.0 / took:.0f} times real time, {grown} KiB more memory")


if __name__ == "__main__":
    compare()
    speed()
