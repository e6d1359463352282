"""Servers that accept a connection and never answer: commands end in time, and their texts say what is known."""

from __future__ import annotations

import socket
import time
from typing import TYPE_CHECKING

import pytest

from vllm_sidecar.cli import main

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

pytestmark = [pytest.mark.io, pytest.mark.slow]  # they observe for a second each


@pytest.fixture
def silent() -> Iterator[str]:
    """Accept connections, and never answer."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        yield f"http://127.0.0.1:{listening.getsockname()[1]}"


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        (("doctor", "{url}", "--for", "1s"), 3),
        (("compare", "{url}", "{url}/b", "--for", "1s"), 5),
        (("shape", "{url}", "--window", "1s"), 1),
        (("record", "{url}", "--for", "1s", "-o", "{folder}/r"), 1),
    ],
    ids=lambda each: each[0] if isinstance(each, tuple) else "",
)
def test_an_observation_that_is_shorter_than_the_first_poll_says_so(
    arguments: tuple[str, ...], code: int, silent: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([each.format(url=silent, folder=tmp_path) for each in arguments]) == code
    printed = capsys.readouterr()
    assert "no answer within 1s, and no error: a poll is given up after 10s" in printed.out + printed.err


@pytest.mark.parametrize(
    "arguments",
    [
        ("doctor", "--from", "{url}"),
        ("compare", "sidecar+{url}", "sidecar+{url}/b"),
        ("compare", "--prometheus", "{url}", "--at", "now-1h", "--at", "now"),
        ("shape", "--from", "{url}"),
        ("shape", "--prometheus", "{url}"),
        ("top", "--once", "--from", "{url}"),
    ],
    ids=" ".join,
)
def test_the_time_limit_of_requests_holds(
    arguments: tuple[str, ...], silent: str, capsys: pytest.CaptureFixture[str]
) -> None:
    began = time.monotonic()
    assert main([*(each.format(url=silent) for each in arguments), "--timeout", "500ms"]) == 1
    assert time.monotonic() - began < 10.0, "twice the limit at most; the rest is for slow machines"
    printed = capsys.readouterr()
    assert "gave up after 0.5 s" in printed.out + printed.err
