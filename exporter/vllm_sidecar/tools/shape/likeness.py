"""A profile against the one that it should be like: was the replay the same load?"""

from __future__ import annotations

from dataclasses import dataclass
from math import hypot
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

    from vllm_sidecar.tools.shape.profile import LengthPart, Profile


@dataclass(frozen=True, slots=True)
class Row:
    """One figure of both profiles."""

    name: str
    expected: float | None
    found: float | None
    bound: float | None
    """Largest difference of the same load; None for figures of the server, which are only shown."""
    relative: bool = True
    """The bound is a share of what is expected."""

    @property
    def difference(self) -> float | None:
        """The difference in the terms of the bound; None if a figure is unknown."""
        if self.expected is None or self.found is None or (self.relative and not self.expected):
            return None
        difference = self.found - self.expected
        return difference / self.expected if self.relative else difference

    @property
    def alike(self) -> bool:
        """Whether the figure is within its bound; one that is unknown differs from nothing."""
        return self.bound is None or self.difference is None or abs(self.difference) <= self.bound


def compared(expected: Profile, found: Profile) -> list[Row]:
    """Compare the load of two profiles, and the latencies under it."""
    rows = [
        Row("requests", expected.requests.arrived, found.requests.arrived, 0.05),
        *_lengths("prompt tokens", expected.prompt_tokens, found.prompt_tokens),
        *_lengths("output tokens", expected.output_tokens, found.output_tokens),
        _correlation(expected, found),
        Row("dispersion per 10 s", *_dispersion(expected, found), 0.3),
        Row("prefix-cache hit ratio", expected.prefix.hit_ratio, found.prefix.hit_ratio, 0.05, relative=False),
    ]
    for name, before in expected.latencies.items():
        after = found.latencies.get(name)
        rows += [
            Row(f"{name} {percentile}", getattr(before, percentile), getattr(after, percentile, None), None)
            for percentile in ("p50", "p95")
        ]
    return rows


def _lengths(name: str, expected: LengthPart, found: LengthPart) -> Iterator[Row]:
    yield Row(f"{name}, mean", expected.mean, found.mean, 0.05)
    for percent, bound in ((50, 0.1), (90, 0.1)):
        yield Row(f"{name}, p{percent}", expected.quantiles[percent], found.quantiles[percent], bound)


def _correlation(expected: Profile, found: Profile) -> Row:
    """Compare the correlations; few requests show them badly, so their standard errors count too."""
    errors = [profile.joint.standard_error or 0.0 for profile in (expected, found)]
    bound = max(0.2, 2.0 * hypot(*errors))
    return Row("correlation of both", expected.joint.correlation, found.joint.correlation, bound, relative=False)


def _dispersion(expected: Profile, found: Profile) -> tuple[float | None, float | None]:
    return expected.arrivals.dispersion.get("10s"), found.arrivals.dispersion.get("10s")


def lines(rows: list[Row]) -> Iterator[str]:
    """Yield the table of a comparison, and its result."""
    yield f"{'':28}{'expected':>12}{'found':>12}{'difference':>12}{'bound':>9}"
    for row in rows:
        bound = "" if row.bound is None else _shown(row.bound, row.relative)
        difference = "unknown" if row.difference is None else _shown(row.difference, row.relative, sign=True)
        end = "" if row.alike else "  DIFFERENT"
        yield f"{row.name:28}{_number(row.expected):>12}{_number(row.found):>12}{difference:>12}{bound:>9}{end}"
    yield ""
    different = [row.name for row in rows if not row.alike]
    yield f"another load: {', '.join(different)}" if different else "the same load, within the bounds"


def _number(value: float | None) -> str:
    return "unknown" if value is None else f"{value:.4g}"


def _shown(value: float, relative: bool, *, sign: bool = False) -> str:
    form = "+" if sign else ""
    return f"{value:{form}.1%}" if relative else f"{value:{form}.3f}"
