"""The status page in a real browser, served by the real program."""

from __future__ import annotations

import asyncio
import threading
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from browser import page
from fake_vllm import FakeVllm
from sidecar_process import started

from vllm_sidecar.simulator.body import exposition
from vllm_sidecar.simulator.lookalike import Lookalike
from vllm_sidecar.simulator.script import read_script

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from playwright.sync_api import Page

pytestmark = pytest.mark.e2e

BODY = (Path(__file__).parents[1] / "captures" / "0.32.0__baseline__after.prom").read_bytes()
HOSTILE = '<img src=x onerror="document.title=1">'
PATIENCE = 20_000


@contextmanager
def vllm(body: bytes | Callable[[], bytes], model: str = "tiny") -> Iterator[str]:
    """Run a look-alike on a loop of its own; the browser's calls block this one."""
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever, daemon=True)
    thread.start()
    fake = FakeVllm(body, models=(model,))
    asyncio.run_coroutine_threadsafe(fake.__aenter__(), loop).result(10)
    try:
        yield fake.url
    finally:
        asyncio.run_coroutine_threadsafe(fake.__aexit__(), loop).result(10)
        loop.call_soon_threadsafe(loop.stop)
        thread.join(10)
        loop.close()


def played(script: str, seconds: float) -> Callable[[], bytes]:
    """Make a body that goes on by a simulated second at each poll, from some time on."""
    look = Lookalike(read_script(script, None, {}), 1_800_000_000.0)
    look.advance(seconds)

    def body() -> bytes:
        look.advance(look.clock + 1.0)
        return exposition(look)

    return body


def has_words(one: Page, words: str) -> None:
    one.wait_for_function(
        "words => document.getElementById('words').innerText.includes(words)", arg=words, timeout=PATIENCE
    )


def pixels(one: Page) -> list[int]:
    """Count the drawn pixels of each chart."""
    counted: list[int] = one.evaluate(
        "[...document.querySelectorAll('canvas')].map(canvas => canvas.getContext('2d')"
        ".getImageData(0, 0, canvas.width, canvas.height).data.filter((value, at) => at % 4 === 3 && value).length)"
    )
    return counted


def test_it_draws_the_eight_families_and_says_the_state() -> None:
    with vllm(played("healthy", 90.0)) as url, started("--vllm.url", url) as (_, base), page() as one:
        one.goto(base)
        has_words(one, "healthy: ")
        one.wait_for_function(
            "() => [...document.querySelectorAll('.now b')].filter(b => /[0-9]/.test(b.innerText)).length >= 13",
            timeout=PATIENCE,
        )
        titles = one.locator("#charts h2").all_inner_texts()
        assert titles == [
            "Queue time", "Time to first token", "Inter-token latency", "Requests", "KV-cache usage", "Preemptions",
            "Prefix-cache hits", "Tokens",
        ]  # fmt: skip
        assert len(pixels(one)) == 8
        assert min(pixels(one)) > 500
        assert (
            one.locator(".plot")
            .first.get_attribute("aria-label")
            .startswith("Queue time over the last minutes; now p50 ")
        )
        # The flags come with the introspection's next question.
        one.wait_for_function(
            "() => document.querySelector('#panels').innerText.includes('--max-model-len')", timeout=PATIENCE
        )
        assert one.title().startswith("✓ healthy")


def test_a_queue_is_told_in_words() -> None:
    with vllm(played("queue-buildup 10m", 60.0)) as url, started("--vllm.url", url) as (_, base), page() as one:
        one.goto(base)
        has_words(one, "queueing: ")


def test_it_says_when_the_sidecar_is_gone_and_recovers_by_itself() -> None:
    with vllm(BODY) as url, page() as one:
        with started("--vllm.url", url) as (_, base):
            one.goto(base)
            has_words(one, "idle")
        has_words(one, "the sidecar does not answer")
        assert "outdated" in one.locator("#state").get_attribute("class")
        with started("--vllm.url", url, "--web.listen-address", base.removeprefix("http://")):
            has_words(one, "idle")
            assert "outdated" not in one.locator("#state").get_attribute("class")


def test_what_a_server_says_is_never_markup() -> None:
    hostile = BODY.replace(b'model_name="tiny"', b'model_name="%s"' % HOSTILE.replace('"', r"\"").encode())
    with vllm(hostile, model=HOSTILE) as url, started("--vllm.url", url) as (_, base), page() as one:
        one.goto(base)
        one.wait_for_function(
            "words => document.getElementById('who').innerText.includes(words)", arg=HOSTILE, timeout=PATIENCE
        )
        assert one.locator("img").count() == 0
        assert one.title() != "1"


def test_two_engines_can_be_chosen_by_keyboard() -> None:
    with vllm(played("dp-imbalance 10m", 60.0)) as url, started("--vllm.url", url) as (_, base), page() as one:
        one.goto(base)
        one.wait_for_selector("#choose:not([hidden])", timeout=PATIENCE)
        assert one.locator("#engine option").count() == 4
        one.keyboard.press("Tab")
        assert one.evaluate("document.activeElement.id") == "engine"
        one.keyboard.press("ArrowDown")
        assert one.locator("#engine").input_value().endswith("\x001")


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_a_phone_needs_no_sideways_scrolling(scheme: str) -> None:
    options = {"viewport": {"width": 360, "height": 740}, "color_scheme": scheme}
    with vllm(played("healthy", 90.0)) as url, started("--vllm.url", url) as (_, base), page(**options) as one:
        one.goto(base)
        has_words(one, "healthy")
        assert one.evaluate("document.documentElement.scrollWidth") <= 360
        dark = one.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(20, 22, 26)"
        assert dark == (scheme == "dark")


def test_the_lists_of_servers_are_shown_with_what_is_wrong(tmp_path: Path) -> None:
    config, servers = tmp_path / "config.yaml", tmp_path / "servers.json"
    config.write_text(f"discovery: {{file: [{{files: [{servers}], refresh: 100ms}}]}}\ngpu: {{devices: none}}\n")
    with vllm(BODY) as url, started("--config.file", str(config)) as (_, own), page() as shown:
        shown.goto(own)
        shown.get_by_text("the list file.0 cannot be read (unreadable)").wait_for(timeout=PATIENCE)
        assert "unreadable" in shown.get_by_role("row").filter(has_text="file.0").inner_text()
        servers.write_text(f'[{{"targets": ["{url.removeprefix("http://")}", "bad/host"]}}]')
        shown.get_by_text("bad/host: got 'bad/host'").wait_for(timeout=PATIENCE)
        row = shown.get_by_role("row").filter(has_text="file.0").inner_text().split("\t")
        assert row[:3] == ["file.0", "1", "1 invalid"]
