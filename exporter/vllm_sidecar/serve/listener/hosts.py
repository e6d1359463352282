"""Names under which browsers may open the pages.

A web page of an attacker can make its own name point to this address (DNS rebinding); the browser then lets it read
what the sidecar answers. It cannot do so under an address, nor under a name that the public DNS does not have.
"""

from __future__ import annotations

import ipaddress
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

if TYPE_CHECKING:
    from collections.abc import Iterable

_PRIVATE = (".localhost", ".local", ".internal", ".svc", ".home.arpa")
"""Ends of names that nobody can register."""


def is_allowed(host: str, allowed: Iterable[str]) -> bool:
    """Return whether a `Host` header is an address, a name that cannot be registered, or one of `allowed`."""
    name = _name(host)
    if not name or "." not in name or name.endswith(_PRIVATE) or _is_address(name):
        return True
    return any(name.endswith(each) if each.startswith(".") else name == each for each in allowed)


def is_same_origin(host: str, origin: str | None, site: str | None) -> bool:
    """Return whether a request does not come from a page of another site.

    Args:
        host: The header `Host`.
        origin: The header `Origin`, which browsers send with each POST; None from other programs.
        site: The header `Sec-Fetch-Site`.
    """
    if site not in (None, "same-origin", "none"):
        return False
    if origin is None:
        return True
    try:
        return urlsplit(origin).netloc.lower() == host.lower()
    except ValueError:
        return False


def _name(host: str) -> str:
    """Return the name of a `Host` header without its port."""
    host = host.strip().lower()
    if host.startswith("["):
        return host[1:].partition("]")[0]
    return host.partition(":")[0].rstrip(".") if host.count(":") < 2 else host


def _is_address(name: str) -> bool:
    try:
        ipaddress.ip_address(name.partition("%")[0])
    except ValueError:
        return False
    return True
