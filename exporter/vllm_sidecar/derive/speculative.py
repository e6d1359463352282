"""Speculative decoding: the share of draft tokens that were right."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from vllm_sidecar.derive.inputs import EngineInputs

DRAFTS = "spec_decode_drafts_total"
DRAFTED = "spec_decode_draft_tokens_total"
ACCEPTED = "spec_decode_accepted_tokens_total"


def acceptance_ratio(engine: EngineInputs) -> float | None:
    """Return accepted / draft tokens in the window; None if nothing was drafted."""
    drafted, accepted = engine.window.increase(DRAFTED), engine.window.increase(ACCEPTED)
    return min(1.0, accepted / drafted) if drafted and accepted is not None else None


def accepted_length(engine: EngineInputs) -> float | None:
    """Return tokens per step of the model: 1 + accepted tokens / drafts, as vLLM logs it; None without drafts."""
    drafts, accepted = engine.window.increase(DRAFTS), engine.window.increase(ACCEPTED)
    return 1.0 + accepted / drafts if drafts and accepted is not None else None


def position_acceptance(engine: EngineInputs) -> dict[str, float]:
    """Return by position in the draft the share of drafts whose token there was accepted; empty without drafts."""
    drafts = engine.window.increase(DRAFTS)
    accepted = engine.window.increases("spec_decode_position_accepted_tokens_total")
    return {position: min(1.0, count / drafts) for (position,), count in accepted.items()} if drafts else {}


def wasted_rate(engine: EngineInputs) -> float | None:
    """Return draft tokens per second that were computed and rejected; None without speculative decoding."""
    drafted, accepted = engine.window.increase(DRAFTED), engine.window.increase(ACCEPTED)
    if drafted is None or accepted is None or engine.window.seconds <= 0.0:
        return None
    return max(0.0, drafted - accepted) / engine.window.seconds
