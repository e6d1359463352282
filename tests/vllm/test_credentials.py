"""Tokens, headers and certificates; the certificates are made here."""

from __future__ import annotations

import asyncio
import datetime as dt
import ipaddress
import os
import socket
import ssl
import threading
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from fake_vllm import FakeVllm
from loopback import BODY, Scrape, Target, answer, failure, fetch, raw_server, says
from pydantic import SecretStr

from vllm_sidecar.catalog.reasons import PollError, Reason
from vllm_sidecar.vllm import credentials
from vllm_sidecar.vllm.client import Client

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.io

# Credentials


async def test_a_bearer_token_is_read_again_for_each_request(tmp_path: Path) -> None:
    token = tmp_path / "token"
    async with FakeVllm(BODY) as fake, Client(Target(fake.url, bearer_token_file=token), Scrape()) as client:
        for text in ("first\n", "  second"):
            token.write_text(text)
            await client.get("/metrics")
        sent = [request.headers["authorization"] for request in fake.requests]
    assert sent == ["Bearer first", "Bearer second"]


@pytest.mark.parametrize(
    "content", [None, b"", b" \n", b"two words", b"two\r\nX-Evil: lines", "schl\u00fcssel".encode(), b"\xff\xfe"]
)
async def test_an_unusable_token_is_named_but_not_told(tmp_path: Path, content: bytes | None) -> None:
    token = tmp_path / "token"
    if content is not None:
        token.write_bytes(content)
    async with FakeVllm(BODY) as fake:
        error = await failure(Target(fake.url, bearer_token_file=token))
        assert not fake.requests
    assert error.reason is Reason.CREDENTIALS
    assert str(token) in error.detail
    assert not any(word in error.detail for word in ("words", "X-Evil", "schl"))


async def test_a_pipe_in_place_of_a_token_does_not_block(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "token")
    assert (await failure(Target(bearer_token_file=tmp_path / "token"))).reason is Reason.CREDENTIALS


async def test_files_that_hang_fail_the_poll_and_hold_up_nothing(
    tmp_path: Path, pki: Pki, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As on a file system whose server is gone; each client has one thread that waits, however many polls fail."""
    token, hung, opened = tmp_path / "token", threading.Event(), []
    token.write_text("s3cret")
    monkeypatch.setattr(credentials, "READ_SECONDS", 0.1)

    def hanging(path: Path, *_: int) -> int:
        opened.append(path)
        hung.wait(20.0)
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(credentials, "read_regular", hanging)
    monkeypatch.setattr(credentials, "open_regular", hanging)
    secret, tls = Target(bearer_token_file=token), Target("https://127.0.0.1:1", ca_file=pki.folder / "ca.pem")
    async with Client(secret, Scrape()) as first, Client(tls, Scrape()) as second:
        for client, name in ((first, "bearer_token_file"), (second, "ca_file"), (first, "bearer_token_file")):
            longest, ended = 0.0, asyncio.create_task(client.get("/metrics"))
            while not ended.done():
                before = time.monotonic()
                await asyncio.sleep(0.001)
                longest = max(longest, time.monotonic() - before)
            with pytest.raises(PollError, match=f"{name}.*cannot be read within 0.1 s") as caught:
                await ended
            assert caught.value.reason is Reason.CREDENTIALS
            assert longest < 0.09, "the event loop was held"
        hung.set()
        await asyncio.sleep(0.05)
    assert len(opened) == 2


@pytest.mark.parametrize("name", ["ca_file", "cert_file", "key_file"])
async def test_a_pipe_in_place_of_a_certificate_does_not_block(pki: Pki, tmp_path: Path, name: str) -> None:
    os.mkfifo(tmp_path / "pipe")
    files = {"cert_file": pki.folder / "client.pem"} | {name: tmp_path / "pipe"}
    error = await failure(Target("https://127.0.0.1:1", **files))
    assert error.reason is Reason.CREDENTIALS
    assert "Not a regular file" in error.detail


async def test_a_header_that_cannot_be_sent_is_named_but_not_told() -> None:
    error = await failure(Target(headers={"X-Key": SecretStr("hidden\r\nHost: evil")}))
    assert error.reason is Reason.CREDENTIALS
    assert "X-Key" in error.detail
    assert "hidden" not in error.detail


async def test_the_user_part_of_a_url_is_sent_but_never_told() -> None:
    async with FakeVllm(BODY) as fake:
        fake.status = 403
        error = await failure(fake.url.replace("://", "://me:p%40ss@"))
        assert fake.requests[0].headers["authorization"] == "Basic bWU6cEBzcw=="
    assert error.detail == f"{fake.url}/metrics: status 403"


# TLS


@dataclass(frozen=True)
class Pki:
    """Certificates of one test run: an authority, servers, and a client."""

    folder: Path

    def server(self, name: str, *, client: bool = False) -> ssl.SSLContext:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(self.folder / f"{name}.pem")
        if client:
            context.load_verify_locations(self.folder / "ca.pem")
            context.verify_mode = ssl.CERT_REQUIRED
        return context


@pytest.fixture(scope="module")
def pki(tmp_path_factory: pytest.TempPathFactory) -> Pki:
    folder = tmp_path_factory.mktemp("pki")
    now = dt.datetime.now(dt.UTC)
    day = dt.timedelta(days=1)
    ca_key = ec.generate_private_key(ec.SECP256R1())
    ca_name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "Test authority")])

    def make(name: str, address: str, end: dt.datetime, *, ca: bool = False) -> None:
        key = ca_key if ca else ec.generate_private_key(ec.SECP256R1())
        subject = ca_name if ca else x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, name)])
        builder = (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(ca_name)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - 10 * day)
            .not_valid_after(end)
            .add_extension(x509.BasicConstraints(ca=ca, path_length=None), critical=True)
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
            .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(ca_key.public_key()), critical=False)
            .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address(address))]), critical=False)
        )
        certificate = builder.sign(ca_key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM)
        form = (serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8)
        plain = key.private_bytes(*form, serialization.NoEncryption())
        locked = key.private_bytes(*form, serialization.BestAvailableEncryption(b"word"))
        (folder / f"{name}.pem").write_bytes(certificate + plain)
        (folder / f"{name}.key").write_bytes(plain)
        (folder / f"{name}.locked").write_bytes(locked)

    make("ca", "127.0.0.1", now + day, ca=True)  # without the key usage that Python 3.13 asks for by default
    make("good", "127.0.0.1", now + day)
    make("other", "127.0.0.9", now + day)
    make("expired", "127.0.0.1", now - day)
    make("client", "127.0.0.1", now + day)
    return Pki(folder)


async def test_a_server_whose_authority_is_given_is_trusted(pki: Pki) -> None:
    async with raw_server(says(answer(BODY)), pki.server("good")) as url:
        assert (await fetch(Target(url, ca_file=pki.folder / "ca.pem"))).body == BODY


async def test_each_certificate_of_ca_file_is_trusted_without_its_issuer(pki: Pki) -> None:
    async with raw_server(says(answer(BODY)), pki.server("good")) as url:
        assert (await fetch(Target(url, ca_file=pki.folder / "good.pem"))).body == BODY


@pytest.mark.parametrize(
    ("server", "with_ca", "hint"),
    [
        ("good", False, "set ca_file"),
        ("other", True, "another name"),
        ("expired", True, "must be renewed"),
    ],
)
async def test_a_certificate_that_cannot_be_checked_is_a_tls_failure(
    pki: Pki, server: str, with_ca: bool, hint: str
) -> None:
    async with raw_server(says(answer(BODY)), pki.server(server)) as url:
        target = Target(url, ca_file=pki.folder / "ca.pem" if with_ca else None)
        error = await failure(target)
        assert error.reason is Reason.TLS
        assert hint in error.detail
        target.insecure_skip_verify = True
        assert (await fetch(target)).body == BODY


async def test_https_to_a_plain_port_is_a_tls_failure() -> None:
    async with FakeVllm(BODY) as fake:
        error = await failure(fake.url.replace("http", "https"))
    assert error.reason is Reason.TLS
    assert "is it http:// instead" in error.detail


async def test_http_to_a_tls_port_is_no_http_or_closed_without_an_answer(pki: Pki) -> None:
    async with raw_server(says(answer(BODY)), pki.server("good")) as url:
        error = await failure(url.replace("https", "http"))
    # The server chooses whether to send an alert before it closes.
    assert error.reason in (Reason.NOT_HTTP, Reason.DISCONNECTED)


async def test_a_client_certificate_is_shown(pki: Pki) -> None:
    async with raw_server(says(answer(BODY)), pki.server("good", client=True)) as url:
        target = Target(url, ca_file=pki.folder / "ca.pem", cert_file=pki.folder / "client.pem")
        assert (await fetch(target)).body == BODY
        target.key_file = pki.folder / "client.key"
        assert (await fetch(target)).body == BODY


async def test_a_server_that_says_it_wants_a_client_certificate_is_a_tls_failure(pki: Pki) -> None:
    def refuse(listener: socket.socket, context: ssl.SSLContext) -> None:
        for _ in range(2):  # aiohttp tries again, as if the connection were a stale one
            plain, _ = listener.accept()
            with context.wrap_socket(plain, server_side=True, do_handshake_on_connect=False) as connection:
                with pytest.raises(ssl.SSLError):
                    connection.do_handshake()
                time.sleep(0.1)  # to close at once would reset the connection before the client reads the alert

    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.settimeout(2)
        server = asyncio.create_task(asyncio.to_thread(refuse, listener, pki.server("good", client=True)))
        error = await failure(Target(f"https://127.0.0.1:{listener.getsockname()[1]}", ca_file=pki.folder / "ca.pem"))
        await server
    assert error.reason is Reason.TLS
    assert "cert_file" in error.detail


async def test_a_server_that_just_closes_for_want_of_a_client_certificate_leaves_a_hint(pki: Pki) -> None:
    async with raw_server(says(answer(BODY)), pki.server("good", client=True)) as url:
        error = await failure(Target(url, ca_file=pki.folder / "ca.pem"))
    assert error.reason in (Reason.TLS, Reason.DISCONNECTED)
    assert "cert_file" in error.detail


@pytest.mark.parametrize("files", [("none", None), ("client.key", None), ("client.pem", "client.locked")])
@pytest.mark.parametrize("field_name", ["ca_file", "cert_file"])
async def test_an_unusable_certificate_file_is_a_failure_of_the_credentials(
    pki: Pki, field_name: str, files: tuple[str, str | None]
) -> None:
    target = Target("https://127.0.0.1:1", **{field_name: pki.folder / files[0]})
    if files[1] is not None:
        target.cert_file, target.key_file = pki.folder / files[0], pki.folder / files[1]
    error = await failure(target)
    assert error.reason is Reason.CREDENTIALS
    assert str(pki.folder / files[0]) in error.detail


async def test_certificates_are_used_as_soon_as_they_are_there_and_when_they_change(pki: Pki, tmp_path: Path) -> None:
    ca_file = tmp_path / "ca.pem"
    async with (
        raw_server(says(answer(BODY)), pki.server("good")) as url,
        Client(Target(url, ca_file=ca_file), Scrape()) as client,
    ):
        with pytest.raises(PollError) as caught:
            await client.get("/metrics")
        assert caught.value.reason is Reason.CREDENTIALS
        ca_file.write_bytes((pki.folder / "client.pem").read_bytes())
        with pytest.raises(PollError) as caught:
            await client.get("/metrics")
        assert caught.value.reason is Reason.TLS
        ca_file.write_bytes((pki.folder / "ca.pem").read_bytes())
        assert (await client.get("/metrics")).body == BODY


async def test_a_token_of_the_configuration_is_sent() -> None:
    async with FakeVllm(BODY) as fake:
        async with Client(Target(fake.url, bearer_token=SecretStr("s3cret")), Scrape()) as client:
            await client.get("/metrics")
        assert fake.requests[0].headers["authorization"] == "Bearer s3cret"
