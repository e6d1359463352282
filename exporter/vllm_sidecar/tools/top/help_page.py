"""The page with the keys and the meaning of the columns."""

from __future__ import annotations

from typing import TYPE_CHECKING

from vllm_sidecar.tools.top.drawing import Text, cut_line
from vllm_sidecar.tools.top.view import Page

if TYPE_CHECKING:
    from vllm_sidecar.tools.top.drawing import Glyphs

_LINES = (
    ("Up Down PgUp PgDn", "move the cursor, or scroll (also k j Home End)"),
    ("Enter  Esc", "open a server or an engine; return (also Right Left)"),
    ("s  S", "order by the next or previous column (also > <)"),
    ("r", "reverse the order"),
    ("p", "pause: the values stay; polling continues"),
    ("?", "this help"),
    ("q  Ctrl-C", "quit"),
    ("", ""),
    ("QUEUE TTFT ITL", "p95 of queue time, first token, inter-token latency"),
    ("KV", "usage of the KV cache, of the fullest engine"),
    ("PRE", "preemptions per finished request"),
    ("RUN WAIT", "requests that run and that wait, now"),
    ("HITS", "share of prompt tokens found in the prefix cache"),
    ("IN/S OUT/S", "prompt tokens and generated tokens per second"),
    ("", ""),
    ("", "Latencies, ratios and rates cover the last minute. Of several engines,"),
    ("", "load is added, and latencies and KV-cache usage are those of the worst."),
    ("-", "unknown: not exposed, or fewer than 5 observations"),
)
_KEYS = 21


def help_page(width: int, glyphs: Glyphs) -> Page:
    """Return the help for a width."""
    lines = [
        cut_line([Text(f"{keys:{_KEYS}}" if keys else "", "bold"), Text(text)], width, glyphs) for keys, text in _LINES
    ]
    return Page((), lines)
