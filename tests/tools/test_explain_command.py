"""The table of a running sidecar's buckets."""

from __future__ import annotations

import json
import socket
import time
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler, HTTPServer
from threading import Thread
from typing import TYPE_CHECKING

import pytest

from vllm_sidecar.cli import main
from vllm_sidecar.tools import explain_command

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

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


@contextmanager
def odd_server(answer: Callable[[socket.socket], None]) -> Iterator[str]:
    """Serve connections as the test says."""
    with socket.create_server(("127.0.0.1", 0)) as listening:

        def serve() -> None:
            connection, _ = listening.accept()
            with connection, suppress(OSError):
                connection.recv(4096)
                answer(connection)

        thread = Thread(target=serve, daemon=True)
        thread.start()
        yield f"http://127.0.0.1:{listening.getsockname()[1]}"
        thread.join(10.0)


def drip(connection: socket.socket) -> None:
    connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n")
    for _ in range(40):
        connection.sendall(b" ")
        time.sleep(0.05)


@pytest.mark.parametrize(
    ("answer", "why"),
    [
        (drip, "did not answer in full within 0.5 s"),
        (lambda _: time.sleep(2.0), "did not answer in full within 0.5 s"),
        (lambda connection: connection.sendall(b"SSH-2.0\r\n"), "something that is not HTTP"),
        (lambda connection: connection.sendall(b"HTTP/1.1 503 No\r\n\r\n"), "answers with HTTP 503"),
    ],
    ids=["drips", "is silent", "is of another protocol", "is unavailable"],
)
def test_a_server_that_does_not_answer_as_it_should_is_given_up_in_time(
    answer: Callable[[socket.socket], None],
    why: str,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(explain_command, "TIMEOUT", 0.5)
    with odd_server(answer) as url:
        began = time.monotonic()
        assert main(["explain-quantiles", url]) == 1
        assert time.monotonic() - began < 1.5
    shown = capsys.readouterr().err
    assert why in shown
    assert len(shown.splitlines()) == 1
