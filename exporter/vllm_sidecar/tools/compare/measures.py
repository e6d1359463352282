"""The quantities that are compared, each as a ratio of two increases between polls.

DATA. A ratio of sums is exact for any stretch of time, so it can be resampled in blocks of polls: a mean is the sum of
a histogram over its count, a share is some observations over all. A percentile is neither, and depends on where it lies
in its bucket; the share of observations beyond a bucket bound does not.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from vllm_sidecar.tools.exported.series import ADAPTERS, WITH_LORA

TTFT, ITL, QUEUE = "time_to_first_token_seconds", "inter_token_latency_seconds", "request_queue_seconds"
PREFILL, WHOLE = "request_prefill_seconds", "request_seconds"
PROMPT, OUTPUT, COMPUTED = "request_prompt_tokens", "request_generation_tokens", "request_prefill_computed_tokens"
FINISHED, CORRUPTED = "requests_finished_total", "requests_corrupted_total"
QUERIED, HIT = "prefix_cache_queried_tokens_total", "prefix_cache_hit_tokens_total"
DRAFTED, ACCEPTED = "spec_decode_draft_tokens_total", "spec_decode_accepted_tokens_total"
PREEMPTIONS, PROMPTED, GENERATED = "preemptions_total", "prompt_tokens_total", "generation_tokens_total"
RUNNING, WAITING, KV_USAGE = "requests_running", "requests_waiting", "kv_cache_usage_ratio"
KV_CAPACITY = "kv_cache_capacity_tokens"

HISTOGRAMS = (TTFT, ITL, QUEUE, PREFILL, WHOLE, PROMPT, OUTPUT, COMPUTED)
COUNTERS = (
    *(FINISHED, CORRUPTED, QUERIED, HIT, DRAFTED, ACCEPTED),
    *(PREEMPTIONS, PROMPTED, GENERATED),
)  # fmt: skip
GAUGES = (RUNNING, WAITING, KV_USAGE)
READ = (*HISTOGRAMS, *COUNTERS, *GAUGES, ADAPTERS, *WITH_LORA, KV_CAPACITY)
"""Signals that are compared."""
POLLS, ADAPTER_POLLS = "polls", "polls_with_adapter"
"""Counted here: polls at which the LoRA adapters in use are known, and those at which one has requests."""
USUAL_END = "stop"
"""The finish reason whose share is 1 minus that of the others."""
TAIL = 0.1
"""Share of the observations of both sides beyond the bound at which tails are compared, as far as bounds allow."""


class Part(StrEnum):
    """Parts of the report."""

    SHAPE = "request shape"
    OUTCOME = "outcomes"
    LATENCY = "latency"
    LOAD = "load"


class Form(StrEnum):
    """How two sums become one quantity, and how two of these are compared."""

    MEAN = "mean"
    """Sum of a histogram over its count; sides are compared by their ratio."""
    TAIL = "tail"
    """Observations beyond a bucket bound over all; compared by their difference."""
    SHARE = "share"
    """One counter over another, or one finish reason over all; compared by their difference."""
    RATE = "rate"
    """A counter, or the count of a histogram, per second."""


@dataclass(frozen=True, slots=True)
class Measure:
    """One compared quantity; `of` is a histogram or counter, `per` the denominator of a share."""

    name: str
    title: str
    part: Part
    form: Form
    of: str
    per: str = ""
    label: str = ""
    """The finish reason, or the adapter, of a share."""
    unit: str = ""
    judged: bool = True
    """Whether a difference is one between the servers; a load, or a part of another latency, is only shown."""


MEASURES: tuple[Measure, ...] = (
    Measure("prompt_tokens", "prompt tokens per request", Part.SHAPE, Form.MEAN, PROMPT, unit="tokens"),
    Measure("long_prompts", "prompts above {bound}", Part.SHAPE, Form.TAIL, PROMPT, unit="tokens"),
    Measure("output_tokens", "output tokens per request", Part.SHAPE, Form.MEAN, OUTPUT, unit="tokens"),
    Measure("long_outputs", "outputs above {bound}", Part.SHAPE, Form.TAIL, OUTPUT, unit="tokens"),
    Measure("cache_hits", "prompt tokens found in the prefix cache", Part.SHAPE, Form.SHARE, HIT, QUERIED),
    Measure("corrupted", "requests with NaN in their logits", Part.OUTCOME, Form.SHARE, CORRUPTED, FINISHED),
    Measure("accepted_drafts", "draft tokens accepted", Part.OUTCOME, Form.SHARE, ACCEPTED, DRAFTED),
    Measure("ttft", "mean time to first token", Part.LATENCY, Form.MEAN, TTFT, unit="seconds"),
    Measure("slow_ttft", "first tokens after more than {bound}", Part.LATENCY, Form.TAIL, TTFT, unit="seconds"),
    Measure("itl", "mean inter-token latency", Part.LATENCY, Form.MEAN, ITL, unit="seconds"),
    Measure("slow_itl", "gaps between tokens above {bound}", Part.LATENCY, Form.TAIL, ITL, unit="seconds"),
    Measure("queue", "mean time in the queue", Part.LATENCY, Form.MEAN, QUEUE, unit="seconds", judged=False),
    Measure("prefill", "mean prefill", Part.LATENCY, Form.MEAN, PREFILL, unit="seconds", judged=False),
    Measure("request", "mean time of whole requests", Part.LATENCY, Form.MEAN, WHOLE, unit="seconds", judged=False),
    Measure("requests", "finished requests per second", Part.LOAD, Form.RATE, FINISHED, judged=False),
    Measure("prompt_rate", "prompt tokens per second", Part.LOAD, Form.RATE, PROMPTED, judged=False),
    Measure("output_rate", "generated tokens per second", Part.LOAD, Form.RATE, GENERATED, judged=False),
    Measure("preemptions", "preemptions per second", Part.LOAD, Form.RATE, PREEMPTIONS, judged=False),
    Measure("computed", "prompt tokens computed per request", Part.LOAD, Form.MEAN, COMPUTED, unit="tokens",
            judged=False),
)  # fmt: skip

REQUEST_TIME = next(each for each in MEASURES if each.of == WHOLE)


def finish_share(reason: str) -> Measure:
    """Return the share of requests that finish with this reason."""
    return Measure(f"finished_{reason}", f"requests that finish with {reason}", Part.OUTCOME, Form.SHARE,
                   FINISHED, FINISHED, label=reason)  # fmt: skip


def adapter_share(name: str) -> Measure:
    """Return the share of polls at which a LoRA adapter has requests: vLLM does not count requests by adapter."""
    return Measure(f"adapter_{name}", f"polls with requests of adapter {name}", Part.SHAPE, Form.SHARE,
                   ADAPTER_POLLS, POLLS, label=name)  # fmt: skip
