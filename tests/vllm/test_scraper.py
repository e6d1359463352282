"""One poll is one body of `/metrics`, parsed."""

from __future__ import annotations

import pytest
from places import CAPTURES

from vllm_sidecar.catalog.reasons import PollError, Reason
from vllm_sidecar.vllm.client import Response
from vllm_sidecar.vllm.scraper import Scraper

BODY = (CAPTURES / "0.32.0__baseline__load.prom").read_bytes()


class Client:
    """Answers with a body, or fails; keeps the paths that were asked for."""

    def __init__(self, answer: bytes | PollError) -> None:
        self.answer = answer
        self.asked: list[str] = []

    async def get(self, path: str) -> Response:
        self.asked.append(path)
        if isinstance(self.answer, PollError):
            raise self.answer
        return Response(self.answer, "text/plain", 0.01)


def scraper(client: Client) -> Scraper:
    return Scraper(client, "/metrics")  # type: ignore[arg-type]


async def test_the_path_has_no_slash_at_its_end_for_that_handler_renames_the_metrics() -> None:
    client = Client(BODY)
    scraping = scraper(client)
    for _ in range(20):
        await scraping.scrape()
    assert set(client.asked) == {"/metrics"}


async def test_an_unchanged_layout_is_the_same_object_at_each_poll() -> None:
    scraping = scraper(Client(BODY))
    first, second = await scraping.scrape(), await scraping.scrape()
    assert first.exposition.layout is second.exposition.layout
    assert first.response.body == BODY


@pytest.mark.parametrize("answer", [PollError(Reason.TIMEOUT, "late"), b"<html>"])
async def test_a_poll_without_an_exposition_fails(answer: bytes | PollError) -> None:
    with pytest.raises(PollError):
        await scraper(Client(answer)).scrape()
