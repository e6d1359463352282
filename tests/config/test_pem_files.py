"""Certificates and keys that OpenSSL refuses are mistakes of the configuration, with their line and the reason."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from certificates import Issuer, Pair
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa

from vllm_sidecar.config import ConfigError, load
from vllm_sidecar.config.web_file import load_web_file

if TYPE_CHECKING:
    from pathlib import Path

_PEM, _PKCS8 = serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8


@pytest.fixture
def issuer(tmp_path: Path) -> Issuer:
    return Issuer(tmp_path)


@pytest.fixture
def pair(issuer: Issuer) -> Pair:
    return issuer.issue("server", "localhost")


def mistakes(folder: Path, text: str) -> tuple[str, ...]:
    path = folder / "config.yaml"
    path.write_text(text, encoding="utf-8")
    try:
        load(path)
    except ConfigError as error:
        return error.mistakes
    return ()


def broken(pair: Pair, kind: str) -> bytes:
    """Return a file that is not a certificate."""
    good = pair.cert.read_bytes()
    return {"text": b"hello", "nothing": b"", "key": pair.key.read_bytes(), "half": good[:200],
            "UTF-16": good.decode().encode("utf-16")}[kind]  # fmt: skip


@pytest.mark.parametrize(
    ("kind", "reason"),
    [("text", "no line BEGIN CERTIFICATE"), ("nothing", "no line BEGIN CERTIFICATE"),
     ("key", "no line BEGIN CERTIFICATE"), ("half", "the certificate is damaged"), ("UTF-16", "BEGIN CERTIFICATE")],
)  # fmt: skip
@pytest.mark.parametrize(
    ("text", "name"),
    [("vllm: {url: 'https://a', ca_file: bad.pem}", "vllm.ca_file"),
     ("targets: [{name: a, url: 'https://a', ca_file: bad.pem}]", "targets.0.ca_file"),
     ("discovery: {http: [{url: 'https://a', ca_file: bad.pem}]}", "discovery.http.0.ca_file"),
     ("otlp: {url: 'https://a', ca_file: bad.pem}", "otlp.ca_file"),
     ("canary: {url: 'https://a', ca_file: bad.pem}", "canary.ca_file")],
)  # fmt: skip
def test_a_ca_file_without_a_certificate_is_a_mistake_wherever_it_is_named(
    tmp_path: Path, pair: Pair, text: str, name: str, kind: str, reason: str
) -> None:
    (tmp_path / "bad.pem").write_bytes(broken(pair, kind))

    found = [mistake for mistake in mistakes(tmp_path, text) if "ca_file" in mistake]

    assert len(found) == 1
    assert found[0].startswith(f'line 1: {name}: got "bad.pem"; allowed: a file with CA certificates in PEM format (')
    assert reason in found[0]


@pytest.mark.parametrize("cert", ["issuer.crt", "server.crt"])
def test_a_certificate_of_an_issuer_and_a_certificate_by_itself_can_be_trusted(
    tmp_path: Path, pair: Pair, cert: str
) -> None:
    assert pair.cert.name == "server.crt"
    assert mistakes(tmp_path, f"vllm: {{url: 'https://a', ca_file: {cert}}}") == ()


def test_a_key_has_to_be_that_of_its_certificate_and_without_a_password(
    tmp_path: Path, issuer: Issuer, pair: Pair
) -> None:
    (tmp_path / "both.pem").write_bytes(pair.cert.read_bytes() + pair.key.read_bytes())
    locked = ec.generate_private_key(ec.SECP256R1()).private_bytes(
        _PEM, _PKCS8, serialization.BestAvailableEncryption(b"secret")
    )
    (tmp_path / "locked.key").write_bytes(locked)
    long = rsa.generate_private_key(65537, 2048).private_bytes(_PEM, _PKCS8, serialization.NoEncryption())
    (tmp_path / "rsa.key").write_bytes(long)
    other = issuer.issue("other", "localhost").key.name

    def answer(keys: str) -> tuple[str, ...]:
        return mistakes(tmp_path, f"vllm: {{url: 'https://a', {keys}}}")

    assert answer("cert_file: server.crt, key_file: server.key") == answer("cert_file: both.pem") == ()
    for key, reason in ((other, "belongs to another"), ("rsa.key", "belongs to another"), ("locked.key", "encrypted"),
                        ("server.crt", "the key is missing")):  # fmt: skip
        (mistake,) = answer(f"cert_file: server.crt, key_file: {key}")
        assert f'line 1: vllm.key_file: got "{key}"; allowed: the key of cert_file' in mistake
        assert reason in mistake
    (mistake,) = answer("cert_file: server.crt")
    assert "vllm.key_file: got null (the default)" in mistake
    assert "the key is missing" in mistake
    (mistake,) = answer("cert_file: server.key, key_file: server.key")
    assert "no line BEGIN CERTIFICATE" in mistake


def test_the_certificates_of_the_port_are_checked_with_its_file(tmp_path: Path, pair: Pair) -> None:
    (tmp_path / "bad.pem").write_text("hello", encoding="utf-8")
    clients = "client_auth_type: RequireAndVerifyClientCert"

    def answer(keys: str) -> str:
        path = tmp_path / "web.yml"
        path.write_text(f"tls_server_config: {{{keys}}}", encoding="utf-8")
        with pytest.raises(ConfigError) as caught:
            load_web_file(path)
        return "\n".join(caught.value.mistakes)

    good = f"cert_file: {pair.cert.name}, key_file: {pair.key.name}"
    found = answer(f"{good}, {clients}, client_ca_file: bad.pem")
    assert found.startswith("line 1: tls_server_config.client_ca_file: got ")
    assert "no line BEGIN CERTIFICATE" in found
    assert "client_ca" in answer(f"{good}, {clients}, client_ca: 'h\u00e9'")
    assert "tls_server_config.cert_file" in answer("cert_file: bad.pem, key_file: server.key")
    found = answer("cert: hello, key: s3cret-of-the-port")
    assert "tls_server_config.cert: got" in found
    assert "s3cret" not in found
