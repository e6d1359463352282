"""The web file in exporter-toolkit's format: what it accepts, and what each mistake is called."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from certificates import Issuer

from vllm_sidecar.config import ConfigError
from vllm_sidecar.config.web_file import load_web_file

if TYPE_CHECKING:
    from pathlib import Path

HASH = "$2y$10$mDwo.lAisC94iLAyP81MCesa29IzH37oigHC/42V2pdJlUprsJPze"
"""Of exporter-toolkit's own example."""
PAIR = "cert_file: server.crt, key_file: server.key"


@pytest.fixture(autouse=True)
def certificates(tmp_path: Path) -> None:
    Issuer(tmp_path).issue("server", "localhost")


def written(folder: Path, text: str) -> Path:
    path = folder / "web.yml"
    path.write_text(text, encoding="utf-8")
    return path


def mistakes(folder: Path, text: str) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        load_web_file(written(folder, text))
    return [line.partition(": ")[2] for line in str(caught.value).splitlines()]


def test_an_empty_file_means_plain_http_for_everybody(tmp_path: Path) -> None:
    file = load_web_file(written(tmp_path, ""))

    assert not file.tls_server_config.enabled
    assert (file.basic_auth_users, file.http_server_config.headers, file.rate_limit.interval) == ({}, {}, 0.0)


def test_every_key_of_the_format_is_read_and_paths_are_relative_to_the_file(tmp_path: Path) -> None:
    file = load_web_file(
        written(
            tmp_path,
            "tls_server_config:\n"
            "  cert_file: server.crt\n  key_file: server.key\n  client_ca_file: issuer.crt\n"
            "  client_auth_type: RequireAndVerifyClientCert\n  client_allowed_sans: [a.example.com]\n"
            "  min_version: TLS12\n  max_version: TLS13\n  prefer_server_cipher_suites: false\n"
            "  cipher_suites: [TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256, TLS_AES_128_GCM_SHA256]\n"
            "  curve_preferences: []\n"
            "http_server_config:\n  http2: false\n  headers:\n    X-Frame-Options: deny\n    X-XSS-Protection: ''\n"
            f"basic_auth_users:\n  alice: {HASH}\n"
            "rate_limit: {interval: 1s, burst: 20}\n",
        )
    )

    assert file.tls_server_config.enabled
    assert file.tls_server_config.cert_file == tmp_path / "server.crt"
    assert file.http_server_config.headers == {"X-Frame-Options": "deny"}
    assert file.basic_auth_users["alice"].get_secret_value() == HASH
    assert (file.rate_limit.interval, file.rate_limit.burst) == (1.0, 20)


def test_a_rate_limit_of_zero_is_none(tmp_path: Path) -> None:
    assert load_web_file(written(tmp_path, "rate_limit: {interval: 0, burst: 20}")).rate_limit.interval == 0.0


@pytest.mark.parametrize(
    ("text", "mistake"),
    [
        ("tls_server_config: {cert_file: web.yml}",
         "key_file: got null (the default); allowed: key_file (or key): TLS needs a certificate and its key"),
        ("tls_server_config: {cert: x, cert_file: web.yml, key_file: web.yml}",
         "allowed: either cert or cert_file, not both"),
        ("tls_server_config: {cert_file: gone.crt, key_file: web.yml}", "No such file or directory"),
        (f"tls_server_config: {{{PAIR}, client_ca_file: issuer.crt}}",
         "allowed: RequireAndVerifyClientCert with client_ca_file"),
        (f"tls_server_config: {{{PAIR}, client_auth_type: RequireAndVerifyClientCert}}",
         "allowed: a file with the issuers of client certificates for RequireAndVerifyClientCert"),
        (f"tls_server_config: {{{PAIR}, client_auth_type: RequireAnyClientCert}}",
         "a certificate of any issuer proves nothing"),
        (f"tls_server_config: {{{PAIR}, client_allowed_sans: [a]}}",
         "RequireAndVerifyClientCert with client_allowed_sans"),
        (f"tls_server_config: {{{PAIR}, min_version: TLS13, max_version: TLS12}}", "at least min_version (TLS13)"),
        (f"tls_server_config: {{{PAIR}, min_version: SSL3}}", "'TLS10', 'TLS11', 'TLS12' or 'TLS13'"),
        (f"tls_server_config: {{{PAIR}, cipher_suites: [RC4]}}", 'cipher_suites.0: got "RC4"; allowed: one of TLS_'),
        (f"tls_server_config: {{{PAIR}, curve_preferences: [X25519]}}", "the curves are OpenSSL's"),
        ("http_server_config: {headers: {X-Frame-Options: maybe}}", "X-Frame-Options: deny or sameorigin"),
        ("http_server_config: {headers: {Server: a}}", "headers Content-Security-Policy, "),
        ("http_server_config: {headers: {X-XSS-Protection: \"a\\nB: c\"}}", "headers on one line"),
        ("rate_limit: {interval: 1s}", "a burst of at least 1"),
        ("basic_auth: {}", "basic_auth: unknown key; did you mean basic_auth_users?"),
    ],
)  # fmt: skip
def test_a_mistake_is_told_with_its_line_and_the_way_out(tmp_path: Path, text: str, mistake: str) -> None:
    (found,) = mistakes(tmp_path, text)

    assert mistake in found
    assert found.startswith("line 1: ")


@pytest.mark.parametrize("password", ["hunter2", HASH[:-1], "$2y$31$" + HASH[7:], "$6$" + "x" * 57])
def test_what_is_not_a_usable_bcrypt_hash_is_refused_and_not_shown(tmp_path: Path, password: str) -> None:
    (found,) = mistakes(tmp_path, f"basic_auth_users: {{alice: '{password}'}}")

    assert "basic_auth_users.alice: got ***; allowed: a bcrypt hash with a cost up to 16" in found
    assert password not in found


def test_a_key_in_the_file_is_never_shown(tmp_path: Path) -> None:
    found = mistakes(tmp_path, "tls_server_config: {key: [s3cret], cert: x}")

    assert "s3cret" not in "\n".join(found)
