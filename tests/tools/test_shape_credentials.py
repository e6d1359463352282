"""Tokens and the command `shape`: what a server wants, and what another program must not get."""

from __future__ import annotations

import asyncio
import os
import sys
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import pytest
from aiohttp import web
from places import EXPORTER

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

pytestmark = [pytest.mark.io, pytest.mark.slow]


@asynccontextmanager
async def refusing() -> AsyncIterator[tuple[str, list[str | None]]]:
    """Serve 401 for every path; yield the address, and the Authorization header of each request."""
    seen: list[str | None] = []

    async def refuse(request: web.Request) -> web.Response:
        seen.append(request.headers.get("Authorization"))
        return web.Response(status=401)

    app = web.Application()
    app.router.add_get("/{path:.*}", refuse)
    runner = web.AppRunner(app)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    yield "http://{}:{}".format(*runner.addresses[0][:2]), seen
    await runner.cleanup()


async def shape(*arguments: str, **variables: str) -> tuple[int | None, str]:
    """Run the command; return its exit code and what it printed to standard error."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "vllm_sidecar", "shape", *arguments),
        env=os.environ | {"PYTHONPATH": str(EXPORTER)} | variables,
        stderr=asyncio.subprocess.PIPE,
    )
    _, err = await process.communicate()
    return process.returncode, err.decode()


async def test_a_server_that_wants_a_token_says_so() -> None:
    async with refusing() as (url, _):
        code, err = await shape(url, "--window", "2s")
    assert code == 1
    assert "no traffic was seen: http_401" in err


@pytest.mark.parametrize("flag", ["--prometheus", "--from"])
async def test_other_programs_get_the_token_of_a_flag_and_not_that_of_vllm(flag: str, tmp_path: Path) -> None:
    mine = tmp_path / "token"
    mine.write_text("mine")
    async with refusing() as (url, seen):
        code, _ = await shape(flag, url, VLLM_SIDECAR_VLLM_BEARER_TOKEN="of-vllm")
        assert (code, seen) == (1, [None])
        code, _ = await shape(flag, url, "--vllm.bearer-token-file", str(mine))
        assert (code, seen[1:]) == (1, ["Bearer mine"])
