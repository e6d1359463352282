"""The same lists, read by a real Prometheus and by the real program: the same addresses are watched."""

from __future__ import annotations

import json
import threading
import time
import urllib.request
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, Any

import promtool
import pytest
import yaml
from prometheus_process import prometheus
from sidecar_process import started

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from prometheus_process import Prometheus

pytestmark = pytest.mark.e2e

JSON = [
    {"targets": ["127.0.0.1:9001", "127.0.0.1:9002"], "labels": {"team": "search", "job": "chat"}},
    {"targets": ["localhost:9003"], "labels": {"__scheme__": "https", "__metrics_path__": "/vllm/metrics"}},
    {"targets": ["[::1]:9004", "127.0.0.1"]},
]
YAML = "- targets: ['127.0.0.1:9005']\n  labels: {team: ads, pod: chat-0}\n- targets: ['127.0.0.1:9001']\n"
HTTP = [{"targets": ["127.0.0.1:9006"], "labels": {"team": "code"}}, {"targets": []}]


@contextmanager
def list_server(groups: object) -> Iterator[str]:
    """A web service in the format of http_sd."""

    class Lists(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.send_header("Content-Type", "application/json")
            self.end_headers()
            self.wfile.write(json.dumps(groups).encode())

        def log_message(self, *_: object) -> None:
            """Write nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Lists)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}/sd"
    finally:
        server.shutdown()
        server.server_close()


def until(get: Callable[[], Any], wanted: object, seconds: float = 30.0) -> None:
    end = time.monotonic() + seconds
    while (found := get()) != wanted and time.monotonic() < end:
        time.sleep(0.2)
    assert found == wanted


def scraped_by_prometheus(server: Prometheus) -> set[str]:
    return {
        target["scrapeUrl"].replace("127.0.0.1/", "127.0.0.1:80/") for target in server.ask("targets")["activeTargets"]
    }


def watched_by_sidecar(base: str) -> set[str]:
    """The addresses of all targets, from the details of their failed polls."""
    with urllib.request.urlopen(f"{base}/api/v1/status") as answer:  # noqa: S310 - loopback
        report = json.load(answer)
    details = [target["last_error"]["detail"].split(": ")[0] for target in report["targets"] if target["last_error"]]
    return {detail.replace("127.0.0.1/", "127.0.0.1:80/") for detail in details}


def test_file_and_http_lists_result_in_the_addresses_that_prometheus_scrapes(tmp_path: Path) -> None:
    promtool.program()  # skips, or fails in CI, where Prometheus is not installed
    (tmp_path / "a.json").write_text(json.dumps(JSON))
    (tmp_path / "b.yml").write_text(YAML)
    files = [str(tmp_path / "*.json"), str(tmp_path / "*.yml")]
    with list_server(HTTP) as url:
        jobs = {"global": {"scrape_interval": "1s"}, "scrape_configs": [{"job_name": "vllm", "file_sd_configs": [
            {"files": files}], "http_sd_configs": [{"url": url, "refresh_interval": "5s"}]}]}  # fmt: skip
        ours = {
            "gpu": {"devices": "none"},
            "discovery": {"file": [{"files": files, "refresh": "1s"}], "http": [{"url": url}]},
        }
        (tmp_path / "sidecar.yaml").write_text(yaml.safe_dump(ours))
        (tmp_path / "data").mkdir()
        with (
            prometheus(tmp_path, jobs) as server,
            started("--config.file", str(tmp_path / "sidecar.yaml")) as (_, base),
        ):
            wanted = {
                "http://127.0.0.1:9001/metrics",
                "http://127.0.0.1:9002/metrics",
                "https://localhost:9003/vllm/metrics",
                "http://[::1]:9004/metrics",
                "http://127.0.0.1:80/metrics",
                "http://127.0.0.1:9005/metrics",
                "http://127.0.0.1:9006/metrics",
            }
            until(lambda: scraped_by_prometheus(server), wanted)
            until(lambda: watched_by_sidecar(base), wanted)

            (tmp_path / "a.json").write_text(json.dumps(JSON[:1]))
            (tmp_path / "b.yml").write_text("[]")
            fewer = {f"http://127.0.0.1:{port}/metrics" for port in (9001, 9002, 9006)}
            until(lambda: watched_by_sidecar(base), fewer)
            until(lambda: scraped_by_prometheus(server), fewer)
