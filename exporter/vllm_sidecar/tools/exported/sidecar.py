"""A running sidecar: its status, and its metrics each second."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from vllm_sidecar.catalog.reasons import PollError, Reason
from vllm_sidecar.exposition import DifferentialParser
from vllm_sidecar.logs import UserError
from vllm_sidecar.tools.observing import ticks

if TYPE_CHECKING:
    import asyncio
    from collections.abc import AsyncIterator, Callable, Sequence

    from vllm_sidecar.exposition.layout import Exposition
    from vllm_sidecar.vllm.client import Client

STATUS = "/api/v1/status"
OTHER_PROGRAM = "this is not a sidecar; without {} its metrics are read"
"""Why an address has no status; with the flag that named it."""
_OF_A_TARGET = frozenset(("target", "state", "signals"))


class NotASidecarError(Exception):
    """The address answers, but not as a sidecar does."""


async def answer_of(client: Client, path: str, query: Sequence[tuple[str, str]] = ()) -> dict[str, Any]:
    """Return an answer of the JSON API of a sidecar, which lists targets.

    Raises:
        PollError: It cannot be reached, or refuses.
        NotASidecarError: Something else answers.
    """
    answer = await client.get(path, query=query, accept="application/json")
    try:
        found: dict[str, Any] = json.loads(answer.body)
        if not all("target" in each for each in found["targets"]):
            raise NotASidecarError
    except (ValueError, KeyError, TypeError):
        raise NotASidecarError from None
    return found


async def status_of(client: Client) -> dict[str, Any]:
    """Return the status of a sidecar; errors are those of `answer_of`."""
    found = await answer_of(client, STATUS)
    if not all(set(each) >= _OF_A_TARGET for each in found["targets"]):
        raise NotASidecarError
    return found


async def required_status(client: Client, shown: str, flag: str) -> dict[str, Any]:
    """Return the status of a sidecar that a command needs.

    Args:
        client: Of its address.
        shown: Its name in errors.
        flag: With which it was named.

    Raises:
        UserError: It cannot be reached, or is not a sidecar.
    """
    try:
        return await status_of(client)
    except PollError as error:
        hint = OTHER_PROGRAM.format(flag) if error.reason is Reason.HTTP_404 else error.reason.hint
        raise UserError(f"no status of a sidecar: {error.detail}; {hint}") from None
    except NotASidecarError:
        raise UserError(f"{shown} answers, but it is not a sidecar; without {flag} its metrics are read") from None


async def polls(
    client: Client, seconds: float, stop: asyncio.Event, show: Callable[[str], None]
) -> AsyncIterator[tuple[float, Exposition | PollError]]:
    """Poll the metrics each second; yield the seconds since the start, and what was exported or why that is unknown."""
    parser = DifferentialParser()
    async for at in ticks(seconds, stop, show):
        if stop.is_set():
            continue  # the last tick: nobody waits for another answer
        try:
            answer = await client.get("/metrics")
            yield at, parser.parse(answer.body, answer.content_type)
        except PollError as error:
            yield at, error
