"""Saved bodies of /metrics -> observations: one counts since the start of its server, two from one to the other."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from vllm_sidecar.catalog.reasons import HINTS, PollError
from vllm_sidecar.catalog.types import PREFIX
from vllm_sidecar.exposition import DifferentialParser
from vllm_sidecar.logs import UserError
from vllm_sidecar.serve.target_parts import check_usable
from vllm_sidecar.slices import at_once
from vllm_sidecar.tools.compare.facts import EXPORTED, exported_facts, facts_of, kv_cache_fact, size_facts
from vllm_sidecar.tools.compare.measures import READ
from vllm_sidecar.tools.compare.observation import Growth, Observation, Values, bounds_of, values_of
from vllm_sidecar.tools.exported.series import by_target, metrics, readings_of
from vllm_sidecar.vllm.normalize import Normalizer
from vllm_sidecar.vllm.probes.endpoints import parse_cache_config

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from vllm_sidecar.exposition.layout import Exposition
    from vllm_sidecar.series.readings import Readings


_METRICS = metrics((*READ, *EXPORTED))


class _Body(NamedTuple):
    values: Values
    facts: dict[str, str]


def bodies(paths: Sequence[Path], apart: float | None) -> Observation:
    """Read one saved body, or two in order that were saved `apart` seconds one after the other.

    Raises:
        UserError: A file cannot be read, or is not a body of one vLLM server or one sidecar.
    """
    names = " to ".join(path.name for path in paths)
    found = Observation(names, f"saved {'body' if len(paths) == 1 else 'bodies'} {' and '.join(map(str, paths))}")
    read = [_read(path) for path in paths]
    growth = Growth()
    last = read[-1]
    if len(read) == 1:
        growth.start_at_zero(last.values, 0.0)
        found.notes.append(f"{names}: one body counts since the start of its server, and has no polls to judge by")
    else:
        growth.take(0.0, read[0].values)
        found.notes.append(f"{names}: two bodies have no polls to judge by")
    interval = growth.take(apart or 1.0, last.values)
    if interval is not None:
        found.intervals.append(interval._replace(seconds=apart))
    found.facts, found.bounds = last.facts, bounds_of(last.values)
    return found


def _read(path: Path) -> _Body:
    try:
        exposition = DifferentialParser().parse(path.read_bytes())
        if any(name.startswith(PREFIX) for name, _ in exposition.layout.series):
            return _of_sidecar(path, exposition)
        readings = at_once(Normalizer().steps(exposition, None, 0.0))
        check_usable(readings, exposition, None)
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror}") from None
    except PollError as error:
        raise UserError(f"{path}: {error.reason}: {error.detail}. {HINTS[error.reason]}") from None
    return _Body(values_of(readings), _facts(readings))


def _of_sidecar(path: Path, exposition: Exposition) -> _Body:
    servers = by_target(exposition, _METRICS)
    if len(servers) > 1:
        raise UserError(
            f"{path} is of a sidecar with {len(servers)} servers; save the bodies of the servers themselves"
        )
    samples = next(iter(servers.values()), [])
    readings = readings_of(samples)
    return _Body(values_of(readings), exported_facts(samples) | kv_cache_fact(readings))


def _facts(readings: Readings) -> dict[str, str]:
    facts = {"engines": str(max(1, len(readings.engines)))} | size_facts(readings)
    config = readings.cache_config
    if config:
        facts |= facts_of({"flags": parse_cache_config(config[min(config)]).flags})
    models = sorted({group.labels[0] for group in readings.engines if group.labels[0]})
    return facts | ({"models": ", ".join(models)} if models else {})
