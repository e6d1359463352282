"""Who gets in: TLS, certificates of clients, passwords, names of browsers, limits; and changes without a restart."""

from __future__ import annotations

import asyncio
import base64
import os
import ssl
import time
from typing import TYPE_CHECKING

import aiohttp
import bcrypt
import pytest
from certificates import Issuer, Pair
from web_server import web_server

from vllm_sidecar.config import ConfigError
from vllm_sidecar.config.web_file import RateLimit
from vllm_sidecar.serve.listener import web_file as module
from vllm_sidecar.serve.listener.guard import TokenBucket
from vllm_sidecar.serve.listener.web_file import WebFileInUse

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from web_server import Serving

pytestmark = pytest.mark.io

HASH = bcrypt.hashpw(b"s3cret", bcrypt.gensalt(4)).decode()
PASSWORD = "Basic " + base64.b64encode(b"prom:s3cret").decode()
TLS = "tls_server_config:\n  cert_file: server.crt\n  key_file: server.key\n"
CLIENTS = TLS + "  client_ca_file: issuer.crt\n  client_auth_type: RequireAndVerifyClientCert\n"


@pytest.fixture
def issuer(tmp_path: Path) -> Issuer:
    issuer = Issuer(tmp_path)
    issuer.issue("server", "127.0.0.1")
    return issuer


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "CHECK_SECONDS", 0.05)


def written(folder: Path, text: str) -> Path:
    path = folder / "web.yml"
    path.write_text(text, encoding="utf-8")
    return path


def context(issuer: Issuer, client: Pair | None = None) -> ssl.SSLContext:
    made = ssl.create_default_context(cafile=issuer.cert)
    if client:
        made.load_cert_chain(client.cert, client.key)
    return made


async def https(serving: Serving, tls: ssl.SSLContext, **headers: str) -> int:
    async with (
        aiohttp.ClientSession() as session,
        session.get(f"https://127.0.0.1:{serving.port}/metrics", ssl=tls, headers=headers) as answer,
    ):
        await answer.read()
        return answer.status


async def serial(serving: Serving, tls: ssl.SSLContext) -> str:
    """Return the serial number of the certificate that a new connection gets."""
    _, writer = await asyncio.open_connection("127.0.0.1", serving.port, ssl=tls)
    found = writer.get_extra_info("peercert")["serialNumber"]
    writer.close()
    return found


async def test_over_tls_it_answers_and_plain_http_does_not(issuer: Issuer, tmp_path: Path) -> None:
    async with web_server(written(tmp_path, TLS)) as serving:
        assert await https(serving, context(issuer)) == 200
        with pytest.raises((asyncio.IncompleteReadError, ConnectionError)):
            await serving.status()
        await serving.until(5.0, "handshake_failed")
        assert await https(serving, context(issuer)) == 200


async def test_a_certificate_and_key_inside_the_file_work_too(issuer: Issuer, tmp_path: Path) -> None:
    cert, key = (
        path.read_text().replace("\n", "\n    ") for path in (tmp_path / "server.crt", tmp_path / "server.key")
    )
    file = written(tmp_path, f"tls_server_config:\n  cert: |\n    {cert}\n  key: |\n    {key}\n")
    async with web_server(file) as serving:
        assert await https(serving, context(issuer)) == 200


async def test_only_clients_with_a_certificate_of_the_issuer_get_in(issuer: Issuer, tmp_path: Path) -> None:
    stranger = Issuer(tmp_path, "stranger").issue("client-of-a-stranger", "a.example.com")
    async with web_server(written(tmp_path, CLIENTS)) as serving:
        assert await https(serving, context(issuer, issuer.issue("client", "a.example.com"))) == 200
        for client in (None, stranger):
            with pytest.raises((aiohttp.ClientError, ConnectionError)):
                await https(serving, context(issuer, client))


async def test_a_certificate_without_an_allowed_name_is_refused(issuer: Issuer, tmp_path: Path) -> None:
    file = written(tmp_path, CLIENTS + "  client_allowed_sans: [prometheus.example.com, 10.0.0.7]\n")
    async with web_server(file) as serving:
        names = {"prometheus.example.com": 200, "10.0.0.7": 200, "other.example.com": 403}
        for number, (name, status) in enumerate(names.items()):
            assert await https(serving, context(issuer, issuer.issue(f"client{number}", name))) == status


@pytest.mark.parametrize(
    ("limits", "works"),
    [("", True), ("  min_version: TLS13\n", False), ("  max_version: TLS12\n", True)],
    ids=["default", "1.3 only", "1.2 only"],
)
async def test_versions_of_tls_are_limited(issuer: Issuer, tmp_path: Path, limits: str, works: bool) -> None:
    old = context(issuer)
    old.maximum_version = ssl.TLSVersion.TLSv1_2
    async with web_server(written(tmp_path, TLS + limits)) as serving:
        if works:
            assert await https(serving, old) == 200
        else:
            with pytest.raises((aiohttp.ClientError, ConnectionError)):
                await https(serving, old)


@pytest.mark.usefixtures("quick")
async def test_a_renewed_certificate_is_used_for_the_next_connection_and_open_ones_stay(
    issuer: Issuer, tmp_path: Path
) -> None:
    tls = context(issuer)
    async with (
        web_server(written(tmp_path, TLS)) as serving,
        aiohttp.ClientSession(connector=aiohttp.TCPConnector(ssl=tls)) as session,
    ):
        url = f"https://127.0.0.1:{serving.port}/metrics"
        assert (await session.get(url)).status == 200
        before = await serial(serving, tls)
        issuer.issue("server", "127.0.0.1")
        async with asyncio.timeout(5.0):
            while await serial(serving, tls) == before:  # noqa: ASYNC110 - nothing tells a test
                await asyncio.sleep(0.02)
        assert (await session.get(url)).status == 200
        assert serving.server.file.successful


@pytest.mark.usefixtures("quick")
async def test_a_bad_file_keeps_the_last_good_one_and_is_reported_until_it_is_mended(
    issuer: Issuer, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = written(tmp_path, TLS)
    async with web_server(path) as serving:
        for broken in ("tls_server_config: {", TLS.replace("server.key", "issuer.crt"), ""):
            path.write_text(broken)
            await until(lambda: not serving.server.file.successful)
            assert await https(serving, context(issuer)) == 200
            path.write_text(TLS + "# mended\n")
            await until(lambda: serving.server.file.successful)
    failed = [record.fields["mistakes"] for record in caplog.records if record.getMessage() == "web_config_failed"]
    assert "not valid YAML" in failed[0]
    assert "a certificate and its key in PEM format: the key is missing" in failed[1]
    assert failed[2] == "TLS is turned on and off only by a restart"


async def until(holds: object) -> None:
    async with asyncio.timeout(5.0):
        while not holds():  # type: ignore[operator] # noqa: ASYNC110 - nothing tells a test
            await asyncio.sleep(0.01)


@pytest.mark.usefixtures("quick")
async def test_a_changed_password_counts_without_a_restart(tmp_path: Path) -> None:
    path = written(tmp_path, f"basic_auth_users: {{prom: '{HASH}'}}\n")
    async with web_server(path) as serving:
        assert await serving.status(Authorization=PASSWORD) == 200
        new = bcrypt.hashpw(b"other", bcrypt.gensalt(4)).decode()
        path.write_text(f"basic_auth_users: {{prom: '{new}'}}\n# {time.time()}\n")
        async with asyncio.timeout(5.0):
            while await serving.status(Authorization=PASSWORD) != 401:  # noqa: ASYNC110 - nothing tells a test
                await asyncio.sleep(0.05)


async def test_with_users_every_path_needs_a_password_and_the_answer_says_how(tmp_path: Path) -> None:
    async with web_server(written(tmp_path, f"basic_auth_users: {{prom: '{HASH}'}}")) as serving:
        for path in ("/metrics", "/page", "/none"):
            assert await serving.status(path) == 401
        assert await serving.status("/page", Authorization=PASSWORD) == 200
        async with aiohttp.ClientSession() as session, session.get(f"http://127.0.0.1:{serving.port}/") as answer:
            assert answer.headers["WWW-Authenticate"] == 'Basic realm="vllm-sidecar", charset="UTF-8"'


async def test_headers_of_the_file_are_on_every_answer(tmp_path: Path) -> None:
    file = written(tmp_path, "http_server_config: {headers: {X-Frame-Options: deny}}")
    async with web_server(file) as serving, aiohttp.ClientSession(f"http://127.0.0.1:{serving.port}") as session:
        for path in ("/metrics", "/none"):
            async with session.get(path) as answer:
                assert answer.headers["X-Frame-Options"] == "deny"


async def test_a_rate_limit_refuses_what_is_beyond_its_burst(tmp_path: Path) -> None:
    async with web_server(written(tmp_path, "rate_limit: {interval: 1h, burst: 3}")) as serving:
        assert [await serving.status() for _ in range(5)] == [200, 200, 200, 429, 429]


def test_a_token_comes_back_in_each_interval() -> None:
    now = [0.0]
    bucket, limit = TokenBucket(lambda: now[0]), RateLimit(burst=2, interval="10s")
    seen = []
    for seconds in (0, 0, 0, 9, 1, 100, 0, 0):
        now[0] += seconds
        seen.append(bucket.takes(limit))

    assert seen == [True, True, False, False, True, True, True, False]


@pytest.mark.parametrize(
    ("path", "headers", "status"),
    [
        ("/page", {"Host": "evil.example.com"}, 403),
        ("/metrics", {"Host": "evil.example.com"}, 200),
        ("/page", {"Host": "ok.example.com:10190"}, 200),
        ("/page", {"Host": "localhost"}, 200),
    ],
)
async def test_pages_open_only_under_known_names_and_metrics_under_all(
    path: str, headers: dict[str, str], status: int
) -> None:
    async with web_server(allowed_hosts="ok.example.com") as serving:
        assert await serving.status(path, **headers) == status


async def test_names_do_not_matter_where_a_password_is_needed(tmp_path: Path) -> None:
    async with web_server(written(tmp_path, f"basic_auth_users: {{prom: '{HASH}'}}")) as serving:
        assert await serving.status("/page", Host="any.example.com", Authorization=PASSWORD) == 200


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({}, 200),
        ({"Origin": "http://evil.example.com"}, 403),
        ({"Origin": "null"}, 403),
        ({"Sec-Fetch-Site": "cross-site"}, 403),
        ({"Sec-Fetch-Site": "same-origin"}, 200),
    ],
)
async def test_a_reload_is_refused_to_pages_of_other_sites(headers: dict[str, str], status: int) -> None:
    async with (
        web_server() as serving,
        aiohttp.ClientSession() as session,
        session.post(f"http://127.0.0.1:{serving.port}/-/reload", headers=headers) as answer,
    ):
        assert answer.status == status


@pytest.mark.usefixtures("issuer")
def test_a_file_that_cannot_be_used_at_the_start_is_told_in_a_line(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"tls_server_config.cert_file: .*in PEM format: the key is missing"):
        WebFileInUse(written(tmp_path, TLS.replace("server.key", "issuer.crt")))


@pytest.fixture
def pipe(tmp_path: Path) -> Iterator[Path]:
    path = tmp_path / "pipe"
    os.mkfifo(path)
    yield path
    path.unlink()


def test_a_named_pipe_as_the_file_holds_nobody_up(pipe: Path) -> None:
    with pytest.raises(ConfigError, match="Not a regular file"):
        WebFileInUse(pipe)
