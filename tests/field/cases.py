"""The field cases: what servers in production did, second by second, and what an operator must be told of it.

Each is made from the facts of a public report, which its docstring names; none ran on the products themselves.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from field.world import Engine, FrontEnd, World

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

EPOCH = 1_800_000_000.0
"""Unix time at which every case begins."""
HOUR = 3600.0
Answer = tuple[int, str]


@dataclass
class Server:
    """What answers at the address: `metrics` at a time of the case, and the other endpoints."""

    metrics: Callable[[float], Answer]
    worlds: tuple[World, ...] = ()
    endpoints: dict[str, Callable[[], tuple[int, Any]]] = field(default_factory=dict)
    models: tuple[str, ...] = ("m",)
    silent: Callable[[float], bool] = lambda _: False
    """Whether it answers nothing at all at a time."""

    @property
    def finished(self) -> int:
        """Requests that really finished behind the address."""
        return sum(world.finished for world in self.worlds)


@dataclass(frozen=True)
class Case:
    """One case: how to make its server, how long it lasts, and what is right at its end.

    `pages` and `tickets` are all that fired at any time, each with the model and the engine that it names (empty where
    it names none). `states` are the names of the target's state that may be shown at the end.
    """

    make: Callable[[], Server]
    minutes: float
    states: frozenset[str]
    pages: frozenset[tuple[str, str, str]] = frozenset()
    tickets: frozenset[tuple[str, str, str]] = frozenset()
    config: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)


def alone(world: World, **changes: Any) -> Server:
    """Serve one world."""
    return Server(lambda _: (200, world.body()), (world,), **changes)


def engine(name: str = "m", number: str = "0", **changes: Any) -> Engine:
    """Make an engine with the labels of vLLM's own."""
    return Engine({"model_name": name, "engine": number}, **changes)


def front(age: float = HOUR, **changes: Any) -> FrontEnd:
    """Make a front end that started so many seconds before the case."""
    return FrontEnd(EPOCH - age, **changes)


# --- Several engines behind one /metrics -------------------------------------------------------------------------


def stages(*, hung: bool) -> Server:
    """vLLM-Omni: a thinker, a talker and a vocoder, told apart by `stage` and `replica`.

    https://github.com/vllm-project/vllm-omni/issues/4960, https://github.com/vllm-project/vllm-omni/issues/5170
    """

    def stage(number: str, **changes: Any) -> Engine:
        return Engine({"model_name": "Omni-30B", "stage": number, "replica": "0"}, rate=1.0, **changes)

    thinker, talker = stage("0", answer=60, prefill=0.1), stage("1", answer=250, step=0.012, prefill=0.3)
    vocoder = stage("2", prompt=250, answer=0, prefill=0.2)

    def script(world: World, now: float) -> None:
        if hung and now > 40 and talker.running and world.fault is None:
            talker.frozen, vocoder.rate, world.fault = True, 0.0, now

    def target_loop(world: World) -> str:
        running = sum(each.shown[0] for each in world.engines)
        return (
            "# TYPE vllm_omni:num_requests_running gauge\n"
            f'vllm_omni:num_requests_running{{model_name="Omni-30B"}} {float(running)!r}\n'
            "# TYPE vllm_omni:requests_success_total counter\n"
            f'vllm_omni:requests_success_total{{model_name="Omni-30B",finished_reason="stop"}} {vocoder.finished}\n'
        )

    # The collectors of the pipeline are made at import: they stand before the engines' in the body.
    world = World([thinker, talker, vocoder], front(), script, (thinker,), (vocoder,), before=target_loop)
    return alone(world, models=("Omni-30B",))


TRITON_LACKS = frozenset(
    ("request_success", "prefix_cache_queries", "prefix_cache_hits", "request_time_per_output_token_seconds")
)


def triton(*, slow: bool = False, hung: bool = False) -> Server:
    """Triton's vLLM backend: two models by `model` and `version`, a subset of the families, nothing of HTTP.

    https://github.com/triton-inference-server/vllm_backend/pull/63
    """
    big = Engine({"model": "llama_big", "version": "1"}, rate=8.0 if slow else 2.0, seats=8 if slow else 64)
    small = Engine({"model": "qwen_small", "version": "1"}, rate=3.0, answer=40)

    def script(world: World, now: float) -> None:
        if hung and now > 40 and big.running and world.fault is None:
            big.frozen, world.fault = True, now

    closed = {path: lambda: (404, None) for path in ("/version", "/v1/models", "/load", "/health")}
    return alone(World([big, small], script=script, skip=TRITON_LACKS), endpoints=closed)


def dynamo(*, hung: bool = False) -> Server:
    """A Dynamo worker: four labels more, two data-parallel ranks, nothing of HTTP or the process.

    https://github.com/ai-dynamo/dynamo/pull/3539
    """
    extra = {
        "dynamo_namespace": "prod",
        "dynamo_component": "backend",
        "dynamo_endpoint": "generate",
        "worker_id": "7f3a",
    }
    ranks = [Engine({**extra, "model_name": "Qwen/Qwen3-0.6B", "engine": number}, rate=1.0) for number in "01"]

    def script(world: World, now: float) -> None:
        if hung and now > 60 and len(ranks[1].running) >= 2 and world.fault is None:
            ranks[1].frozen, ranks[1].rate, world.fault = True, 0.0, now

    closed = {path: lambda: (404, None) for path in ("/version", "/v1/models", "/load")}
    return alone(World(ranks, script=script), endpoints=closed)


ODD_NAMES = (
    r"C:\\models\\Llama-3-8B",
    "千问-14B",
    "混元-14B",
    r"the \"good\" one",
    "y" * 170 + "/b{c},d",
    r"two\nlines",
)
"""As a body holds them, escaped."""


def odd_names() -> Server:
    """Six models whose names are paths, quotes, Chinese, long, or hold a line break."""
    return alone(World([engine(name, rate=0.5) for name in ODD_NAMES], front()))


# --- Not an engine, or several ----------------------------------------------------------------------------------


def router() -> Server:
    """production-stack's router: gauges of its backends under vLLM's prefix, with a label `server`.

    https://github.com/vllm-project/production-stack/issues/318
    """
    gauges = {"num_requests_running": (4, 6, 2), "num_requests_waiting": (0, 15, 0), "current_qps": (1.0, 0.5, 2.0),
              "healthy_pods_total": (1, 1, 1), "num_requests_swapped": (0, 0, 0), "gpu_prefix_cache_hits_total": (0, 0, 0)}  # fmt: skip

    def body(now: float) -> Answer:
        text = f"# TYPE process_start_time_seconds gauge\nprocess_start_time_seconds {EPOCH - HOUR!r}\n"
        for name, values in gauges.items():
            text += f"# TYPE vllm:{name} gauge\n"
            text += "".join(
                f'vllm:{name}{{server="http://10.0.0.{i}:8000"}} {float(value)!r}\n' for i, value in enumerate(values)
            )
        return (
            200,
            text
            + f'# TYPE vllm:num_incoming_requests_total counter\nvllm:num_incoming_requests_total{{model="q"}} {4 * now!r}\n',
        )

    return Server(body, models=("q",))


def balanced(turn: Callable[[float], int], *, starts: bool = True, counted: int = 2) -> Server:
    """An address behind which several replicas answer; `turn` says which at a time, -1 that none does.

    `counted` is how many of them serve requests.

    https://github.com/kubernetes/ingress-nginx/issues/9672
    """
    worlds = tuple(
        World([engine(rate=rate)], front(age) if starts else None) for rate, age in ((2.0, 9000.0), (1.5, 500.0))
    )
    worlds[0].engines[0].counters |= {"prompt_tokens": 900_000, "generation_tokens": 300_000}
    for world, past in zip(worlds, (5000, 300), strict=True):
        world.engines[0].reasons["stop"] = past

    def body(now: float) -> Answer:
        which = turn(now)
        return (200, worlds[which].body()) if which >= 0 else (503, "no healthy upstream")

    return Server(body, worlds[:counted])


# --- Work that nobody admits ------------------------------------------------------------------------------------

PATIENCE = 60.0
"""Seconds after which the clients of a server that does not answer give up."""


def deaf(*, load: bool) -> Server:
    """The input thread of the engine died: gauges say idle, requests hang until their clients give up.

    https://github.com/vllm-project/vllm/issues/47958, https://github.com/vllm-project/vllm/issues/26139
    """
    only, gate, left = engine(), front(), [0]

    def script(world: World, now: float) -> None:
        if now > 45 and world.fault is None and not only.running:
            only.deaf, only.rate, world.fault = True, 1.0, now
        if now > 38 and world.fault is None:
            only.rate = 0.0
        if world.fault is not None and now - world.fault > PATIENCE:
            gone = int(now - world.fault - PATIENCE) - left[0]
            left[0] += gone
            gate.posts, gate.open = gate.posts + gone, gate.open - gone

    server = alone(World([only], gate, script))
    if load:
        server.endpoints["/load"] = lambda: (200, {"server_load": gate.open})
    return server


def hang(*, leave: bool = False, few: bool = False, files: bool = True, posts: bool = True) -> Server:
    """No step any more while requests run: their clients wait on, or (`leave`) all leave at once, a mass abort.

    https://github.com/LMCache/LMCache/issues/4759; the mass abort: https://github.com/vllm-project/vllm/issues/22545
    """
    only, gate = engine(), front()

    def script(world: World, now: float) -> None:
        if now > 40 and len(only.running) >= 3 and world.fault is None:
            only.frozen, only.rate, world.fault = True, 1.0 / 60.0 if few else 0.0, now
            if leave:
                gate.posts, gate.open = gate.posts + len(only.running), gate.open - len(only.running)

    world = World([only], gate, script)

    def body(_: float) -> Answer:
        kept = [line for line in world.body().splitlines(keepends=True)
                if (files or "process_open_fds" not in line) and (posts or "http_requests_total" not in line)]  # fmt: skip
        return 200, "".join(kept)

    return Server(body, (world,))


def livelock(*, grows: bool) -> Server:
    """Nothing runs, nothing is cached, six wait for capacity for ever.

    https://github.com/vllm-project/vllm-metal/issues/479
    """
    only, gate = engine("metal", rate=0.5), front()

    def script(world: World, now: float) -> None:
        if now > 30:
            only.rate = 0.0
        if now > 45 and not only.running and world.fault is None:
            only.frozen, world.fault = True, now
        if world.fault is not None:
            waiting = min(6, 1 + int((now - world.fault) // 20)) if grows else 6
            only.shown, gate.open = (0, waiting, 0.0), waiting

    def reasons(_: World) -> str:
        waiting = float(only.shown[1])
        label = 'model_name="metal",engine="0"'
        return (
            "# TYPE vllm:num_requests_waiting_by_reason gauge\n"
            f'vllm:num_requests_waiting_by_reason{{{label},reason="capacity"}} {waiting!r}\n'
            f'vllm:num_requests_waiting_by_reason{{{label},reason="deferred"}} 0.0\n'
        )

    return alone(World([only], gate, script, after=reasons), models=("metal",))


def held(*, then_waits: bool) -> Server:
    """A prefill node whose KV blocks nobody fetches; with `then_waits` requests come and none is admitted.

    https://github.com/vllm-project/vllm-ascend/issues/8326
    """
    only, gate = engine("glm", answer=1, prefill=0.4), front()

    def script(world: World, now: float) -> None:
        only.kv_held = min(0.97, now * 0.03)
        if now > 35:
            only.rate = 0.0
        if now > 40 and world.fault is None:
            world.fault = now
        if then_waits and now > 90:
            only.frozen, only.rate, only.shown = True, 0.2, (0, len(only.waiting), 0.97)

    return alone(World([only], gate, script), models=("glm",))


def embedding(*, queueing: bool) -> Server:
    """An embedding model: requests of milliseconds, no generated token, gauges that are nearly always 0.

    https://github.com/gpustack/gpustack/issues/5703
    """
    rate, seats, prefill = (60.0, 4, 0.1) if queueing else (25.0, 64, 0.015)
    only = engine("embed-8b", rate=rate, prompt=120, answer=0, prefill=prefill, seats=seats, kv_each=0.0005)

    world = World([only], front(handler="/v1/embeddings"))
    if queueing:
        return alone(world, models=("embed-8b",))

    def body(_: float) -> Answer:
        only.shown = (0, 0, 0.0)  # no request lasts until a poll
        return 200, world.body()

    return Server(body, (world,), models=("embed-8b",))


def compiling(*, often: bool) -> Server:
    """A kernel is compiled in the middle of serving: the process answers nothing, then goes on where it was.

    https://github.com/ai-dynamo/dynamo/pull/14735
    """
    only = engine("v4-pro", rate=1.0)

    def blocked(now: float) -> bool:
        return now > 40 and now % 100 < 40 if often else 40 < now < 100

    def script(_: World, now: float) -> None:
        only.frozen = blocked(now)

    return alone(World([only], front(), script), models=("v4-pro",), silent=blocked)


# --- Which limit is it? -----------------------------------------------------------------------------------------


def runaway() -> Server:
    """One request generates for an hour, fourteen wait behind it; the KV cache is at 76.5 % and rises slowly.

    https://github.com/intel/llm-scaler/issues/391
    """
    only, gate = engine("xpu", rate=0.0, answer=10**6, step=0.185, seats=1, kv_each=0.01), front()
    only.waiting = [0.0] * 15
    gate.open = 15

    def script(_: World, now: float) -> None:
        only.kv_held = 0.755 + now * 2e-5

    return alone(World([only], gate, script), models=("xpu",))


def full_batch() -> Server:
    """All seats are taken, the KV cache is half full, the queue grows, nothing is preempted.

    https://github.com/vllm-project/vllm/issues/13508
    """
    return alone(
        World([engine("qwen-72b", rate=6.0, answer=200, seats=16, kv_each=0.035)], front()), models=("qwen-72b",)
    )
