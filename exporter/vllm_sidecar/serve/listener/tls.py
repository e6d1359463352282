"""TLS of the sidecar's own server: the settings of the web file -> a context for new connections."""

from __future__ import annotations

import ssl
import warnings
from typing import TYPE_CHECKING

from vllm_sidecar.config.pem_files import as_file
from vllm_sidecar.config.web_file import CIPHERS

if TYPE_CHECKING:
    from collections.abc import Mapping

    from vllm_sidecar.config.web_file import TlsSettings

_VERSIONS = {
    "TLS10": ssl.TLSVersion.TLSv1,
    "TLS11": ssl.TLSVersion.TLSv1_1,
    "TLS12": ssl.TLSVersion.TLSv1_2,
    "TLS13": ssl.TLSVersion.TLSv1_3,
}


def make_context(tls: TlsSettings) -> ssl.SSLContext:
    """Make the context.

    Raises:
        OSError: A certificate or key cannot be used; `ssl.SSLError` is one.
        ValueError: The certificates of the issuers are not in PEM format.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    with warnings.catch_warnings():  # Python warns of old versions, which are only used if the file asks for them
        warnings.simplefilter("ignore", DeprecationWarning)
        context.minimum_version = _VERSIONS[tls.min_version]
        context.maximum_version = _VERSIONS[tls.max_version]
    context.options |= ssl.OP_NO_RENEGOTIATION
    if tls.prefer_server_cipher_suites:
        context.options |= ssl.OP_CIPHER_SERVER_PREFERENCE
    ciphers = [name for each in tls.cipher_suites if (name := CIPHERS[each])]
    if ciphers:
        context.set_ciphers(":".join(ciphers))
    context.set_alpn_protocols(["http/1.1"])
    with as_file(tls.cert_file, tls.cert) as cert, as_file(tls.key_file, tls.key.get_secret_value()) as key:
        # With an empty password an encrypted key is an error; without one OpenSSL would prompt at the terminal.
        context.load_cert_chain(cert, key, password="")
    if tls.verifies_clients:
        required = tls.client_auth_type == "RequireAndVerifyClientCert"
        context.verify_mode = ssl.CERT_REQUIRED if required else ssl.CERT_OPTIONAL
        context.load_verify_locations(cafile=tls.client_ca_file, cadata=tls.client_ca or None)
    return context


def names_of(certificate: Mapping[str, object] | None) -> set[str]:
    """Return the names in a client's certificate: DNS, IP address, e-mail and URI."""
    names = (certificate or {}).get("subjectAltName", ())
    return {str(value) for _, value in names} if isinstance(names, tuple) else set()
