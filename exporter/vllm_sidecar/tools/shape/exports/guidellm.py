"""guidellm with its trace format `mooncake` and the profile `replay`. Source: docs/guides of guidellm 0.7.3."""

from __future__ import annotations

import shlex
from typing import TYPE_CHECKING

from vllm_sidecar.tools.shape.exports import trace

if TYPE_CHECKING:
    from vllm_sidecar.tools.shape.profile import Profile

LIMITS = "prompts are texts, so their tokens may differ by some; no adapters"


def files(profile: Profile, url: str) -> dict[str, str]:
    """Return a script that runs the trace; further arguments are those of guidellm."""
    block = profile.prefix.block_tokens
    backend = f"kind=openai_http,target={url},model={profile.model}"
    return {
        "guidellm.sh": (
            "#!/bin/sh\n"
            "# Replays times, lengths and shared prefixes of the trace next to this file. Tried with guidellm 0.7.3.\n"
            f"exec guidellm run --backend {shlex.quote(backend)} --profile kind=replay,time_scale=1.0 \\\n"
            f'  --data "kind=mooncake,path=$(dirname "$0")/{trace.NAME},hash_id_block_size={block}" "$@"\n'
        )
    }
