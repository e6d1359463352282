"""The families of vLLM's exposition that the simulator serves, and the releases with them.

Names and releases are those of vLLM's loggers (`vllm/engine/metrics.py` of v0, `vllm/v1/metrics/loggers.py`,
`rust/src/metrics`), without prefix.
"""

from __future__ import annotations

from enum import Enum
from typing import TYPE_CHECKING, NamedTuple

from vllm_sidecar.simulator.meters import FINISHED_REASONS

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from vllm_sidecar.simulator.meters import HistogramMeter, Meters
    from vllm_sidecar.simulator.settings import ServerSettings

    Sample = tuple[tuple[tuple[str, str], ...], float]

Release = tuple[int, ...]
NEWEST: Release = (99,)


class Where(Enum):
    """The engines and front ends with a family."""

    EVERYWHERE = "everywhere"
    V0 = "v0"
    V1 = "v1"
    PYTHON = "python"
    """v1 behind the Python front end."""


class SimulatedFamily(NamedTuple):
    """One family: its name in the text format, and its values from an engine's meters."""

    name: str
    kind: str
    since: Release
    until: Release
    """The last release that exposes it by default."""
    where: Where
    read: Callable[[Meters, ServerSettings], Iterable[Sample] | HistogramMeter]
    """Samples by extra labels, or a histogram."""

    def of(self, release: Release, engine: str, *, rust: bool) -> bool:
        """Return whether a server of this release, engine (v0, v1) and front end exposes it."""
        if not self.since <= release <= self.until:
            return False
        if self.where is Where.EVERYWHERE:
            return True
        if self.where is Where.V0:
            return engine == "v0"
        return engine == "v1" and not (rust and self.where is Where.PYTHON)


def _plain(name: str) -> Callable[[Meters, ServerSettings], Iterable[Sample]]:
    return lambda meters, _: (((), float(meters.counters[name])),)


def _gauge(name: str) -> Callable[[Meters, ServerSettings], Iterable[Sample]]:
    return lambda meters, _: (((), float(getattr(meters, name))),)


def _none(*values: tuple[str, str]) -> Callable[[Meters, ServerSettings], Iterable[Sample]]:
    """Return a reader of a value that the simulator does not have: 0, with vLLM's labels."""
    samples: tuple[Sample, ...] = tuple(((pair,), 0.0) for pair in values) or (((), 0.0),)
    return lambda _, __: samples


def _histogram(name: str) -> Callable[[Meters, ServerSettings], HistogramMeter]:
    return lambda meters, _: meters.histograms[name]


def _finished(meters: Meters, _: ServerSettings) -> Iterable[Sample]:
    return (((("finished_reason", reason),), float(meters.finished[reason])) for reason in FINISHED_REASONS)


def _finished_v0(meters: Meters, _: ServerSettings) -> Iterable[Sample]:
    seen = ("stop", "length", "abort")
    return (((("finished_reason", reason),), float(meters.finished[reason])) for reason in seen)


def _by_source(meters: Meters, _: ServerSettings) -> Iterable[Sample]:
    cached, whole = meters.counters["prompt_tokens_cached"], meters.counters["prompt_tokens"]
    yield (("source", "local_compute"),), float(whole - cached)
    yield (("source", "local_cache_hit"),), float(cached)
    yield (("source", "external_kv_transfer"),), 0.0


def _cached_by_tier(meters: Meters, _: ServerSettings) -> Iterable[Sample]:
    for tier in ("device", "host", "p2p", "disk", "external_unspecified"):
        yield (("source", tier),), float(meters.counters["prompt_tokens_cached"]) if tier == "device" else 0.0


def _by_reason(meters: Meters, _: ServerSettings) -> Iterable[Sample]:
    yield (("reason", "capacity"),), float(meters.waiting - meters.deferred)
    yield (("reason", "deferred"),), float(meters.deferred)


def _sleep_state(meters: Meters, _: ServerSettings) -> Iterable[Sample]:
    for state in ("awake", "weights_offloaded", "discard_all"):
        yield (("sleep_state", state),), float(state == ("weights_offloaded" if meters.sleeping else "awake"))


def _lifetime_hits(meters: Meters, _: ServerSettings) -> Iterable[Sample]:
    queries = meters.counters["prefix_queries"]
    yield (), meters.counters["prefix_hits"] / queries if queries else 0.0


def _drafting(name: str) -> Callable[[Meters, ServerSettings], Iterable[Sample]]:
    """Return a reader of a counter that exists only with speculation."""
    return lambda meters, settings: (((), float(meters.counters[name])),) if settings.speculative_tokens else ()


def _positions(meters: Meters, settings: ServerSettings) -> Iterable[Sample]:
    return (
        ((("position", str(position)),), float(meters.accepted_at[position]))
        for position in range(settings.speculative_tokens)
    )


def _ever(name: str, kind: str, read: object, *, since: Release = (), until: Release = NEWEST,
          where: Where = Where.EVERYWHERE) -> SimulatedFamily:  # fmt: skip
    return SimulatedFamily(name, kind, since, until, where, read)  # type: ignore[arg-type] # one reader, three forms


FAMILIES: tuple[SimulatedFamily, ...] = (
    _ever("estimated_flops_per_gpu_total", "counter", _none(), since=(0, 17), where=Where.V1),
    _ever("estimated_read_bytes_per_gpu_total", "counter", _none(), since=(0, 17), where=Where.V1),
    _ever("estimated_write_bytes_per_gpu_total", "counter", _none(), since=(0, 17), where=Where.V1),
    _ever("num_requests_running", "gauge", _gauge("running")),
    _ever("num_requests_swapped", "gauge", _none(), until=(0, 8, 2), where=Where.V0),
    _ever("num_requests_waiting", "gauge", _gauge("waiting")),
    _ever("num_requests_waiting_by_reason", "gauge", _by_reason, since=(0, 20), where=Where.V1),
    _ever("engine_sleep_state", "gauge", _sleep_state, since=(0, 11, 1), where=Where.PYTHON),
    _ever("gpu_cache_usage_perc", "gauge", _gauge("kv_usage"), until=(0, 10, 2)),
    _ever("cpu_cache_usage_perc", "gauge", _none(), until=(0, 8, 2), where=Where.V0),
    _ever("gpu_prefix_cache_hit_rate", "gauge", _lifetime_hits, since=(0, 5, 5), until=(0, 8, 2), where=Where.V0),
    _ever("kv_cache_usage_perc", "gauge", _gauge("kv_usage"), since=(0, 9, 2), where=Where.V1),
    _ever("gpu_prefix_cache_queries_total", "counter", _plain("prefix_queries"), since=(0, 7, 3), until=(0, 10, 2),
          where=Where.V1),
    _ever("gpu_prefix_cache_hits_total", "counter", _plain("prefix_hits"), since=(0, 7, 3), until=(0, 10, 2),
          where=Where.V1),
    _ever("prefix_cache_queries_total", "counter", _plain("prefix_queries"), since=(0, 9, 2), where=Where.V1),
    _ever("prefix_cache_hits_total", "counter", _plain("prefix_hits"), since=(0, 9, 2), where=Where.V1),
    _ever("external_prefix_cache_queries_total", "counter", _none(), since=(0, 11, 1), where=Where.V1),
    _ever("external_prefix_cache_hits_total", "counter", _none(), since=(0, 11, 1), where=Where.V1),
    _ever("mm_cache_queries_total", "counter", _none(), since=(0, 11, 1), where=Where.PYTHON),
    _ever("mm_cache_hits_total", "counter", _none(), since=(0, 11, 1), where=Where.PYTHON),
    _ever("num_preemptions_total", "counter", _plain("preemptions"), since=(0, 4, 3)),
    _ever("prompt_tokens_total", "counter", _plain("prompt_tokens")),
    _ever("prompt_tokens_by_source_total", "counter", _by_source, since=(0, 16), where=Where.V1),
    _ever("prompt_tokens_cached_total", "counter", _plain("prompt_tokens_cached"), since=(0, 16), where=Where.V1),
    _ever("prompt_tokens_cached_by_source_total", "counter", _cached_by_tier, since=(0, 32), where=Where.V1),
    _ever("generation_tokens_total", "counter", _plain("generation_tokens")),
    _ever("request_success_total", "counter", _finished, since=(0, 17), where=Where.V1),
    _ever("request_success_total", "counter", _finished_v0, since=(0, 4, 2), until=(0, 12, 99)),
    _ever("admission_rejections_total", "counter",
          _none(("reason", "max_num_queued_reqs"), ("reason", "max_num_queued_tokens")), since=(0, 32),
          where=Where.PYTHON),
    _ever("spec_decode_num_drafts_total", "counter", _drafting("drafts"), since=(0, 8, 5), where=Where.V1),
    _ever("spec_decode_num_draft_tokens_total", "counter", _drafting("draft_tokens"), since=(0, 8, 3), where=Where.V1),
    _ever("spec_decode_num_accepted_tokens_total", "counter", _drafting("accepted_tokens"), since=(0, 8, 3),
          where=Where.V1),
    _ever("spec_decode_num_accepted_tokens_per_pos_total", "counter", _positions, since=(0, 8, 5), where=Where.V1),
    _ever("request_prompt_tokens", "histogram", _histogram("prompt")),
    _ever("request_generation_tokens", "histogram", _histogram("generation")),
    _ever("iteration_tokens_total", "histogram", _histogram("step_tokens"), since=(0, 6, 4)),
    _ever("request_max_num_generation_tokens", "histogram", _histogram("max_generation"), since=(0, 6, 4)),
    _ever("request_params_n", "histogram", _histogram("params_n")),
    _ever("request_params_max_tokens", "histogram", _histogram("max_tokens"), since=(0, 6, 4)),
    _ever("request_num_preemptions", "histogram", _histogram("request_preemptions"), since=(0, 30), where=Where.V1),
    _ever("request_prefill_kv_computed_tokens", "histogram", _histogram("computed"), since=(0, 13), where=Where.V1),
    _ever("time_to_first_token_seconds", "histogram", _histogram("first_token")),
    _ever("time_per_output_token_seconds", "histogram", _histogram("inter_token"), until=(0, 11, 2)),
    _ever("inter_token_latency_seconds", "histogram", _histogram("inter_token"), since=(0, 10, 2)),
    _ever("request_time_per_output_token_seconds", "histogram", _histogram("per_output_token"), since=(0, 11),
          where=Where.V1),
    _ever("e2e_request_latency_seconds", "histogram", _histogram("end_to_end")),
    _ever("request_queue_time_seconds", "histogram", _histogram("queue"), since=(0, 6, 4)),
    _ever("request_inference_time_seconds", "histogram", _histogram("inference"), since=(0, 6, 4)),
    _ever("request_prefill_time_seconds", "histogram", _histogram("prefill"), since=(0, 6, 4)),
    _ever("request_decode_time_seconds", "histogram", _histogram("decode"), since=(0, 6, 4)),
)  # fmt: skip
MODEL_SCOPE = frozenset({"admission_rejections_total"})
"""Families without a label for the engine."""
