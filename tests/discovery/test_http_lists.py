"""Lists of a web service: credentials, failures that keep the last list, and limits."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest
from fake_vllm import FakeVllm
from following_lists import names, running, until
from loopback import answer, raw_server, says, silent

from vllm_sidecar.catalog.discovery import SourceReason
from vllm_sidecar.config import HttpList
from vllm_sidecar.discovery import web
from vllm_sidecar.discovery.errors import SourceError
from vllm_sidecar.discovery.http_lists import HttpSource

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.io

LIST = [{"targets": ["a:1", "b:2"], "labels": {"team": "search"}}]


def source(url: str, **more: Any) -> HttpSource:
    return HttpSource("http.0", HttpList.model_validate({"url": url, "refresh": "10ms", **more}), lambda: None)


async def failure(url: str, **more: Any) -> SourceError:
    with pytest.raises(SourceError) as caught:
        await source(url, **more).refresh()
    return caught.value


async def test_the_list_and_its_labels_are_targets() -> None:
    async with FakeVllm() as fake:
        fake.endpoints["/sd/"] = (200, LIST)
        found = source(f"{fake.url}/sd/?zone=a%20b&secret=x", target={"labels": {"list": "{__meta_url}"}})
        await found.refresh()

    assert names(found) == ["a:1", "b:2"]
    assert found.listed.targets[0].labels == {"team": "search", "list": f"{fake.url}/sd/"}
    assert fake.requests[0].path == "/sd/?zone=a%20b&secret=x"


async def test_credentials_of_the_source_are_sent_and_those_of_its_targets_are_not(tmp_path: Path) -> None:
    (tmp_path / "token").write_text("abc\n")
    async with FakeVllm() as fake:
        fake.endpoints["/sd"] = (200, [])
        target = {"headers": {"X-Target": "secret"}}
        files = {"bearer_token_file": str(tmp_path / "token")}
        await source(f"{fake.url}/sd", headers={"X-Team": "search"}, target=target, **files).refresh()

    (request,) = fake.requests
    assert (request.headers["x-team"], request.headers["authorization"]) == ("search", "Bearer abc")
    assert "x-target" not in request.headers


async def test_a_failure_keeps_the_last_list_until_the_next_answer() -> None:
    async with FakeVllm() as fake:
        fake.endpoints["/sd"] = (200, LIST)
        async with running(source(f"{fake.url}/sd")) as found:
            await until(lambda: found.is_current)
            fake.endpoints["/sd"] = (503, {"message": "down"})
            await until(lambda: found.failures[SourceReason.HTTP_STATUS] >= 2)
            assert names(found) == ["a:1", "b:2"]
            assert not found.is_current
            fake.endpoints["/sd"] = (200, [{"targets": ["b:2"]}])
            await until(lambda: names(found) == ["b:2"])


@pytest.mark.parametrize(
    ("status", "reason"),
    [(401, "unauthorized"), (403, "unauthorized"), (404, "http_status"), (500, "http_status"), (302, "http_status")],
)
async def test_another_status_is_a_reason_without_the_words_of_the_server(status: int, reason: str) -> None:
    async with FakeVllm() as fake:
        fake.endpoints["/sd"] = (status, {"message": "your token is abc"})
        error = await failure(f"{fake.url}/sd?key=abc", bearer_token="abc")

    assert (error.reason, error.detail) == (reason, f"{fake.url}/sd: status {status}")


@pytest.mark.parametrize(
    ("body", "reason"),
    [(b"<html>", "invalid"), (b'{"targets": []}', "invalid"), (b"x" * 2000, "too_large")],
)
async def test_another_body_is_a_reason(body: bytes, reason: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(web, "MOST_BYTES", 1000)
    async with raw_server(says(answer(body))) as url:
        assert (await failure(url)).reason == reason


async def test_a_server_that_is_gone_silent_or_not_http_is_a_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(web, "TIMEOUT", 0.2)
    async with raw_server(silent) as url, raw_server(says(b"SSH-2.0-OpenSSH\r\n")) as ssh:
        assert (await failure(url)).detail == f"{url}: the answer was not complete in time"
        assert (await failure(ssh)).reason == "invalid"
    assert (await failure("http://127.0.0.1:1/sd")).reason == "unreachable"
    assert (await failure("https://no-such-host.invalid/sd")).reason == "unreachable"


async def test_a_token_file_that_is_gone_is_a_reason(tmp_path: Path) -> None:
    (tmp_path / "token").write_text("abc")
    found = source("http://127.0.0.1:1", bearer_token_file=str(tmp_path / "token"))
    (tmp_path / "token").unlink()

    with pytest.raises(SourceError) as caught:
        await found.refresh()

    assert caught.value.reason is SourceReason.UNAUTHORIZED


async def test_a_cut_answer_is_not_a_shorter_list() -> None:
    whole = json.dumps(LIST).encode()
    async with raw_server(says(answer(whole)[:-5])) as url:
        assert (await failure(url)).reason == "unreachable"
