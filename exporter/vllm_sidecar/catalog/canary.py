"""The canary: why a request of it fails, the states of its answers, and the metrics about both."""

from __future__ import annotations

from enum import StrEnum
from types import MappingProxyType
from typing import TYPE_CHECKING

from vllm_sidecar.catalog.types import Kind, Scope, Signal, Unit

if TYPE_CHECKING:
    from collections.abc import Mapping


class Phase(StrEnum):
    """Consecutive phases of a request, as blackbox_exporter has them; the time to the first token is one more."""

    RESOLVE = "resolve"
    CONNECT = "connect"
    TLS = "tls"
    PROCESSING = "processing"
    FIRST_TOKEN = "first_token"  # noqa: S105 - the name of a phase
    TRANSFER = "transfer"


class OutputState(StrEnum):
    """State of a complete answer: a label value, so the set is closed."""

    EXPECTED = "expected"
    LEARNING = "learning"
    CHANGED = "changed"
    TEMPLATE_CHANGED = "template_changed"
    UNEXPECTED = "unexpected"
    EMPTY = "empty"
    ENDLESS = "endless"
    GARBAGE = "garbage"
    CONTROL_TOKENS = "control_tokens"


OUTPUT_HINTS: Mapping[OutputState, str] = MappingProxyType(
    {
        OutputState.EXPECTED: "The answer is the configured one, or that of the baseline.",
        OutputState.LEARNING: "There is no baseline yet: it is learned from three equal answers in a row. A prompt "
        "that remains in this state has no stable answer: shorten max_tokens, or raise tolerance_tokens.",
        OutputState.CHANGED: "The answer is not that of the baseline, although version, models and known flags are the "
        "same. Compare weights, adapter and generation config with those of other replicas, and look at the GPU.",
        OutputState.TEMPLATE_CHANGED: "The same prompt has other token ids than in the baseline: the chat template or "
        "the tokenizer changed. Compare both with those of the release before.",
        OutputState.UNEXPECTED: "The answer is not the configured one. Check chat template, tokenizer, generation "
        "config and adapter, then the weights.",
        OutputState.EMPTY: "The answer has no text. Check the chat template, its stop tokens, and max_tokens for a "
        "model that reasons first.",
        OutputState.ENDLESS: "The answer did not end where it has to, or has more tokens than max_tokens. Check the "
        "end token in the generation config and in the chat template.",
        OutputState.GARBAGE: "The answer has replacement characters, or repeats one token. Check weights, "
        "quantization, the KV-cache scales and the GPU (ECC errors, XIDs).",
        OutputState.CONTROL_TOKENS: "The answer contains control tokens such as <|im_end|> as text. The chat template "
        "does not belong to the model, or its special tokens are not marked as such.",
    }
)
"""Meaning of each state, and advice for operators."""
WRONG_OUTPUT = (
    OutputState.UNEXPECTED,
    OutputState.EMPTY,
    OutputState.ENDLESS,
    OutputState.GARBAGE,
    OutputState.CONTROL_TOKENS,
)
"""States that are wrong whatever the past was: they count as failures."""
CHANGED_OUTPUT = (OutputState.CHANGED, OutputState.TEMPLATE_CHANGED)
"""States that differ from the past, and may be intended."""


class CanaryReason(StrEnum):
    """Why a request of the canary has no complete answer: a label value, so the set is closed."""

    DNS = "dns"
    REFUSED = "refused"
    UNREACHABLE = "unreachable"
    TLS = "tls"
    CREDENTIALS = "credentials"
    TIMEOUT = "timeout"
    DISCONNECTED = "disconnected"
    NOT_HTTP = "not_http"
    REDIRECT = "redirect"
    HTTP_401 = "http_401"
    HTTP_403 = "http_403"
    HTTP_404 = "http_404"
    HTTP_4XX = "http_4xx"
    HTTP_5XX = "http_5xx"
    BAD_GATEWAY = "bad_gateway"
    HTTP_OTHER = "http_other"
    BAD_ENCODING = "bad_encoding"
    BAD_STREAM = "bad_stream"
    SERVER_ERROR = "server_error"
    TOO_LARGE = "too_large"
    TRUNCATED = "truncated"
    INTERNAL = "internal"


CANARY_HINTS: Mapping[CanaryReason, str] = MappingProxyType(
    {
        CanaryReason.DNS: "The host name does not resolve. Check canary.url and the resolver of this machine.",
        CanaryReason.REFUSED: "Nothing listens at this address. Check that the server or the gateway runs.",
        CanaryReason.UNREACHABLE: "There is no route to the host. Check firewalls and network policies.",
        CanaryReason.TLS: "The TLS handshake failed: the certificate is expired, for another name, or of an unknown "
        "CA (ca_file).",
        CanaryReason.CREDENTIALS: "A file or header with credentials cannot be used: see the detail in the log.",
        CanaryReason.TIMEOUT: "The answer was not complete in time. The phases show where it waited: connect is the "
        "network, processing and first_token the gateway, the queue or the prefill, transfer the decoding.",
        CanaryReason.DISCONNECTED: "The connection was closed without an answer: by vLLM, or by a proxy before it.",
        CanaryReason.NOT_HTTP: "The port is open, but it is not an HTTP server. Check canary.url.",
        CanaryReason.REDIRECT: "Redirects are not followed. Put the address of the redirect into canary.url.",
        CanaryReason.HTTP_401: "The server asks for an API key. Set canary.bearer_token_file.",
        CanaryReason.HTTP_403: "The server does not accept this API key for this request.",
        CanaryReason.HTTP_404: "The model, the adapter or the path does not exist there. Check the names in models, "
        "and the path of canary.url.",
        CanaryReason.HTTP_4XX: "The server does not accept the request. A model without a chat template needs "
        "endpoint: completions; priority needs --scheduling-policy priority; 429 is a limit on the rate.",
        CanaryReason.HTTP_5XX: "vLLM, or a proxy before it, failed. Read its log: the engine may be dead.",
        CanaryReason.BAD_GATEWAY: "Status 502 or 504, which gateways send and vLLM does not: no server behind it "
        "answered, or not in time. Check its backends and timeouts, and whether polls reach vLLM without it (up).",
        CanaryReason.HTTP_OTHER: "An answer has status 200; this one does not. Check canary.url.",
        CanaryReason.BAD_ENCODING: "The answer is compressed, which was not requested. Turn compression off for event "
        "streams in the proxy before vLLM.",
        CanaryReason.BAD_STREAM: "The answer is not a stream of server-sent events with JSON. Check canary.url, and "
        "whether a proxy changes the answer.",
        CanaryReason.SERVER_ERROR: "The stream ended with an error of the server: read the log of vLLM.",
        CanaryReason.TOO_LARGE: "The answer has more bytes than canary.max_body_size.",
        CanaryReason.TRUNCATED: "The stream ended before its end was announced: vLLM or a proxy was cut off.",
        CanaryReason.INTERNAL: "This was not expected and may be a bug of the sidecar: report it with the detail from "
        "the log.",
    }
)
"""Advice for operators, by reason."""
FAILURES: tuple[str, ...] = (*(reason.value for reason in CanaryReason), *(state.value for state in WRONG_OUTPUT))
"""All reasons of a failed request: there is no complete answer, or it is wrong."""


def _canary(name: str, kind: Kind, text: str, *labels: str, unit: Unit = Unit.NONE) -> Signal:
    return Signal(f"canary_{name}", kind, unit, text, Scope.MODEL, ("requested_model", "prompt", *labels))


_LAST = "Of the last request of the canary; absent while none is sent"
CANARY: tuple[Signal, ...] = (
    _canary("requests_total", Kind.COUNTER, "Requests of the canary that ended. `requested_model` is the model, alias "
            "or adapter in the request, `prompt` the name of the prompt."),
    _canary("failures_total", Kind.COUNTER, "Failed requests of the canary by reason: no complete answer, or a wrong "
            "one.", "reason"),
    _canary("success", Kind.GAUGE, f"{_LAST}: 1 if the answer was complete and not wrong, otherwise 0."),
    _canary("consecutive_failures", Kind.GAUGE,
            "Requests of the canary without a complete answer since the last complete one; absent while none is sent."),
    _canary("consecutive_wrong_outputs", Kind.GAUGE,
            "Complete answers to the canary that are wrong since the last right one: unexpected, empty, endless, "
            "garbage or control tokens. Absent while no complete answer is known."),
    _canary("output_state", Kind.GAUGE,
            "1 for the state of the last complete answer to the canary, otherwise 0; docs/canary.md has the states.",
            "state"),
    _canary("phase_seconds", Kind.GAUGE, f"{_LAST}: duration of each phase. Resolve is absent for an address, tls "
            "without TLS, and the phases after a failure.", "phase", unit=Unit.SECONDS),
    _canary("time_to_first_token_seconds", Kind.GAUGE,
            f"{_LAST}: time to its first token as a client sees it, with name lookup, connecting and TLS.",
            unit=Unit.SECONDS),
    _canary("inter_token_latency_seconds", Kind.GAUGE,
            f"{_LAST}: mean time between its outputs as a client sees it; absent with fewer than two.",
            unit=Unit.SECONDS),
    _canary("duration_seconds", Kind.GAUGE, f"{_LAST}: time to its end or its failure.", unit=Unit.SECONDS),
    _canary("last_success_timestamp_seconds", Kind.GAUGE, "Unix time of the last successful request of the canary.",
            unit=Unit.TIMESTAMP),
    _canary("baseline_changes_total", Kind.COUNTER,
            "New baselines of the canary that differ from the one before, after a change of version, models or flags: "
            "other token ids of the same prompt, or another answer."),
    _canary("answer_hash", Kind.GAUGE,
            f"{_LAST}: the hash of its answer without the last tolerance_tokens tokens as a number, to compare "
            "replicas: equal answers have equal numbers."),
)  # fmt: skip
