"""Addresses and files as people in a hurry write them: they work, or the error says what to write instead."""

from __future__ import annotations

import re
import threading
import time
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING

import pytest
import recorded
from ports import free_port

from vllm_sidecar.cli import main
from vllm_sidecar.tools.targets import address_of

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

pytestmark = pytest.mark.io


@pytest.mark.parametrize(
    ("copied", "address"),
    [
        ("http://h:8000/metrics", "http://h:8000"),
        ("http://h:8000/metrics/", "http://h:8000"),
        ("https://h/prefix/metrics", "https://h/prefix"),
        ("http://[::1]:10190/api/v1/status", "http://[::1]:10190"),
        ("http://h:8000", "http://h:8000"),
        ("http://h:8000/", "http://h:8000"),
        ("http://h/my-metrics", "http://h/my-metrics"),
    ],
)
def test_the_page_that_was_copied_with_an_address_is_left_out(copied: str, address: str) -> None:
    assert address_of(copied) == address


@pytest.mark.parametrize("command", [("doctor",), ("compare", "10.0.0.1:8000"), ("shape",), ("replay",)])
def test_an_address_without_a_scheme_is_told_from_a_missing_file(
    command: tuple[str, ...], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([*command, "10.0.0.2:8000"]) == 1
    printed = capsys.readouterr().err
    assert "No such file or directory; the address of a server begins with http://, as in http://10.0.0." in printed


def test_a_missing_file_of_a_folder_is_not_taken_for_an_address(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["doctor", str(tmp_path / "metrics.prom")]) == 1
    assert capsys.readouterr().err.endswith("No such file or directory\n")


def test_a_replay_of_an_address_names_the_command_that_records(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["replay", "http://10.0.0.2:8000"]) == 1
    printed = capsys.readouterr().err
    assert "http://10.0.0.2:8000 is an address, and a file is needed" in printed
    assert "vllm-sidecar record URL -o FILE" in printed


@pytest.mark.parametrize("command", [("doctor", "--from"), ("shape", "--from"), ("explain-quantiles",)])
def test_a_sidecar_that_does_not_answer_is_reported_in_words(
    command: tuple[str, ...], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([*command, f"http://127.0.0.1:{free_port()}"]) == 1
    printed = capsys.readouterr().err
    assert "Connection refused" in printed
    assert "urlopen" not in printed
    assert "Nothing listens at this address" in printed or "the address of a running sidecar" in printed


@pytest.mark.parametrize("source", ["http://127.0.0.1:9", "sidecar+http://127.0.0.1:9"])
def test_one_server_is_not_observed_before_the_other_is_missed(source: str, capsys: pytest.CaptureFixture[str]) -> None:
    began = time.monotonic()
    assert main(["compare", source, "--for", "1h"]) == 1
    assert time.monotonic() - began < 30.0
    assert "there is only one side: name two servers" in capsys.readouterr().err


class AnotherProgram(BaseHTTPRequestHandler):
    """A sidecar, to whoever reads its metrics."""

    def do_GET(self) -> None:
        """Answer every path with the same body."""
        body = b"vllm_sidecar_up 1\n"
        self.send_response(200)
        self.send_header("Content-Type", "text/plain; version=0.0.4")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        """Print nothing."""


@contextmanager
def another_program() -> Iterator[str]:
    with ThreadingHTTPServer(("127.0.0.1", 0), AnotherProgram) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


def test_a_recording_of_another_program_says_so(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with another_program() as url:
        assert main(["record", url, "--for", "2s", "-o", str(tmp_path / "r.gz")]) == 0
    assert f"{url} answered, but not as one vLLM server does: not_an_engine. " in capsys.readouterr().err


def test_the_unknown_of_a_profile_reads_well_for_any_number(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = recorded.write(tmp_path / "r.gz", recorded.polls("healthy", 30))
    assert main(["shape", str(path)]) == 0
    printed = capsys.readouterr().out
    assert re.search(r"the lengths of requests that were open at the end \(\d+\)", printed)
    assert re.search(r"requests that had not finished \(\d+\) have the lengths of others", printed)
