"""Regular expressions are searched in a process of their own: none holds the event loop, and none lives on."""

from __future__ import annotations

import asyncio
import time

import psutil
import pytest

from vllm_sidecar.canary.search import LONGEST_SEARCHED, found

pytestmark = pytest.mark.io


@pytest.mark.parametrize(
    ("pattern", "text", "expected"),
    [
        ("(?i)paris", "It is Paris.", True),
        ("^Rome", "It is Rome.", False),
        ("\\u5df4\\u9ece", "\u9996\u90fd\u662f\u5df4\u9ece\u3002", True),
        ("a\0b", "a\0b", True),
        ("\ud800", "\ud800", True),
        ("'; raise SystemExit(0) #", "an answer", False),
        ("x", "a" * LONGEST_SEARCHED + "x", False),
    ],
    ids=["case", "anchor", "letters of China", "zero", "half a pair", "quotes", "beyond the limit"],
)
async def test_a_pattern_is_found_or_not(pattern: str, text: str, *, expected: bool) -> None:
    assert await found(pattern, text, 20.0) is expected


async def test_a_search_without_an_end_holds_nothing_and_its_process_ends() -> None:
    late: list[float] = []

    async def ticking() -> None:
        while True:
            due = time.monotonic() + 0.02
            await asyncio.sleep(0.02)
            late.append(time.monotonic() - due)

    ticks = asyncio.create_task(ticking())
    assert await found("(a+)+$", "a" * 60 + "!", 0.5) is None
    ticks.cancel()
    assert len(late) >= 5
    assert not psutil.Process().children()


async def test_a_canceled_search_leaves_no_process() -> None:
    search = asyncio.create_task(found("(a+)+$", "a" * 60 + "!", 60.0))
    await asyncio.sleep(0.2)
    search.cancel()
    with pytest.raises(asyncio.CancelledError):
        await search
    assert not psutil.Process().children()


async def test_without_a_process_nothing_is_known(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.executable", "/nowhere/python")
    assert await found("a", "a") is None
