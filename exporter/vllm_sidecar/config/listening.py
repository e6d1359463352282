"""One-line errors for an address that is not available."""

from __future__ import annotations

import errno
import socket
from typing import TYPE_CHECKING

from vllm_sidecar.logs import print_error

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

_CANNOT_LISTEN = {
    errno.EADDRINUSE: "address already in use",
    errno.EADDRNOTAVAIL: "no network interface of this machine has that address",
    errno.EACCES: "permission denied",
    errno.EAFNOSUPPORT: "this machine does not have that kind of address",
}
"""Errors of binding a socket."""


class CannotListenError(OSError):
    """An address that is not available; `address` is the one of several."""

    def __init__(self, error: OSError, address: str) -> None:
        super().__init__(error.errno, error.strerror or str(error))
        self.address = address
        self.no_such_host = isinstance(error, socket.gaierror)


def listening(addresses: Sequence[str], flag: str, run: Callable[[], int]) -> int:
    """Run a server on addresses, and return its exit code; if it cannot listen, print the reason in one line."""
    try:
        return run()
    except (OSError, OverflowError) as error:
        reason = _reason(error)
        if not reason:
            raise
        address = error.address if isinstance(error, CannotListenError) else ", ".join(addresses)
        print_error(f"cannot listen on {address}: {reason}; choose another with {flag}")
        return 1


def _reason(error: OSError | OverflowError) -> str | None:
    """Return why an address is not available; None for any other error."""
    if isinstance(error, OverflowError):
        return "a port is a number from 0 to 65535"
    if isinstance(error, socket.gaierror) or (isinstance(error, CannotListenError) and error.no_such_host):
        return "no such host"
    known = _CANNOT_LISTEN.get(error.errno or 0)
    return known or (error.strerror if isinstance(error, CannotListenError) else None)
