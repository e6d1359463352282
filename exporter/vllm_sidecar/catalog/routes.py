"""Which HTTP routes of a vLLM server reach an engine: the only ones that are work, or a failure of it.

Tokenising, counting tokens, rendering a prompt, loading an adapter, pausing and everything else that takes POST is
answered by the front end: it goes on while an engine hangs, and its failures are not those of requests.
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
"""How the routes end that hand a request to an engine; before them stand `/v1`, `/v2`, `/inference/v1` and prefixes."""
_REACHES_AN_ENGINE = re.compile(rf".*/(?:{'|'.join(_ENGINE_ROUTES)})")

HOLDING = frozenset(("/pause", "/sleep"))
"""Routes after which engines stand still on purpose."""
RELEASING = frozenset(("/resume", "/wake_up"))
"""Routes after which they go on."""


def reaches_an_engine(handler: str, method: str) -> bool:
    """Tell whether requests of a route and method, as `http_requests_total` names them, are work for an engine."""
    return method == "POST" and _REACHES_AN_ENGINE.fullmatch(handler) is not None
