"""The command `doctor`: every source, every form, exit codes, and mistakes in one line."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from typing import TYPE_CHECKING

import bcrypt
import pytest
import recorded
from places import CAPTURES, EXPORTER
from sidecar_process import sidecar
from simulator_process import simulator

from vllm_sidecar.catalog.alerts import ALERTS
from vllm_sidecar.catalog.objectives import SLOS
from vllm_sidecar.cli import main
from vllm_sidecar.serve.state import LIMITS
from vllm_sidecar.tools.doctor.causes import MEANINGS
from vllm_sidecar.tools.doctor.state_ages import StateAges

if TYPE_CHECKING:
    from pathlib import Path

    from vllm_sidecar.serve.snapshot import Snapshot

pytestmark = [pytest.mark.io, pytest.mark.slow]  # promtool and whole programs, for seconds each
IDLE, LOAD = CAPTURES / "0.32.0__baseline__idle.prom", CAPTURES / "0.32.0__baseline__load.prom"


def doctor(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str, str]:
    code = main(["doctor", *arguments])
    printed = capsys.readouterr()
    return code, printed.out, printed.err


def test_a_server_is_diagnosed_from_its_address_alone(capsys: pytest.CaptureFixture[str]) -> None:
    with simulator() as (_, url):
        code, out, err = doctor(capsys, url, "--for", "5s", "--format", "json")
    (report,) = json.loads(out)
    assert (code, err, report["severity"]) == (0, "", "fine")
    assert report["identity"]["models"] == ["meta-llama/Llama-3.1-8B-Instruct"]
    assert any("a stall: it is called one after 120 s, and 5 s were observed" in text for text in report["unknown"])


def test_a_sidecar_already_has_the_minutes(capsys: pytest.CaptureFixture[str]) -> None:
    with simulator("--scenario", "error-burst 300s") as (_, url), sidecar("--vllm.url", url) as base:
        time.sleep(8.0)
        code, out, _ = doctor(capsys, "--from", base, "--format", "markdown")
        assert code in (0, 4)
        assert "### Symptoms" in out
        assert f"(sidecar {base})" in out
        code, _, err = doctor(capsys, "--from", url)
        assert code == 1
        assert "no status of a sidecar" in err


def test_a_sidecar_behind_a_login_is_reached_as_by_the_other_tools(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    hashed = bcrypt.hashpw(b"secret", bcrypt.gensalt(4)).decode()
    web = tmp_path / "web.yml"
    web.write_text(f"basic_auth_users: {{prom: '{hashed}'}}\n")
    with simulator() as (_, url), sidecar("--vllm.url", url, "--web.config.file", str(web)) as base:
        monkeypatch.setenv("VLLM_SIDECAR_VLLM_BEARER_TOKEN_FILE", str(tmp_path / "the-token-of-vllm"))
        code, _, err = doctor(capsys, "--from", base)
        assert code == 1
        assert "401" in err
        login = tmp_path / "login"
        login.write_text("prom:secret\n")
        code, out, err = doctor(capsys, "--from", base, "--basic-auth-file", str(login))
    assert (code in (0, 3, 4, 5), err) == (True, "")
    assert f"(sidecar {base})" in out
    assert "secret" not in out


def test_one_saved_body_says_that_it_has_no_time(capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = doctor(capsys, str(LOAD))
    assert code == 5, "one body does not show whether requests make progress"
    assert "rates, recent latencies and stalls: one body has no time" in out
    assert "high TTFT: unknown: fewer than 5" in out


def test_two_saved_bodies_show_rates(capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = doctor(capsys, str(IDLE), str(LOAD), "--apart", "30s", "--format", "json")
    (report,) = json.loads(out)
    assert code in (0, 3)
    assert report["shape"]["generation_tokens_per_second"] > 0.0
    assert report["past"] is None
    assert any("differ from the past: fewer than 10 requests" in text for text in report["unknown"])
    code, _, err = doctor(capsys, str(IDLE), str(LOAD))
    assert code == 1
    assert "two bodies need the time between them: add --apart" in err


def test_a_signal_while_a_recording_is_played_shows_what_was_played(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    path = recorded.write(tmp_path / "r.gz", recorded.polls("queue-buildup", 90))
    follow, sent = StateAges.follow, list[float]()

    def interrupted(ages: StateAges, snapshots: list[Snapshot], now: float) -> None:
        if now >= 40.0 and not sent:
            sent.append(now)
            os.kill(os.getpid(), signal.SIGTERM)
        follow(ages, snapshots, now)

    monkeypatch.setattr(StateAges, "follow", interrupted)
    _, out, _ = doctor(capsys, str(path))
    assert f"(a part of {path}, observed for " in out
    assert re.search(r"what follows in the recording: [4-6]\d of 90 s were played", out)


def test_half_a_recording_is_diagnosed_with_a_note(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = recorded.write(tmp_path / "r.gz", recorded.polls("queue-buildup", 90))
    half = tmp_path / "half.gz"
    half.write_bytes(path.read_bytes()[: path.stat().st_size * 3 // 4])
    code, out, _ = doctor(capsys, str(half))
    assert code in (0, 3, 4)
    assert "the recording is not complete: the file ends early" in out


@pytest.mark.parametrize("sent", [signal.SIGINT, signal.SIGTERM], ids=["Ctrl-C", "SIGTERM"])
def test_a_signal_shows_what_is_known(sent: signal.Signals) -> None:
    with simulator() as (_, url):
        command = [sys.executable, "-m", "vllm_sidecar", "doctor", url, "--for", "300s"]
        environment = os.environ | {"PYTHONPATH": str(EXPORTER)}
        with subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment
        ) as process:
            time.sleep(8.0)
            process.send_signal(sent)
            out, err = process.communicate(timeout=20)
    assert (process.returncode, err) == (0, "")
    assert out.startswith("FINE: healthy: ")
    assert "\033" not in out, "colors are for terminals"


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (
            ("--from", "http://127.0.0.1:1"),
            "no status of a sidecar: http://127.0.0.1:1/api/v1/status: Connection refused",
        ),
        (("--from", "http://a", "http://b"), "either --from or sources, not both"),
        (
            ("--from", "http://a", "--basic-auth-file", "/missing"),
            "--basic-auth-file: cannot read /missing: No such file",
        ),
        (("--from", "http://a", "--basic-auth-file", str(LOAD)), "must have one line, USER:PASSWORD"),
        (("/missing.prom",), "cannot read /missing.prom: No such file"),
        ((str(LOAD), str(LOAD), str(LOAD)), "give one recording, or one or two saved bodies"),
        (("http://h:8000", "h:8001"), 'vllm.url: got "h:8001"; allowed: http://HOST'),
    ],
)
def test_mistakes_are_named(arguments: tuple[str, ...], expected: str, capsys: pytest.CaptureFixture[str]) -> None:
    code, out, err = doctor(capsys, *arguments)
    assert (code, out) == (1, "")
    assert expected in err


@pytest.mark.parametrize(
    ("content", "expected"),
    [(b"<html>", "down: not_prometheus"), (b"a 1\n", "down: no_vllm_metrics"), (b"", "down: empty")],
)
def test_a_body_that_is_not_of_vllm_is_bad_with_its_reason(
    content: bytes, expected: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "m.prom"
    file.write_bytes(content)
    code, out, err = doctor(capsys, str(file))
    assert (code, err) == (4, "")
    assert expected in out
    assert "errors: unknown: there are no metrics" in out


def test_a_server_that_does_not_answer_is_bad(capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = doctor(capsys, "http://127.0.0.1:1", "--for", "3500ms")
    assert code == 4
    assert "down: refused" in out
    assert "Nothing listens at this address" in out


def test_every_finding_names_an_alert_that_exists() -> None:
    alerts = {each.name for each in ALERTS} | {each.alert for each in SLOS}
    assert {each.alert for each in MEANINGS.values()} <= alerts
    assert {f"queueing:{limit}" for limit in LIMITS} <= MEANINGS.keys()
