"""Connections that open while no engine makes progress: an engine that hangs from its start is not called idle."""

from __future__ import annotations

from types import SimpleNamespace
from typing import TYPE_CHECKING

import pytest

from vllm_sidecar.tools.doctor.diagnosis import Source, diagnose
from vllm_sidecar.tools.doctor.new_connections import NewConnections

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

IDLE = {"name": "idle", "severity": "fine", "text": "idle: no requests"}


def seen(polls: Iterable[tuple[float | None, float]]) -> Mapping[str, float]:
    """Follow a server whose polls have these open files and seconds since the last progress."""
    connections = NewConnections()
    for files, age in polls:
        samples = {"progress_age_seconds": [("", age)], "server_open_fds": [] if files is None else [("", files)]}
        connections.follow([SimpleNamespace(target="", samples=samples)])  # type: ignore[list-item]
    return connections.found()


def test_connections_that_arrive_one_after_the_other_without_progress_are_counted() -> None:
    assert seen((36.0 + 2 * second, second) for second in map(float, range(10))) == {"": 18.0}


@pytest.mark.parametrize(
    "polls",
    [
        [(36.0, second) for second in map(float, range(10))],
        [(36.0 if second < 5 else 60.0, second) for second in map(float, range(10))],
        [(36.0 + 2 * second, 0.0 if second % 2 else 1.0) for second in map(float, range(10))],
        [(36.0 + second // 2.0, second) for second in map(float, range(10))],
        [(None, second) for second in map(float, range(10))],
    ],
    ids=["none", "a pool that is opened at once", "an engine that makes progress", "few", "open files not exposed"],
)
def test_other_files_are_not(polls: list[tuple[float | None, float]]) -> None:
    assert not seen(polls)


def test_an_idle_server_with_many_new_connections_is_not_fine() -> None:
    status = {"targets": [{"target": None, "up": True, "state": IDLE}], "gpus": None}
    (calm,) = diagnose(status, Source("http://h:8000", 30.0))
    assert (calm.severity, calm.headline) == ("fine", "idle: no requests")
    (found,) = diagnose(status, Source("http://h:8000", 30.0, connections={"": 18.0}))
    assert found.severity == "unknown"
    assert found.headline.startswith("18 more connections are open than before and none was answered")
    assert found.headline.endswith("Now idle: no requests")
    assert found.unknown[0].startswith("whether requests are answered: curl -m 60 http://HOST:8000/v1/completions")
