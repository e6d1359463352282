"""Sends alerts to a real Alertmanager with the generated routes and inhibitions, and returns its notifications."""

from __future__ import annotations

import json
import time
import urllib.request
from contextlib import ExitStack
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import receivers
from alertmanager import alertmanager

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

WAIT, QUIET = 1, 3.5
"""Seconds of `group_wait` and `group_interval`, and without a notification after which no other one is due."""
Alert = dict[str, str]
"""Labels of one."""


@dataclass(frozen=True)
class Notification:
    """What one group of alerts became at a receiver."""

    receiver: str
    group: Mapping[str, str]
    alerts: tuple[Alert, ...]

    @property
    def names(self) -> frozenset[str]:
        """Names of its alerts."""
        return frozenset(alert["alertname"] for alert in self.alerts)


class Received:
    """Bodies of a webhook."""

    def __init__(self) -> None:
        """Begin with none."""
        self.bodies: list[dict[str, Any]] = []
        self.last = time.monotonic()

    def take(self, body: dict[str, Any]) -> None:
        """Keep one."""
        self.bodies.append(body)
        self.last = time.monotonic()

    def notifications(self, receiver: str) -> list[Notification]:
        """Return the last state of every group of a receiver."""
        groups = {body["groupKey"]: body for body in self.bodies if body["receiver"] == receiver}
        return [
            Notification(receiver, body["groupLabels"], tuple(each["labels"] for each in body["alerts"]))
            for body in groups.values()
        ]


def sent(program: str, folder: Path, alerts: Sequence[Alert]) -> Received:
    """Send alerts at once; return what was notified once everything has settled."""
    received = Received()
    with ExitStack() as stack:
        hook = stack.enter_context(receivers.webhook(received.take))
        receivers.configured(folder, hook, f"{WAIT}s", f"{WAIT}s")
        address = stack.enter_context(alertmanager(folder, program))
        body = [{"labels": labels, "annotations": {"summary": "a", "description": "b"}} for labels in alerts]
        headers = {"Content-Type": "application/json"}
        request = urllib.request.Request(f"http://{address}/api/v2/alerts", json.dumps(body).encode(), headers)
        with urllib.request.urlopen(request, timeout=20) as answer:  # noqa: S310 - loopback
            answer.read()
        received.last = time.monotonic()
        while time.monotonic() - received.last < QUIET:
            time.sleep(0.1)
    return received
