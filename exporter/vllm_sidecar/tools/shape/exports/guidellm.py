"""guidellm with its trace format `mooncake` and the profile `replay`. Source: its schemas in release 0.8.1."""

from __future__ import annotations

import json
import shlex
from typing import TYPE_CHECKING

from vllm_sidecar.tools.shape.exports import trace

if TYPE_CHECKING:
    from vllm_sidecar.tools.shape.profile import Profile

LIMITS = "prompts are texts, so their tokens may differ by some; no adapters"

_FOLDER, _OF_SCRIPT = "FOLDER", '\'"$(dirname "$0")"\''


def files(profile: Profile, url: str) -> dict[str, str]:
    """Return a script that runs the trace; further arguments are those of guidellm."""
    source = {"kind": "json_file", "path": f"{_FOLDER}/{trace.NAME}"}
    data = json.dumps({"kind": "mooncake", "source": source, "hash_id_block_size": profile.prefix.block_tokens})
    backend = f"kind=openai_http,target={url},model={profile.model}"
    return {
        "guidellm.sh": (
            "#!/bin/sh\n"
            "# Replays times, lengths and shared prefixes of the trace next to this file, for guidellm 0.8.\n"
            "# Add --tokenizer kind=hf_auto,model=NAME if the served name is not that of the model.\n"
            f"exec guidellm run --backend {shlex.quote(backend)} --profile kind=replay,time_scale=1.0 \\\n"
            f"  --data '{data.replace(_FOLDER, _OF_SCRIPT)}' \"$@\"\n"
        )
    }
