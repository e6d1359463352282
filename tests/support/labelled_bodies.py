"""Bodies of engines with labels of their own."""

from __future__ import annotations


def engine_body(**labels: str) -> str:
    """Write what an engine counts, under labels."""
    pairs = ",".join(f'{name}="{value}"' for name, value in labels.items())
    return (
        f"vllm:num_requests_running{{{pairs}}} 3\nvllm:generation_tokens_total{{{pairs}}} 50\n"
        f'vllm:time_to_first_token_seconds_bucket{{{pairs},le="1.0"}} 2\n'
        f'vllm:time_to_first_token_seconds_bucket{{{pairs},le="+Inf"}} 5\n'
        f"vllm:time_to_first_token_seconds_sum{{{pairs}}} 9\n"
    )
