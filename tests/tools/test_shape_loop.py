"""The closed loop of `shape`: a known load is recorded, exported, replayed, recorded again, and is the same load."""

from __future__ import annotations

import random
from math import inf
from statistics import correlation, fmean
from typing import TYPE_CHECKING

import planned
import pytest

from vllm_sidecar.tools.shape.builder import build
from vllm_sidecar.tools.shape.likeness import compared, lines
from vllm_sidecar.tools.shape.sources import recording

if TYPE_CHECKING:
    from pathlib import Path

    from vllm_sidecar.tools.shape.profile import Profile

pytestmark = pytest.mark.io
SECONDS = 240


def shape(path: Path, prefixes: int = 3) -> Profile:
    return build(recording(path, inf), prefixes=prefixes, seed=1)


@pytest.fixture(scope="module")
def plan() -> list[planned.Planned]:
    return planned.known(SECONDS - 30)


@pytest.fixture(scope="module")
def profile(plan: list[planned.Planned], tmp_path_factory: pytest.TempPathFactory) -> Profile:
    return shape(planned.record(tmp_path_factory.mktemp("shape") / "known.gz", plan, SECONDS))


def test_the_profile_is_that_of_the_known_load(profile: Profile, plan: list[planned.Planned]) -> None:
    sent = [each for each in plan if each.at > 1.0]  # before the first poll
    assert profile.requests.arrived == len(sent)
    assert profile.prompt_tokens.mean == pytest.approx(fmean(each.prompt for each in plan), rel=0.02)
    assert profile.output_tokens.mean == pytest.approx(fmean(each.output for each in plan), rel=0.02)
    truth = correlation([each.prompt for each in plan], [each.output for each in plan])
    assert profile.joint.correlation == pytest.approx(truth, abs=0.1)
    assert profile.streaming_ratio is None


def test_lengths_are_closer_to_the_truth_than_their_buckets(profile: Profile, plan: list[planned.Planned]) -> None:
    """Half of the chats are below 632 tokens; the bucket is 500 to 1000."""
    for part, truth in (
        (profile.prompt_tokens, sorted(each.prompt for each in plan)),
        (profile.output_tokens, sorted(each.output for each in plan)),
    ):
        for percent in (25, 50, 75, 90):
            true = truth[percent * len(truth) // 100]
            assert part.quantiles[percent] == pytest.approx(true, rel=0.2), percent


def test_prompts_and_outputs_of_the_replay_belong_together(profile: Profile, plan: list[planned.Planned]) -> None:
    """Long prompts have short outputs in truth; independent marginals would give half of them long ones."""
    pairs = zip(profile.replay.prompt_tokens, profile.replay.output_tokens, strict=True)
    long_prompts = [output for prompt, output in pairs if prompt > 1000]
    assert sum(output > 50 for output in long_prompts) / len(long_prompts) < 0.03
    ours = correlation(profile.replay.prompt_tokens, profile.replay.output_tokens)
    truth = correlation([each.prompt for each in plan], [each.output for each in plan])
    assert ours == pytest.approx(truth, abs=0.12)


def test_arrivals_have_the_bursts_of_the_load(profile: Profile, plan: list[planned.Planned]) -> None:
    bursts = sum((at + 1.0) % 30.0 < 6.0 for at in profile.replay.at)  # the first poll is at 1 s
    truth = sum(each.at % 30.0 < 6.0 for each in plan if each.at > 1.0)
    assert bursts == pytest.approx(truth, rel=0.07), "arrivals are placed within a second of their poll"
    assert profile.arrivals.dispersion["10s"] > 3.0


@pytest.mark.slow
@pytest.mark.parametrize("prefixes", [1, 3])
def test_the_replay_of_a_profile_is_the_same_load(profile: Profile, tmp_path: Path, prefixes: int) -> None:
    again = profile.model_copy(update={"prefix": profile.prefix.model_copy(update={"prefixes": prefixes})})
    replayed = shape(planned.record(tmp_path / "again.gz", planned.of_profile(again), SECONDS), prefixes)
    rows = compared(profile, replayed)
    assert all(row.alike for row in rows), "\n".join(lines(rows))
    for row in rows:
        if row.bound is None and row.difference is not None:
            assert abs(row.difference) < 0.25, "\n".join(lines(rows))


@pytest.mark.slow
def test_another_load_is_found_to_be_another(profile: Profile, tmp_path: Path) -> None:
    draw = random.Random(3)
    other = [planned.Planned(at, draw.randint(200, 900), 300) for at in range(1, 200)]
    rows = compared(profile, shape(planned.record(tmp_path / "other.gz", other, SECONDS)))
    different = {row.name for row in rows if not row.alike}
    assert {"requests", "output tokens, mean", "prefix-cache hit ratio"} <= different
