"""When certificates expire: of a server, of the sidecar as its client, and of the sidecar's own port."""

from __future__ import annotations

import asyncio
import ssl
import sys
from typing import TYPE_CHECKING

import pytest
from certificates import Issuer, Pair
from cryptography import x509
from fake_vllm import FakeVllm
from places import CAPTURES
from running import config, run
from web_server import web_server

from vllm_sidecar.serve.event_loop import LoopTime
from vllm_sidecar.serve.own_metrics import own_samples

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.io

BODY = (CAPTURES / "0.32.0__baseline__load.prom").read_bytes()
AFTER, BEFORE = (f"target_certificate_not_{end}_timestamp_seconds" for end in ("after", "before"))


@pytest.fixture
def issuer(tmp_path: Path) -> Issuer:
    return Issuer(tmp_path)


def context(pair: Pair) -> ssl.SSLContext:
    made = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    made.load_cert_chain(pair.cert, pair.key)
    return made


def ends(cert: Path) -> float:
    return x509.load_pem_x509_certificate(cert.read_bytes()).not_valid_after_utc.timestamp()


async def test_the_certificates_of_a_connection_are_exported_until_when_they_are_valid(issuer: Issuer) -> None:
    server, client = issuer.issue("server", "127.0.0.1", days=30), issuer.issue("client", "sidecar", days=7)
    async with FakeVllm(BODY, tls=context(server)) as fake:
        vllm = {"ca_file": str(issuer.cert), "cert_file": str(client.cert), "key_file": str(client.key)}
        async with run(config(fake.url, vllm=vllm)) as running:
            found = await running.poll()
    assert found[f'{AFTER}{{certificate="server"}}'] == ends(server.cert)
    assert found[f'{AFTER}{{certificate="client"}}'] == ends(client.cert)
    assert ends(server.cert) - found[f'{BEFORE}{{certificate="server"}}'] == 30 * 86400 + 300


async def test_an_issuer_that_expires_before_the_server_is_seen_where_python_shows_it(tmp_path: Path) -> None:
    issuer = Issuer(tmp_path, days=3)
    server = issuer.issue("server", "127.0.0.1", days=30)
    vllm = {"ca_file": str(issuer.cert)}
    async with FakeVllm(BODY, tls=context(server)) as fake, run(config(fake.url, vllm=vllm)) as running:
        found = (await running.poll())[f'{AFTER}{{certificate="server"}}']
    assert found == ends(issuer.cert if sys.version_info >= (3, 13) else server.cert)


async def test_the_certificate_of_a_server_that_is_not_verified_is_exported_too(issuer: Issuer) -> None:
    server = issuer.issue("server", "elsewhere")
    vllm = {"insecure_skip_verify": True}
    async with FakeVllm(BODY, tls=context(server)) as fake, run(config(fake.url, vllm=vllm)) as running:
        assert (await running.poll())[f'{AFTER}{{certificate="server"}}'] == ends(server.cert)


async def test_without_tls_there_is_no_certificate() -> None:
    async with FakeVllm(BODY) as fake, run(config(fake.url)) as running:
        assert not [name for name in await running.poll() if "certificate" in name]


async def test_a_renewed_certificate_of_a_server_is_seen_although_connections_are_kept(
    issuer: Issuer, monkeypatch: pytest.MonkeyPatch
) -> None:
    old = issuer.issue("old", "127.0.0.1", days=2)
    tls = context(old)
    async with FakeVllm(BODY, tls=tls) as fake, run(config(fake.url, vllm={"ca_file": str(issuer.cert)})) as running:
        await running.poll()
        new = issuer.issue("new", "127.0.0.1", days=90)
        tls.load_cert_chain(new.cert, new.key)
        assert (await running.poll())[f'{AFTER}{{certificate="server"}}'] == ends(old.cert)
        monkeypatch.setattr("vllm_sidecar.vllm.client.RECONNECT_SECONDS", 0.0)
        await running.poll()
        await asyncio.sleep(0.05)
        assert (await running.poll())[f'{AFTER}{{certificate="server"}}'] == ends(new.cert)


async def test_the_certificate_of_the_port_is_exported_and_renewed(
    issuer: Issuer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("vllm_sidecar.serve.listener.web_file.CHECK_SECONDS", 0.01)
    pair = issuer.issue("server", "127.0.0.1", days=5)
    path = tmp_path / "web.yml"
    path.write_text("tls_server_config: {cert_file: server.crt, key_file: server.key}\n")
    async with web_server(path) as serving:

        def exported() -> float:
            samples = own_samples(serving.server, LoopTime())
            ((_, value),) = samples["web_certificate_not_after_timestamp_seconds"]
            assert isinstance(value, float)
            return value

        assert exported() == ends(pair.cert)
        renewed = ends(issuer.issue("server", "127.0.0.1", days=60).cert)
        async with asyncio.timeout(5.0):
            while exported() != renewed:  # noqa: ASYNC110 - a file is read again without telling
                await asyncio.sleep(0.01)
    async with web_server() as serving:
        assert "web_certificate_not_after_timestamp_seconds" not in own_samples(serving.server, LoopTime())
