"""HTTP routes of a vLLM server that reach an engine: only these are work, and only their failures count.

The front end answers all other POST routes, such as tokenizing, counting tokens, rendering a prompt, loading an adapter
and pausing: they work while an engine hangs, and their failures are not those of requests.
"""

from __future__ import annotations

import re

_ENGINE_ROUTES = (
    r"completions(/batch)?",
    "responses",
    "messages",
    "systemone",
    "embeddings|embed|pooling",
    "classify|score|generative_scoring|rerank",
    "audio/(transcriptions|translations|speech)",
    "images/(generations|edits)",
    "generate",
    "invocations",
)
"""Ends of the routes that hand a request to an engine, after `/v1`, `/v2`, `/inference/v1` and prefixes."""
_REACHES_AN_ENGINE = re.compile(rf".*/(?:{'|'.join(_ENGINE_ROUTES)})")

HOLDING = frozenset(("/pause", "/sleep"))
"""Routes that pause engines on purpose."""
RELEASING = frozenset(("/resume", "/wake_up"))
"""Routes that resume them."""
_OTHER_WORDS = frozenset(
    (
        *("v1", "v2", "inference", "chat", "models", "tokenize", "detokenize", "render", "none"),
        *("health", "live", "ready", "load", "metrics", "ping", "version", "server_info", "openapi.json", "docs"),
        *("is_paused", "is_sleeping", "get_world_size", "scale_elastic_ep", "is_scaling_elastic_ep"),
        *("load_lora_adapter", "unload_lora_adapter", "reset_prefix_cache", "count_tokens"),
    )
)
WORDS = _OTHER_WORDS.union(
    *(re.findall(r"[a-z_]+", route) for route in _ENGINE_ROUTES), *(route.split("/") for route in HOLDING | RELEASING)
)
"""Parts of the routes of vLLM; other parts of a path are names that a user chose."""


def reaches_an_engine(handler: str, method: str) -> bool:
    """Return whether requests of a route and method, as `http_requests_total` names them, are work for an engine."""
    return method == "POST" and _REACHES_AN_ENGINE.fullmatch(handler) is not None
