"""The schema of a load profile. docs/shape.schema.json is made from it."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Annotated, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from vllm_sidecar.logs import UserError

if TYPE_CHECKING:
    from pathlib import Path

Count = Annotated[int, Field(ge=0)]
Ratio = Annotated[float, Field(ge=0.0, le=1.0)]
Positive = Annotated[float, Field(ge=0.0)]


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)


class WindowPart(_Part):
    """When the traffic was seen, and how."""

    source: str
    """Address or file that it was read from."""
    started: float | None
    """Unix time of the first poll; null if unknown."""
    seconds: Positive
    """Time from the first to the last poll."""
    polls: Count
    """Successful polls, over all servers."""
    failed_polls: Count
    engines: Count
    """Engines that were added up."""
    restarts: Count
    """Restarts of servers; requests between the last poll before and the first after one are not counted."""


class RequestsPart(_Part):
    """Numbers of requests."""

    arrived: Count
    finished: Count
    by_reason: dict[str, Count]
    """Finished requests by vLLM's finish reason."""
    open_at_start: Count
    open_at_end: Count
    clients_left: Count
    """At least so many requests ended without a result."""


class ArrivalsPart(_Part):
    """The process of arrivals."""

    per_second: Positive
    """Mean rate."""
    peak_per_second: Positive | None
    """Most arrivals in one second; null if polls were further apart."""
    dispersion: dict[str, Positive]
    """Variance over mean of the arrivals per 1 s and per 10 s: 1 is a Poisson process, more is bursty. Bins that are
    shorter than the time between polls are left out."""
    counts: list[Count]
    """Arrivals in each second of the window."""
    measured: bool
    """False if these are the ends of requests, because the server does not expose how many are open."""


class LengthPart(_Part):
    """The distribution of a number of tokens over finished requests."""

    mean: Positive | None
    """From the sum, so exact; null if the server exposes none."""
    quantiles: list[Positive]
    """Quantiles 0, 0.01 to 1, within the buckets as docs/percentiles.md explains."""
    bounds: list[float]
    """Upper bounds of the buckets; a last one is unbounded."""
    counts: list[Count]
    """Finished requests per bucket, not cumulative: certain."""


class JointPart(_Part):
    """Prompt and output tokens of the same request."""

    counts: list[list[Count]]
    """Requests by bucket of the prompt (rows) and of the output (columns); sums of rows and columns are certain."""
    certain_ratio: Ratio
    """Share of the requests whose pair of buckets is certain, because polls leave no other one."""
    exact_ratio: Ratio
    """Share of the requests that ended alone in a poll: both lengths are exact."""
    correlation: Annotated[float, Field(ge=-1.0, le=1.0)] | None
    """Pearson's, over requests, from the sums of each poll; null if too few polls show it."""
    standard_error: Positive | None


class PrefixPart(_Part):
    """Prompt tokens that the prefix cache provided."""

    hit_ratio: Ratio | None
    """Hit tokens over tokens looked up; null if unknown."""
    block_tokens: Annotated[int, Field(ge=1)]
    """Tokens of a cache block."""
    prefixes: Annotated[int, Field(ge=1)]
    """Different prefixes of the replay: assumed, or given with --prefixes."""


class LatencyPart(_Part):
    """Quantiles in seconds of what the server measured, to compare a replay with."""

    p50: Positive
    p90: Positive
    p95: Positive
    p99: Positive
    mean: Positive | None
    observations: Count


class ReplayPart(_Part):
    """Requests to send: one per arrival. All lists have the same length."""

    at: list[Positive]
    """Seconds since the start, ascending."""
    prompt_tokens: list[Annotated[int, Field(ge=1)]]
    output_tokens: list[Annotated[int, Field(ge=1)]]
    shared_tokens: list[Count]
    """Leading prompt tokens that are those of prefix i modulo `prefixes` for request i (from 0)."""

    @model_validator(mode="after")
    def _check(self) -> ReplayPart:
        lengths = {len(self.at), len(self.prompt_tokens), len(self.output_tokens), len(self.shared_tokens)}
        if len(lengths) > 1:
            raise ValueError("the lists differ in length")
        if list(self.at) != sorted(self.at):
            raise ValueError("times under `at` must ascend")
        return self


class Profile(_Part):
    """The traffic of one model as a load profile: numbers only, no text of any request."""

    shape: Literal[1] = 1
    """Version of the schema."""
    model: str
    window: WindowPart
    requests: RequestsPart
    arrivals: ArrivalsPart
    prompt_tokens: LengthPart
    output_tokens: LengthPart
    max_tokens: LengthPart | None
    """The parameter max_tokens of requests; null if the server does not expose it."""
    joint: JointPart
    prefix: PrefixPart
    adapters: dict[str, Ratio]
    """Estimated share of the requests by LoRA adapter; the rest is for the base model."""
    streaming_ratio: Ratio | None
    """Share of streamed answers, from the sizes of HTTP answers; null if unknown. Errors count as not streamed."""
    endpoints: dict[str, Count]
    """Answers by HTTP route."""
    latencies: dict[str, LatencyPart]
    unknown: list[str]
    """Facts about the traffic that no metric shows."""
    assumed: list[str]
    """Assumptions of `replay` in their place."""
    replay: ReplayPart

    def as_json(self) -> str:
        """Return the profile as JSON: a line for each key, so that differences can be read."""
        parts = [f"  {json.dumps(name)}: {json.dumps(value)}" for name, value in self.model_dump(mode="json").items()]
        return "{\n" + ",\n".join(parts) + "\n}\n"

    def as_yaml(self) -> str:
        """Return the profile as YAML."""
        dumper = getattr(yaml, "CSafeDumper", yaml.SafeDumper)
        return str(
            yaml.dump(self.model_dump(mode="json"), Dumper=dumper, sort_keys=False, default_flow_style=None, width=120)
        )


def read_profile(path: Path) -> Profile:
    """Read a profile from YAML or JSON.

    Raises:
        UserError: With every mistake of the file.
    """
    try:
        loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
        found = yaml.load(path.read_text(encoding="utf-8"), Loader=loader)  # noqa: S506 - a safe loader
        return Profile.model_validate(found)
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror}") from None
    except (yaml.YAMLError, UnicodeDecodeError):
        raise UserError(f"{path} is neither a recording nor a profile: {HINT}") from None
    except ValidationError as error:
        if not isinstance(found, dict) or "shape" not in found:
            raise UserError(f"{path} is neither a recording nor a profile: {HINT}") from None
        lines = [f"{path}: {'.'.join(map(str, each['loc']))}: {each['msg']}" for each in error.errors()]
        raise UserError("\n".join(lines[:20])) from None


HINT = (
    "a recording is made with 'vllm-sidecar record URL -o FILE', a profile with 'vllm-sidecar shape SOURCE -o FOLDER'"
)


def schema() -> dict[str, object]:
    """Return the JSON schema of profiles."""
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **Profile.model_json_schema()}
