"""Runs one source of discovery in this process, and waits for its list."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager, suppress
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

    from vllm_sidecar.discovery.source import Source


def names(source: Source) -> list[str | None]:
    """Return the names of the targets in the last list."""
    return [target.name for target in source.listed.targets]


@asynccontextmanager
async def running(source: Source) -> AsyncIterator[Source]:
    """Run a source until the end of the block."""
    task = asyncio.create_task(source.run())
    try:
        yield source
    finally:
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task


async def until(condition: Callable[[], object], seconds: float = 10.0) -> None:
    """Wait until a condition holds."""
    async with asyncio.timeout(seconds):
        while not condition():  # noqa: ASYNC110 - nothing tells a test
            await asyncio.sleep(0.005)
