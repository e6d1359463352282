"""What tests read of exported samples, and bodies with one value changed."""

from __future__ import annotations

from vllm_sidecar.catalog.reasons import VLLM_REASONS


def failures(samples: dict[str, float]) -> dict[str, float]:
    """Failed polls by reason, those that happened."""
    prefix = 'poll_failures_total{source="vllm",reason="'
    found = {name.removeprefix(prefix)[:-2]: n for name, n in samples.items() if name.startswith(prefix)}
    assert set(found) == set(VLLM_REASONS)
    return {reason: n for reason, n in found.items() if n}


def changed(body: bytes, name: bytes, value: bytes) -> bytes:
    """Give every series of a name another value."""
    lines = [
        b" ".join((line.rsplit(b" ", 1)[0], value)) if line.startswith(name) else line for line in body.split(b"\n")
    ]
    assert lines != body.split(b"\n")
    return b"\n".join(lines)
