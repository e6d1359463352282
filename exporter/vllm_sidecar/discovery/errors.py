"""The one error of a source: its reason for metrics, and a detail for people."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from vllm_sidecar.catalog.discovery import SourceReason

SHOWN_CHARACTERS = 200


class SourceError(Exception):
    """A list that cannot be used; `detail` names the place and holds no secret."""

    def __init__(self, reason: SourceReason, detail: str) -> None:
        super().__init__(f"{reason}: {detail}")
        self.reason = reason
        self.detail = detail


def shown(value: object) -> str:
    """Return a value of a list for a message: short, on one line, quoted."""
    text = repr(value)
    return text if len(text) <= SHOWN_CHARACTERS else f"{text[:SHOWN_CHARACTERS]}..."
