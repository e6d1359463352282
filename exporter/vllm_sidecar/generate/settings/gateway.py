"""The section `slos.gateway` of the thresholds: the gateway whose counters contain how requests of clients ended.

Rules that depend on its kind are checked in `generate.slo_gateways`, which has the names of the gateways' metrics.
"""

from collections.abc import Mapping
from typing import Annotated, Literal

from pydantic import AfterValidator, Field

from vllm_sidecar.config.section import Section
from vllm_sidecar.config.values import as_frozen
from vllm_sidecar.generate.settings.rule_values import ModelName, Printable, RegularExpression, Selector

GatewayKind = Literal["envoy", "istio", "litellm", "inference-extension", "custom"]
PlaceLabel = Literal["cluster", "namespace", "job"]


class GatewaySettings(Section):
    """A gateway in front of the models."""

    kind: GatewayKind = Field(description="envoy, istio, litellm, inference-extension or custom.")
    selector: Selector = Field(default="", description="Label matchers for the gateway's metrics.")
    services: Annotated[Mapping[ModelName, RegularExpression], AfterValidator(as_frozen)] = Field(
        default=as_frozen({}),
        description="By model_name, a regular expression that matches the whole name of its service at the gateway.",
    )
    labels: Annotated[Mapping[PlaceLabel, ModelName], AfterValidator(as_frozen)] = Field(
        default=as_frozen({}),
        description="cluster, namespace or job of the records, if the gateway's are not those of the models.",
    )
    requests: Printable = Field(
        default="", description="Of kind custom: requests per second, in an expression with the label model_name."
    )
    failures: Printable = Field(default="", description="Of kind custom: failed requests per second, in the same way.")
