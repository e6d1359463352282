"""The guard of all tests against traffic that leaves this machine (see conftest)."""

from __future__ import annotations

import socket

import pytest
from ports import free_port

pytestmark = pytest.mark.io


@pytest.mark.parametrize(("family", "address"), [(socket.AF_INET, "192.0.2.1"), (socket.AF_INET6, "2001:db8::1")])
def test_no_test_reaches_another_machine(family: socket.AddressFamily, address: str) -> None:
    with socket.socket(family) as client, pytest.raises(PermissionError, match=f"tried to reach {address}"):
        client.connect((address, 80))


def test_the_loopback_is_open() -> None:
    with socket.create_server(("127.0.0.1", free_port())) as server:
        socket.create_connection(server.getsockname()).close()


def test_sockets_of_files_are_open() -> None:
    ours, theirs = socket.socketpair(socket.AF_UNIX)
    with ours, theirs:
        ours.sendall(b"x")
        assert theirs.recv(1) == b"x"
