"""Certificates -> the time in which they are valid, read from their encoding: Python's ssl only shows verified ones."""

from __future__ import annotations

import re
import ssl
import sys
from datetime import UTC, datetime
from typing import TYPE_CHECKING, NamedTuple

from vllm_sidecar.config.regular_files import read_regular

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from pathlib import Path

_BLOCK = re.compile(r"-----BEGIN CERTIFICATE-----.*?-----END CERTIFICATE-----", re.DOTALL)
_VERSION, _UTC_TIME, _GENERALIZED_TIME = 0xA0, 0x17, 0x18
_FORMATS = {_UTC_TIME: "%y%m%d%H%M%SZ", _GENERALIZED_TIME: "%Y%m%d%H%M%SZ"}


class Validity(NamedTuple):
    """The time in which a certificate is valid, in Unix seconds."""

    not_before: float
    not_after: float


def validity(der: bytes) -> Validity | None:
    """Return the validity of a certificate in DER; None if that cannot be read."""
    try:
        (_, certificate), *_ = _values(der)
        (_, signed), *_ = _values(certificate)
        fields = [field for field in _values(signed) if field[0] != _VERSION]
        # serialNumber, signature, issuer, validity, ... (RFC 5280)
        began, ends = (_time(tag, content) for tag, content in _values(fields[3][1]))
        return Validity(began, ends)
    except (ValueError, IndexError):
        return None


def earliest(ders: Iterable[bytes]) -> Validity | None:
    """Return the validity of that certificate, of several in DER, which ends first; None if none can be read."""
    found = map(validity, ders)
    return min((each for each in found if each is not None), key=lambda each: each.not_after, default=None)


def earliest_in_text(pem: str) -> Validity | None:
    """Return the same for a text in PEM."""
    return earliest(_ders(pem))


def earliest_in_file(path: Path) -> Validity | None:
    """Return the same for a file; None also if it cannot be read. May block."""
    try:
        return earliest_in_text(read_regular(path).decode("ascii", "replace"))
    except OSError:
        return None


def recording(seen: Callable[[list[bytes]], None]) -> type[ssl.SSLObject]:
    """Make the class of connections of a context that report the server's certificates, in DER, after each handshake.

    From Python 3.13 on these are all that were used to verify it, up to the issuer of ca_file; before, its own only. If
    nothing is verified, they are those that the server sent.
    """

    class Recording(ssl.SSLObject):
        """A connection that reports the certificates of its other side."""

        def do_handshake(self) -> None:
            """Continue the handshake; `SSLWantReadError` until it is done."""
            super().do_handshake()
            if sys.version_info >= (3, 13):
                seen(self.get_verified_chain())
            elif own := self.getpeercert(binary_form=True):
                seen([own])

    return Recording


def _ders(pem: str) -> Iterator[bytes]:
    for block in _BLOCK.findall(pem):
        try:
            yield ssl.PEM_cert_to_DER_cert(block)
        except ValueError:
            continue


def _values(der: bytes) -> Iterator[tuple[int, bytes]]:
    """Yield tag and content of each value of a sequence in DER.

    Raises:
        ValueError: It is cut, or no DER.
    """
    at = 0
    while at < len(der):
        tag, length = der[at], der[at + 1]
        at += 2
        if length & 0x80:
            size = length & 0x7F
            length = int.from_bytes(der[at : at + size], "big")
            at += size
        if at + length > len(der):
            raise ValueError("the encoding is cut")
        yield tag, der[at : at + length]
        at += length


def _time(tag: int, content: bytes) -> float:
    return datetime.strptime(content.decode("ascii"), _FORMATS.get(tag, "")).replace(tzinfo=UTC).timestamp()
