"""The file of `web.config_file`, in the format of Prometheus' exporter-toolkit: one file serves all exporters.

Keys and defaults are those of https://github.com/prometheus/exporter-toolkit/blob/master/docs/web-configuration.md.
A setting that Python's TLS lacks is refused with a reason, because a security setting must not be ignored silently.
"""

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, Literal

from pydantic import (
    AfterValidator,
    BeforeValidator,
    Field,
    SecretStr,
    ValidationError,
    ValidationInfo,
    field_validator,
)

from vllm_sidecar.config.lists import mistake
from vllm_sidecar.config.loader import load_as
from vllm_sidecar.config.pem_files import as_file, ca_mistake, pair_mistake
from vllm_sidecar.config.section import Section
from vllm_sidecar.config.values import FilePath, as_frozen, as_tuple, not_allowed, parse_duration

Version = Literal["TLS10", "TLS11", "TLS12", "TLS13"]
CIPHERS = {
    "TLS_RSA_WITH_AES_128_CBC_SHA": "AES128-SHA",
    "TLS_RSA_WITH_AES_256_CBC_SHA": "AES256-SHA",
    "TLS_RSA_WITH_AES_128_GCM_SHA256": "AES128-GCM-SHA256",
    "TLS_RSA_WITH_AES_256_GCM_SHA384": "AES256-GCM-SHA384",
    "TLS_ECDHE_ECDSA_WITH_AES_128_CBC_SHA": "ECDHE-ECDSA-AES128-SHA",
    "TLS_ECDHE_ECDSA_WITH_AES_256_CBC_SHA": "ECDHE-ECDSA-AES256-SHA",
    "TLS_ECDHE_RSA_WITH_AES_128_CBC_SHA": "ECDHE-RSA-AES128-SHA",
    "TLS_ECDHE_RSA_WITH_AES_256_CBC_SHA": "ECDHE-RSA-AES256-SHA",
    "TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256": "ECDHE-ECDSA-AES128-GCM-SHA256",
    "TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384": "ECDHE-ECDSA-AES256-GCM-SHA384",
    "TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256": "ECDHE-RSA-AES128-GCM-SHA256",
    "TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384": "ECDHE-RSA-AES256-GCM-SHA384",
    "TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256": "ECDHE-RSA-CHACHA20-POLY1305",
    "TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256": "ECDHE-ECDSA-CHACHA20-POLY1305",
    "TLS_AES_128_GCM_SHA256": "",
    "TLS_AES_256_GCM_SHA384": "",
    "TLS_CHACHA20_POLY1305_SHA256": "",
}
"""Go's names of cipher suites and OpenSSL's; those of TLS 1.3 are always on, in Go as here."""
HEADERS = {
    "Content-Security-Policy": None,
    "Strict-Transport-Security": None,
    "X-Content-Type-Options": ("nosniff",),
    "X-Frame-Options": ("deny", "sameorigin"),
    "X-XSS-Protection": None,
}
"""Headers that may be set, and their values where only some are valid."""
_BCRYPT = re.compile(r"\$2[abxy]?\$(\d\d)\$[./A-Za-z0-9]{53}", re.ASCII)
_MOST_COST = 16
"""Each step doubles the time of a comparison: 10 takes 0.06 s, 16 takes 4 s."""


def _cipher(value: str) -> str:
    if value not in CIPHERS:
        raise not_allowed(f"one of {', '.join(CIPHERS)}")
    return value


def _without_curves(value: object) -> object:
    if value:
        raise not_allowed("no list: the curves are OpenSSL's, X25519 and P-256 first")
    return ()


def _verified_certificates(value: object) -> object:
    if value in ("RequireAnyClientCert", "RequireClientCert"):
        raise not_allowed("RequireAndVerifyClientCert: a certificate of any issuer proves nothing")
    return value


def _interval(value: object) -> float:
    return 0.0 if value in (0, "0", "0s") else parse_duration(value)


def _headers(value: Mapping[str, str]) -> Mapping[str, str]:
    for name, text in value.items():
        if name not in HEADERS:
            raise not_allowed(f"headers {', '.join(HEADERS)}")
        allowed = HEADERS[name]
        if text and allowed is not None and text.lower() not in allowed:
            raise not_allowed(f"for {name}: {' or '.join(allowed)}")
        if not text.isprintable():
            raise not_allowed("headers on one line")
    return as_frozen({name: text for name, text in value.items() if text})


def _password_hash(value: SecretStr) -> SecretStr:
    match = _BCRYPT.fullmatch(value.get_secret_value())
    if not match or not 4 <= int(match[1]) <= _MOST_COST:
        raise not_allowed(f"a bcrypt hash with a cost up to {_MOST_COST}, as of: htpasswd -nBC 10 USER")
    return value


class TlsSettings(Section):
    """The server's certificate, and the certificates that clients need."""

    cert: str = Field(default="", description="The certificate itself, in PEM format.")
    key: SecretStr = Field(default=SecretStr(""), description="The key itself, in PEM format.")
    client_ca: str = Field(default="", description="The issuers of client certificates, in PEM format.")
    cert_file: FilePath | None = Field(default=None, description="File with the certificate.")
    key_file: FilePath | None = Field(default=None, description="File with the key.")
    client_auth_type: Annotated[
        Literal["", "NoClientCert", "RequestClientCert", "VerifyClientCertIfGiven", "RequireAndVerifyClientCert"],
        BeforeValidator(_verified_certificates),
    ] = Field(default="NoClientCert", description="Whether clients need a certificate.")
    client_ca_file: FilePath | None = Field(default=None, description="File with the issuers of client certificates.")
    client_allowed_sans: Annotated[tuple[str, ...], BeforeValidator(as_tuple)] = Field(
        default=(), description="Names of which a client's certificate must have one."
    )
    min_version: Version = Field(default="TLS12", description="Oldest version of TLS.")
    max_version: Version = Field(default="TLS13", description="Newest version of TLS.")
    cipher_suites: Annotated[tuple[Annotated[str, AfterValidator(_cipher)], ...], BeforeValidator(as_tuple)] = Field(
        default=(), description="Cipher suites of TLS 1.2 and older."
    )
    prefer_server_cipher_suites: bool = Field(default=True, description="Whether the server's order counts.")
    curve_preferences: Annotated[tuple[str, ...], BeforeValidator(_without_curves)] = Field(
        default=(), description="Curves; not supported."
    )

    @property
    def enabled(self) -> bool:
        """Whether the server uses TLS."""
        return bool(self.model_fields_set & {"cert", "key", "cert_file", "key_file"})

    @property
    def verifies_clients(self) -> bool:
        """Whether certificates of clients are checked."""
        return self.client_auth_type in ("VerifyClientCertIfGiven", "RequireAndVerifyClientCert")


class HttpSettings(Section):
    """Headers of all answers."""

    http2: bool = Field(default=True, description="Accepted for compatibility; HTTP/1.1 is served.")
    headers: Annotated[Mapping[str, str], AfterValidator(_headers)] = Field(
        default={}, description="Headers that are added to every answer."
    )


class RateLimit(Section):
    """A limit on requests of all clients together."""

    burst: int = Field(default=0, ge=0, description="Requests that are allowed at once.")
    interval: Annotated[float, BeforeValidator(_interval)] = Field(
        default=0.0, description="Time in which one more request is allowed; 0 for no limit."
    )

    @field_validator("interval")
    @classmethod
    def _with_a_burst(cls, value: float, info: ValidationInfo) -> float:
        if value and info.data.get("burst") == 0:
            raise not_allowed("an interval with a burst of at least 1: without it every request would be refused")
        return value


class WebFile(Section):
    """The whole file."""

    tls_server_config: TlsSettings = Field(default=TlsSettings(), description="TLS.")
    http_server_config: HttpSettings = Field(default=HttpSettings(), description="HTTP.")
    basic_auth_users: Annotated[
        Mapping[str, Annotated[SecretStr, AfterValidator(_password_hash)]], AfterValidator(as_frozen)
    ] = Field(default={}, description="Users and the bcrypt hashes of their passwords.")
    rate_limit: RateLimit = Field(default=RateLimit(), description="A limit on requests.")

    @field_validator("tls_server_config")
    @classmethod
    def _complete(cls, value: TlsSettings, _: ValidationInfo) -> TlsSettings:
        """Check keys against each other; each mistake is at the key that has to change."""
        found = _contradictions(value) or list(_unusable(value))
        if found:
            raise ValidationError.from_exception_data(
                "tls_server_config", [mistake((key,), allowed, getattr(value, key)) for key, allowed in found]
            )
        return value


def _contradictions(tls: TlsSettings) -> list[tuple[str, str]]:
    found = []
    for name, text in (("cert", tls.cert), ("key", tls.key.get_secret_value()), ("client_ca", tls.client_ca)):
        file = f"{name}_file"
        if text and getattr(tls, file):
            found.append((file, f"either {name} or {file}, not both"))
        elif name != "client_ca" and not text and not getattr(tls, file) and tls.model_fields_set:
            found.append((file, f"{file} (or {name}): TLS needs a certificate and its key"))
    has_ca = bool(tls.client_ca or tls.client_ca_file)
    if has_ca and not tls.verifies_clients:
        found.append(("client_auth_type", "RequireAndVerifyClientCert with client_ca_file"))
    if tls.verifies_clients and not has_ca:
        found.append(("client_ca_file", f"a file with the issuers of client certificates for {tls.client_auth_type}"))
    if tls.client_allowed_sans and tls.client_auth_type != "RequireAndVerifyClientCert":
        found.append(("client_auth_type", "RequireAndVerifyClientCert with client_allowed_sans"))
    if tls.min_version > tls.max_version:
        found.append(("max_version", f"at least min_version ({tls.min_version})"))
    return found


def _unusable(tls: TlsSettings) -> Iterator[tuple[str, str]]:
    """Find certificates and keys that OpenSSL refuses; may block."""
    if tls.enabled:
        with as_file(tls.cert_file, tls.cert) as cert, as_file(tls.key_file, tls.key.get_secret_value()) as key:
            mistake = pair_mistake(cert, key)
        if mistake:
            name = "cert_file" if tls.cert_file else "cert"
            yield name, f"a certificate and its key in PEM format: {mistake}"
    if tls.verifies_clients:
        mistake = ca_mistake(tls.client_ca_file, tls.client_ca)
        if mistake:
            name = "client_ca_file" if tls.client_ca_file else "client_ca"
            yield name, f"certificates of issuers in PEM format: {mistake}"


def load_web_file(path: Path) -> WebFile:
    """Load the file.

    Raises:
        ConfigError: With every mistake found.
    """
    return load_as(WebFile, path)
