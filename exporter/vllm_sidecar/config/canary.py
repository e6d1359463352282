"""The configuration of the canary: short requests with known answers, as a user sends them."""

import re
from collections.abc import Iterator, Sequence
from typing import Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    BeforeValidator,
    Field,
    ValidationInfo,
    ValidatorFunctionWrapHandler,
    field_validator,
)
from pydantic_core import InitErrorDetails

from vllm_sidecar.config.lists import mistake, validated
from vllm_sidecar.config.pem_files import CaFile
from vllm_sidecar.config.section import Section, written
from vllm_sidecar.config.targets import HttpServer, Target
from vllm_sidecar.config.values import (
    Bytes,
    FilePath,
    Headers,
    Seconds,
    Text,
    Url,
    as_tuple,
    described,
    format_duration,
    not_allowed,
)

SHORTEST_INTERVAL = 5.0
MOST_REQUESTS = 32
"""Most pairs of prompt and model: each has its own series, and is sent once in an interval."""
_LONGEST_TEXT = 8192
_NAME = re.compile(r"[a-z][a-z0-9_-]{0,39}", re.ASCII)
_HASH = re.compile(r"[0-9a-f]{12}", re.ASCII)
_DEFAULT: Any = ({"name": "capital", "prompt": "What is the capital of France? Answer with one word."},)


def _name(value: str) -> str:
    if not _NAME.fullmatch(value):
        raise not_allowed("up to 40 lower-case letters, digits, _ and -, beginning with a letter")
    return value


def _prompt_text(value: str) -> str:
    if not value.strip() or len(value) > _LONGEST_TEXT:
        raise not_allowed(f"text that is not empty, up to {_LONGEST_TEXT} characters")
    return value


def _hash(value: str) -> str:
    if not _HASH.fullmatch(value):
        raise not_allowed("12 hex digits, as the status and the log show them")
    return value


def _pattern(value: str) -> str:
    try:
        re.compile(_prompt_text(value))
    except (re.error, RecursionError, OverflowError) as error:
        raise not_allowed(f"a regular expression of Python ({error})") from None
    return value


PromptText = Annotated[str, AfterValidator(_prompt_text), described(type="string", pattern=r"\S")]


class Expectation(Section):
    """The answer that is right; without one the answer is compared with a learned baseline only."""

    text: PromptText | None = Field(default=None, description="The whole answer, without blanks around it.")
    pattern: Annotated[str, AfterValidator(_pattern), described(type="string", minLength=1)] | None = Field(
        default=None, description="A regular expression that matches a part of the answer."
    )
    hash: Annotated[str, AfterValidator(_hash), described(type="string", pattern=f"^{_HASH.pattern}$")] | None = Field(
        default=None, description="Hash of the answer's token ids, as the status and the log show it."
    )

    @field_validator("pattern", "hash")
    @classmethod
    def _only_one(cls, value: object, info: ValidationInfo) -> object:
        if value is not None and any(other is not None for other in info.data.values()):
            raise not_allowed("one of text, pattern and hash, not several")
        return value


class CanaryPrompt(Section):
    """One prompt of the canary; it is sent with temperature 0 and a fixed seed."""

    name: Annotated[str, AfterValidator(_name), described(type="string", pattern=f"^{_NAME.pattern}$")] = Field(
        description="Name of the prompt, unique in the list: the label prompt of its series."
    )
    prompt: PromptText = Field(description="The text that is sent: a message of a user, or the text to complete.")
    system: PromptText | None = Field(default=None, description="The system message before it; only with chat.")
    endpoint: Literal["chat", "completions"] = Field(
        default="chat",
        description="chat (/v1/chat/completions, with the chat template) or completions (/v1/completions, without it).",
    )
    models: Annotated[tuple[Text, ...], BeforeValidator(as_tuple)] = Field(
        default=(), description="Names to request: models, aliases or adapters; empty for the served model."
    )
    max_tokens: int = Field(default=16, ge=1, le=256, description="Most tokens of an answer.")
    tolerance_tokens: int = Field(
        default=0, ge=0, description="Tokens at the end of an answer that may differ from the baseline or hash."
    )
    ends: bool = Field(default=False, description="The answer has to end by itself within max_tokens.")
    expect: Expectation = Field(default=Expectation(), description="The right answer, if it is known.")

    @field_validator("endpoint")
    @classmethod
    def _can_have_a_system_message(cls, value: str, info: ValidationInfo) -> str:
        if value == "completions" and info.data.get("system") is not None:
            raise not_allowed("chat, because a system message is given")
        return value

    @field_validator("tolerance_tokens")
    @classmethod
    def _below_the_length(cls, value: int, info: ValidationInfo) -> int:
        longest = info.data.get("max_tokens")
        if longest is not None and value >= longest:
            raise not_allowed(f"below max_tokens ({longest})")
        return value


def _mistakes(items: Sequence[object]) -> Iterator[InitErrorDetails]:
    """Find prompts that repeat the name of an earlier one, and a list that is empty or too long."""
    seen: dict[str, int] = {}
    requests = 0
    for index, item in enumerate(items):
        given = item if isinstance(item, dict) else getattr(item, "__dict__", {})
        name, models = given.get("name"), given.get("models")
        requests += len(models) if isinstance(models, list | tuple) and models else 1
        if isinstance(name, str) and seen.setdefault(name, index) != index:
            yield mistake((index, "name"), f"a name that prompts.{seen[name]} does not have", name)
    if not 0 < requests <= MOST_REQUESTS:
        yield mistake((), f"1 to {MOST_REQUESTS} pairs of prompt and model", requests)


class CanarySettings(Section):
    """Short requests with known answers, as a user sends them."""

    enabled: bool = Field(default=False, description="Send them. They use the GPU, and count in vLLM's own metrics.")
    interval: Seconds = written(
        "60s", "Time between two requests with one prompt to one model; at least 5s. One request is open at a time."
    )
    timeout: Seconds = written(
        "30s", "Time for a whole request, from the name lookup to the last byte; at most interval."
    )
    url: Url | None = Field(
        default=None, description="Address that users call, such as that of a gateway; null for that of the server."
    )
    headers: Headers = Field(
        default={}, validate_default=True, description="Headers for url, instead of those of the server; kept secret."
    )
    bearer_token_file: FilePath | None = Field(
        default=None, description="File with the API key of the canary, instead of the credentials of the server."
    )
    ca_file: CaFile | None = Field(default=None, description="CA certificates to trust for url.")
    insecure_skip_verify: bool = Field(default=False, description="Accept any certificate of url.")
    max_body_size: Bytes = written("256KiB", "An answer with more bytes is a failure; reading ends there.")
    priority: int | None = Field(
        default=None, description="Priority of the requests; only for servers with --scheduling-policy priority."
    )
    prompts: Annotated[tuple[CanaryPrompt, ...], BeforeValidator(as_tuple)] = Field(
        default=_DEFAULT, validate_default=True, description="The prompts; a list here replaces the default one."
    )

    @field_validator("interval")
    @classmethod
    def _not_too_often(cls, value: float) -> float:
        if value < SHORTEST_INTERVAL:
            raise not_allowed(f"at least {format_duration(SHORTEST_INTERVAL)}, because each request uses the GPU")
        return value

    @field_validator("timeout")
    @classmethod
    def _within_interval(cls, value: float, info: ValidationInfo) -> float:
        limit = info.data.get("interval")
        if limit is not None and value > limit:
            raise not_allowed(f"at most interval ({format_duration(limit)})")
        return value

    @field_validator("headers", "ca_file", "insecure_skip_verify")
    @classmethod
    def _only_with_url(cls, value: object, info: ValidationInfo) -> object:
        if value and info.data.get("url", value) is None:
            raise not_allowed(f"{info.field_name} only together with url; without it the target's are used")
        return value

    @field_validator("bearer_token_file")
    @classmethod
    def _the_only_authorization(cls, value: object, info: ValidationInfo) -> object:
        if value is not None and any(name.lower() == "authorization" for name in info.data.get("headers", ())):
            raise not_allowed("either bearer_token_file or an Authorization header, not both")
        return value

    @field_validator("prompts", mode="wrap")
    @classmethod
    def _distinct(cls, value: object, handler: ValidatorFunctionWrapHandler) -> object:
        """Check the list as a whole, even if some of it is invalid, so that all mistakes are reported at once."""
        mistakes = _mistakes(value) if isinstance(value, list | tuple) else ()
        return validated("prompts", mistakes, handler, value)

    def server(self, target: Target) -> HttpServer:
        """Return how the canary reaches the server: through `url`, or as the target with its own API key."""
        if self.url is not None:
            return HttpServer.model_construct(  # its values were checked as keys of this section
                url=self.url,
                headers=self.headers,
                bearer_token_file=self.bearer_token_file,
                ca_file=self.ca_file,
                insecure_skip_verify=self.insecure_skip_verify,
            )
        if self.bearer_token_file is None:
            return target
        headers = {name: value for name, value in target.headers.items() if name.lower() != "authorization"}
        return target.model_copy(
            update={"headers": headers, "bearer_token": None, "bearer_token_file": self.bearer_token_file}
        )
