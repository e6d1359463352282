"""Speculative decoding."""

from __future__ import annotations

import pytest
from readings import engine, grown, window

from vllm_sidecar.derive.speculative import (
    ACCEPTED,
    DRAFTED,
    DRAFTS,
    acceptance_ratio,
    accepted_length,
    position_acceptance,
    wasted_rate,
)

POSITION = "spec_decode_position_accepted_tokens_total"


def poll(drafts: float, drafted: float, *accepted: float) -> dict:
    positions = {(POSITION, str(i)): number for i, number in enumerate(accepted)}
    return {DRAFTS: drafts, DRAFTED: drafted, ACCEPTED: sum(accepted), **positions}


def all_of(first: dict, last: dict) -> tuple[object, ...]:
    seen = engine(grown(first, last))
    return acceptance_ratio(seen), accepted_length(seen), position_acceptance(seen), wasted_rate(seen)


def test_twenty_drafts_of_three_tokens() -> None:
    found = all_of(poll(100, 300, 90, 70, 50), poll(120, 360, 105, 80, 55))
    assert found == (0.5, 2.5, {"0": 0.75, "1": 0.5, "2": 0.25}, 3.0)


def test_drafts_of_which_nothing_was_accepted() -> None:
    assert all_of(poll(100, 300, 90), poll(110, 330, 90)) == (0.0, 1.0, {"0": 0.0}, 3.0)


def test_without_a_draft_in_the_window_nothing_is_wasted_and_there_are_no_ratios() -> None:
    assert all_of(poll(100, 300, 90), poll(100, 300, 90)) == (None, None, {}, 0.0)


def test_without_speculative_decoding_nothing_is_said() -> None:
    assert all_of({}, {}) == (None, None, {}, None)


@pytest.mark.parametrize("missing", [DRAFTED, ACCEPTED])
def test_what_needs_a_counter_that_is_not_there_is_not_said(missing: str) -> None:
    first, last = poll(0, 0, 0), poll(10, 20, 5)
    del first[missing], last[missing]
    length = 1.5 if missing == DRAFTED else None
    assert all_of(first, last) == (None, length, {"0": 0.5}, None)


def test_more_accepted_than_drafted_is_all_of_them_and_no_negative_waste() -> None:
    assert all_of(poll(0, 0, 0), poll(4, 4, 6)) == (1.0, 2.5, {"0": 1.0}, 0.0)


def test_one_poll_says_nothing() -> None:
    seen = engine(window(poll(10, 20, 5)))
    found = acceptance_ratio(seen), accepted_length(seen), position_acceptance(seen), wasted_rate(seen)
    assert found == (None, None, {}, None)
