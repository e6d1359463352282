"""The installed program scraped by a real Prometheus: no failed scrape, no warning."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from contextlib import ExitStack
from pathlib import Path

import promtool
import pytest
from loopback import wait_for
from ports import free_port
from prometheus_process import configuration, job, prometheus
from sidecar_process import started

pytestmark = pytest.mark.e2e

TESTS = Path(__file__).parents[1]
ROOT = TESTS.parent
STATES = ("idle", "load", "after")
SCRAPES, TRIES = 10, 3


def test_prometheus_scrapes_the_sidecar_without_a_failure_or_a_warning(tmp_path: Path) -> None:
    promtool.program()  # skips, or fails in CI, where Prometheus is not installed
    with ExitStack() as stack:
        upstream = free_port()
        captures = [TESTS / "captures" / f"0.32.0__baseline__{state}.prom" for state in STATES]
        command = [
            sys.executable,
            TESTS / "support" / "fake_vllm.py",
            *captures,
            "--port",
            str(upstream),
            "--interval",
            "4",
        ]
        log = stack.enter_context((tmp_path / "vllm.log").open("wb"))
        process = stack.enter_context(subprocess.Popen(command, stdout=log, stderr=log))
        stack.callback(process.kill)
        wait_for(f"http://127.0.0.1:{upstream}/health")
        running, base = stack.enter_context(started("--vllm.url", f"http://127.0.0.1:{upstream}"))
        found = stack.enter_context(prometheus(tmp_path, configuration(1, job("vllm-sidecar", base))))
        assert promtool.check_config(tmp_path / "prometheus.yml").ok
        for _ in range(120):
            time.sleep(0.5)
            counted = found.query('count_over_time(up{job="vllm-sidecar"}[2m])')
            if counted and int(counted[0]["value"][1]) >= SCRAPES:
                break
        (low,) = found.query('min_over_time(up{job="vllm-sidecar"}[2m])')
        assert low["value"][1] == "1"
        names = set(found.ask("label/__name__/values"))
        assert {"vllm_sidecar_up", "vllm_sidecar_requests_running", "vllm_sidecar_kv_cache_usage_ratio",
                "vllm_sidecar_recent_time_to_first_token_seconds", "process_cpu_seconds_total"} <= names  # fmt: skip
        assert not [name for name in names if name.startswith("vllm:")]
        assert [line for line in found.log.splitlines() if "level=warn" in line or "level=error" in line] == []
        assert running.stop() < second()


def test_sigterm_ends_the_sidecar_within_a_second_while_its_server_hangs() -> None:
    assert any(seconds_to_stop() < second() for _ in range(TRIES))


def second() -> float:
    """Return a second of a machine of its own; the other tests of a parallel run make it longer."""
    return max(1.0, os.getloadavg()[0] / (os.cpu_count() or 1))


def seconds_to_stop() -> float:
    """Start a sidecar whose server accepts connections and never answers; return how long its end takes."""
    with (
        socket.create_server(("127.0.0.1", 0)) as listener,
        started("--vllm.url", f"http://127.0.0.1:{listener.getsockname()[1]}") as (running, base),
    ):
        wait_for(f"{base}/-/healthy")
        time.sleep(0.5)
        seconds = running.stop()
        assert "Traceback" not in running.log
        return seconds


def test_sighup_loads_the_configuration_again_and_keeps_the_old_one_when_it_is_bad(tmp_path: Path) -> None:
    config = tmp_path / "config.yaml"
    config.write_text("vllm: {labels: {team: a}}\n")
    with started("--config.file", str(config)) as (running, base):
        wait_for(f"{base}/metrics", 'vllm_sidecar_up{team="a"')
        config.write_text("vllm: {labels: {team: b}}\n")
        running.process.send_signal(signal.SIGHUP)
        wait_for(f"{base}/metrics", 'vllm_sidecar_up{team="b"')
        config.write_text("vllm: {labels: 5, nonsense: 1}\n")
        running.process.send_signal(signal.SIGHUP)
        wait_for(f"{base}/metrics", "\nvllm_sidecar_config_last_reload_successful 0.0\n")
        wait_for(f"{base}/metrics", 'vllm_sidecar_up{team="b"')
        assert "config_reload_failed" in running.log


def test_a_taken_port_is_told_in_one_line() -> None:
    with started() as (_, base):
        command = [sys.executable, "-m", "vllm_sidecar", "serve", "--web.listen-address", base.removeprefix("http://")]
        done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT / "exporter", timeout=20, check=False)
    assert done.returncode == 1
    assert "already in use; choose another with --web.listen-address" in done.stderr
    assert "Traceback" not in done.stderr
