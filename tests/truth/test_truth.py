"""Every derived signal is compared with the request log of the server: each request, token and step with its time."""

from __future__ import annotations

from collections import Counter

import pytest

from truth.play import Variation, play
from truth.recording import record
from truth.table import TRUTHS, WITHOUT
from truth.variations import SMALL, VARIATIONS
from vllm_sidecar.catalog.derived import DERIVED

CALM = Variation("calm", "healthy", 75.0, server=SMALL, traffic={"output_tokens": 40.0})


def test_every_derived_signal_has_a_truth_or_a_reason_why_not() -> None:
    names = {row.signal.name for row in DERIVED}
    assert {name.removesuffix("_count") for name in TRUTHS} | WITHOUT.keys() == names
    assert not TRUTHS.keys() & WITHOUT.keys()


def test_the_log_has_what_the_simulator_counted() -> None:
    log, server = record("healthy", 60.0, server={**SMALL, "speculative_tokens": 2})
    meters, found = server.engines[0].meters, Counter[str]()
    for each in log.observations(0):
        found[each.name] += each.value
    names = ("prompt_tokens", "generation_tokens", "prefix_hits", "prefix_queries", "draft_tokens", "accepted_tokens")
    assert {name: found[name] for name in names} == {name: meters.counters[name] for name in names}
    for name, meter in (("first_token", "first_token"), ("request", "end_to_end"), ("step_tokens", "step_tokens")):
        assert found[name] == pytest.approx(meters.histograms[meter].total)
        assert meters.histograms[meter].total > 0.0


@pytest.mark.parametrize(
    "variation",
    [CALM, *(pytest.param(each, marks=pytest.mark.slow) for each in VARIATIONS)],
    ids=lambda variation: variation.name,
)
async def test_derived_signals_are_within_their_bounds_of_the_truth(variation: Variation) -> None:
    errors = await play(variation)
    wrong = []
    for name, truth in TRUTHS.items():
        found, lenient = errors[name], variation.lenient
        most = max(truth.most, lenient)
        if found.most > most or found.mean > max(truth.mean, lenient):
            error, at, labels, ours, true = max(found.found, key=lambda each: each[0])
            wrong.append(f"{name}{dict(labels)}: {ours} for {true} at {at:.1f} s, error {error:.3g}, "
                         f"mean {found.mean:.3g}; allowed {most}, mean {truth.mean}")  # fmt: skip
    assert not wrong, "\n".join(wrong)
    assert sum(len(each.found) for each in errors.values()) > 500
