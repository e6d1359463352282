"""Addresses of the configuration -> listening sockets: TCP, Unix sockets, and those that systemd opened."""

from __future__ import annotations

import contextlib
import errno
import os
import socket
import stat
from pathlib import Path
from typing import TYPE_CHECKING

from vllm_sidecar.config.listening import CannotListenError
from vllm_sidecar.config.values import split_listen_address
from vllm_sidecar.config.web import UNIX_PREFIX
from vllm_sidecar.logs import UserError

if TYPE_CHECKING:
    from collections.abc import Iterable, MutableMapping

    from vllm_sidecar.config import WebSettings

BACKLOG = 1024
"""Connections that the kernel holds until they are accepted; it limits this to net.core.somaxconn."""
_FIRST_OF_SYSTEMD = 3


class Listening:
    """The open sockets of the program."""

    def __init__(self, sockets: list[socket.socket]) -> None:
        self.sockets = sockets
        for each in sockets:
            each.setblocking(False)

    @property
    def addresses(self) -> list[str]:
        """Where it listens, as it is logged."""
        return [_name(each) for each in self.sockets]

    def close(self) -> None:
        """Close the sockets, and remove the files of Unix sockets."""
        for each in self.sockets:
            path = each.getsockname() if each.family == socket.AF_UNIX else None
            each.close()
            if isinstance(path, str) and path:
                with contextlib.suppress(OSError):
                    Path(path).unlink()


def open_sockets(web: WebSettings, environment: MutableMapping[str, str] = os.environ) -> Listening:
    """Open what the configuration names.

    Raises:
        CannotListenError: An address is not available.
        UserError: systemd passed no socket.
    """
    if web.systemd_socket:
        return Listening(_from_systemd(environment))
    opened: list[socket.socket] = []
    try:
        for address in web.listen_address:
            try:
                opened.extend(_open(address))
            except OSError as error:
                raise CannotListenError(error, address) from error
    except CannotListenError:
        for each in opened:
            each.close()
        raise
    return Listening(opened)


def _open(address: str) -> Iterable[socket.socket]:
    if address.startswith(UNIX_PREFIX):
        return [_unix(Path(address.removeprefix(UNIX_PREFIX)))]
    host, port = split_listen_address(address)
    if host is None:
        # One socket for both kinds of addresses, where the machine has IPv6.
        if socket.has_dualstack_ipv6():
            everywhere = socket.create_server(("", port), family=socket.AF_INET6, dualstack_ipv6=True, backlog=BACKLOG)
        else:
            everywhere = socket.create_server(("", port), backlog=BACKLOG)
        return [everywhere]
    found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    return [
        socket.create_server(where[:2] if family == socket.AF_INET else where, family=family, backlog=BACKLOG)
        for family, where in dict.fromkeys((family, where) for family, _, _, _, where in found)
    ]


def _unix(path: Path) -> socket.socket:
    listening = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        _remove_leftover(path)
        listening.bind(str(path))
        listening.listen(BACKLOG)
    except OSError:
        listening.close()
        raise
    return listening


def _remove_leftover(path: Path) -> None:
    """Remove the socket of a program that has ended; one that still answers is in use."""
    try:
        if not stat.S_ISSOCK(path.stat().st_mode):
            raise OSError(errno.EEXIST, "there is a file of this name that is not a socket")
    except FileNotFoundError:
        return
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.settimeout(1.0)
        try:
            probe.connect(str(path))
        except ConnectionRefusedError:
            path.unlink()
            return
    raise OSError(errno.EADDRINUSE, os.strerror(errno.EADDRINUSE))


def _from_systemd(environment: MutableMapping[str, str]) -> list[socket.socket]:
    """Take the sockets of a systemd socket unit; the protocol is that of sd_listen_fds(3)."""
    mine = environment.get("LISTEN_PID") == str(os.getpid())
    count = environment.get("LISTEN_FDS", "") if mine else ""
    for name in ("LISTEN_PID", "LISTEN_FDS", "LISTEN_FDNAMES"):
        environment.pop(name, None)  # they are not meant for child processes
    if not count.isdecimal() or int(count) < 1:
        raise UserError(
            "web.systemd_socket is true, but systemd passed no socket: start the .socket unit, "
            "or set web.listen_address"
        )
    sockets = []
    for descriptor in range(_FIRST_OF_SYSTEMD, _FIRST_OF_SYSTEMD + int(count)):
        os.set_inheritable(descriptor, False)
        sockets.append(socket.socket(fileno=descriptor))
    return sockets


def _name(listening: socket.socket) -> str:
    where = listening.getsockname()
    if listening.family == socket.AF_UNIX:
        return f"{UNIX_PREFIX}{where}"
    return f"[{where[0]}]:{where[1]}" if listening.family == socket.AF_INET6 else f"{where[0]}:{where[1]}"
