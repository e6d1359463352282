"""The section `slos.gateway` of the thresholds: the gateway whose counters say how requests of clients ended.

What depends on its kind is checked in `generate.gateways`, which also has the names of each gateway's metrics.
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
    selector: Selector = Field(default="", description="Label matchers that the gateway's metrics get.")
    services: Annotated[Mapping[ModelName, RegularExpression], AfterValidator(as_frozen)] = Field(
        default=as_frozen({}),
        description="By model_name, a regular expression of the gateway's name of its service, matching all of it.",
    )
    labels: Annotated[Mapping[PlaceLabel, ModelName], AfterValidator(as_frozen)] = Field(
        default=as_frozen({}),
        description="cluster, namespace or job of the records, where the gateway's are not those of the models.",
    )
    requests: Printable = Field(
        default="", description="Of kind custom: requests per second, in an expression with the label model_name."
    )
    failures: Printable = Field(default="", description="Of kind custom: the failed ones of them, in the same way.")
