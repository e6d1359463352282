"""Secrets planted in the running program in many ways are found in none of its outputs.

A server repeats each credential that it gets, in the ways of real servers and of hostile ones. Each planted text is its
own, so that a failure names the way. What the sidecar shows without being asked (metrics, log) and on request (status,
history, page, last scrape, reload) is searched, and what the terminal shows.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import json
import signal
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

import aiohttp
import pytest
from captured import BASELINE
from captured import text as captured_text
from loopback import Handler, answer, raw_server
from sidecar_process import started

from vllm_sidecar.redaction import HIDDEN

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

pytestmark = pytest.mark.io

METRICS = captured_text(BASELINE)
CREDENTIAL = "Pl4nted-{}-cr3dential"
HERS = "pl4nted{}0thers"
"""What the server itself holds as a secret: the sidecar cannot know it, only its form."""
IN_A_LINE = "pl4ntedInALine"
"""In a line of a body that is not a sample."""
Answer = Callable[[str, "Mapping[str, str]", str], bytes]
"""Path, headers, and the credential -> the whole answer."""


def told(status: str, body: str = "", *headers: str) -> bytes:
    lines = [f"HTTP/1.1 {status}", f"Content-Length: {len(body.encode())}", *headers]
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + body.encode()


def metrics(more: str = "", **replaced: str) -> bytes:
    body = METRICS
    for name, text in replaced.items():
        body = body.replace(f'{name}="', f'{name}="{text}', 1)
    return told("200 OK", body + more, "Content-Type: text/plain; version=0.0.4")


def everywhere(path: str, _: Mapping[str, str], secret: str) -> bytes:
    """Answer as a working server whose every text repeats the credential."""
    known: dict[str, object] = {
        "/version": {"version": f"0.32.0+{secret}"},
        "/v1/models": {"data": [{"id": secret, "root": f"/models/{secret}", "max_model_len": 1}]},
        "/server_info": {"vllm_config": {"model_config": {"model": secret, "tokenizer": f"a {secret} b"}}},
        "/load": {"server_load": secret},
    }
    if path.startswith("/metrics"):
        return metrics(
            f'# HELP vllm:x Of {secret}.\nvllm:{secret.replace("-", "_")}{{a="{secret}"}} 1\nvllm:y{{b="{secret}" 1\n',
            model_name=secret,
        )
    return told("200 OK", json.dumps(known.get(path.partition("?")[0], {"detail": secret})))


def of_the_server(path: str, _: Mapping[str, str], secret: str) -> bytes:
    """Answer as a working server whose answers hold URLs and options with secrets of its own."""
    url = f"https://user:{secret}@models.internal/m"
    config = {
        "model_config": {"model": url, "tokenizer": f"{url}?token={secret}", "generation_config": f"hf_{secret}0000"},
        "speculative_config": {"method": "ngram", "model": f"s3://id:{secret}@bucket/x", "hf_token": secret},
        "kv_transfer_config": {
            "kv_connector": f"X --api-key {secret}",
            "kv_connector_extra_config": {"password": secret},
        },
        "parallel_config": {
            "distributed_executor_backend": f"HF_TOKEN={secret}",
            "data_parallel_backend": f"Bearer {secret}",
        },
    }
    known: dict[str, object] = {
        "/version": {"version": f"0.32.0 token={secret}"},
        "/v1/models": {"data": [{"id": f"m --api-key {secret}", "root": f"http://u:{secret}/x@h/m"}]},
        "/server_info": {"vllm_config": config, "vllm_env": {"VLLM_API_KEY": secret, "HF_TOKEN": secret}},
    }
    if path.startswith("/metrics"):
        return metrics(f"vllm:z{{password={IN_A_LINE}\n", model_name=url)
    return told("200 OK", json.dumps(known.get(path.partition("?")[0], {})))


ANSWERS: dict[str, Answer] = {
    "everywhere": everywhere,
    "401 with the token in its body": lambda _p, _h, s: told("401 Unauthorized", json.dumps({"error": f"bad key {s}"})),
    "status line": lambda _p, _h, s: told(f"403 no {s}"),
    "redirect path": lambda _p, _h, s: told("302 Found", "", f"Location: http://127.0.0.1/login/{s}"),
    "redirect query": lambda _p, _h, s: told("307 T", "", f"Location: http://127.0.0.1/?access_token={quote(s)}"),
    "redirect user": lambda _p, _h, s: told("301 M", "", f"Location: http://u:{s}@127.0.0.1/x"),
    "content type": lambda _p, _h, s: told("200 OK", METRICS, f"Content-Type: text/{s}; {s}"),
    "content encoding": lambda _p, _h, s: told("200 OK", METRICS, f"Content-Encoding: {s}"),
    "page instead of metrics": lambda _p, _h, s: told("200 OK", f"<html>{s}</html>"),
    "nothing but the token": lambda _p, _h, s: told("200 OK", s),
    "no HTTP": lambda _p, _h, s: f"{s}\r\n{s}\r\n\r\n".encode(),
    "header without colon": lambda _p, _h, s: f"HTTP/1.1 200 OK\r\n{s}\r\n\r\n".encode(),
    "bad length": lambda _p, _h, s: f"HTTP/1.1 200 OK\r\nContent-Length: {s}\r\n\r\n".encode(),
    "bad chunk": lambda _p, _h, s: f"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n{s}\r\n".encode(),
    "date": lambda _p, _h, s: told("200 OK", METRICS, f"Date: {s}"),
    "metrics of another server": lambda _p, _h, s: answer(f'up{{t="{s}"}} 1\n'.encode()),
    "JSON": lambda _p, _h, s: told("200 OK", json.dumps({"headers": {"authorization": s}})),
}
"""How a server repeats the credential that it gets."""


@dataclass
class Planted:
    """A target of the sidecar, with the texts that must not be shown."""

    target: dict[str, Any]
    answer: Answer
    secrets: list[str]
    told: str
    """What the server repeats."""
    seen: list[dict[str, str]] = field(default_factory=list)


def planted(folder: Path) -> dict[str, Planted]:
    """Return targets by name: each kind of credential, each way of repeating it, each form of a command line."""
    found: dict[str, Planted] = {}

    def plant(name: str, target: dict[str, Any], shown: Answer, *secrets: str, repeats: str = "") -> None:
        found[name] = Planted(target, shown, list(secrets), repeats or secrets[0])

    for name, shown in ANSWERS.items():
        secret = CREDENTIAL.format(len(found))
        plant(f"repeated in {name}", {"bearer_token": secret}, shown, secret)
    secret = CREDENTIAL.format("file")
    (folder / "token").write_text(secret + "\n")
    plant("token in a file", {"bearer_token_file": str(folder / "token")}, everywhere, secret)
    odd = 'Pl4nted/odd+"\\=='
    plant(
        "token, percent-encoded",
        {"bearer_token": odd},
        everywhere,
        odd,
        quote(odd, safe=""),
        repeats=quote(odd, safe=""),
    )
    plant("token, as JSON", {"bearer_token": odd + "2"}, everywhere, odd + "2", json.dumps(odd + "2"))
    password = CREDENTIAL.format("basic")
    pair = base64.b64encode(f"user:{password}".encode()).decode()
    plant("basic, as sent", {"headers": {"Authorization": f"Basic {pair}"}}, everywhere, pair, password)
    plant(
        "basic, decoded", {"headers": {"Authorization": f"Basic {pair}"}}, everywhere, pair, password, repeats=password
    )
    for name in ("X-Api-Key", "Cookie", "X-Anything", "Proxy-Authorization"):
        secret = CREDENTIAL.format(name.lower())
        plant(f"header {name}", {"headers": {name: secret}}, everywhere, secret)
    secret = HERS.format(99)
    plant("of the server", {}, of_the_server, secret, f"{secret}0000")
    for number, form in enumerate(OPTIONS):
        secret = HERS.format(number)
        arguments = [
            part.replace("{}", secret) for part in ("vllm", "serve", "org/model", *form, "--max-num-seqs", "7")
        ]
        plant(f"argument {number} of vLLM", {"args": arguments}, lambda *_: metrics(), secret)
    return found


OPTIONS = (
    ("--api-key", "{}"),
    ("--api-key={}",),
    ("--api_key", "one", "{}"),
    ("--api-key", "-{}"),
    ("--api-key", "--{}"),
    ("--api-k", "{}"),
    ("--hf-token", "{}"),
    ("--hf_token={}",),
    ("--ssl-keyfile-password={}",),
    ("--model", "https://user:{}@h/m"),
    ("--model=s3://id:a/{}@bucket/m",),
    ("--tokenizer", "https://h/t?token={}"),
    ("--served-model-name", "hf_{}0000"),
    ("--chat-template", "{{ '{}' }}"),
    ("--speculative-config", '{"method": "x", "model": "http://u:{}@h", "hf_token": "{}"}'),
    ("--speculative-config.hf_token", "{}"),
    ("--kv-transfer-config", '{"kv_connector": "C", "kv_connector_extra_config": {"password": "{}"}}'),
    ("--kv-transfer-config.kv_connector_extra_config.password", "{}"),
    ("--hf-overrides", '{"token": "{}"}'),
    ("--otlp-traces-endpoint", "http://u:{}@h"),
    ("--middleware", "x --token={}"),
    ("--future-option", "{}"),
)
"""Of vLLM's command line."""


def server(one: Planted) -> Handler:
    async def handler(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
        headers = dict(line.lower().split(": ", 1)[:1] + line.split(": ", 1)[1:] for line in head[1:] if ": " in line)
        one.seen.append(headers)
        writer.write(one.answer(head[0].split(" ")[1], headers, one.told))
        await writer.drain()

    return handler


PATHS = (
    "/metrics",
    "/api/v1/status",
    "/api/v1/history",
    "/",
    "/runbooks/",
    "/-/healthy",
    "/-/ready",
    "/debug/last-scrape",
)


async def outputs(base: str, names: list[str]) -> dict[str, str]:
    """Return all that the program shows on its port, by path."""
    asked = [*PATHS, *(f"/debug/last-scrape?target={quote(name)}" for name in names)]
    shown = {}
    async with aiohttp.ClientSession() as session:
        for path in asked:
            async with session.get(base + path) as found:
                shown[path] = str(found.headers) + await found.text(errors="replace")
        accept = {"Accept": "application/openmetrics-text"}
        async with session.get(base + "/metrics", headers=accept) as found:
            shown["OpenMetrics"] = await found.text()
        async with session.post(base + "/-/reload") as found:
            shown["/-/reload"] = await found.text()
    return shown


def leaks(secrets: Mapping[str, list[str]], shown: Mapping[str, str]) -> list[str]:
    return [
        f"{way}: {secret} in {where}: {text[max(0, text.find(secret) - 60) : text.find(secret) + 40]}"
        for way, listed in secrets.items()
        for secret in listed
        for where, text in shown.items()
        if secret in text
    ]


@pytest.mark.parametrize("form", ["logfmt", "json"])
async def test_nothing_that_the_program_shows_has_a_planted_secret(tmp_path: Path, form: str) -> None:
    ways = planted(tmp_path)
    assert len(ways) >= 40
    async with contextlib.AsyncExitStack() as stack:
        for name, one in ways.items():
            one.target |= {"name": name, "url": await stack.enter_async_context(raw_server(server(one)))}
        file = tmp_path / "config.yaml"
        config = {
            "web": {"enable_lifecycle": True},
            "log": {"level": "debug", "format": form},
            "introspection": {"interval": "1s"},
            "scrape": {"interval": "500ms", "server_time_ratio": 1.0},
            "gpu": {"devices": "none"},
            "targets": [one.target for one in ways.values()],
        }
        file.write_text(json.dumps(config))
        with started("--config.file", str(file)) as (running, base):
            await asyncio.sleep(7.0)
            shown = await outputs(base, list(ways))
            file.write_text(broken(config))
            running.process.send_signal(signal.SIGHUP)
            await asyncio.sleep(1.5)
            shown |= {f"{path} after a bad reload": text for path, text in (await outputs(base, [])).items()}
            shown["log"] = running.log
    secrets = {name: one.secrets for name, one in ways.items()} | {"reload": list(BROKEN.values())}
    assert not leaks(secrets, shown)
    # The last body is shown as it came, apart from what the sidecar sent and users in URLs.
    as_it_came = {where: text for where, text in shown.items() if not where.startswith("/debug/")}
    assert not leaks({"a line of the server": [IN_A_LINE]}, as_it_came)
    # The planted texts did arrive, and what should be shown is shown.
    for name, one in ways.items():
        assert one.seen, name
        assert json.dumps(name) in shown["/api/v1/status"], name
    assert sum(HIDDEN in text for text in shown.values()) > 10
    assert "config_reload_failed" in shown["log"]


BROKEN = {
    "url": "Pl4nted/in+url",
    "bearer_token": "Pl4nted in token",
    "headers": "Pl4nted\nin-header",
    "args": "Pl4nted-in 'args",
    "metrics_path": "Pl4ntedInPath0",
}


def broken(config: dict[str, Any]) -> str:
    target = {
        "name": "x",
        "url": f"http://u:{BROKEN['url']}@h",
        "bearer_token": BROKEN["bearer_token"],
        "headers": {"X-Key": BROKEN["headers"]},
        "args": BROKEN["args"],
        "metrics_path": f"metrics?token={BROKEN['metrics_path']}",
    }
    return json.dumps(config | {"targets": [target]})
