"""The body of /metrics that a server with a given request log shows at a time."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, field
from math import inf
from typing import TYPE_CHECKING

from vllm_sidecar.simulator.meters import FINISHED_REASONS, FIRST_TOKEN, LATENCY, STEP_TOKENS, TOKEN, HistogramMeter

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

    from truth.log import Log, Observation

MODEL = "m"
HISTOGRAMS = {
    "first_token": ("time_to_first_token_seconds", FIRST_TOKEN),
    "inter_token": ("inter_token_latency_seconds", TOKEN),
    "per_output_token": ("request_time_per_output_token_seconds", TOKEN),
    "request": ("e2e_request_latency_seconds", LATENCY),
    "queue": ("request_queue_time_seconds", LATENCY),
    "inference": ("request_inference_time_seconds", LATENCY),
    "prefill": ("request_prefill_time_seconds", LATENCY),
    "decode": ("request_decode_time_seconds", LATENCY),
    "step_tokens": ("iteration_tokens_total", STEP_TOKENS),
}
COUNTERS = {
    "prompt_tokens": "prompt_tokens_total",
    "cached_tokens": "prompt_tokens_cached_total",
    "generation_tokens": "generation_tokens_total",
    "preemptions": "num_preemptions_total",
    "prefix_queries": "prefix_cache_queries_total",
    "prefix_hits": "prefix_cache_hits_total",
}
SPECULATION = {
    "drafts": "spec_decode_num_drafts_total",
    "draft_tokens": "spec_decode_num_draft_tokens_total",
    "accepted_tokens": "spec_decode_num_accepted_tokens_total",
}
Labels = dict[str, str]


@dataclass(frozen=True)
class Layout:
    """How a server exposes what it counted."""

    api_servers: int = 1
    """With several, each has series of its own for the requests that it handles."""
    replaced: Mapping[int, float] = field(default_factory=dict)
    """API server -> time at which another process, which counts from 0, took its place."""
    present: Mapping[int, tuple[tuple[float, float], ...]] = field(default_factory=dict)
    """Engine -> when it is exposed, if it is not always; it counts from when it first appears."""

    def shows(self, engine: int, at: float) -> bool:
        return any(start <= at < end for start, end in self.present.get(engine, ((0.0, inf),)))

    def since(self, engine: int) -> float:
        return self.present.get(engine, ((0.0, inf),))[0][0]


class Counts:
    """What one API server counted for one engine."""

    def __init__(self) -> None:
        self.counters: dict[str, float] = defaultdict(float)
        self.histograms = {name: HistogramMeter(bounds) for name, (_, bounds) in HISTOGRAMS.items()}

    def take(self, observation: Observation) -> None:
        histogram = self.histograms.get(observation.name)
        if histogram is None:
            self.counters[observation.name] += observation.value
        else:
            histogram.observe(observation.value)


class Bodies:
    """Writes the body at one time after the other."""

    def __init__(self, log: Log, layout: Layout, epoch: float) -> None:
        self._log, self._layout, self._epoch = log, layout, epoch
        found = [(each, engine) for engine in log.engines for each in log.observations(engine)]
        self._events = sorted(found, key=lambda pair: pair[0].at)
        self._next = 0
        self._process = (-1.0, inf)
        self._counts: dict[tuple[int, str], Counts] = defaultdict(Counts)

    def at(self, now: float) -> str | None:
        """Return the body; None while no process listens."""
        process = self._log.process(now)
        if not process[0] <= now < process[1]:
            return None
        if process != self._process:
            self._process = process
            self._counts.clear()
        while self._next < len(self._events) and self._events[self._next][0].at <= now:
            observation, engine = self._events[self._next]
            self._next += 1
            if observation.at >= max(process[0], self._layout.since(engine)):
                pid = self._pid(observation.request % self._layout.api_servers, observation.at)
                self._counts[engine, pid].take(observation)
        return "".join(self._families(now))

    def _pid(self, number: int, at: float) -> str:
        return f"{number}-new" if at >= self._layout.replaced.get(number, inf) else str(number)

    def _families(self, now: float) -> Iterator[str]:
        if self._layout.api_servers == 1:
            yield _family("process_start_time_seconds", "gauge", [("", {}, self._epoch + self._process[0])])
        engines = [engine for engine in self._log.engines if self._layout.shows(engine, now)]
        yield from self._gauges(engines, now)
        pids = [self._pid(number, now) for number in range(self._layout.api_servers)]
        shown = [(self._labels(engine, pid), self._counts[engine, pid]) for engine in engines for pid in pids]
        yield from self._counters(shown)
        for name, (family, _) in HISTOGRAMS.items():
            yield _family(f"vllm:{family}", "histogram", [
                (suffix, {**labels, **extra}, value)
                for labels, counts in shown for suffix, extra, value in _rows(counts.histograms[name])])  # fmt: skip
        yield from self._front_end(now)
        if self._log.settings.max_loras:
            yield self._lora(engines, now)

    def _labels(self, engine: int, pid: str) -> Labels:
        copies = {"pid": pid} if self._layout.api_servers > 1 else {}
        return {"engine": str(engine), "model_name": MODEL, **copies}

    def _gauges(self, engines: Iterable[int], now: float) -> Iterator[str]:
        asleep = self._log.phase(now)[1] == "sleep"
        rows: dict[str, list[tuple[str, Labels, float]]] = defaultdict(list)
        for engine in engines:
            labels, step = {"engine": str(engine), "model_name": MODEL}, self._log.step(engine, now)
            running, waiting, deferred, usage = step[1:5] if step else (0, 0, 0, 0.0)
            rows["num_requests_running"].append(("", labels, running))
            rows["num_requests_waiting"].append(("", labels, waiting))
            for reason, count in (("capacity", waiting - deferred), ("deferred", deferred)):
                rows["num_requests_waiting_by_reason"].append(("", {**labels, "reason": reason}, count))
            rows["kv_cache_usage_perc"].append(("", labels, usage))
            for state, is_in in (("awake", not asleep), ("weights_offloaded", asleep), ("discard_all", False)):
                rows["engine_sleep_state"].append(("", {**labels, "sleep_state": state}, float(is_in)))
            settings = self._log.settings
            config = {"block_size": str(settings.block_size), "num_gpu_blocks": str(settings.num_gpu_blocks),
                      "kv_cache_size_tokens": str(settings.num_gpu_blocks * settings.block_size)}  # fmt: skip
            rows["cache_config_info"].append(("", {"engine": str(engine), **config}, 1.0))
        yield from (_family(f"vllm:{name}", "gauge", found) for name, found in rows.items())

    def _counters(self, shown: Iterable[tuple[Labels, Counts]]) -> Iterator[str]:
        depth = self._log.settings.speculative_tokens
        names = COUNTERS | (SPECULATION if depth else {})
        rows: dict[str, list[tuple[str, Labels, float]]] = defaultdict(list)
        for labels, counts in shown:
            for name, family in names.items():
                rows[family].append(("", labels, counts.counters[name]))
            for reason in FINISHED_REASONS:
                ended = ("", {**labels, "finished_reason": reason}, counts.counters[f"finished_{reason}"])
                rows["request_success_total"].append(ended)
            for position in range(depth):
                accepted = ("", {**labels, "position": str(position)}, counts.counters[f"accepted_at_{position}"])
                rows["spec_decode_num_accepted_tokens_per_pos_total"].append(accepted)
            cached = counts.counters["cached_tokens"]
            for source, value in (("local_compute", counts.counters["prompt_tokens"] - cached),
                                  ("local_cache_hit", cached), ("external_kv_transfer", 0.0)):  # fmt: skip
                rows["prompt_tokens_by_source_total"].append(("", {**labels, "source": source}, value))
        yield from (_family(f"vllm:{name}", "counter", found) for name, found in rows.items())

    def _front_end(self, now: float) -> Iterator[str]:
        start = self._process[0]
        ended = [status for at, status in self._log.answers if start <= at <= now]
        labels = {"handler": "/v1/chat/completions", "method": "POST"}
        counted = [("", {**labels, "status": status}, ended.count(status)) for status in ("2xx", "4xx", "5xx")]
        yield _family("http_requests_total", "counter", counted)
        refused = sum(start <= at <= now for at in self._log.rejected)
        rejections = [("", {"model_name": MODEL, "reason": "max_num_queued_reqs"}, refused)]
        yield _family("vllm:admission_rejections_total", "counter", rejections)

    def _lora(self, engines: Iterable[int], now: float) -> str:
        steps = [step for engine in engines if (step := self._log.step(engine, now))]
        running = frozenset[str]().union(*(step.adapters for step in steps))
        waiting = frozenset[str]().union(*(step.wanted for step in steps))
        labels = {"max_lora": str(self._log.settings.max_loras), "running_lora_adapters": ",".join(sorted(running)),
                  "waiting_lora_adapters": ",".join(sorted(waiting))}  # fmt: skip
        return _family("vllm:lora_requests_info", "gauge", [("", labels, self._epoch + now)])


def _family(name: str, kind: str, rows: Iterable[tuple[str, Labels, float]]) -> str:
    lines = [f"# HELP {name} Of the log.\n# TYPE {name} {kind}\n"]
    for suffix, labels, value in rows:
        text = ",".join(f'{key}="{labels[key]}"' for key in sorted(labels))
        lines.append(f"{name}{suffix}{{{text}}} {float(value)!r}\n" if text else f"{name}{suffix} {float(value)!r}\n")
    return "".join(lines)


def _rows(histogram: HistogramMeter) -> Iterator[tuple[str, Labels, float]]:
    below = 0
    for bound, count in zip((*map(repr, histogram.bounds), "+Inf"), histogram.counts, strict=True):
        below += count
        yield "_bucket", {"le": bound}, below
    yield "_count", {}, below
    yield "_sum", {}, histogram.total
