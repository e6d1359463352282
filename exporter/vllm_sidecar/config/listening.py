"""One-line errors for an address that is not available."""

from __future__ import annotations

import errno
import socket
from typing import TYPE_CHECKING

from vllm_sidecar.logs import print_error

if TYPE_CHECKING:
    from collections.abc import Callable

_CANNOT_LISTEN = {
    errno.EADDRINUSE: "address already in use",
    errno.EADDRNOTAVAIL: "no network interface of this machine has that address",
    errno.EACCES: "permission denied",
    errno.EAFNOSUPPORT: "this machine does not have that kind of address",
}
"""Errors of binding a socket."""


def listening(address: str, flag: str, run: Callable[[], int]) -> int:
    """Run a server on an address, and return its exit code; if it cannot listen, print the reason in one line."""
    try:
        return run()
    except (OSError, OverflowError) as error:
        reason = _reason(error)
        if not reason:
            raise
        print_error(f"cannot listen on {address}: {reason}; choose another with {flag}")
        return 1


def _reason(error: OSError | OverflowError) -> str | None:
    """Return why an address is not available; None for any other error."""
    if isinstance(error, OverflowError):
        return "a port is a number from 0 to 65535"
    if isinstance(error, socket.gaierror):
        return "no such host"
    return _CANNOT_LISTEN.get(error.errno or 0)
