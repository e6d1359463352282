"""Sends alerts to a real Alertmanager with the generated routes and inhibitions, and returns its notifications."""

from __future__ import annotations

import json
import subprocess
import threading
import time
import urllib.request
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, Any

import yaml

from loopback import free_port, wait_for
from vllm_sidecar import cli

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from pathlib import Path

WAIT, SETTLE = 2, 7.0
"""Seconds of `group_wait` and `group_interval`, and until every group has been notified."""
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
        hook = stack.enter_context(_webhook(received))
        address = f"127.0.0.1:{free_port()}"
        _configure(folder, hook)
        command = [program, f"--config.file={folder}/alertmanager.yml", f"--storage.path={folder}/alerts",
                   f"--web.listen-address={address}", "--cluster.listen-address="]  # fmt: skip
        log = stack.enter_context((folder / "alertmanager.log").open("wb"))
        process = stack.enter_context(subprocess.Popen(command, stdout=log, stderr=log))
        stack.callback(process.kill)
        wait_for(f"http://{address}/-/ready")
        body = [{"labels": labels, "annotations": {"summary": "a", "description": "b"}} for labels in alerts]
        headers = {"Content-Type": "application/json"}
        request = urllib.request.Request(f"http://{address}/api/v2/alerts", json.dumps(body).encode(), headers)
        with urllib.request.urlopen(request, timeout=20) as answer:  # noqa: S310 - loopback
            answer.read()
        time.sleep(SETTLE)
    return received


def _configure(folder: Path, hook: str) -> None:
    """Write the generated configuration with a webhook for every receiver, and seconds for every wait."""
    assert cli.main(["generate", "alertmanager", "--out", str(folder)]) == 0
    file = folder / "alertmanager.yml"
    routing = yaml.safe_load(file.read_text())
    for receiver in routing["receivers"]:
        name = receiver["name"]
        receiver.clear()
        receiver.update(name=name, webhook_configs=[{"url": hook}])
    _hurry(routing["route"])
    file.write_text(yaml.safe_dump(routing))


def _hurry(route: dict[str, Any]) -> None:
    route.update(group_wait=f"{WAIT}s", group_interval=f"{WAIT}s")
    for each in route.get("routes", []):
        _hurry(each)


@contextmanager
def _webhook(received: Received) -> Iterator[str]:
    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            received.bodies.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
            self.send_response(200)
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}/"
    finally:
        server.shutdown()
        server.server_close()
        thread.join(5.0)
