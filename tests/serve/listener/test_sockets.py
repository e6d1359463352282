"""Where it listens: several addresses, IPv4 and IPv6, Unix sockets, and sockets of systemd."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest
from places import EXPORTER
from ports import free_port
from web_server import web_server

from vllm_sidecar.config import WebSettings
from vllm_sidecar.config.listening import CannotListenError
from vllm_sidecar.logs import UserError
from vllm_sidecar.serve.listener.sockets import open_sockets

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.io


def web(*addresses: str, **more: object) -> WebSettings:
    return WebSettings.model_validate({"listen_address": addresses or ("127.0.0.1:0",), **more})


def connects(family: int, where: object) -> bool:
    with socket.socket(family) as client:
        client.settimeout(2)
        return client.connect_ex(where) == 0


def test_it_listens_on_every_address_that_is_named(tmp_path: Path) -> None:
    path = tmp_path / "a.sock"
    listening = open_sockets(web("127.0.0.1:0", "[::1]:0", f"unix:{path}"))
    ports = [each.getsockname()[1] for each in listening.sockets[:2]]
    try:
        assert connects(socket.AF_INET, ("127.0.0.1", ports[0]))
        assert connects(socket.AF_INET6, ("::1", ports[1]))
        assert connects(socket.AF_UNIX, str(path))
        assert listening.addresses == [f"127.0.0.1:{ports[0]}", f"[::1]:{ports[1]}", f"unix:{path}"]
    finally:
        listening.close()
    assert not path.exists()


def test_without_a_host_both_kinds_of_addresses_answer_on_one_port() -> None:
    port = free_port()
    listening = open_sockets(web(f":{port}"))
    try:
        assert connects(socket.AF_INET, ("127.0.0.1", port))
        assert connects(socket.AF_INET6, ("::1", port)) or not socket.has_dualstack_ipv6()
    finally:
        listening.close()


def test_a_socket_of_a_program_that_was_killed_is_replaced_and_one_in_use_is_not(tmp_path: Path) -> None:
    path = tmp_path / "a.sock"
    with socket.socket(socket.AF_UNIX) as left:
        left.bind(str(path))
    listening = open_sockets(web(f"unix:{path}"))
    try:
        with pytest.raises(CannotListenError, match="in use"):
            open_sockets(web(f"unix:{path}"))
        assert connects(socket.AF_UNIX, str(path))
    finally:
        listening.close()


def test_a_file_that_is_not_a_socket_is_never_removed(tmp_path: Path) -> None:
    path = tmp_path / "precious"
    path.write_text("data")
    with pytest.raises(CannotListenError, match="not a socket"):
        open_sockets(web(f"unix:{path}"))

    assert path.read_text() == "data"


def test_one_address_that_is_taken_closes_the_others_and_is_named() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        other, address = free_port(), f"127.0.0.1:{taken.getsockname()[1]}"
        with pytest.raises(CannotListenError) as caught:
            open_sockets(web(f"127.0.0.1:{other}", address))

    assert caught.value.address == address
    assert not connects(socket.AF_INET, ("127.0.0.1", other))


@pytest.mark.parametrize(
    "environment",
    [{}, {"LISTEN_PID": "1", "LISTEN_FDS": "1"}, {"LISTEN_PID": str(os.getpid()), "LISTEN_FDS": "x"}],
    ids=["none", "of another process", "nonsense"],
)
def test_without_a_socket_of_systemd_the_mistake_says_what_to_do(environment: dict[str, str]) -> None:
    with pytest.raises(UserError, match=r"systemd passed no socket: start the \.socket unit"):
        open_sockets(web(systemd_socket=True), environment)


def test_sockets_of_systemd_are_used_and_not_passed_on_to_child_processes() -> None:
    program = (
        "import os, socket, sys\n"
        "given = socket.create_server(('127.0.0.1', 0))\n"
        "os.dup2(given.fileno(), 3) if given.fileno() != 3 else None\n"
        "os.environ.update(LISTEN_PID=str(os.getpid()), LISTEN_FDS='1', LISTEN_FDNAMES='x')\n"
        "from vllm_sidecar.config import WebSettings\n"
        "from vllm_sidecar.serve.listener.sockets import open_sockets\n"
        "listening = open_sockets(WebSettings(systemd_socket=True))\n"
        "assert listening.sockets[0].getsockname() == given.getsockname()\n"
        "assert not os.get_inheritable(3) and not [name for name in os.environ if name.startswith('LISTEN_')]\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program],
        env={**os.environ, "PYTHONPATH": str(EXPORTER)},
        capture_output=True,
        text=True,
        check=False,
    )

    assert done.returncode == 0, done.stderr


async def test_a_unix_socket_is_served_like_any_other(tmp_path: Path) -> None:
    import aiohttp

    path = tmp_path / "a.sock"
    async with (
        web_server(listen_address=f"unix:{path}"),
        aiohttp.ClientSession(connector=aiohttp.UnixConnector(str(path))) as session,
        session.get("http://localhost/metrics") as answer,
    ):
        assert (answer.status, await answer.text()) == (200, "small")
