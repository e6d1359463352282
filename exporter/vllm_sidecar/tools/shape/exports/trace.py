"""The requests of a replay in the form of the Mooncake traces: JSON lines with times, lengths and hashes of blocks.

Equal hashes are equal tokens, so requests that begin with the same hashes share a prefix. vLLM's `timed_trace` and
guidellm's `mooncake` read it. Source of the form: https://doi.org/10.48550/arXiv.2407.00079, section 4.
"""

from __future__ import annotations

import json
from itertools import count
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

    from vllm_sidecar.tools.shape.profile import Profile

NAME = "trace.jsonl"


def rows(profile: Profile) -> Iterator[dict[str, object]]:
    """Yield one row per request.

    Hashes of the shared prefixes are `number of the prefix + prefixes * position`, all others are used once.
    """
    replay, prefixes, block = profile.replay, profile.prefix.prefixes, profile.prefix.block_tokens
    longest = max(replay.shared_tokens, default=0) // block
    unique = count(prefixes * longest)
    for number, (at, prompt, output, shared) in enumerate(
        zip(replay.at, replay.prompt_tokens, replay.output_tokens, replay.shared_tokens, strict=True)
    ):
        begin = [number % prefixes + prefixes * place for place in range(shared // block)]
        rest = [next(unique) for _ in range(-(-prompt // block) - len(begin))]
        yield {"timestamp": at, "input_length": prompt, "output_length": output, "hash_ids": begin + rest}


def text(profile: Profile) -> str:
    """Return the trace."""
    return "".join(json.dumps(row, separators=(",", ":")) + "\n" for row in rows(profile))
