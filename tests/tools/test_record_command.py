"""The commands `record` and `replay --serve` as their users run them."""

from __future__ import annotations

import asyncio
import json
import os
import re
import signal
import subprocess
import sys
import time
import urllib.request
from contextlib import contextmanager
from typing import TYPE_CHECKING

import pytest
import recorded
from fake_vllm import FakeVllm
from loopback import wait_for
from places import EXPORTER
from ports import free_port
from simulator_process import simulator

from vllm_sidecar.cli import main
from vllm_sidecar.tools.recording.reader import Reader

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

pytestmark = [pytest.mark.io, pytest.mark.slow]  # promtool and whole programs, for seconds each

ENVIRONMENT = os.environ | {"PYTHONPATH": str(EXPORTER)}


@contextmanager
def program(*arguments: str) -> Iterator[subprocess.Popen[str]]:
    command = [sys.executable, "-m", "vllm_sidecar", *arguments]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=ENVIRONMENT
    ) as process:
        try:
            yield process
        finally:
            process.kill()


def events(path: Path) -> int:
    """Return how many events can be read, also while it is written."""
    try:
        return len(list(Reader(path)))
    except OSError:
        return 0


def wait_for_events(path: Path, count: int) -> None:
    end = time.monotonic() + 30.0
    while events(path) < count:
        assert time.monotonic() < end, "nothing was recorded"
        time.sleep(0.1)


@pytest.mark.parametrize("stop", [signal.SIGINT, signal.SIGTERM])
def test_ctrl_c_ends_a_recording_cleanly(stop: signal.Signals, tmp_path: Path) -> None:
    path = tmp_path / "r.gz"
    with simulator() as (_, url), program("record", url, "-o", str(path), "--interval", "200ms") as process:
        wait_for_events(path, 5)
        process.send_signal(stop)
        out, err = process.communicate(timeout=10)
    assert (process.returncode, err) == (0, "")
    summary, hint = out.splitlines()
    assert re.fullmatch(rf"{path}: \d+ polls in \d+s, 0 of them failed, \d+ KiB", summary)
    assert hint.startswith("GPUs are not recorded: ")
    reader = Reader(path)
    assert len(list(reader)) >= 5
    assert reader.cut_off == ""


def test_a_recording_survives_kill_9(tmp_path: Path) -> None:
    path = tmp_path / "r.gz"
    with simulator() as (_, url), program("record", url, "-o", str(path), "--interval", "200ms") as process:
        wait_for_events(path, 5)
        process.kill()
        process.wait(10)
    reader = Reader(path)
    assert len(list(reader)) >= 5
    assert "ends early" in reader.cut_off


def test_two_servers_and_a_limit_of_time(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "r.gz"
    with simulator() as (_, first), simulator("--dialect", "0.9") as (_, second):
        assert main(["record", first, second, first, "-o", str(path), "--for", "2500ms"]) == 0
    assert "0 of them failed" in capsys.readouterr().out
    reader = Reader(path)
    assert [server.url for server in reader.head.servers] == [first, second]
    assert {event.server for event in reader} == {0, 1}


async def test_a_token_is_sent_and_never_recorded(tmp_path: Path) -> None:
    token = tmp_path / "token"
    token.write_text("geheim-7c1d")
    path = tmp_path / "r.gz"
    async with FakeVllm(next(recorded.polls("healthy", 1)).response.body) as fake:  # type: ignore[union-attr]
        with program(
            "record", fake.url, "-o", str(path), "--for", "1500ms", "--vllm.bearer-token-file", str(token)
        ) as process:
            _, err = await asyncio.to_thread(process.communicate, None, 20)
        sent = fake.requests
    assert (process.returncode, err) == (0, "")
    assert sent[0].headers["authorization"] == "Bearer geheim-7c1d"
    assert "geheim" not in "\n".join(recorded.lines(path))


@pytest.mark.parametrize(
    ("arguments", "code", "expected"),
    [
        (("http://127.0.0.1:1", "--for", "1500ms"), 1, "a poll failed: refused: http://127.0.0.1:1/metrics"),
        (("127.0.0.1:1",), 1, 'vllm.url: got "127.0.0.1:1"; allowed: http://HOST'),
        (("http://127.0.0.1:1", "--for", "soon"), 2, "'soon' is not a duration such as"),
        (("http://127.0.0.1:1", "--max-size", "big"), 2, "'big' is not a size in bytes"),
        (("http://127.0.0.1:1", "--interval", "x"), 1, "scrape.interval"),
        (("--config.file", "/missing"), 1, "/missing: cannot be read"),
    ],
)
def test_mistakes_are_named(
    arguments: tuple[str, ...], code: int, expected: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["record", *arguments, "-o", str(tmp_path / "r.gz")]) == code
    assert expected in capsys.readouterr().err


def test_a_file_of_the_user_is_not_replaced_without_force(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "r.gz"
    path.write_text("mine")
    assert main(["record", "http://127.0.0.1:1", "-o", str(path), "--for", "1s"]) == 1
    assert "exists: choose another file, or add --force" in capsys.readouterr().err
    assert path.read_text() == "mine"
    assert main(["record", "http://127.0.0.1:1", "-o", str(path), "--for", "1s", "--force"]) == 1
    assert len(list(Reader(path))) >= 1


def test_the_recorded_server_answers_again(tmp_path: Path) -> None:
    polls = list(recorded.polls("healthy 20s -> crash-loop 60s", 45))
    path = recorded.write(tmp_path / "r.gz", iter(polls))
    port = free_port()
    with program("replay", str(path), "--serve", f"127.0.0.1:{port}", "--speed", "10") as process:
        url = f"http://127.0.0.1:{port}"

        def body(path: str = "/metrics") -> bytes:
            with urllib.request.urlopen(url + path, timeout=2) as response:  # noqa: S310 - loopback
                return bytes(response.read())

        wait_for(f"{url}/health")
        known = [each.response.body for each in polls if each.response]
        seen = []
        for _ in range(10):
            try:
                seen.append(known.index(body()))
            except OSError:
                seen.append(-1)  # before the first poll, or while the recorded server was down
            time.sleep(0.1)
        assert [each for each in seen if each >= 0] == sorted(each for each in seen if each >= 0)
        assert len(set(seen)) > 3
        _, err = process.communicate(timeout=20)
    assert process.returncode == 0
    assert err.endswith("end of the recording\n")


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (("--serve", "nowhere"), "--serve: got 'nowhere'; allowed: HOST:PORT"),
        (("--serve", ":0", "--speed", "0"), "--speed: got 0; allowed: a number above 0"),
        (("--serve", "192.0.2.1:80"), "cannot listen on 192.0.2.1:80"),
    ],
)
def test_mistakes_of_serving_are_named(
    arguments: tuple[str, ...], expected: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = recorded.write(tmp_path / "r.gz", recorded.polls("healthy", 3))
    assert main(["replay", str(path), *arguments]) == 1
    assert expected in capsys.readouterr().err


def test_progress_is_for_terminals_only(tmp_path: Path) -> None:
    import pty

    leader, follower = pty.openpty()
    command = [sys.executable, "-m", "vllm_sidecar", "record", "http://127.0.0.1:1", "-o", str(tmp_path / "r.gz")]
    with subprocess.Popen(
        [*command, "--for", "1500ms"], stderr=follower, stdout=subprocess.PIPE, env=ENVIRONMENT
    ) as done:
        assert done.wait(20) == 1
    os.close(follower)
    shown = os.read(leader, 65536).decode()
    os.close(leader)
    assert "recording for" in shown
    assert "Ctrl-C ends it" in shown
    assert json.dumps(shown).count("\\r") >= 2
