"""A recorded body that comes alive: at each request all counters and histograms are those of one request more.

The n-th body has n times what was recorded of every counter, so that rates, quantiles and means are those of the
recording; gauges stay.
"""

from __future__ import annotations

import math
import re
import threading
import time
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

STEP_SECONDS = 1.0
_TYPE = re.compile(r"^# TYPE (\S+) (\w+)$", re.MULTILINE)
_SUFFIX = re.compile(r"(_bucket|_sum|_count|_total)$")


def grown(body: str, times: int) -> str:
    """Return a body with its counters and histograms multiplied."""
    growing = {name for name, kind in _TYPE.findall(body) if kind in ("counter", "histogram")}
    lines = []
    for line in body.splitlines():
        name = re.split(r"[{ ]", line, maxsplit=1)[0]
        if not line.startswith("#") and (name in growing or _SUFFIX.sub("", name) in growing):
            head, _, value = line.rpartition(" ")
            lines.append(f"{head} {float(value) * times!r}")
        else:
            lines.append(line)
    return "\n".join(lines) + "\n"


@contextmanager
def serving(body: str, version: str, *, step: float = STEP_SECONDS, steps: float = math.inf) -> Iterator[str]:
    """Serve a body that grows each `step` seconds, `steps` times, and the server's version; yield its address."""
    began, ended = time.monotonic(), threading.Event()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            if ended.is_set():  # a connection that is kept alive outlives the listener
                self.close_connection = True
                return
            path = self.path.partition("?")[0]
            if path == "/metrics":
                self._answer(200, grown(body, 1 + int(min(steps, (time.monotonic() - began) / step))), "text/plain")
            elif path == "/version":
                self._answer(200, f'{{"version": "{version}"}}', "application/json")
            elif path == "/v1/models":
                card = '{"id": "tiny", "object": "model", "root": "tiny", "parent": null, "max_model_len": 2048}'
                self._answer(200, f'{{"object": "list", "data": [{card}]}}', "application/json")
            else:
                self._answer(200 if path in ("/health", "/ping") else 404, "", "text/plain")

        def _answer(self, status: int, text: str, kind: str) -> None:
            content = text.encode()
            self.send_response(status)
            self.send_header("Content-Type", kind)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}"
    finally:
        ended.set()
        server.shutdown()
        server.server_close()
        thread.join(5.0)
