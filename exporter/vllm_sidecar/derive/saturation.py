"""One number for autoscalers: the share of the load that an engine can take within its objective."""

from __future__ import annotations

import hashlib
import re
from math import inf
from typing import TYPE_CHECKING, NamedTuple, cast

from vllm_sidecar.derive.cache_room import cache_room
from vllm_sidecar.derive.capacity import CAPACITY_LIMITS, DEFAULT_BUDGET, Capacity, Load, capacity
from vllm_sidecar.derive.kv_cache import pressure
from vllm_sidecar.derive.stalls import trusted
from vllm_sidecar.series.step_costs import FIRST, GAPS, USUAL_VARIATION, computed_prompt_tokens

if TYPE_CHECKING:
    from vllm_sidecar.derive.cache_room import CacheRoom
    from vllm_sidecar.derive.inputs import EngineInputs
    from vllm_sidecar.series.step_costs import StepCosts
    from vllm_sidecar.series.window import Window

SLUG_LENGTH = 63
"""Longest label value in Kubernetes."""
SLUG_DIGITS = 10
_PLAIN = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9._-]*[A-Za-z0-9])?")


class Demand(NamedTuple):
    """The load of an engine, and where it breaks the objective."""

    load: Load
    capacity: Capacity
    arriving: float
    """Arriving requests / admitted ones: above 1 while the queue grows."""

    @property
    def share(self) -> float:
        """Arriving load / capacity; above 1 in an overload."""
        return self.arriving / self.capacity.factor


def saturation(engine: EngineInputs) -> dict[str, float]:
    """Return the load as a share of the largest load within the objective, 0 to 1, by the label-safe name of its model.

    From the model of `derive.capacity`, which needs a first token in the window and the costs of steps. Never less than
    the largest of these, which also apply without a model: running / --max-num-seqs, waiting / --max-num-queued-reqs,
    KV pressure. Running and waiting are means over the window. A limit that no source exposes is left out; if
    --max-num-seqs is unknown, the most requests that ran while others waited replace it, and requests that waited
    during the whole window count as full. 0 without load, and if the gauges froze when the clients left; empty under a
    load for which no limit is known, if the gauges froze and it is unknown whether clients wait, and if the server
    exposes no scheduler gauge.
    """
    window, server, live = engine.window, engine.server, trusted(engine)
    running, waiting = window.extent("requests_running"), window.extent("requests_waiting")
    if running is None or waiting is None or live is None:
        return {}
    if not live:
        return {slug(engine.model_name): 0.0}
    shares = []
    seats = _seats(engine)
    if seats < inf:
        shares.append(running.mean / seats)
    if not server.flag("max_num_seqs") and _waited_all_the_time(window):
        shares.append(1.0)
    queue = server.flag("max_num_queued_reqs")
    if queue:
        shares.append(waiting.mean / queue)
    found = demand(engine)
    if found is not None and found.capacity.limit != "unknown":
        shares.append(found.share)
    if not shares and (found is not None or running.mean or waiting.mean):
        return {}
    return {slug(engine.model_name): min(1.0, max((pressure(engine) or 0.0, *shares)))}


def headroom_requests(engine: EngineInputs) -> float | None:
    """Return how many more requests per second fit within the objective; negative in an overload.

    None without a first token in the window: what the next requests need is unknown.
    """
    found = _within_reach(engine)
    return None if found is None else found.load.requests * (found.capacity.factor - found.arriving)


def headroom_tokens(engine: EngineInputs) -> dict[str, float]:
    """Return the same in tokens per second that are computed (prompt) and generated, for requests like the present."""
    found, window = _within_reach(engine), engine.window
    if found is None:
        return {}
    more = found.capacity.factor - found.arriving
    tokens = {"prompt": found.load.prompt_tokens * more}
    generated = window.increase("generation_tokens_total")
    if generated is not None:
        tokens["generation"] = generated / window.seconds * more
    return tokens


def first_limit(engine: EngineInputs) -> dict[str, float]:
    """Return 1 for the limit that the load reaches first, 0 for the others; empty without a first token."""
    found = demand(engine)
    return {} if found is None else {limit: float(limit == found.capacity.limit) for limit in CAPACITY_LIMITS}


def _within_reach(engine: EngineInputs) -> Demand | None:
    """Return the demand; None also if no limit is known."""
    found = demand(engine)
    return None if found is None or found.capacity.limit == "unknown" else found


def demand(engine: EngineInputs) -> Demand | None:
    """Return the load and its capacity; None without a first token in the window, or if nothing can be trusted."""
    if "demand" not in engine.shared:
        engine.shared["demand"] = _demand(engine)
    return cast("Demand | None", engine.shared["demand"])


def _demand(engine: EngineInputs) -> Demand | None:
    window = engine.window
    first = window.observed(FIRST)
    if trusted(engine) is not True or first is None or first.observations <= 0.0:
        return None
    load = _load(engine, first.observations)
    if load is None:
        return None
    growth = window.latest.gauges.get("requests_waiting", 0.0) - (window.values("requests_waiting")[0] or 0.0)
    return Demand(load, capacity(load), max(0.0, first.observations + growth) / first.observations)


def _load(engine: EngineInputs, first_tokens: float) -> Load | None:
    window, server, seconds = engine.window, engine.server, engine.window.seconds
    budget = server.flag("max_num_batched_tokens")
    learned = window.step_costs
    costs, running = learned.estimate(budget), window.extent("requests_running")
    if costs is None or running is None or seconds <= 0.0:
        return None
    gaps = window.observed(GAPS)
    adapters = server.adapters
    slots = (adapters.slots if adapters else None) or server.flag("max_loras")
    room = cache_room(engine)
    return Load(
        requests=first_tokens / seconds,
        prompt_tokens=max(0.0, computed_prompt_tokens(window.latest) - computed_prompt_tokens(window.oldest)) / seconds,
        sequence_steps=(gaps.observations if gaps else 0.0) / seconds,
        running=running.mean,
        costs=costs,
        threshold=server.settings.first_token_seconds(engine.model_name),
        seats=_seats(engine),
        cached_requests=room.requests,
        budget=budget or DEFAULT_BUDGET,
        slots=slots or inf,
        adapters=server.adapters_in_use,
        prompt_variation=learned.computed_variation,
        output_variation=learned.outputs.variation,
        size_variation=_size_variation(learned, room),
    )


def _size_variation(learned: StepCosts, room: CacheRoom) -> float:
    """Return variance / mean squared of what a request holds in the KV cache.

    Requests that share their prefixes differ by what each of them computes, others by the length of their prompts.
    Without the size of the cache the mean is that of the lengths.
    """
    prompts, outputs, computed = learned.prompts, learned.outputs, learned.computed_prompt or 0.0
    whole = (prompts.mean or 0.0) ** 2 * prompts.variation
    prompt = whole + room.shared * (computed**2 * learned.computed_variation - whole)
    answer = (outputs.mean or 0.0) ** 2 * outputs.variation
    size = room.tokens or (prompts.mean or 0.0) + (outputs.mean or 0.0)
    return (prompt + answer) / size**2 if size > 0.0 else USUAL_VARIATION


def _seats(engine: EngineInputs) -> float:
    return engine.server.flag("max_num_seqs") or engine.window.progress.seats or inf


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
