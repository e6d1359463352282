"""The section `slos` of `rules/thresholds.yaml`: objectives, their windows, and the source of their counts.

Every key may be left out. Settings of a model take precedence over the general ones, these over the defaults in
`catalog.objectives`. `generate.slo_resolution` checks settings that depend on several keys or on a server's buckets.
"""

import re
from collections.abc import Mapping
from itertools import pairwise
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BeforeValidator, Field, create_model, field_validator

from vllm_sidecar.catalog.alerts.alert import Profile
from vllm_sidecar.catalog.buckets import BUCKETS
from vllm_sidecar.catalog.objectives import BURNS, LEAST_OBSERVATIONS, SLOS, Slo
from vllm_sidecar.config.section import Section
from vllm_sidecar.config.values import Seconds, as_frozen, as_tuple, format_duration, not_allowed, parse_duration
from vllm_sidecar.generate.settings.gateway import GatewaySettings
from vllm_sidecar.generate.settings.rule_values import Annotations, Names, SeverityName

_WINDOW = re.compile(r"(\d{1,4})([mhd])", re.ASCII)
_UNIT = {"m": 60.0, "h": 3600.0, "d": 86_400.0}
_LONGEST = 30 * 86_400.0
SourceName = Literal["histogram", "sidecar"]
AvailabilitySource = Literal["histogram", "sidecar", "gateway"]
PROFILES = tuple(profile.value for profile in Profile)


def _window(value: object) -> float:
    """Read the length of a window; longer ones than other durations are allowed."""
    match = _WINDOW.fullmatch(value) if isinstance(value, str) else None
    seconds = int(match[1]) * _UNIT[match[2]] if match else 0.0
    if not 60.0 <= seconds <= _LONGEST:
        raise not_allowed("a window such as 5m, 1h or 3d, from 1m to 30d")
    return seconds


def _per_profile(value: object) -> Mapping[str, float]:
    """Read a threshold: one duration for all profiles, or some of them with their own."""
    if not isinstance(value, dict):
        return as_frozen(dict.fromkeys(PROFILES, parse_duration(value)))
    if not value or not set(value) <= set(PROFILES):
        raise not_allowed(f"a duration such as 2s500ms, or one for each of {', '.join(PROFILES)}")
    return as_frozen({profile: parse_duration(each) for profile, each in value.items()})


def _bounds(value: tuple[float, ...]) -> tuple[float, ...]:
    if not value or value[0] <= 0.0 or any(low >= high for low, high in pairwise(value)):
        raise not_allowed("a list of numbers above 0, each larger than the previous one")
    return value


def _family(value: str) -> str:
    if value not in BUCKETS:
        raise not_allowed(f"one of {', '.join(BUCKETS)}")
    return value


Window = Annotated[float, BeforeValidator(_window)]
Threshold = Annotated[Mapping[str, float] | None, BeforeValidator(_per_profile)]
Bounds = Annotated[
    tuple[Annotated[float, Field(strict=False)], ...], BeforeValidator(as_tuple), AfterValidator(_bounds)
]


class _BurnSettings(Section):
    """One pair of windows, and the burn at which both make an alert fire."""

    long: Window = Field(description="The long window: that it matters.")
    short: Window = Field(description="The short window: that it still continues; shorter than long.")
    factor: float = Field(ge=0.01, description="The burn that both must exceed.")
    severity: SeverityName = Field(description="page, ticket or info (or critical, warning).")

    @field_validator("short")
    @classmethod
    def _below_long(cls, value: float, info: Any) -> float:
        long = info.data.get("long")
        if long is not None and value >= long:
            raise not_allowed(f"a window shorter than long ({format_duration(long)})")
        return value


_FOR: dict[str, Any] = {"for": (Seconds, Field(description="How long it must last before the alert fires."))}
"""A class cannot have an attribute of this name."""
BurnSettings: Any = create_model("BurnSettings", __base__=_BurnSettings, **_FOR)


class ObjectiveSettings(Section):
    """Settings of one objective."""

    enabled: bool | None = Field(default=None, description="false leaves the objective out.")
    objective: float | None = Field(
        default=None, ge=0.5, le=0.99999, description="Share of good observations over 30 days, from 0.5 to 0.99999."
    )
    observations: int | None = Field(
        default=None, ge=1, le=10**9, description="Below this many observations in the long window nothing fires."
    )
    labels: Names = Field(default=as_frozen({}), description="Labels of its alerts.")
    annotations: Annotations = Field(default=as_frozen({}), description="Annotations of its alerts.")


class LatencySettings(ObjectiveSettings):
    """Settings of a latency objective."""

    source: SourceName | None = Field(
        default=None, description="histogram (vLLM's own counters and buckets) or sidecar (its counters per poll)."
    )
    threshold: Threshold = Field(
        default=None, description="Threshold up to which an observation is good; may differ by profile."
    )
    snap: bool | None = Field(
        default=None, description="Move a threshold to the nearest bucket bound instead of refusing it."
    )


class AvailabilitySettings(ObjectiveSettings):
    """Settings of the objective of availability."""

    source: AvailabilitySource | None = Field(
        default=None,
        description="sidecar (its counters per poll), histogram (vLLM's own counters), or gateway (what its clients "
        "got; needs slos.gateway).",
    )


def _field(slo: Slo) -> Any:
    kind = LatencySettings if slo.histogram else AvailabilitySettings
    return kind, Field(default=kind(), description=f"Objective {slo.name}.")


ModelSlos: Any = create_model("ModelSlos", __base__=Section, **{slo.name: _field(slo) for slo in SLOS})
"""The objectives of one model."""

_BURNS = tuple(
    BurnSettings.model_validate(
        {
            "long": format_duration(burn.long),
            "short": format_duration(burn.short),
            "factor": burn.factor,
            "severity": burn.severity.value,
            "for": format_duration(burn.hold),
        }
    )
    for burn in BURNS
)


class _SloSettings(Section):
    enabled: bool = Field(default=True, description="Generate the rules of the objectives.")
    source: SourceName | None = Field(default=None, description="Source of all objectives that do not set their own.")
    snap: bool = Field(
        default=False, description="Move thresholds to the nearest bucket bound instead of refusing them."
    )
    observations: int = Field(
        default=LEAST_OBSERVATIONS,
        ge=1,
        le=10**9,
        description="Below this many observations in a long window nothing fires.",
    )
    buckets: Annotated[Mapping[Annotated[str, AfterValidator(_family)], Bounds], AfterValidator(as_frozen)] = Field(
        default=as_frozen({}), description="Bucket bounds by family, if vLLM runs with --custom-histogram-buckets."
    )
    gateway: GatewaySettings | None = Field(
        default=None, description="The gateway that counts availability, if its source is gateway."
    )
    burn: Annotated[tuple[BurnSettings, ...], BeforeValidator(as_tuple)] = Field(
        default=_BURNS, description="Pairs of windows; a list here replaces the default one."
    )


SloSettings: Any = create_model("SloSettings", __base__=_SloSettings, **{slo.name: _field(slo) for slo in SLOS})
"""The whole section."""
