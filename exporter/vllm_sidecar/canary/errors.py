"""A request of the canary that has no complete answer."""

from __future__ import annotations

from typing import TYPE_CHECKING

from vllm_sidecar.catalog.canary import CanaryReason

if TYPE_CHECKING:
    from vllm_sidecar.catalog.reasons import PollError


class CanaryError(Exception):
    """A request without a complete answer; `reason` goes to metrics, `detail` only to log and status, no secrets."""

    def __init__(self, reason: CanaryReason, detail: str) -> None:
        super().__init__(f"{reason}: {detail}")
        self.reason = reason
        self.detail = detail


def of_request(error: PollError) -> CanaryError:
    """Return the error of a failed HTTP request, whose reasons have the same names."""
    try:
        known = CanaryReason(error.reason.value)
    except ValueError:
        known = CanaryReason.INTERNAL
    return CanaryError(known, error.detail)
