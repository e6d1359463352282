"""The body of /metrics: the meters of the simulated engines in the names of a release and front end."""

from __future__ import annotations

from typing import TYPE_CHECKING

from vllm_sidecar.catalog.upstream import CACHE_CONFIG, LORA_INFO, PROCESS_START, PYTHON_INFO
from vllm_sidecar.simulator.families import MODEL_SCOPE
from vllm_sidecar.simulator.meters import HistogramMeter

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from vllm_sidecar.simulator.dialects import SimulatedDialect
    from vllm_sidecar.simulator.families import SimulatedFamily
    from vllm_sidecar.simulator.lookalike import Lookalike

Pairs = tuple[tuple[str, str], ...]


def exposition(look: Lookalike) -> bytes:
    """Write the current content of `/metrics`."""
    return "".join(_lines(look)).encode()


def _lines(look: Lookalike) -> Iterator[str]:
    dialect = look.dialect
    if dialect.own_process:
        yield from _process(look)
    for family in dialect.families:
        yield from _family(look, family)
    if not dialect.rust:
        yield from _cache_config(look)
    if look.settings.max_loras:
        yield from _lora(look)
    if not dialect.ray:
        yield from _http(look)
    if dialect.rust:
        yield "# EOF\n"


def _process(look: Lookalike) -> Iterator[str]:
    for name, labels, value in (
        (PYTHON_INFO, '{implementation="CPython",major="3",minor="12",patchlevel="11",version="3.12.11"}', 1.0),
        (PROCESS_START, "", look.started),
        ("process_open_fds", "", 60.0 + look.in_flight),
        ("process_max_fds", "", 65536.0),
    ):
        yield f"# HELP {name} Of the API server.\n# TYPE {name} gauge\n{name}{labels} {value!r}\n"


def _family(look: Lookalike, family: SimulatedFamily) -> Iterator[str]:
    dialect, name, kind = look.dialect, family.name, family.kind
    shown = name
    if dialect.ray and kind == "counter":
        shown = name.removesuffix("_total")  # Ray's agent writes them without
    head = name.removesuffix("_total") if dialect.rust and kind == "counter" else shown
    full = dialect.prefix + shown
    lines: list[str] = []
    created: list[str] = []
    engines = look.engines[:1] if name in MODEL_SCOPE else look.engines
    for number, engine in enumerate(engines):
        labels = _labels(look, None if name in MODEL_SCOPE else number)
        found = family.read(engine.meters, look.settings)
        if isinstance(found, HistogramMeter):
            lines += _histogram(full, found, labels, dialect)
            created.append(_text(labels, dialect))
            continue
        for extra, value in found:
            text = _text((*labels, *extra), dialect)
            lines.append(f"{full}{text} {_number(value, rust=dialect.rust)}\n")
            created.append(text)
    if lines:
        yield f"# HELP {dialect.prefix}{head} Simulated.\n# TYPE {dialect.prefix}{head} {kind}\n"
        yield from lines
        if dialect.own_process and kind != "gauge":
            stem = dialect.prefix + (name.removesuffix("_total") if kind == "counter" else name) + "_created"
            yield f"# HELP {stem} Simulated.\n# TYPE {stem} gauge\n"
            for text in created:
                yield f"{stem}{text} {look.started!r}\n"


def _labels(look: Lookalike, engine: int | None) -> Pairs:
    model = (("model_name", look.settings.model_name),)
    if look.dialect.ray:
        model = (*model, ("ReplicaId", "replica-1"), ("WorkerId", "worker-1"))  # type: ignore[assignment]
    return model if engine is None or look.dialect.engine == "v0" else (("engine", str(engine)), *model)


def _text(labels: Iterable[tuple[str, str]], dialect: SimulatedDialect) -> str:
    pairs = list(labels)
    # Python sorts labels by name; Rust has the model first.
    pairs.sort(key=lambda pair: (pair[0] != "model_name", pair[0]) if dialect.rust else pair[0])
    return "{" + ",".join(f'{name}="{_escaped(value)}"' for name, value in pairs) + "}"


def _escaped(value: str) -> str:
    return value.replace("\\", r"\\").replace("\n", r"\n").replace('"', r"\"")


def _number(value: float, *, rust: bool) -> str:
    return str(int(value)) if rust and value.is_integer() else repr(value)


def _histogram(name: str, found: HistogramMeter, labels: Pairs, dialect: SimulatedDialect) -> list[str]:
    own = _text(labels, dialect)
    template = _text((*labels, ("le", "%s")), dialect).replace("%s", "\0").replace("%", "%%").replace("\0", "%s")
    lines, below = [], 0
    for bound, count in zip((*map(repr, found.bounds), "+Inf"), found.counts, strict=True):
        below += count
        lines.append(f"{name}_bucket{template % bound} {_number(float(below), rust=dialect.rust)}\n")
    count_line = f"{name}_count{own} {_number(float(below), rust=dialect.rust)}\n"
    sum_line = f"{name}_sum{own} {found.total!r}\n"
    return [sum_line, count_line, *lines] if dialect.rust else [*lines, count_line, sum_line]


def _cache_config(look: Lookalike) -> Iterator[str]:
    settings, dialect = look.settings, look.dialect
    blocks = settings.num_gpu_blocks * settings.data_parallel_size
    config = {
        "block_size": str(settings.block_size),
        "cache_dtype": "auto",
        "enable_prefix_caching": str(settings.enable_prefix_caching),
        "gpu_memory_utilization": str(settings.gpu_memory_utilization),
        "num_cpu_blocks": "None" if dialect.engine == "v1" else "0",
        "num_gpu_blocks": str(blocks),
        "sliding_window": "None",
    }
    if dialect.key >= (0, 24):
        config["kv_cache_size_tokens"] = str(settings.num_gpu_blocks * settings.block_size)
    name = dialect.prefix + CACHE_CONFIG
    yield f"# HELP {name} Simulated.\n# TYPE {name} gauge\n"
    engines = range(settings.data_parallel_size) if dialect.engine == "v1" else (None,)
    for engine in engines:
        own = {} if engine is None else {"engine": str(engine)}
        yield f"{name}{_text((config | own).items(), dialect)} 1.0\n"


def _lora(look: Lookalike) -> Iterator[str]:
    name = look.dialect.prefix + LORA_INFO
    yield f"# HELP {name} Simulated.\n# TYPE {name} gauge\n"
    for (running, waiting), at in look.adapters_seen.items():
        labels = {
            "max_lora": str(look.settings.max_loras),
            "running_lora_adapters": running,
            "waiting_lora_adapters": waiting,
        }
        yield f"{name}{_text(labels.items(), look.dialect)} {at!r}\n"


def _http(look: Lookalike) -> Iterator[str]:
    name = "http_requests_total"
    yield f"# HELP {name} Simulated.\n# TYPE {name} counter\n"
    for status, count in sorted(look.http.items()):
        labels = f'{{handler="/v1/chat/completions",method="POST",status="{status}"}}'
        yield f"{name}{labels} {float(count)}\n"
