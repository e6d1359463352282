"""The table of a running sidecar's buckets."""

from __future__ import annotations

import json
from http.server import BaseHTTPRequestHandler, HTTPServer
from threading import Thread
from typing import TYPE_CHECKING

import pytest

from vllm_sidecar.cli import main

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = pytest.mark.io

QUEUE = {
    "model_name": "m", "engine": "0", "latency": "queue", "moving_level_belief": 0.5,
    "quantiles": [{"quantile": 0.95, "value": 2e-5, "interpolated": 0.285, "bounds": [0.0, 0.3]}],
    "buckets": [
        {"bounds": [0.0, 0.3], "observations": 10.0, "mean": 2e-5, "deviation": 1e-6, "drift": 0.0, "exact_ratio": 0.5},
        {"bounds": [0.3, None], "observations": 1.0, "mean": None, "deviation": None, "drift": None, "exact_ratio": 0},
    ],
}  # fmt: skip


@pytest.fixture
def answers() -> Iterator[tuple[str, list[bytes]]]:
    """Serve a body that the test sets, on loopback."""
    bodies: list[bytes] = []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.end_headers()
            self.wfile.write(bodies[-1])

        def log_message(self, *_: object) -> None:
            pass

    server = HTTPServer(("127.0.0.1", 0), Handler)
    thread = Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}", bodies
    server.shutdown()
    thread.join()
    server.server_close()


def test_the_table_has_quantiles_with_those_of_buckets_alone_and_every_bucket(
    answers: tuple[str, list[bytes]], capsys: pytest.CaptureFixture[str]
) -> None:
    url, bodies = answers
    bodies.append(json.dumps({"targets": [{"target": None, "quantiles": [QUEUE]}]}).encode())
    assert main(["explain-quantiles", url, "--latency", "queue"]) == 0
    shown = capsys.readouterr().out
    assert "p95       20 us   from buckets alone 285 ms" in shown
    assert "0 s to 300 ms" in shown
    assert "300 ms to +Inf" in shown
    assert "unknown" in shown
    assert "counts for 50 %" in shown


@pytest.mark.parametrize("body", [b"[]", b"{}", b"<html>", b'{"targets": []}'])
def test_what_is_not_a_status_with_quantiles_is_an_error_in_one_line(
    body: bytes, answers: tuple[str, list[bytes]], capsys: pytest.CaptureFixture[str]
) -> None:
    url, bodies = answers
    bodies.append(body)
    assert main(["explain-quantiles", url]) == 1
    assert len(capsys.readouterr().err.splitlines()) == 1


@pytest.mark.parametrize("url", ["http://127.0.0.1:1", "file:///etc/passwd", "nothing"])
def test_an_address_without_a_sidecar_is_an_error_in_one_line(url: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["explain-quantiles", url]) == 1
    shown = capsys.readouterr().err
    assert url in shown
    assert len(shown.splitlines()) == 1
