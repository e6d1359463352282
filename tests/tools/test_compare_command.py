"""The command `compare`: every source, every form, exit codes, and mistakes in one line."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from typing import TYPE_CHECKING

import pytest
import recorded
from places import CAPTURES, EXPORTER
from prometheus_process import configuration, job, prometheus
from sidecar_process import sidecar
from simulator_process import simulator

from vllm_sidecar.cli import main

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = [pytest.mark.io, pytest.mark.slow]  # whole programs, for seconds each
IDLE, LOAD = CAPTURES / "0.32.0__baseline__idle.prom", CAPTURES / "0.32.0__baseline__load.prom"


def compare(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str, str]:
    code = main(["compare", *arguments])
    printed = capsys.readouterr()
    return code, printed.out, printed.err


def recording(folder: Path, name: str, seed: int, **overrides: object) -> str:
    return str(recorded.write(folder / name, recorded.polls("healthy", 60, seed=seed, **overrides)))


def test_recordings_are_compared_in_all_forms(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    a = recording(tmp_path, "a.gz", 1)
    slow = recording(tmp_path, "slow.gz", 2, **{"traffic.slowdown": 1.6})
    code, out, err = compare(capsys, a, slow)
    assert (code, err) == (4, "")
    assert out.startswith("DIFFERENT: A and B differ in ")
    assert "mean inter-token latency: no: it differs by x1." in out
    code, out, _ = compare(capsys, a, slow, "--format", "markdown")
    assert "### Latency\n|  | A | B | B against A | interval | would show |  |" in out
    code, out, _ = compare(capsys, a, slow, "--format", "json")
    report = json.loads(out)
    assert report["result"] == "different"
    assert {"itl"} <= {each["measure"] for each in report["measures"] if each["different"]}
    code, out, _ = compare(capsys, a, a)
    assert code == 0
    assert "there is no difference that this much data can show" in out


def test_a_server_and_its_sidecar_are_the_same(capsys: pytest.CaptureFixture[str]) -> None:
    with simulator() as (_, url), sidecar("--vllm.url", url) as base:
        time.sleep(3.0)
        code, out, err = compare(capsys, url, f"sidecar+{base}", "--for", "25s", "--format", "json")
        report = json.loads(out)
        assert (code, err, report["facts"]) == (0, "", [])
        for arguments, expected in (
            ((f"sidecar+{url}", base), "no status of a sidecar"),
            ((f"sidecar+{base}#x", base), "has no server 'x'"),
            ((url, url), "a server is given twice"),
        ):
            code, _, err = compare(capsys, *arguments, "--for", "1s")
            assert code == 1
            assert expected in err


def test_two_times_of_prometheus_are_compared(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with (
        simulator("--scenario", "healthy 30s -> slow-decode 300s") as (_, url),
        sidecar("--vllm.url", url) as base,
        prometheus(tmp_path, configuration(1, job("vllm-sidecar", base))) as server,
    ):
        began = time.time()
        time.sleep(56.0)
        times = ("--at", f"{began + 24.0:.0f}", "--at", f"{time.time():.0f}")
        code, out, err = compare(capsys, "--prometheus", server.url, *times, "--for", "22s")
        assert (code, err) == (4, ""), out
        assert "mean inter-token latency" in out
        for arguments, expected in (
            ((server.url, "--at", "now-1d", "--at", "now"), "Prometheus has no vllm_sidecar_* series in 30m until"),
            ((server.url, "--at", "now", "--at", "now", "--selector", "x={"), "written as in PromQL"),
            ((base, "--at", "now", "--at", "now"), "Prometheus: "),
            ((server.url, "--at", "now"), "needs two --at"),
            ((server.url, "--at", "soon", "--at", "now"), "--at: got soon and now; allowed: a time such as now"),
        ):
            code, out, err = compare(capsys, "--prometheus", *arguments)
            assert (code, out) == (1, "")
            assert expected in err


def test_saved_bodies_are_shown_but_not_judged(capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = compare(capsys, str(LOAD), f"{IDLE},{LOAD}", "--apart", "30s")
    assert code == 5
    assert "one body counts since the start of its server, and has no polls to judge by" in out
    assert "not judged" in out


def test_half_a_recording_is_compared_with_a_note(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    a = recording(tmp_path, "a.gz", 1)
    half = tmp_path / "half.gz"
    half.write_bytes((tmp_path / "a.gz").read_bytes()[: (tmp_path / "a.gz").stat().st_size * 3 // 4])
    code, out, _ = compare(capsys, a, str(half))
    assert code in (0, 5)
    assert "the recording is not complete: the file ends early" in out


def test_servers_of_one_recording_are_compared(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    events = sorted(
        (*recorded.polls("healthy", 40, 0, seed=1), *recorded.polls("healthy", 40, 1, seed=2)), key=lambda each: each.at
    )
    path = str(recorded.write(tmp_path / "two.gz", events, "one", "two"))
    code, out, _ = compare(capsys, path)
    assert code == 0
    assert "A: recording" in out
    code, _, err = compare(capsys, path, str(LOAD))
    assert code == 1
    assert "has 2 servers (one, two): name one as in" in err
    assert compare(capsys, f"{path}#one", f"{path}#two")[0] == 0


def test_ctrl_c_shows_what_is_known() -> None:
    with simulator() as (_, one), simulator() as (_, two):
        command = [sys.executable, "-m", "vllm_sidecar", "compare", one, two, "--for", "300s"]
        environment = os.environ | {"PYTHONPATH": str(EXPORTER)}
        with subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment
        ) as process:
            time.sleep(10.0)
            process.send_signal(signal.SIGINT)
            out, err = process.communicate(timeout=20)
    assert (process.returncode in (0, 5), err) == (True, "")
    assert "it was interrupted: this is what was known then" in out
    assert "\033" not in out, "colors are for terminals"


def test_a_server_that_does_not_answer_is_named_and_the_other_is_shown(capsys: pytest.CaptureFixture[str]) -> None:
    code, out, err = compare(capsys, str(LOAD), "http://127.0.0.1:1", "--for", "3s")
    assert (code, err) == (5, "")
    assert "no poll succeeded: refused: " in out


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ((), "there is only one side"),
        ((str(LOAD),), "there is only one side"),
        (("/missing.prom", str(LOAD)), "cannot read /missing.prom: No such file"),
        ((f"{IDLE},{LOAD}", str(LOAD)), "add --apart, such as --apart 30s"),
        ((f"{IDLE},{LOAD},{LOAD}", str(LOAD)), "a side is one recording, one saved body, or two bodies"),
        ((str(LOAD), str(LOAD), "--at", "now"), "--at and --selector are for --prometheus"),
        ((str(LOAD), "--prometheus", "http://h:9090"), "either sources or --prometheus"),
        ((str(CAPTURES), str(LOAD)), "cannot read"),
    ],
)
def test_mistakes_are_named(arguments: tuple[str, ...], expected: str, capsys: pytest.CaptureFixture[str]) -> None:
    code, out, err = compare(capsys, *arguments)
    assert (code, out) == (1, "")
    assert expected in err


@pytest.mark.parametrize(
    ("content", "expected"),
    [(b"<html>", "not_prometheus"), (b"a 1\n", "no_vllm_metrics"), (b"", "empty")],
)
def test_a_body_that_is_not_of_vllm_is_refused_with_its_reason(
    content: bytes, expected: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "m.prom"
    file.write_bytes(content)
    code, out, err = compare(capsys, str(file), str(LOAD))
    assert (code, out) == (1, "")
    assert f"m.prom: {expected}: " in err
