"""LoRA adapters with requests, from the comma-joined names of an info metric."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from vllm_sidecar.derive.inputs import ServerInputs


def active(server: ServerInputs) -> dict[tuple[str, str], float]:
    """Return 1 for each adapter and each state in which it has requests: `running`, `waiting`, or `active`.

    `active` is used if both lists are equal: from 0.11.1 vLLM writes every adapter with any request into both. Only the
    first adapters by name are returned, up to the limit.
    """
    adapters = server.adapters
    if adapters is None:
        return {}
    most = server.settings.max_adapters
    if adapters.running == adapters.waiting:
        return {(name, "active"): 1.0 for name in adapters.running[:most]}
    states = [(name, "running") for name in adapters.running] + [(name, "waiting") for name in adapters.waiting]
    allowed = set(sorted({name for name, _ in states})[:most])
    return {state: 1.0 for state in states if state[0] in allowed}


def omitted(server: ServerInputs) -> float | None:
    """Return how many adapters the limit left out; None without LoRA."""
    if server.adapters is None:
        return None
    return float(max(0, len({*server.adapters.running, *server.adapters.waiting}) - server.settings.max_adapters))


def slots(server: ServerInputs) -> float | None:
    """Return --max-loras from the metrics; None without LoRA (v0 exposes 0 then) and with the Rust front end."""
    return float(server.adapters.slots) if server.adapters and server.adapters.slots else None


def slots_used(server: ServerInputs) -> float | None:
    """Return how many adapters have running requests, at most the number of slots; None without LoRA."""
    most = slots(server)
    if server.adapters is None or (most is None and server.adapters.slots is not None):
        return None
    used = float(len(server.adapters.running))
    return used if most is None else min(used, most)
