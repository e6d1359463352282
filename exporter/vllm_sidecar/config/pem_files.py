"""Certificates and keys in PEM format: what of them OpenSSL refuses is a mistake of the configuration, with its reason.

Only loading shows whether a file can be used. It is done where the configuration is checked, so that `check-config` and
a reload refuse what every connection would otherwise fail with.
"""

from __future__ import annotations

import os
import ssl
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from pydantic import AfterValidator

from vllm_sidecar.config.values import FilePath, not_allowed
from vllm_sidecar.redaction import redact

if TYPE_CHECKING:
    from collections.abc import Iterator

_NO_CERTIFICATE = "there is no certificate in it: no line BEGIN CERTIFICATE"
_OTHER_KEY = "the key belongs to another certificate"
_REASONS = {
    "NO_CERTIFICATE_OR_CRL_FOUND": _NO_CERTIFICATE,
    "KEY_VALUES_MISMATCH": _OTHER_KEY,
    "NO_CERTIFICATE_ASSIGNED": _OTHER_KEY,  # one of another kind: RSA instead of an elliptic curve
}
_DAMAGED_CERTIFICATE = "the certificate is damaged, or not in PEM format"
_NO_KEY = "the key is missing, damaged, encrypted, or not in PEM format"


def ca_mistake(path: Path | None = None, text: str = "") -> str | None:
    """Return why a file, or a text, does not hold certificates; None if it does. May block."""
    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).load_verify_locations(cafile=path, cadata=text or None)
    except (OSError, ValueError, TypeError) as error:  # TypeError: the text is not ASCII
        return _reason(error, _DAMAGED_CERTIFICATE)
    return None


def pair_mistake(cert: Path, key: Path | None) -> str | None:
    """Return why a certificate and its key (None: in the same file) cannot be used; None if they can. May block."""
    mistake = ca_mistake(cert)
    if mistake:
        return mistake
    try:
        # With an empty password an encrypted key is an error; without one OpenSSL would prompt at the terminal.
        ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).load_cert_chain(cert, key, password="")
    except (OSError, ValueError) as error:
        return _reason(error, _NO_KEY)
    return None


@contextmanager
def as_file(path: Path | None, text: str) -> Iterator[Path]:
    """Yield the path of a file; a text is kept in memory, because a key must not be written to a disk."""
    if path is not None:
        yield path
        return
    descriptor = os.memfd_create("pem", os.MFD_CLOEXEC)
    try:
        os.write(descriptor, text.encode())
        yield Path(f"/proc/self/fd/{descriptor}")
    finally:
        os.close(descriptor)


def _reason(error: Exception, otherwise: str) -> str:
    if isinstance(error, OSError) and not isinstance(error, ssl.SSLError):
        return error.strerror or otherwise
    return _REASONS.get(getattr(error, "reason", None) or "", otherwise)


def _ca_file(path: Path) -> Path:
    mistake = ca_mistake(path)
    if mistake:
        raise not_allowed(f"a file with CA certificates in PEM format ({redact(str(path))}: {mistake})")
    return path


CaFile = Annotated[FilePath, AfterValidator(_ca_file)]
"""A file with the certificates of issuers."""
