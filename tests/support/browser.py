"""A real headless Chromium for the page's tests; Debian's, which playwright drives."""

from __future__ import annotations

import os
import shutil
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from collections.abc import Iterator

    from playwright.sync_api import Page

HINT = "chromium is not on PATH: apt-get install chromium"
FLAGS = (
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)


@contextmanager
def page(**options: Any) -> Iterator[Page]:
    """Open a page; at its end fail on what its console complained of or what it asked of another host."""
    program = shutil.which("chromium")
    if program is None:
        if os.environ.get("CI") == "true":
            pytest.fail(HINT)
        pytest.skip(HINT)
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=program, args=list(FLAGS))
        one = browser.new_page(**options)
        complaints: list[str] = []
        one.on("console", lambda message: complaints.append(message.text) if message.type == "error" else None)
        one.on("pageerror", lambda error: complaints.append(str(error)))
        elsewhere: list[str] = []
        one.on("request", lambda asked: elsewhere.append(asked.url) if not _ours(asked.url) else None)
        try:
            yield one
        finally:
            browser.close()
        # A sidecar that is gone is a refused connection, which Chromium writes to the console by itself.
        assert [text for text in complaints if "ERR_CONNECTION_REFUSED" not in text] == []
        assert elsewhere == []


def _ours(url: str) -> bool:
    return url.startswith(("http://127.0.0.1:", "data:"))
