"""The config as typed, frozen values: every key with its default, its description and its allowed values.

Durations and sizes are given as text ("1m30s", "16MiB") everywhere, also in Python, and stored as seconds and bytes.
"""

from typing import Annotated, Literal

from pydantic import (
    BeforeValidator,
    Field,
    ValidationError,
    ValidationInfo,
    ValidatorFunctionWrapHandler,
    field_validator,
)

from vllm_sidecar.config.canary import CanarySettings
from vllm_sidecar.config.discovery import DiscoverySettings
from vllm_sidecar.config.gpu import GpuSettings
from vllm_sidecar.config.lists import mistake, validated
from vllm_sidecar.config.otlp import OtlpSettings
from vllm_sidecar.config.section import Section, written
from vllm_sidecar.config.service_levels import SloSettings
from vllm_sidecar.config.targets import NamedTarget, SoleTarget, Target, repeated_names
from vllm_sidecar.config.values import (
    Bytes,
    Seconds,
    as_tuple,
    format_duration,
    not_allowed,
)
from vllm_sidecar.config.web import WebSettings


def _check_at_most(value: float, info: ValidationInfo, limit_key: str) -> float:
    """Check `value` against another key; an invalid other key is not reported here."""
    limit = info.data.get(limit_key)
    if limit is not None and value > limit:
        raise not_allowed(f"at most {limit_key} ({format_duration(limit)})")
    return value


def _check_at_least(value: float, info: ValidationInfo, limit_key: str) -> float:
    """Check `value` against another key; an invalid other key is not reported here."""
    limit = info.data.get(limit_key)
    if limit is not None and value < limit:
        raise not_allowed(f"at least {limit_key} ({format_duration(limit)})")
    return value


class LogSettings(Section):
    """Logging to standard error."""

    level: Literal["debug", "info", "warning", "error"] = Field(
        default="info", description="The lowest level that is logged."
    )
    format: Literal["logfmt", "json"] = Field(default="logfmt", description="One event per line, as logfmt or JSON.")


class ScrapeSettings(Section):
    """How vLLM's metrics are polled."""

    interval: Seconds = written("1s", "Time between two polls; they never overlap.")
    timeout: Seconds = written("10s", "Time for a whole request, from connecting to the last byte.")
    connect_timeout: Seconds = written("2s", "Time for connecting; at most timeout.")
    max_interval: Seconds = written("60s", "Longest interval between polls that server_time_ratio may cause.")
    server_time_ratio: float = Field(
        default=0.01,
        gt=0,
        le=1,
        description="Share of the server's time that polls may take; the interval between polls grows to stay below "
        "it. Probes have a separate budget of the same size, and intervals of their own.",
    )
    max_body_size: Bytes = written(
        "16MiB",
        "A body larger than this is refused; under a memory limit also one larger than 1/24 of what it leaves above "
        "60 MiB, so that no body ends the sidecar.",
    )

    @field_validator("connect_timeout")
    @classmethod
    def _within_timeout(cls, value: float, info: ValidationInfo) -> float:
        return _check_at_most(value, info, "timeout")

    @field_validator("max_interval")
    @classmethod
    def _not_below_interval(cls, value: float, info: ValidationInfo) -> float:
        return _check_at_least(value, info, "interval")


class WindowSettings(Section):
    """The trailing windows of the recent metrics."""

    length: Seconds = written("60s", "Window of every vllm_sidecar_recent_* metric.")
    keep: Seconds = written("5m", "Time for which polls are kept in memory; at least length, at most 1h.")
    min_observations: int = Field(default=5, ge=1, description="Fewest observations for which a quantile is exported.")

    @field_validator("keep")
    @classmethod
    def _between_length_and_an_hour(cls, value: float, info: ValidationInfo) -> float:
        if value > 3600:
            raise not_allowed("at most 1h, because every poll is kept in memory")
        return _check_at_least(value, info, "length")


class ProgressSettings(Section):
    """Detection of a server that accepts work and makes no progress."""

    stall_after: Seconds = written("120s", "Time without any progress after which work in flight is a stall.")


class ProbeSettings(Section):
    """Probes of information that the server exposes outside its metrics: version, models, flags."""

    enabled: bool = Field(default=True, description="Probe /version, /v1/models, /server_info and /load.")
    interval: Seconds = written(
        "60s",
        "Time between two probes of an endpoint; for /load a sixth of it, at most 10s. Longer for an endpoint that is "
        "slow or fails; polls never wait for a probe.",
    )
    timeout: Seconds = written("5s", "Time for one probe.")
    proc: bool = Field(
        default=True, description="Read vLLM's command line from /proc if the sidecar shares its PID namespace."
    )


class MetricSettings(Section):
    """The metrics that are exported."""

    profile: Literal["lean", "default", "full"] = Field(
        default="default",
        description="lean (what alerts, recording rules and the overview dashboard read), default (all but the "
        "histograms that no rule, dashboard or runbook reads), or full.",
    )


class LimitSettings(Section):
    """Limits on exported series."""

    adapters: int = Field(default=100, ge=0, description="Most LoRA adapters with their own series, per target.")


class Config(Section):
    """The whole configuration."""

    web: WebSettings = Field(default=WebSettings(), description="The sidecar's own HTTP server.")
    log: LogSettings = Field(default=LogSettings(), description="Logging to standard error.")
    scrape: ScrapeSettings = Field(default=ScrapeSettings(), description="How vLLM's metrics are polled.")
    windows: WindowSettings = Field(default=WindowSettings(), description="The trailing windows of the recent metrics.")
    progress: ProgressSettings = Field(
        default=ProgressSettings(), description="Detection of a server that accepts work and makes no progress."
    )
    introspection: ProbeSettings = Field(
        default=ProbeSettings(), description="Probes of the server's version, models and flags."
    )
    slos: SloSettings = Field(
        default=SloSettings(), description="Service levels that the sidecar counts itself, poll by poll."
    )
    metrics: MetricSettings = Field(default=MetricSettings(), description="The metrics that are exported.")
    otlp: OtlpSettings = Field(
        default=OtlpSettings(), description="A receiver of OTLP to which metrics are pushed, in addition to /metrics."
    )
    limits: LimitSettings = Field(default=LimitSettings(), description="Limits on exported series.")
    vllm: SoleTarget = Field(default=SoleTarget(), description="The one server next to the sidecar.")
    targets: Annotated[tuple[NamedTarget, ...], BeforeValidator(as_tuple)] = Field(
        default=(),
        description="Several servers instead of the one in vllm; each has a unique name and the keys of vllm.",
    )
    discovery: DiscoverySettings = Field(
        default=DiscoverySettings(),
        description="Servers that are found while the sidecar runs, in addition to `targets`; see docs/discovery.md.",
    )

    gpu: GpuSettings = Field(default=GpuSettings(), description="The GPUs of this node.")
    canary: CanarySettings = Field(
        default=CanarySettings(),
        description="Short requests with known answers, as a user sends them; see docs/canary.md.",
    )

    @field_validator("canary")
    @classmethod
    def _of_one_server(cls, value: CanarySettings, info: ValidationInfo) -> CanarySettings:
        several = info.data.get("targets") or ("discovery" in info.data and info.data["discovery"].is_used)
        if value.url is not None and several:
            allowed = "null with targets or discovery: an answer from a shared address belongs to none of them"
            raise ValidationError.from_exception_data("canary", [mistake(("url",), allowed, value.url)])
        return value

    @field_validator("gpu")
    @classmethod
    def _simulated_with_a_server(cls, value: GpuSettings, info: ValidationInfo) -> GpuSettings:
        if value.simulate and "vllm" in info.data and info.data["vllm"].headless is True:
            allowed = "false with vllm.headless: the simulated GPUs belong to a simulated vLLM server"
            raise ValidationError.from_exception_data("gpu", [mistake(("simulate",), allowed, True)])
        if value.simulate and "discovery" in info.data and info.data["discovery"].is_used:
            allowed = "false with discovery: the simulated GPUs belong to one simulated vLLM server"
            raise ValidationError.from_exception_data("gpu", [mistake(("simulate",), allowed, True)])
        return value

    @field_validator("gpu")
    @classmethod
    def _only_without_vllm(cls, value: GpuSettings, info: ValidationInfo) -> GpuSettings:
        named = "vllm" in info.data and info.data["vllm"].model_fields_set
        found = "discovery" in info.data and info.data["discovery"].is_used
        if value.only and (named or found or info.data.get("targets")):
            allowed = "true only without vllm (in the file, by flag or environment), targets and discovery"
            raise ValidationError.from_exception_data("gpu", [mistake(("only",), allowed, True)])
        return value

    @field_validator("targets", mode="wrap")
    @classmethod
    def _distinct_and_alone(cls, value: object, handler: ValidatorFunctionWrapHandler, info: ValidationInfo) -> object:
        """Check the list as a whole, even if some targets are invalid, so that all mistakes are reported at once."""
        items = value if isinstance(value, list | tuple) else ()
        mistakes = list(repeated_names(items))
        # An invalid `vllm` is missing here, but it was given.
        if items and ("vllm" not in info.data or info.data["vllm"].model_fields_set):
            mistakes.append(
                mistake((), "either vllm (in the file, by flag or environment) or targets, not both", value)
            )
        return validated("targets", mistakes, handler, value)

    @field_validator("discovery")
    @classmethod
    def _instead_of_the_sole_target(cls, value: DiscoverySettings, info: ValidationInfo) -> DiscoverySettings:
        if value.is_used and ("vllm" not in info.data or info.data["vllm"].model_fields_set):
            allowed = "either vllm (in the file, by flag or environment) or discovery, not both"
            raise ValidationError.from_exception_data("discovery", [mistake((), allowed, {})])
        return value

    @property
    def all_targets(self) -> tuple[Target, ...]:
        """The servers that the configuration names: those listed, or the sole one; discovery adds others.

        None with gpu.only, next to a headless worker, or where discovery finds all of them.
        """
        if self.gpu.only or self.headless:
            return ()
        return self.targets or (() if self.discovery.is_used else (self.vllm,))

    @property
    def headless(self) -> bool:
        """Whether the server next to the sidecar is a worker without an HTTP server."""
        given = self.targets or self.discovery.is_used or self.gpu.only or self.gpu.simulate
        return not given and self.vllm.is_headless
