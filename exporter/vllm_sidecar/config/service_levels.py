"""The configuration of service levels: which observations the sidecar counts as good."""

import re
from collections.abc import Iterator, Sequence
from typing import Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    BeforeValidator,
    Field,
    ValidatorFunctionWrapHandler,
    field_validator,
)
from pydantic_core import InitErrorDetails

from vllm_sidecar.catalog.slo_signals import AVAILABILITY
from vllm_sidecar.config.lists import mistake, validated
from vllm_sidecar.config.section import Section
from vllm_sidecar.config.values import Seconds, Text, as_tuple, described, not_allowed

_NAME = re.compile(r"[a-z][a-z0-9_]*", re.ASCII)
_DEFAULT: Any = (
    {"name": "time_to_first_token", "latency": "time_to_first_token", "threshold": "2s500ms"},
    {"name": "inter_token_latency", "latency": "inter_token_latency", "threshold": "100ms"},
    {"name": "time_per_output_token", "latency": "time_per_output_token", "threshold": "100ms"},
)
"""The objectives of the profile `standard`; all are bucket bounds of vLLM, so they are counted exactly."""

LatencyName = Literal[
    "queue", "time_to_first_token", "inter_token_latency", "time_per_output_token", "request", "prefill", "decode"
]


def _slo_name(value: str) -> str:
    if not _NAME.fullmatch(value) or value == AVAILABILITY:
        raise not_allowed(f"lower-case letters, digits and _, beginning with a letter, and not {AVAILABILITY}")
    return value


class LatencyObjective(Section):
    """One latency, and the threshold up to which an observation is good."""

    name: Annotated[
        str, AfterValidator(_slo_name), described(type="string", pattern=f"^(?!{AVAILABILITY}$){_NAME.pattern}$")
    ] = Field(description="Name of the objective, which is its label slo.")
    latency: LatencyName = Field(description="The latency that is compared with the threshold.")
    threshold: Seconds = Field(description="An observation up to this is good.")
    model: Text | None = Field(
        default=None,
        description="Only this model_name, for which it replaces the objective of the same name; null for all models.",
    )


def _repeated(items: Sequence[object]) -> Iterator[InitErrorDetails]:
    """Find objectives that repeat the name of an earlier one for the same model."""
    seen: dict[tuple[object, object], int] = {}
    for index, item in enumerate(items):
        given = item if isinstance(item, dict) else getattr(item, "__dict__", {})
        key = (given.get("name"), given.get("model"))
        if all(isinstance(part, str | None) for part in key) and seen.setdefault(key, index) != index:
            allowed = f"a name that latencies.{seen[key]} does not have for the same model"
            yield mistake((index, "name"), allowed, key[0])


class SloSettings(Section):
    """Service levels that the sidecar counts itself, poll by poll."""

    enabled: bool = Field(default=True, description="Count all and good observations of each objective.")
    availability: bool = Field(default=True, description="Count the requests that did not fail on the server's side.")
    latencies: Annotated[tuple[LatencyObjective, ...], BeforeValidator(as_tuple)] = Field(
        default=_DEFAULT,
        validate_default=True,
        description="Objectives of latencies; a list here replaces the default one.",
    )

    @field_validator("latencies", mode="wrap")
    @classmethod
    def _distinct(cls, value: object, handler: ValidatorFunctionWrapHandler) -> object:
        """Check the list as a whole, even if some of it is invalid, so that all mistakes are reported at once."""
        mistakes = _repeated(value if isinstance(value, list | tuple) else ())
        return validated("latencies", mistakes, handler, value)
