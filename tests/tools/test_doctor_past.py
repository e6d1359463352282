"""The request shape of now beside that of the past: what is unknown, and why."""

from __future__ import annotations

import pytest

from vllm_sidecar.tools.doctor.past import past_of

KNOWN = {"seconds": 60.0, "requests": 600.0, "prompt_tokens": 60_000.0, "output_tokens": 6_000.0,
         "queried_tokens": None, "hit_tokens": None}  # fmt: skip


@pytest.mark.parametrize(
    ("recent", "before", "unknown"),
    [
        (None, None, "the server was not read"),
        (None, KNOWN, "it was read once"),
        (KNOWN | {"requests": 9.0}, KNOWN, "fewer than 10 requests finished in the last minute"),
        (KNOWN | {"requests": None}, KNOWN, "does not expose the prompt tokens of requests"),
        (KNOWN, KNOWN | {"requests": 9.0}, "since the server started"),
        (KNOWN, KNOWN, ""),
    ],
)
def test_why_the_past_is_unknown_is_said(recent: object, before: object, unknown: str) -> None:
    past = past_of({"request_totals": {"recent": recent, "before": before}})
    assert unknown in past.unknown
    assert bool(past.unknown) is bool(unknown)
    assert bool(past.rows) is not bool(unknown)
