"""vLLM's default bucket bounds by family, for generating rules without a server to read them from.

Source: `vllm/v1/metrics/buckets.py` of vLLM 0.32 and 0.33, and the same lists in its Rust front end. Tests compare them
with recorded servers.
"""

from __future__ import annotations

FLAG = "--custom-histogram-buckets"
"""vLLM's option: a JSON object from family to its list of bounds, which replaces the whole default list."""
FLAG_SINCE = "0.32"
"""First release that has it; its Rust front end reads it from 0.33."""

BUCKETS: dict[str, tuple[float, ...]] = {
    "time_to_first_token": (
        *(0.001, 0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0, 20.0, 40.0),
        *(80.0, 160.0, 640.0, 2560.0),
    ),
    "inter_token_latency": (
        *(0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0, 20.0, 40.0, 80.0),
    ),
    "request_latency": (
        *(0.3, 0.5, 0.8, 1.0, 1.5, 2.0, 2.5, 5.0, 10.0, 15.0, 20.0, 30.0, 40.0, 50.0, 60.0, 120.0, 240.0, 480.0),
        *(960.0, 1920.0, 7680.0),
    ),
}
"""Family, as the option names it, to upper bounds in seconds, ascending."""

FAMILY = {
    "time_to_first_token_seconds": "time_to_first_token",
    "inter_token_latency_seconds": "inter_token_latency",
    "time_per_output_token_seconds": "inter_token_latency",
    "request_seconds": "request_latency",
}
"""Histogram of the sidecar to the family of its bounds."""
