"""Lines to a reader that is slow, stuck or gone: the program goes on, and what is lost is counted."""

from __future__ import annotations

import fcntl
import io
import os
import socket
import time
from typing import TYPE_CHECKING

import pytest

from vllm_sidecar.logs import output as module
from vllm_sidecar.logs.output import DescriptorOutput, StreamOutput, output_of

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

F_SETPIPE_SZ = 1031
LINE = "x" * 999 + "\n"


@pytest.fixture
def pipe() -> Iterator[tuple[int, int]]:
    reading, writing = os.pipe()
    fcntl.fcntl(writing, F_SETPIPE_SZ, 4096)
    yield reading, writing
    for descriptor in (reading, writing):
        try:
            os.close(descriptor)
        except OSError:
            continue


def read_all(descriptor: int) -> bytes:
    os.set_blocking(descriptor, False)
    found = b""
    while True:
        try:
            found += os.read(descriptor, 65536)
        except BlockingIOError:
            return found


def test_a_stuck_pipe_holds_nobody_up_and_lines_beyond_the_limit_are_counted(pipe: tuple[int, int]) -> None:
    output = DescriptorOutput(pipe[1], most_waiting=10_000)
    began = time.monotonic()
    for _ in range(100):
        output.write(LINE)

    assert time.monotonic() - began < 1.0
    assert 80 <= output.dropped <= 90
    assert not output.flush()


def test_lines_that_wait_are_written_whole_and_in_order_once_the_reader_goes_on(pipe: tuple[int, int]) -> None:
    output = DescriptorOutput(pipe[1])
    lines = [f"{number} {'x' * 700}\n" for number in range(30)]
    for line in lines:
        output.write(line)
    found = b""
    for _ in range(100):
        found += read_all(pipe[0])
        if output.flush():
            break

    assert (found + read_all(pipe[0])).decode() == "".join(lines)
    assert output.dropped == 0


def test_the_mode_of_the_descriptor_which_others_share_stays(pipe: tuple[int, int]) -> None:
    DescriptorOutput(pipe[1]).write(LINE)

    assert os.get_blocking(pipe[1])


def test_a_pipe_that_cannot_be_opened_again_is_only_written_to_while_it_is_ready(
    pipe: tuple[int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused(*_: object) -> int:
        raise PermissionError

    monkeypatch.setattr(module.os, "open", refused)
    output = DescriptorOutput(pipe[1], most_waiting=5_000)
    for _ in range(20):
        output.write(LINE)

    assert output.dropped > 0
    assert read_all(pipe[0]) == LINE.encode()


def test_a_socket_such_as_that_of_the_journal_holds_nobody_up() -> None:
    reader, writer = socket.socketpair()
    with reader, writer:
        writer.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
        output = DescriptorOutput(writer.fileno(), most_waiting=10_000)
        for _ in range(2000):
            output.write(LINE)

        assert output.dropped > 0
        assert reader.recv(len(LINE), socket.MSG_WAITALL) == LINE.encode()
        output.close()


def test_a_reader_that_went_away_and_a_full_disk_cost_lines_only(pipe: tuple[int, int]) -> None:
    output = DescriptorOutput(pipe[1])
    os.close(pipe[0])
    output.write(LINE)
    full = os.open("/dev/full", os.O_WRONLY)
    onto_full = DescriptorOutput(full)
    onto_full.write(LINE)
    os.close(full)

    assert (output.dropped, onto_full.dropped) == (1, 1)


def test_a_file_gets_every_line_after_what_it_holds(tmp_path: Path) -> None:
    path = tmp_path / "log"
    path.write_text("before\n")
    with path.open("a") as file:
        output_of(file).write("after \ud800\n")

    assert path.read_bytes() == b"before\nafter \\ud800\n"


def test_a_stream_without_a_descriptor_is_written_to_directly() -> None:
    stream = io.StringIO()
    output = output_of(stream)
    output.write("a\n")
    stream.close()
    output.write("b\n")

    assert isinstance(output, StreamOutput)
    assert output.dropped == 1


def test_the_end_of_the_program_waits_a_moment_for_the_reader(pipe: tuple[int, int]) -> None:
    output = DescriptorOutput(pipe[1])
    for _ in range(10):
        output.write(LINE)
    began = time.monotonic()
    output.close()

    assert 0.3 < time.monotonic() - began < 2.0
