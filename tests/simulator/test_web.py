"""The look-alike over HTTP, as its users run it."""

from __future__ import annotations

import json
import re
import signal
import time
import urllib.request
from typing import Any

import pytest
from simulator_process import simulator

from vllm_sidecar.cli import main

pytestmark = pytest.mark.io


def get(url: str) -> Any:
    with urllib.request.urlopen(url, timeout=10) as answer:  # noqa: S310 # loopback
        body = answer.read().decode()
        return json.loads(body) if answer.headers.get_content_type() == "application/json" else body


def test_it_answers_where_vllm_answers_and_tells_the_phase_and_the_gpus() -> None:
    with simulator("--scenario", "stall 60s -> healthy", "--speed", "100") as (process, url):
        time.sleep(0.2)
        assert get(f"{url}/health") == ""
        assert get(f"{url}/version") == {"version": "0.33.0"}
        assert get(f"{url}/v1/models")["data"][0]["max_model_len"] == 8192
        assert "vllm:num_requests_running{" in get(f"{url}/metrics")
        only = get(f"{url}/metrics/?name[]=vllm:num_requests_running")
        assert re.fullmatch(r"vllm:num_requests_running\{.*\} \d+\.0\n", only)
        phase = get(f"{url}/simulate/phase")
        assert (phase["phase"], phase["alerts"]) == ("stall", ["VllmReplicasUnavailable", "VllmEngineStalled"])
        assert 0 < phase["seconds_left"] < 60
        fields = get(f"{url}/simulate/gpus")["gpus"][0]["fields"]
        assert (fields["utilization_ratio"], fields["power_watts"]) == (1.0, 95.0)
        process.send_signal(signal.SIGTERM)
        assert process.wait(5) == 0


def test_a_crash_refuses_connections_for_a_while_on_the_same_port() -> None:
    with simulator("--scenario", "crash-loop 1h", "--speed", "40") as (_, url):
        seen = set()
        end = time.monotonic() + 10.0
        while time.monotonic() < end and len(seen) < 3:
            try:
                get(f"{url}/health")
                seen.add("up again" if "down" in seen else "up")
            except OSError:
                seen.add("down")
            time.sleep(0.02)
        assert seen == {"up", "down", "up again"}


def test_a_port_that_is_taken_is_told_in_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    with simulator() as (_, url):
        port = url.rpartition(":")[2]
        assert main(["simulate", "--port", port]) == 1
    message = capsys.readouterr().err.splitlines()[-1]
    assert (
        message
        == f"vllm-sidecar: cannot listen on 127.0.0.1:{port}: address already in use; choose another with --port"
    )


def test_the_list_describes_each_scenario_and_names_its_alerts(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["simulate", "--list"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("healthy: ")
    assert lines[1] == "    alerts: none"
    assert "    alerts: VllmReplicasUnavailable, VllmEngineStalled" in lines


@pytest.mark.parametrize(
    ("flags", "told"),
    [
        (["--speed", "0"], "command line: speed: got 0; allowed: a number above 0"),
        (["--speed", "fast"], 'command line: speed: got "fast"; allowed: a number'),
        (["--seed", "0.5"], "command line: seed: got 0.5; allowed: a whole number"),
        (
            ["--dialect", "v2"],
            "command line: dialect: got \"v2\"; allowed: 'v0', '0.9', '0.11', '0.33', 'rust' or 'ray'",
        ),
        (["--port", "99999"], "cannot listen on 127.0.0.1:99999: a port is a number from 0 to 65535"),
        (["--file", "/nowhere.yaml"], "/nowhere.yaml: cannot be read"),
    ],
)
def test_a_wrong_flag_is_told_in_one_line(flags: list[str], told: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["simulate", *flags]) != 0
    errors = [line for line in capsys.readouterr().err.splitlines() if line.startswith("vllm-sidecar:")]
    assert len(errors) == 1
    assert told in errors[0]
