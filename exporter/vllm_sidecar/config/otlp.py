"""The section `otlp`: where metrics are pushed over OTLP, and in which form."""

import importlib.util
from collections.abc import Mapping
from typing import Annotated, Literal

from pydantic import AfterValidator, Field, ValidationInfo, field_validator

from vllm_sidecar.config.section import written
from vllm_sidecar.config.targets import HttpServer
from vllm_sidecar.config.values import FilePath, HeaderName, Seconds, Text, Url, as_frozen, described, not_allowed

SHORTEST_INTERVAL = 1.0
PACKAGE = "opentelemetry.proto"
"""The package of the extra `otlp`."""

HeaderFiles = Annotated[
    Mapping[HeaderName, FilePath],
    AfterValidator(as_frozen),
    described(type="object", additionalProperties={"type": "string", "minLength": 1}),
]
Attributes = Annotated[
    Mapping[Text, Text],
    AfterValidator(as_frozen),
    described(type="object", additionalProperties={"type": "string", "pattern": r"\S"}),
]


def is_installed() -> bool:
    """Return whether the package of the extra `otlp` is installed."""
    try:
        return importlib.util.find_spec(PACKAGE) is not None
    except ModuleNotFoundError:
        return False


class OtlpSettings(HttpServer):
    """A receiver of OTLP to which metrics are pushed."""

    enabled: bool = Field(
        default=False,
        description="Push metrics over OTLP; needs the extra otlp: pip install 'vllm-sidecar[otlp]'. See docs/otlp.md.",
    )
    url: Url = Field(
        default="http://127.0.0.1:4318/v1/metrics",
        description="The whole address of the receiver for metrics. Collectors end in /v1/metrics, Prometheus in "
        "/api/v1/otlp/v1/metrics, VictoriaMetrics in /opentelemetry/v1/metrics.",
    )
    header_files: HeaderFiles = Field(
        default={}, validate_default=True, description="Headers whose values are read from files at each push."
    )
    protocol: Literal["http/protobuf"] = Field(default="http/protobuf", description="The only one that is supported.")
    interval: Seconds = written("60s", "Time between two pushes; at least 1s.")
    timeout: Seconds = written("10s", "Time for one push.")
    compression: Literal["gzip", "none"] = Field(default="gzip", description="Compression of a push.")
    temporality: Literal["cumulative", "delta"] = Field(
        default="cumulative",
        description="Counters and histograms since the start of the server (cumulative), or since the last push that "
        "the receiver accepted (delta).",
    )
    histograms: Literal["explicit", "exponential"] = Field(
        default="explicit",
        description="explicit: vLLM's own buckets, exactly. exponential: narrow buckets, into which observations are "
        "placed as their sums suggest, counted since the sidecar started.",
    )
    resource_attributes: Attributes = Field(
        default={},
        validate_default=True,
        description="Attributes of the resource, such as {service.name: vllm-chat}; they replace detected ones.",
    )

    @field_validator("enabled")
    @classmethod
    def _is_installed(cls, value: bool) -> bool:
        if value and not is_installed():
            raise not_allowed("false, because a package is missing: pip install 'vllm-sidecar[otlp]'")
        return value

    @field_validator("interval")
    @classmethod
    def _not_too_often(cls, value: float) -> float:
        if value < SHORTEST_INTERVAL:
            raise not_allowed("at least 1s, because vLLM is polled once a second")
        return value

    @field_validator("header_files")
    @classmethod
    def _given_once(cls, value: Mapping[str, object], info: ValidationInfo) -> Mapping[str, object]:
        given = {name.lower() for name in info.data.get("headers", ())}
        if info.data.get("bearer_token") or info.data.get("bearer_token_file"):
            given.add("authorization")
        if twice := sorted(name for name in value if name.lower() in given):
            raise not_allowed(f"{', '.join(twice)} either here or in headers and bearer_token, not both")
        return value
