"""Writes what Prometheus has of each replica: names and labels as the sidecar exports them, and the target's `up`."""

from __future__ import annotations

from math import sqrt
from typing import TYPE_CHECKING

import numpy as np

from fleets.clock import EPOCH
from fleets.faults import Kind
from vllm_sidecar.catalog.types import PREFIX

if TYPE_CHECKING:
    from collections.abc import Iterator

    from fleets.clock import Floats, Grid, Mask
    from fleets.serving import Replica

NAN = float("nan")
TTFT_BOUND, ITL_BOUND = 2.5, 0.1
"""Bucket bounds of the default objectives."""
SPREAD = 0.4
"""Standard deviation of the logarithm of a first token's time."""
LIMIT_BYTES = 64e9
NOISE = 0.05


class Series:
    """Series of one scrape job, by their text; NaN where a series is absent. Kept are only the times of its pod."""

    def __init__(self, grid: Grid) -> None:
        """Make none."""
        self.grid = grid
        self._found: dict[str, tuple[int, Floats]] = {}

    def put(self, name: str, labels: dict[str, str], values: Floats | float, where: Mask) -> None:
        """Add one by its name and labels, where it is there."""
        text = name + "{" + ",".join(f'{key}="{value}"' for key, value in labels.items()) + "}"
        self.add(text, np.where(where, values, NAN))

    def add(self, text: str, values: Floats) -> None:
        """Add one, with a value for every scrape; one without any is none."""
        assert text not in self._found, text
        there = np.flatnonzero(~np.isnan(values))
        if there.size:
            self._found[text] = (int(there[0]), values[there[0] : there[-1] + 1].copy())

    def __iter__(self) -> Iterator[str]:
        return iter(self._found)

    def values(self, text: str, first: int = 0, last: int | None = None) -> Floats:
        """Return the values of one at a part of the scrapes."""
        last = len(self.grid.times) if last is None else last
        own, values = self._found[text]
        found = np.full(last - first, NAN)
        begin, end = max(first, own), min(last, own + len(values))
        if begin < end:
            found[begin - first : end - first] = values[begin - own : end - own]
        return found

    def interrupt(self, begin: float, end: float) -> None:
        """Take out all scrapes between two seconds."""
        away = self.grid.between(begin, end)
        for own, values in self._found.values():
            values[away[own : own + len(values)]] = NAN


def bad_share(median: Floats, bound: float) -> Floats:
    """Return the share of lognormal times above a bound."""
    z = (np.log(bound) - np.log(np.clip(median, 1e-9, None))) / SPREAD
    return 0.5 * _erfc(z / sqrt(2.0))


def _erfc(x: Floats) -> Floats:
    """Complementary error function, by Abramowitz and Stegun 7.1.26; numpy has none."""
    t = 1.0 / (1.0 + 0.3275911 * np.abs(x))
    poly = t * (0.254829592 + t * (-0.284496736 + t * (1.421413741 + t * (-1.453152027 + t * 1.061405429))))
    tail = poly * np.exp(-x * x)
    return np.where(x >= 0, tail, 2.0 - tail)


class Writer:
    """Writes the series of one replica."""

    def __init__(self, series: Series, replica: Replica, number: int) -> None:
        """Make one; the number is its address."""
        self.series, self.replica, self.step = series, replica, series.grid.step
        self.random = np.random.default_rng(number)
        address = f"10.0.{number // 200}.{number % 200}"
        self.target = {"cluster": "c1", "namespace": "llm", "job": "llm/vllm-sidecar", "pod": replica.pod.name,
                       "instance": f"{address}:10190"}  # fmt: skip
        self.model = {"model_name": replica.shape.name}
        self.engine = {**self.model, "engine": "0"}
        self.number = number

    def write(self) -> None:
        """Write all."""
        for part in (self._monitoring, self._server, self._gauges, self._requests, self._latencies, self._tokens,
                     self._objectives, self._host, self._gpu):  # fmt: skip
            part()

    def own(self, name: str, values: Floats | float, where: Mask, **labels: str) -> None:
        """Write one metric of the sidecar."""
        self.series.put(PREFIX + name, self.target | labels, values, where)

    def of_engine(self, name: str, values: Floats | float, **labels: str) -> None:
        """Write one metric of the engine, which is absent while it does not answer."""
        self.own(name, values, self.replica.serving, **self.engine, **labels)

    def counted(self, rate: Floats, where: Mask | None = None) -> Floats:
        """Return a counter that rises so many times a second, and begins at 0 wherever it was absent."""
        where = self.replica.serving if where is None else where
        noise = self.random.uniform(1 - NOISE, 1 + NOISE, rate.shape)
        total = np.cumsum(np.where(where, rate * noise * self.step, 0.0))
        began = where & ~np.concatenate(([False], where[:-1]))
        if where[0] and self.replica.pod.ready < self.series.grid.begin:
            began[0] = False  # it has counted for long: the first sample is no increase
        base = np.where(began, np.concatenate(([0.0], total[:-1])), 0.0)
        found: Floats = np.floor(total - np.maximum.accumulate(base))
        return found

    def _monitoring(self) -> None:
        replica, alive, serving = self.replica, self.replica.alive, self.replica.serving
        times = self.series.grid.times + EPOCH
        vllm = {"source": "vllm"}
        served = np.maximum.accumulate(serving)
        last = np.maximum.accumulate(np.where(serving, times, 0.0))
        self.series.put("up", self.target, alive.astype(float), replica.target)
        self.own("build_info", 1.0, alive, version="0.1.0", python_version="3.11.7")
        known = {"model_name": replica.shape.name}
        if not serving.all():  # the model is unknown until the first answer
            self.own("up", 0.0, alive & ~served, source="vllm", model_name="")
        self.own("up", serving.astype(float), alive & served, **vllm, **known)
        self.own("model_up", serving.astype(float), alive & served, **known)
        self.own("watched_since_timestamp_seconds", EPOCH + replica.pod.created, alive)
        self.own("last_success_timestamp_seconds", last, alive & served, **vllm)
        self.own("last_success_age_seconds", times - last, alive & served, **vllm)
        one = np.ones(times.shape)
        self.own("polls_total", self.counted(one, alive), alive, **vllm)
        self.own("poll_interval_seconds", 1.0, alive, **vllm)
        self.own("poll_server_time_ratio", 0.001, alive, **vllm)
        refused = np.where(alive & ~serving, 1.0, 0.0)
        for reason, rate in (("refused", refused), ("timeout", 0 * refused), ("http_5xx", 0 * refused)):
            self.own("poll_failures_total", self.counted(rate, alive), alive, **vllm, reason=reason)
        self.own("config_last_reload_successful", 1.0, alive)
        for when, at in (("not_before", EPOCH - 30 * 86400.0), ("not_after", EPOCH + 365 * 86400.0)):
            self.own(f"target_certificate_{when}_timestamp_seconds", at, alive, certificate="server")
            self.own(f"web_certificate_{when}_timestamp_seconds", at, alive)
        self.own("discovery_last_refresh_successful", 1.0, alive, discovery="kubernetes.0")
        self.own("unknown_families", 0.0, serving)
        self.own("signal_missing", 0.0, serving, signal="requests_running")

    def _server(self) -> None:
        replica, serving = self.replica, self.replica.serving
        served = self.known
        again = (
            serving
            & ~np.concatenate(([True], serving[:-1]))
            & np.concatenate(([False], np.maximum.accumulate(serving)[:-1]))
        )
        self.own("server_restarts_total", np.cumsum(again).astype(float), replica.alive)
        self.own("server_startup_seconds", replica.pod.load, served)
        self.own("server_start_timestamp_seconds", EPOCH + self.series.grid.times - replica.age, serving)
        fingerprint = {"fingerprint": f"f-{replica.pod.release}", "max_model_len": "32768"}
        self.own("server_config_info", 1.0, serving, **fingerprint)
        self.own("server_info", 1.0, serving, version="0.32.0", front_end="python", engine_generation="v1")
        self.own("config_max_num_seqs", replica.shape.seats, serving)
        self.own("data_parallel_engines", 1.0, serving, **self.model)

    def _gauges(self) -> None:
        replica = self.replica
        stalled = replica.on(Kind.STALL)
        pressed = replica.on(Kind.KV_PRESSURE)
        waiting = np.where(replica.full, 25.0 + 35.0 * replica.on(Kind.OVERLOAD), 0.0) + 4.0 * pressed + 6.0 * stalled
        running = np.where(stalled, 12.0, np.round(replica.running))
        usage = np.where(pressed, 0.99, np.minimum(0.85, 0.1 + replica.running / 80.0))
        late = np.where(stalled, np.maximum(replica.stalled_for, 1.0), 0.0)
        idle = (replica.rate == 0.0) & ~stalled
        age = np.where(idle, self.idle_seconds(idle), late)
        self.of_engine("requests_running", running)
        self.of_engine("requests_waiting", waiting, reason="capacity")
        self.of_engine("requests_waiting", 0.0, reason="deferred")
        self.of_engine(
            "live_queue_wait_seconds", np.where(stalled, 5.0 + replica.stalled_for, replica.wait + 3.0 * pressed)
        )
        self.of_engine("progress_age_seconds", age)
        self.of_engine("work_without_progress_seconds", late)
        self.of_engine("stalled", (late > 120.0).astype(float))
        for name in ("gauges_stale", "clients_left", "engine_sleeping", "kv_cache_held_ratio"):
            self.of_engine(name, 0.0)
        self.of_engine("kv_cache_usage_ratio", usage)
        self.of_engine("recent_kv_cache_usage_peak_ratio", np.minimum(1.0, usage + 0.01))
        self.of_engine("kv_cache_pressure_ratio", np.where(pressed, 0.99, 0.0))
        self.of_engine("preemptions_total", self.counted(0.4 * replica.finished * pressed))
        self.of_engine("recent_preemptions_per_request", np.where(pressed, 0.4, 0.0))
        self.of_engine("saturation_ratio", replica.saturation, model=replica.shape.name)

    def idle_seconds(self, idle: Mask) -> Floats:
        """Return for how long nothing has come."""
        index = np.arange(idle.size)
        found: Floats = (index - np.maximum.accumulate(np.where(idle, -1, index))) * self.step
        return found

    def _requests(self) -> None:
        replica = self.replica
        ended = replica.finished
        failed = ended * replica.share(Kind.ERRORS)
        refused = replica.rate * replica.share(Kind.REJECTIONS)
        aborted = ended * np.maximum(replica.share(Kind.ABORTS), 0.01)
        well = np.clip(ended - failed - refused - aborted, 0.0, None)
        endings = {
            "stop": 0.93 * well,
            "length": 0.07 * well,
            "repetition": 0.0 * well,
            "abort": aborted,
            "error": failed,
        }
        for reason, rate in endings.items():
            self.of_engine("requests_finished_total", self.counted(rate), finished_reason=reason)
        serving = replica.serving
        self.own("requests_rejected_total", self.counted(refused), serving, **self.model, reason="max_num_queued_reqs")
        corrupted = np.where(replica.on(Kind.NAN), 0.05, 0.0)
        self.of_engine("requests_corrupted_total", self.counted(corrupted))
        canary = {"requested_model": replica.shape.name, "prompt": "capital"}
        for name in (
            "canary_consecutive_failures",
            "canary_consecutive_wrong_outputs",
            "canary_baseline_changes_total",
        ):
            self.own(name, 0.0, replica.serving, **self.model, **canary)
        sent = np.cumsum(np.full(replica.rate.shape, self.step / 60))
        self.own("canary_requests_total", sent, replica.serving, **self.model, **canary)
        self.own("canary_output_state", 0.0, replica.serving, **self.model, **canary, state="changed")
        handler = {"handler": "/v1/chat/completions", "method": "POST"}
        self.own("http_requests_total", self.counted(well + aborted), serving, **handler, status="2xx")
        self.own("http_requests_total", self.counted(failed + refused), serving, **handler, status="5xx")
        share = (failed + refused) / np.clip(ended, 1e-9, None)
        self.own("recent_error_ratio", share, serving & (ended > 0))
        for outcome, rate in (("finished", well), ("failed", failed), ("aborted", aborted)):
            self.of_engine("recent_requests", np.round(60.0 * rate), outcome=outcome)

    def _latencies(self) -> None:
        replica = self.replica
        ended = replica.finished
        late = np.where(replica.full, 1.0, bad_share(replica.first_token, TTFT_BOUND))
        first = replica.first_token * np.exp(SPREAD**2 / 2) + replica.wait
        few, tokens = np.full(ended.shape, 0.0005), ended * replica.shape.output_tokens
        self._histogram("time_to_first_token", ended, first, late, TTFT_BOUND)
        self._histogram("inter_token_latency", tokens, replica.step_seconds, few, ITL_BOUND)
        self._histogram("time_per_output_token", ended, replica.step_seconds, few, ITL_BOUND)

    def _histogram(self, name: str, rate: Floats, mean: Floats, late: Floats, bound: float) -> None:
        """Write a histogram with one bound, and the sidecar's own counters of the same objective."""
        state = self.random.bit_generator.state

        def same(each: Floats, where: Mask | None = None) -> Floats:
            self.random.bit_generator.state = state  # the same noise, so that no bucket exceeds the count
            return self.counted(each, where)

        total, good = same(rate), same(rate * (1.0 - late))
        self.of_engine(f"{name}_seconds_count", total)
        self.of_engine(f"{name}_seconds_bucket", total, le="+Inf")
        self.of_engine(f"{name}_seconds_bucket", good, le=f"{bound:g}")
        self.of_engine(f"{name}_seconds_sum", same(rate * mean))
        known = self.known
        self.own("slo_requests_total", same(rate, known), known, **self.engine, slo=name)
        self.own("slo_good_requests_total", same(rate * (1.0 - late), known), known, **self.engine, slo=name)

    @property
    def known(self) -> Mask:
        """When its model is known: from the first answer of the server until the end of the sidecar."""
        found: Mask = np.maximum.accumulate(self.replica.serving) & self.replica.alive
        return found

    def _tokens(self) -> None:
        replica = self.replica
        ended, shape = replica.finished, replica.shape
        prompt = ended * shape.prompt_tokens
        computed = prompt * (1.0 - replica.hit)
        generated = ended * shape.output_tokens
        self.of_engine("generation_tokens_total", self.counted(generated))
        self.of_engine("prompt_tokens_total", self.counted(prompt))
        self.of_engine("request_generation_tokens_sum", self.counted(generated))
        self.of_engine("request_generation_tokens_count", self.counted(ended))
        self.of_engine("prefix_cache_queried_tokens_total", self.counted(prompt))
        self.of_engine("prefix_cache_hit_tokens_total", self.counted(prompt * replica.hit))
        works = ended > 0
        self.own("recent_cache_hit_ratio", replica.hit, replica.serving & works, **self.engine, cache="local")
        steps = np.where(works, 1.0 / replica.step_seconds, 0.0)
        self.of_engine("iteration_tokens_count", self.counted(steps))
        self.of_engine("iteration_tokens_sum", self.counted(computed + generated))
        batch = (computed + generated) / np.clip(steps, 1e-9, None)
        self.own("recent_step_mean_tokens", batch, replica.serving & works, **self.engine)

    def _objectives(self) -> None:
        """Write the SLO counters, which are the sidecar's and outlive the server."""
        replica = self.replica
        served = self.known
        refused = replica.rate * replica.share(Kind.REJECTIONS)
        bad = replica.finished * replica.share(Kind.ERRORS) + refused
        state = self.random.bit_generator.state
        self.own("slo_requests_total", self.counted(replica.finished, served), served, **self.model, slo="availability")
        self.random.bit_generator.state = state
        good = np.clip(replica.finished - bad, 0.0, None)
        self.own("slo_good_requests_total", self.counted(good, served), served, **self.model, slo="availability")

    def _host(self) -> None:
        """Write what cAdvisor and kube-state-metrics have of the pod."""
        kube = {"cluster": "c1", "namespace": "llm", "pod": self.target["pod"], "container": "vllm"}
        cadvisor, state = {"job": "kubelet", **kube}, {"job": "kube-state-metrics", **kube}
        there = self.replica.target
        self.series.put("container_memory_working_set_bytes", cadvisor, 0.6 * LIMIT_BYTES, there)
        self.series.put("container_spec_memory_limit_bytes", cadvisor, LIMIT_BYTES, there)
        limits = {"resource": "memory", "unit": "byte"}
        self.series.put("kube_pod_container_resource_limits", state | limits, LIMIT_BYTES, there)
        self.series.put("kube_pod_container_status_restarts_total", state, 0.0, there)

    def _gpu(self) -> None:
        replica, alive = self.replica, self.replica.alive
        gpu = {"gpu": "0", "uuid": f"GPU-{self.number}"}
        times = self.series.grid.times + EPOCH
        on = replica.on(Kind.XID)
        seen = np.maximum.accumulate(on)
        self.own("gpu_xid_errors_total", seen.astype(float), alive, **gpu, xid="95", severity="critical")
        self.own("gpu_xid_errors_total", 0.0, alive, **gpu, xid="94", severity="warning")
        first = times[np.argmax(on)] if on.any() else 0.0
        self.own("gpu_xid_last_timestamp_seconds", first, alive & seen, **gpu)
        self.own("gpu_lost", 0.0, alive, **gpu)
        for reason in ("idle", "hw_slowdown", "hw_thermal", "hw_power_brake", "sw_thermal", "sw_power_cap"):
            self.own("gpu_throttled", 0.0, alive, **gpu, reason=reason)
        self.own("gpu_busy_without_progress", 0.0, replica.serving, power="high")
        self.own("gpu_starved", 0.0, replica.serving)
