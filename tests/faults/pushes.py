"""Receivers of OTLP that misbehave, one after the other, for a program that pushes each second."""

from __future__ import annotations

import http.server
import re
import threading
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING, NamedTuple

from sidecar_process import started
from surroundings import get
from table import Group, Row

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

PATIENCE = 30.0
FAILURES = re.compile(r'^vllm_sidecar_otlp_push_failures_total\{reason="([^"]+)"\} (\S+)', re.MULTILINE)
HANGS = 0
"""Instead of a status: no answer."""


class Receiver(NamedTuple):
    """What a receiver answers to each push, and the reason that is counted."""

    name: str
    reason: str
    status: int
    body: bytes = b""
    headers: Mapping[str, str] = {}

    @property
    def promise(self) -> str:
        """Return the expectation in words."""
        return f"`{self.reason}` is counted, scrapes continue, and pushes succeed when it is over"


def receivers() -> Iterator[Receiver]:
    """Yield receivers that misbehave."""
    for status, reason in {400: "refused", 401: "unauthorized", 403: "unauthorized", 404: "not_found", 405: "refused not_found", 413: "too_large", 415: "refused", 422: "refused", 429: "throttled",
                           500: "refused unavailable internal", 502: "unavailable", 503: "unavailable", 504: "unavailable", 301: "refused", 307: "refused"}.items():  # fmt: skip
        yield Receiver(
            f"A receiver that answers {status}",
            reason,
            status,
            b"no",
            {"Location": "http://elsewhere.example/"} if status < 400 else {},
        )
    yield Receiver("A receiver that answers 400 with 1 MB", "refused", 400, b"x" * 1_000_000)
    yield Receiver("A receiver that does not answer", "timeout", HANGS)


class _Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    case: Receiver | None = None

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers.get("Content-Length", 0)))
        case = type(self).case
        if case and case.status == HANGS:
            time.sleep(2.0)
            self.close_connection = True
            return
        body = case.body if case else b""
        self.send_response(case.status if case else 200)
        for name, value in {"Content-Type": "application/x-protobuf", **(case.headers if case else {})}.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        """Print nothing."""


@contextmanager
def _receiving() -> Iterator[str]:
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), _Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}/v1/metrics"
    finally:
        server.shutdown()
        server.server_close()


def judged(title: str, cases: Sequence[Receiver]) -> Group:
    """Let each receiver answer for some pushes; return their rows."""
    with _receiving() as url:
        variables = {"VLLM_SIDECAR_OTLP_ENABLED": "true", "VLLM_SIDECAR_OTLP_URL": url, "VLLM_SIDECAR_OTLP_INTERVAL": "1s", "VLLM_SIDECAR_OTLP_TIMEOUT": "1s"}  # fmt: skip
        with started("--vllm.url", "http://127.0.0.1:1", variables=variables) as (running, base):
            rows = [_row(case, base) for case in cases]
            log = running.log
    if "Traceback" in log:
        rows[-1] = rows[-1]._replace(observed="a traceback in the log, after all of these", held=False)
    return Group(title, rows, f"The log had {len(log.splitlines())} lines.")


def _row(case: Receiver, base: str) -> Row:
    before = _failures(base)
    _Handler.case = case
    reason = _until(lambda: next((name for name, many in _failures(base).items() if many > before.get(name, 0.0)), ""))
    _Handler.case = None
    successes = _last_success(base)
    again = _until(lambda: "yes" if _last_success(base) > successes else "")
    held = reason in case.reason.split() and bool(again)
    return Row(
        case.name,
        case.promise,
        f"{reason or 'nothing'}; pushes {'succeeded' if again else 'did not succeed'} after it",
        held,
    )


def _until(seen: Callable[[], str]) -> str:
    end = time.monotonic() + PATIENCE
    while not (found := str(seen())) and time.monotonic() < end:
        time.sleep(0.2)
    return found


def _failures(base: str) -> dict[str, float]:
    return {name: float(many) for name, many in FAILURES.findall(get(base))}


def _last_success(base: str) -> float:
    found = re.search(r"^vllm_sidecar_otlp_last_success_timestamp_seconds (\S+)", get(base), re.MULTILINE)
    return float(found[1]) if found else 0.0
