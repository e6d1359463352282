"""One number for autoscalers: how close an engine is to its limits."""

from __future__ import annotations

import hashlib
import re
from typing import TYPE_CHECKING

from vllm_sidecar.derive.kv_cache import pressure
from vllm_sidecar.derive.stalls import trusted

if TYPE_CHECKING:
    from vllm_sidecar.derive.inputs import EngineInputs
    from vllm_sidecar.series.window import Window

SLUG_LENGTH = 63
"""Longest label value in Kubernetes."""
SLUG_DIGITS = 10
_PLAIN = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9._-]*[A-Za-z0-9])?")


def saturation(engine: EngineInputs) -> dict[str, float]:
    """Return how close the engine is to its limits, 0 to 1, by the label-safe name of its model.

    The largest of: running / --max-num-seqs, waiting / --max-num-queued-reqs, KV pressure. Running and waiting are
    means over the window. A limit that no source exposes is left out; if --max-num-seqs is unknown, the most requests
    that ran while others waited replace it, and requests that waited during the whole window count as full. 0 if the
    gauges froze when the clients left; empty if they froze and it is unknown whether clients wait, and if the server
    exposes no scheduler gauge.
    """
    window, server, live = engine.window, engine.server, trusted(engine)
    running, waiting = window.extent("requests_running"), window.extent("requests_waiting")
    if running is None or waiting is None or live is None:
        return {}
    if not live:
        return {slug(engine.model_name): 0.0}
    parts = [pressure(engine) or 0.0]
    places = server.flag("max_num_seqs") or window.progress.seats
    if places:
        parts.append(running.mean / places)
    if not server.flag("max_num_seqs") and _waited_all_the_time(window):
        parts.append(1.0)
    queue = server.flag("max_num_queued_reqs")
    if queue:
        parts.append(waiting.mean / queue)
    return {slug(engine.model_name): min(1.0, max(parts))}


def _waited_all_the_time(window: Window) -> bool:
    since = window.progress.waiting_since
    return since is not None and window.now - since >= window.seconds > 0.0


def slug(model_name: str) -> str:
    """Return a model's name as a label value of Kubernetes; different names have different values.

    Letters, digits, `.`, `_` and `-` stay the same, with `--` for each slash: `org/Model-7B` becomes `org--Model-7B`. A
    name with other characters loses them, and gets a hash of the name after `---`.
    """
    written = model_name.replace("/", "--")
    # Only a slash becomes two dashes, and only a hash follows three.
    if _PLAIN.fullmatch(written) and "--" not in model_name and "---" not in written and len(written) <= SLUG_LENGTH:
        return written
    digest = hashlib.sha256(model_name.encode(errors="surrogatepass")).hexdigest()[:SLUG_DIGITS]
    kept = re.sub(r"[^A-Za-z0-9._]+", "-", model_name)[: SLUG_LENGTH - SLUG_DIGITS - 3].strip("-._")
    return f"{kept or 'model'}---{digest}"
