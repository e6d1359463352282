"""A webhook in place of every receiver of the generated Alertmanager configuration."""

from __future__ import annotations

import json
import threading
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, Any

import yaml

from vllm_sidecar import cli

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path


@contextmanager
def webhook(take: Callable[[dict[str, Any]], None]) -> Iterator[str]:
    """Receive what Alertmanager sends, body by body; yield the address."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            take(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
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


def configured(folder: Path, hook: str, wait: str, interval: str) -> None:
    """Write the generated configuration with the webhook for every receiver, and with short waits for every route."""
    assert cli.main(["generate", "alertmanager", "--out", str(folder)]) == 0
    file = folder / "alertmanager.yml"
    routing = yaml.safe_load(file.read_text())
    for receiver in routing["receivers"]:
        name = receiver["name"]
        receiver.clear()
        receiver.update(name=name, webhook_configs=[{"url": hook}])
    _hurry(routing["route"], wait, interval)
    file.write_text(yaml.safe_dump(routing))


def _hurry(route: dict[str, Any], wait: str, interval: str) -> None:
    route.update(group_wait=wait, group_interval=interval)
    for each in route.get("routes", []):
        _hurry(each, wait, interval)
