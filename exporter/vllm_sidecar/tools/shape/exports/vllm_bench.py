"""`vllm bench serve` with its dataset `timed_trace`. Source: vllm/benchmarks/datasets of vLLM 0.32."""

from __future__ import annotations

import shlex
from typing import TYPE_CHECKING

from vllm_sidecar.tools.shape.exports import trace

if TYPE_CHECKING:
    from vllm_sidecar.tools.shape.profile import Profile

LIMITS = "answers are streamed, adapters are drawn evenly from those that have a share"


def files(profile: Profile, url: str) -> dict[str, str]:
    """Return a script that runs the trace; further arguments are those of the benchmark."""
    command = [
        *("--backend", "vllm", "--base-url", url, "--model", profile.model),
        *("--dataset-name", "timed_trace", "--num-prompts", str(len(profile.replay.at))),
        *("--timed-trace-chunk-hash-size", str(profile.prefix.block_tokens)),
        *("--percentile-metrics", "ttft,tpot,itl,e2el", "--metric-percentiles", "50,90,95,99", "--save-result"),
    ]
    if profile.adapters:
        command += ["--lora-modules", *profile.adapters]
    return {
        "vllm-bench.sh": (
            "#!/bin/sh\n"
            "# Replays times, lengths and shared prefixes of the trace next to this file. Tried with vLLM 0.32.\n"
            "# Add --tokenizer if the served name is not that of the model, and --result-dir for the results.\n"
            f'exec vllm bench serve --dataset-path "$(dirname "$0")/{trace.NAME}" \\\n'
            f'  {shlex.join(command)} "$@"\n'
        )
    }
