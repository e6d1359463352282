"""A healthy week of three models on Kubernetes, after one day of history, and the faults that can be put into it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from fleets import demand
from fleets.clock import DAY, FRIDAY, MINUTE, SATURDAY, SUNDAY, THURSDAY, TUESDAY, WEDNESDAY, Grid, at
from fleets.export import Series, Writer
from fleets.faults import Fault, Kind
from fleets.pods import BEFORE, Deployment
from fleets.serving import Shape, replicas

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from fleets.pods import Pod

FEWEST, MOST = 6, 12
"""Replicas of `chat` by night and by day."""
WEEK = Grid(0.0, 8 * DAY, MINUTE)
CHAT = Shape("chat", demand.chat, 15 * MINUTE, batched=True)
LARGE = Shape("large", demand.large, 40 * MINUTE, output_tokens=300.0, step=0.02, first_token=0.7)
NIGHT = Shape("night", demand.night, 10 * MINUTE)
SHAPES = (CHAT, LARGE, NIGHT)
AWAY = ((at(WEDNESDAY, "05:00"), at(WEDNESDAY, "05:15")), (at(SATURDAY, "13:00"), at(SATURDAY, "13:15")))
"""When Prometheus is restarted, and scrapes and evaluates nothing."""
NOISY = Fault(Kind.SLOW, "chat", at(FRIDAY, "15:00"), at(FRIDAY, "16:00"), replicas=1, size=2.2)
HARMLESS = (
    NOISY,
    Fault(Kind.ABORTS, "chat", at(TUESDAY, "16:30"), at(TUESDAY, "16:50"), size=0.12),
    Fault(Kind.ABORTS, "chat", at(THURSDAY, "09:10"), at(THURSDAY, "09:12"), size=0.5),
    Fault(Kind.ABORTS, "large", at(SUNDAY, "22:00"), at(SUNDAY, "22:20"), size=0.15),
)
THRESHOLDS: Mapping[str, object] = {
    "batch_hours": ["02:00-03:00"],
    "models": {
        "large": {"alerts": {name: {"startup": "40m"} for name in ("VllmTargetDown",)}},
    },
}
"""What an operator of this fleet would write."""


def pods() -> dict[str, list[Pod]]:
    """Return the pods of every model: HPA each day, deploys on Tuesday and Thursday, scale to zero each evening."""
    chat, large, night = (Deployment(shape.name, shape.load) for shape in SHAPES)
    chat.scale(BEFORE, FEWEST)
    large.scale(BEFORE, 3)
    for day in range(8):
        night.scale(at(day, "07:00"), 2)
        chat.scale(at(day, "08:00"), MOST)
        if day == TUESDAY:
            chat.deploy(at(day, "11:00"), "r2")
        if day == THURSDAY:
            chat.deploy(at(day, "14:00"), "r3")
            large.deploy(at(day, "10:00"), "r2", surge=1)
        chat.scale(at(day, "20:00"), FEWEST)
        night.scale(at(day, "21:00"), 0)
    return {each.model: each.pods for each in (chat, large, night)}


def scraped(
    grid: Grid = WEEK, faults: Sequence[Fault] = (), models: Sequence[str] = ("chat", "large", "night")
) -> Series:
    """Return what Prometheus has of a part of the week, with faults put into it."""
    series, own = Series(grid), pods()
    number = 0
    for shape in SHAPES:
        if shape.name not in models:
            continue
        for replica in replicas(shape, own[shape.name], grid, (*HARMLESS, *faults)):
            number += 1
            Writer(series, replica, number).write()
    for begin, end in AWAY:
        series.interrupt(begin, end)
    return series
