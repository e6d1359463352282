"""One number for autoscalers: how near an engine is to its limits."""

from __future__ import annotations

import hashlib
import re
from typing import TYPE_CHECKING

from vllm_sidecar.derive.kv_cache import pressure

if TYPE_CHECKING:
    from vllm_sidecar.derive.views import Engine

SLUG_LENGTH = 63
"""Longest label value that Kubernetes takes."""
SLUG_DIGITS = 10
_PLAIN = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9._-]*[A-Za-z0-9])?")


def saturation(engine: Engine) -> dict[str, float]:
    """Return how near the engine is to its limits, 0 to 1, by the label-safe name of its model.

    The largest of: running / --max-num-seqs, waiting / --max-num-queued-reqs, KV pressure; 1 after preemptions.
    Running and waiting are means over the window. A limit that no source tells is left out; where --max-num-seqs is not
    known, requests that waited during the whole window count as full. Empty where the server gives no scheduler gauge.
    """
    window, server = engine.window, engine.server
    running, waiting = window.extent("requests_running"), window.extent("requests_waiting")
    if running is None or waiting is None:
        return {}
    parts = [pressure(engine) or 0.0]
    seats, places = server.flag("max_num_seqs"), server.flag("max_num_queued_reqs")
    if seats:
        parts.append(running.mean / seats)
    elif window.pulse.waiting_since is not None and window.now - window.pulse.waiting_since >= window.seconds > 0.0:
        parts.append(1.0)
    if places:
        parts.append(waiting.mean / places)
    if window.increase("preemptions_total"):
        parts.append(1.0)
    return {slug(engine.model_name): min(1.0, max(parts))}


def slug(model_name: str) -> str:
    """Return a model's name as a label value of Kubernetes, another one for each name.

    What can be written with letters, digits, `.`, `_` and `-` stays as it is, with `--` for each slash:
    `org/Model-7B` becomes `org--Model-7B`. Everything else keeps what can be kept, with a hash of the name after `---`.
    """
    written = model_name.replace("/", "--")
    # A slash is the only way to two dashes, and nothing but a hash stands after three.
    if _PLAIN.fullmatch(written) and "--" not in model_name and "---" not in written and len(written) <= SLUG_LENGTH:
        return written
    digest = hashlib.sha256(model_name.encode(errors="surrogatepass")).hexdigest()[:SLUG_DIGITS]
    kept = re.sub(r"[^A-Za-z0-9._]+", "-", model_name)[: SLUG_LENGTH - SLUG_DIGITS - 3].strip("-._")
    return f"{kept or 'model'}---{digest}"
