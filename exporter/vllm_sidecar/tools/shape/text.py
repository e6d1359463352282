"""A profile -> the report for people."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING

from vllm_sidecar.config import format_duration

if TYPE_CHECKING:
    from collections.abc import Iterator

    from vllm_sidecar.tools.shape.profile import LengthPart, Profile

_SHOWN = (50, 90, 99)


def lines(profile: Profile) -> Iterator[str]:
    """Yield the lines of the report."""
    window, requests, arrivals = profile.window, profile.requests, profile.arrivals
    began = f" from {datetime.fromtimestamp(window.started, UTC):%Y-%m-%d %H:%M:%S} UTC" if window.started else ""
    yield f"{profile.model}: {format_duration(round(window.seconds))}{began}, {window.polls} polls"
    yield f"({window.source})"
    yield ""
    reasons = ", ".join(f"{count} {reason}" for reason, count in requests.by_reason.items())
    yield f"Requests: {requests.arrived} arrived, {requests.finished} finished{f' ({reasons})' if reasons else ''}"
    bursts = ", ".join(f"{value:.2f} per {width}" for width, value in arrivals.dispersion.items())
    peak = "" if arrivals.peak_per_second is None else f", at most {arrivals.peak_per_second:g} in one"
    yield (f"Arrivals: {arrivals.per_second:.2f} per second{peak}; dispersion {bursts or 'unknown'} (1 is Poisson)")
    yield f"Prompt tokens: {_length(profile.prompt_tokens)}"
    yield f"Output tokens: {_length(profile.output_tokens)}"
    if profile.max_tokens:
        yield f"max_tokens:    {_length(profile.max_tokens)}"
    joint = profile.joint
    related = "unknown" if joint.correlation is None else f"{joint.correlation:+.2f} ± {joint.standard_error:.2f}"
    yield (
        f"Together: correlation {related}; the pair of buckets is certain for {joint.certain_ratio:.0%} of the "
        f"requests, both lengths are exact for {joint.exact_ratio:.0%}"
    )
    ratio = profile.prefix.hit_ratio
    yield f"Prefix cache: {'unknown' if ratio is None else f'{ratio:.1%} of the tokens hit'}"
    shares = ", ".join(f"{name} {share:.0%}" for name, share in profile.adapters.items())
    yield f"Adapters: {shares or 'unknown'}"
    streamed = profile.streaming_ratio
    yield f"Streamed: {'unknown' if streamed is None else f'{streamed:.0%} of the answers'}"
    if profile.endpoints:
        whole = sum(profile.endpoints.values())
        yield "Routes: " + ", ".join(f"{name} {count / whole:.0%}" for name, count in profile.endpoints.items())
    for name, found in profile.latencies.items():
        yield f"{name}: p50 {found.p50:.4g} s, p95 {found.p95:.4g} s, p99 {found.p99:.4g} s"
    for title, texts in (("Unknown", profile.unknown), ("Assumed in a replay", profile.assumed)):
        yield ""
        yield title
        yield from (f"  {text}" for text in texts)


def _length(part: LengthPart) -> str:
    mean = "" if part.mean is None else f"mean {part.mean:.1f}, "
    return mean + ", ".join(f"p{percent} {part.quantiles[percent]:.0f}" for percent in _SHOWN)
