"""What each generated rule costs in a Prometheus that has a day of a fleet: ranges of hours and days are full there."""

from __future__ import annotations

import time
from statistics import median
from typing import TYPE_CHECKING

from prometheus_process import configuration, prometheus

from fleets.clock import DAY, EPOCH, MINUTE, Grid
from fleets.demand import chat
from fleets.evaluate import Evaluation, rules_of
from fleets.export import Series, Writer
from fleets.pods import BEFORE, Deployment
from fleets.remote_write import FLAGS
from fleets.serving import Shape, replicas

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from prometheus_process import Prometheus

    from fleets.evaluate import Rule

ENGINES, STEP, ROUNDS = 50, 15.0, 5
LATER = 20 * MINUTE


def fleet() -> Series:
    """Return a day and a little more of a model with many replicas."""
    shape = Shape("chat", chat, 10 * MINUTE)
    deployment = Deployment("chat", shape.load)
    deployment.scale(BEFORE, ENGINES)
    series = Series(Grid(0.0, DAY + LATER, STEP))
    for number, replica in enumerate(replicas(shape, deployment.pods, series.grid, ())):
        Writer(series, replica, number).write()
    return series


def cost(folder: Path, files: Sequence[Path], series: Series) -> dict[str, float]:
    """Return milliseconds of one evaluation and engine, by name of the rule, weighted by how often it is evaluated."""
    with prometheus(folder, configuration(15), *FLAGS) as running:
        rules = rules_of(files)
        Evaluation(running, rules).run(series)
        found: dict[str, float] = {}
        for rule in rules:
            found[rule.name] = found.get(rule.name, 0.0) + _one(running, rule, series.grid.end) * STEP / rule.interval
        return found


def _one(running: Prometheus, rule: Rule, now: float) -> float:
    times = []
    for _ in range(ROUNDS):
        began = time.perf_counter()
        running.query(rule.given["expr"], time=EPOCH + now - STEP)
        times.append(time.perf_counter() - began)
    return 1000 * median(times) / ENGINES
