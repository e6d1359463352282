"""Traffic -> profile: every part of it, the requests of its replay, and the list of what is unknown."""

from __future__ import annotations

import random
from bisect import bisect_left
from statistics import median
from typing import TYPE_CHECKING

from vllm_sidecar.config import format_duration
from vllm_sidecar.logs import UserError
from vllm_sidecar.quantiles import estimate
from vllm_sidecar.quantiles.buckets import counts_of
from vllm_sidecar.tools.shape.arrivals import (
    BURST_SECONDS,
    Arrivals,
    arrivals,
    dispersion,
)
from vllm_sidecar.tools.shape.arrivals import (
    counts_of as arrivals_in_bins,
)
from vllm_sidecar.tools.shape.lengths import Correlation, Finished, correlation, finished, grouped
from vllm_sidecar.tools.shape.profile import (
    ArrivalsPart,
    JointPart,
    LatencyPart,
    LengthPart,
    PrefixPart,
    Profile,
    ReplayPart,
    RequestsPart,
    WindowPart,
)
from vllm_sidecar.tools.shape.sharing import HitRatio, adapter_shares, shared_tokens
from vllm_sidecar.tools.shape.streaming import streaming_ratio
from vllm_sidecar.tools.shape.traffic import ITL, MAX_TOKENS, OUTPUTS, PROMPTS, TTFT

if TYPE_CHECKING:
    from collections.abc import Sequence

    from vllm_sidecar.tools.shape.traffic import Traffic

LATENCIES = {"time_to_first_token": TTFT, "inter_token_latency": ITL}
PERCENTILES = (0.5, 0.9, 0.95, 0.99)
STEPS = 100
DEFAULT_BLOCK = 16
LONGER = 1.5
"""Times the length of a bin by which polls may be further apart; polls of a second are stretched under load."""
FEW = 100
"""Finished requests below which the tail of the lengths is a guess."""


def build(traffic: Traffic, *, prefixes: int, seed: int) -> Profile:
    """Make the profile of the traffic of one model.

    Args:
        traffic: Of one model.
        prefixes: Different prefixes that the requests of the replay share.
        seed: Of everything that is drawn; the same traffic and seed give the same profile.

    Raises:
        UserError: No request finished, or the server does not expose lengths.
    """
    draw = random.Random(seed)  # noqa: S311 - traffic, no secrets
    came = arrivals(traffic, draw)
    _check(traffic, came)
    related = correlation(traffic)
    served = finished(traffic, related, draw)
    if not served:
        raise UserError(f"{traffic.source}: no poll has both lengths of the same requests; take a longer --window")
    ratio = HitRatio(traffic)
    block = traffic.block_size or DEFAULT_BLOCK
    replay, borrowed, cut = _replay(came, served, ratio, (block, prefixes, traffic.max_model_len), draw)
    (model,) = traffic.models
    opened = [each.open_after for each in traffic.intervals if each.open_after is not None]
    streamed = streaming_ratio(traffic.answer_sizes)
    adapters = adapter_shares(traffic, sum(opened) / traffic.polls if opened else None)
    return Profile(
        model=model,
        window=WindowPart(
            source=traffic.source,
            started=traffic.started,
            seconds=round(traffic.seconds, 3),
            polls=traffic.polls,
            failed_polls=traffic.failed,
            engines=len({each.engine for each in traffic.intervals}),
            restarts=traffic.restarts,
        ),
        requests=RequestsPart(
            arrived=len(came.at),
            finished=len(served),
            by_reason=_by_reason(traffic),
            open_at_start=came.open_at_start,
            open_at_end=came.open_at_end,
            clients_left=came.left,
        ),
        arrivals=_arrivals(came, traffic),
        prompt_tokens=_lengths(traffic, PROMPTS),
        output_tokens=_lengths(traffic, OUTPUTS),
        max_tokens=_lengths(traffic, MAX_TOKENS) if traffic.observed(MAX_TOKENS) else None,
        joint=_joint(traffic, served, related),
        prefix=PrefixPart(
            hit_ratio=None if ratio.whole is None else round(ratio.whole, 4), block_tokens=block, prefixes=prefixes
        ),
        adapters={name: round(share, 4) for name, share in adapters.items()},
        streaming_ratio=None if streamed is None else round(streamed, 4),
        endpoints=dict(sorted(traffic.endpoints.items())),
        latencies={name: part for name, source in LATENCIES.items() if (part := _latency(traffic, source))},
        unknown=_unknown(traffic, came, len(served), ratio, streamed),
        assumed=_assumed(came, prefixes, borrowed, cut, adapters),
        replay=replay,
    )


def _check(traffic: Traffic, came: Arrivals) -> None:
    seen = f"{format_duration(round(traffic.seconds))} with {traffic.polls} polls"
    if not traffic.intervals:
        notes = "".join(f"; {note}" for note in traffic.notes)
        raise UserError(f"{traffic.source}: no two polls of one engine within a minute: {seen}{notes}")
    missing = [name for name in (PROMPTS, OUTPUTS) if name not in traffic.bounds]
    if missing:
        raise UserError(f"{traffic.source}: the server does not expose {' and '.join(missing)}, so lengths are unknown")
    if not traffic.observed(PROMPTS) or not traffic.observed(OUTPUTS):
        known = f"{len(came.at)} arrived, {came.open_at_end} are still open"
        raise UserError(
            f"{traffic.source}: no request finished in {seen} ({known}), and lengths are exposed only then: "
            "take a longer --window"
        )
    if not came.at:
        raise UserError(
            f"{traffic.source}: no request arrived in {seen}, and those that finished had arrived before: "
            "take a longer --window"
        )


def _by_reason(traffic: Traffic) -> dict[str, int]:
    counts: dict[str, float] = {}
    for each in traffic.intervals:
        for reason, count in each.finished.items():
            counts[reason] = counts.get(reason, 0.0) + count
    return {reason: round(count) for reason, count in sorted(counts.items())}


def _arrivals(came: Arrivals, traffic: Traffic) -> ArrivalsPart:
    seconds = traffic.seconds
    counts = arrivals_in_bins(came.at, seconds, 1.0)
    usual = median(each.ended - each.began for each in traffic.intervals)
    seen = [width for width in BURST_SECONDS if width >= usual / LONGER]
    found = {f"{width:g}s": dispersion(came.at, width) for width in seen}
    return ArrivalsPart(
        per_second=round(len(came.at) / seconds, 4),
        peak_per_second=max(counts) if usual <= LONGER else None,
        dispersion={name: round(value, 3) for name, value in found.items() if value is not None},
        counts=counts,
        measured=came.measured,
    )


def _lengths(traffic: Traffic, name: str) -> LengthPart:
    bounds, polls = traffic.bounds[name], traffic.observed(name)
    counts = counts_of(bounds, polls)
    qs = [step / STEPS for step in range(STEPS + 1)]
    known = all(poll.has_sum for poll in polls)
    return LengthPart(
        mean=round(sum(poll.total or 0.0 for poll in polls) / sum(counts), 2) if known else None,
        quantiles=[round(each.value, 1) for each in estimate(bounds, grouped(polls), qs)],
        bounds=list(bounds),
        counts=[round(count) for count in counts],
    )


def _joint(traffic: Traffic, served: Sequence[Finished], related: Correlation | None) -> JointPart:
    rows, columns = (traffic.bounds[name] for name in (PROMPTS, OUTPUTS))
    table = [[0] * (len(columns) + 1) for _ in range(len(rows) + 1)]
    for each in served:
        table[bisect_left(rows, each.prompt)][bisect_left(columns, each.output)] += 1
    certain = 0.0
    for interval in traffic.intervals:
        bins = [len(found.bins) for name in (PROMPTS, OUTPUTS) if (found := interval.observed.get(name))]
        if len(bins) == 2 and min(bins) == 1:
            certain += interval.count(PROMPTS)
    return JointPart(
        counts=table,
        certain_ratio=round(min(1.0, certain / len(served)), 4),
        exact_ratio=round(sum(each.exact for each in served) / len(served), 4),
        correlation=None if related is None else round(related.value, 4),
        standard_error=None if related is None else round(related.error, 4),
    )


def _latency(traffic: Traffic, name: str) -> LatencyPart | None:
    polls = traffic.observed(name)
    if not polls:
        return None
    bounds = traffic.bounds[name]
    found = [float(f"{each.value:.4g}") for each in estimate(bounds, grouped(polls), PERCENTILES)]
    whole = sum(counts_of(bounds, polls))
    known = all(poll.has_sum for poll in polls)
    mean = float(f"{sum(poll.total or 0.0 for poll in polls) / whole:.4g}") if known else None
    return LatencyPart(p50=found[0], p90=found[1], p95=found[2], p99=found[3], mean=mean, observations=round(whole))


def _replay(
    came: Arrivals,
    served: Sequence[Finished],
    ratio: HitRatio,
    limits: tuple[int, int, int | None],
    draw: random.Random,
) -> tuple[ReplayPart, int, int]:
    """Give each arrival the lengths of a finished request, first come first served.

    Returns the requests, how many have borrowed lengths because their own had not finished, and how many outputs were
    cut so that prompt and output fit the model.
    """
    block, prefixes, longest = limits
    own = served[came.open_at_start :] or served
    chosen = list(own[: len(came.at)])
    borrowed = len(came.at) - len(chosen)
    chosen += [draw.choice(own) for _ in range(borrowed)]
    prompts = [max(1, each.prompt) for each in chosen]
    outputs = [max(1, each.output) for each in chosen]
    cut = 0
    if longest:
        fitting = [max(1, min(output, longest - prompt)) for prompt, output in zip(prompts, outputs, strict=True)]
        cut = sum(new < old for new, old in zip(fitting, outputs, strict=True))
        outputs = fitting
    wanted = [
        ratio.at(at) if each.cached is None else each.cached / prompt
        for at, each, prompt in zip(came.at, chosen, prompts, strict=True)
    ]
    shared = shared_tokens(prompts, wanted, block, prefixes)
    at = [round(max(0.0, each), 3) for each in came.at]
    return ReplayPart(at=at, prompt_tokens=prompts, output_tokens=outputs, shared_tokens=shared), borrowed, cut


def _unknown(traffic: Traffic, came: Arrivals, served: int, ratio: HitRatio, streamed: float | None) -> list[str]:
    found = [*traffic.notes]
    if not came.measured:
        found.append("when requests arrived: open requests are not exposed, so the times are those of their ends")
    if came.open_at_end:
        found.append(f"the lengths of requests that were open at the end ({came.open_at_end})")
    if came.left:
        found.append(f"the lengths of requests whose clients left (at least {came.left})")
    if served < FEW:
        found.append(f"the tail of the lengths: few requests finished ({served})")
    if ratio.whole is None:
        found.append("the prefix-cache hit ratio: the server does not expose it, or looked nothing up")
    found.append("which requests share which prefix, and how many prefixes there are: only hit tokens are counted")
    if not traffic.observed(MAX_TOKENS):
        found.append("max_tokens of the requests: the server does not expose it")
    if streamed is None:
        found.append("the share of streamed answers: this source has no sizes of HTTP answers, or not of a single one")
    found.append("temperature and other sampling parameters, and the content of prompts: no metric shows them")
    if not traffic.adapter_polls:
        found.append("the shares of LoRA adapters: the server exposes none, or none was used")
    return found


def _assumed(came: Arrivals, prefixes: int, borrowed: int, cut: int, adapters: dict[str, float]) -> list[str]:
    found = ["requests finish about in the order in which they arrived, so arrivals have the lengths in that order"]
    if came.open_at_start:
        found.append(f"the replay starts on an idle server; in truth requests were open ({came.open_at_start})")
    if borrowed:
        found.append(f"requests that had not finished ({borrowed}) have the lengths of others")
    if cut:
        found.append(f"outputs are cut where prompt and output would exceed the model's length (requests: {cut})")
    found.append("prompts and outputs that ended in the same poll pair as in polls that show the pairs of buckets")
    found.append(
        f"all requests that hit the cache share the start of {prefixes} prefix{'es' if prefixes > 1 else ''}, each as "
        "far as its request, or the hit ratio of its time, requires; nothing is evicted"
    )
    if adapters:
        found.append("each adapter's requests arrive independently of those of the others")
    return found
