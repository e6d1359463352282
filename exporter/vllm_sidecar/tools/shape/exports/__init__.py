"""A profile -> the files of load-testing tools: one module for each tool.

Each module has `files(profile, url)`, which returns texts by file name, and LIMITS: what its tool cannot reproduce.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from vllm_sidecar.tools.shape.exports import guidellm, inference_perf, k6, trace, vllm_bench

if TYPE_CHECKING:
    from vllm_sidecar.tools.shape.profile import Profile

TOOLS = {"vllm-bench": vllm_bench, "guidellm": guidellm, "inference-perf": inference_perf, "k6": k6}


def files(profile: Profile, tools: list[str], url: str) -> dict[str, str]:
    """Return the files of these tools, with the trace that most of them read and the profile itself."""
    found = {"profile.json": profile.as_json(), trace.NAME: trace.text(profile)}
    for tool in tools:
        found |= TOOLS[tool].files(profile, url)
    return found
