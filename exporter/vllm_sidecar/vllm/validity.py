"""Certificates -> the time in which they are valid, read from their encoding: Python's ssl only shows verified ones."""

from __future__ import annotations

import re
import ssl
from datetime import UTC, datetime
from typing import TYPE_CHECKING, NamedTuple

from vllm_sidecar.config.regular_files import read_regular

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
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


def earliest(pem: str) -> Validity | None:
    """Return the validity of that certificate of a text in PEM which ends first; None if none can be read."""
    found = []
    for block in _BLOCK.findall(pem):
        try:
            found.append(validity(ssl.PEM_cert_to_DER_cert(block)))
        except ValueError:
            continue
    return min((each for each in found if each is not None), key=lambda each: each.not_after, default=None)


def earliest_in_file(path: Path) -> Validity | None:
    """Return the same for a file; None also if it cannot be read. May block."""
    try:
        return earliest(read_regular(path).decode("ascii", "replace"))
    except OSError:
        return None


def recording(seen: Callable[[bytes], None]) -> type[ssl.SSLObject]:
    """Make the class of connections of a context that report the server's certificate, in DER, after each handshake.

    It is also reported if it is not verified.
    """

    class Recording(ssl.SSLObject):
        """A connection that reports the certificate of its other side."""

        def do_handshake(self) -> None:
            """Continue the handshake; `SSLWantReadError` until it is done."""
            super().do_handshake()
            certificate = self.getpeercert(binary_form=True)
            if certificate:
                seen(certificate)

    return Recording


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
