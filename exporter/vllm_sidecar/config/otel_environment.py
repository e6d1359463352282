"""The standard variables of OpenTelemetry -> values of the section `otlp` that nothing else sets.

They are read only while `otlp.enabled` is true: operators of OpenTelemetry set them in every container of a cluster.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple
from urllib.parse import unquote

from vllm_sidecar.config.overrides import Override

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from vllm_sidecar.config.config_errors import KeyPath

METRICS_PATH = "/v1/metrics"
ATTRIBUTES = "OTEL_RESOURCE_ATTRIBUTES"
SERVICE_NAME = "OTEL_SERVICE_NAME"


class _Variable(NamedTuple):
    """A variable, its key in the section, and how its text is read; of one key the first that is set is used."""

    name: str
    key: str
    read: Callable[[str], object] = str


def _milliseconds(text: str) -> str:
    return f"{text}ms" if text.isdecimal() else text


def _histograms(text: str) -> str:
    return {"explicit_bucket_histogram": "explicit", "base2_exponential_bucket_histogram": "exponential"}.get(
        text, text
    )


def pairs(text: str) -> dict[str, str]:
    """Read `name=value,name=value`, whose values are percent-encoded; a part without `=` has the value ""."""
    found = (part.partition("=") for part in text.split(",") if part.strip())
    return {name.strip(): unquote(value.strip()) for name, _, value in found}


def _of_the_exporter(name: str, key: str, read: Callable[[str], object] = str) -> Iterator[_Variable]:
    """Yield the variable for metrics, and the one for all signals."""
    yield _Variable(f"OTEL_EXPORTER_OTLP_METRICS_{name}", key, read)
    yield _Variable(f"OTEL_EXPORTER_OTLP_{name}", key, read)


_VARIABLES = (
    _Variable("OTEL_EXPORTER_OTLP_METRICS_ENDPOINT", "url"),
    _Variable("OTEL_EXPORTER_OTLP_ENDPOINT", "url", lambda text: text.rstrip("/") + METRICS_PATH),
    *_of_the_exporter("HEADERS", "headers", pairs),
    *_of_the_exporter("CERTIFICATE", "ca_file"),
    *_of_the_exporter("CLIENT_CERTIFICATE", "cert_file"),
    *_of_the_exporter("CLIENT_KEY", "key_file"),
    *_of_the_exporter("TIMEOUT", "timeout", _milliseconds),
    *_of_the_exporter("COMPRESSION", "compression"),
    *_of_the_exporter("PROTOCOL", "protocol"),
    _Variable("OTEL_EXPORTER_OTLP_METRICS_TEMPORALITY_PREFERENCE", "temporality", str.lower),
    _Variable("OTEL_EXPORTER_OTLP_METRICS_DEFAULT_HISTOGRAM_AGGREGATION", "histograms", _histograms),
    _Variable("OTEL_METRIC_EXPORT_INTERVAL", "interval", _milliseconds),
)
NAMES = (*(each.name for each in _VARIABLES), ATTRIBUTES, SERVICE_NAME)
"""All variables of OpenTelemetry that are read."""


def from_otel_environment(environment: Mapping[str, str], given: Mapping[object, object]) -> dict[KeyPath, Override]:
    """Return the values for keys that the document does not set; none unless it enables the push."""
    section = given.get("otlp")
    if not isinstance(section, dict) or section.get("enabled") is not True:
        return {}
    found: dict[KeyPath, Override] = {}
    for name, key, read in _VARIABLES:
        text = environment.get(name, "").strip()
        if text and key not in section and ("otlp", key) not in found:
            found["otlp", key] = Override(read(text), f"environment variable {name}")
    return found
