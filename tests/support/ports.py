"""Finds ports for the programs that tests start."""

from __future__ import annotations

import contextlib
import random
import socket

_PORTS = random.SystemRandom()
"""Processes of one test run start from the same seed; their ports must differ."""
_given: set[int] = set()


def free_port() -> int:
    """Return a port of the loopback that nobody listens on, another one at each call.

    It lies below the ports that Linux gives to outgoing connections and to listeners on port 0 (32768 and above,
    `ip_local_port_range`): one of those may be taken before the program that is to listen has started.
    """
    while True:
        port = _PORTS.randrange(15_000, 32_000)
        if port in _given:
            continue
        with socket.socket() as listener, contextlib.suppress(OSError):
            listener.bind(("127.0.0.1", port))
            _given.add(port)
            return port
