"""Which body is asked for: the full one, or a filtered one that must be what discovery saw."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from fake_vllm import only
from vllm_sidecar.model import PollError, Reason, Response
from vllm_sidecar.poller import BACK_OFF, Poller

if TYPE_CHECKING:
    from collections.abc import Sequence

pytestmark = pytest.mark.io

CAPTURES = Path(__file__).parent / "captures"
BODY = (CAPTURES / "0.32.0__baseline__load.prom").read_bytes()
SEVERAL_SERVERS = (CAPTURES / "0.32.0__asc2__after.prom").read_bytes()
PART_OF_THE_CHECKLIST = b"".join(line for line in BODY.splitlines(keepends=True) if b"num_preemptions" not in line)
V0_IDLE = (CAPTURES / "0.9.2__v0__idle.prom").read_bytes()


class Client:
    """Answers from a body; keeps what was asked."""

    def __init__(self, body: bytes) -> None:
        self.body = body
        self.filtered: bytes | PollError | None = None
        self.asked: list[str] = []

    async def get(self, path: str, *, query: Sequence[tuple[str, str]] = ()) -> Response:
        self.asked.append(path)
        body = self.body
        if query:
            body = self.filtered if self.filtered is not None else only(self.body, [name for _, name in query])
        if isinstance(body, PollError):
            raise body
        return Response(body, "text/plain", 0.01, len(body))


def poller(client: Client, *, filtered: bool = True) -> Poller:
    return Poller(client, "/metrics", filtered=filtered, discovery_interval=60.0)  # type: ignore[arg-type]


async def test_without_filtering_it_is_always_the_path_without_a_slash() -> None:
    client = Client(BODY)
    unfiltered = poller(client, filtered=False)
    for now in range(200):
        await unfiltered.poll(float(now))
    assert set(client.asked) == {"/metrics"}


async def test_discovery_comes_first_and_again_after_its_interval() -> None:
    client = Client(BODY)
    filtering = poller(client)
    polled = [await filtering.poll(float(now)) for now in range(0, 125, 5)]
    assert [index for index, one in enumerate(polled) if not one.filtered] == [0, 12, 24]


async def test_a_filtered_body_gives_the_same_values_as_the_full_one() -> None:
    filtering = poller(Client(BODY))
    full, few = (await filtering.poll(0.0)).exposition, (await filtering.poll(1.0)).exposition
    everything = dict(zip(full.layout.series, full.values, strict=True))
    assert dict(zip(few.layout.series, few.values, strict=True)).items() <= everything.items()
    assert len(few.values) < len(full.values)


@pytest.mark.parametrize(
    "answer",
    [
        b"# nothing\n",
        only(BODY, ["vllm:num_requests_running"]),
        BODY,
        PollError(Reason.HTTP_404, "no such path"),
        PollError(Reason.TIMEOUT, "too slow"),
    ],
    ids=["empty", "names missing", "more than asked for", "404", "timeout"],
)
async def test_anything_but_what_discovery_saw_falls_back_to_the_full_body_for_a_while(
    answer: bytes | PollError,
) -> None:
    client = Client(BODY)
    filtering = poller(client)
    await filtering.poll(0.0)
    client.filtered = answer
    assert not (await filtering.poll(1.0)).filtered
    assert client.asked == ["/metrics", "/metrics/", "/metrics"]
    client.filtered = None
    assert not (await filtering.poll(1.0 + BACK_OFF * 60.0 - 1.0)).filtered
    assert not (await filtering.poll(1.0 + BACK_OFF * 60.0)).filtered
    assert (await filtering.poll(2.0 + BACK_OFF * 60.0)).filtered


async def test_a_new_life_of_the_server_is_discovered_anew() -> None:
    filtering = poller(Client(BODY))
    await filtering.poll(0.0)
    filtering.rediscover()
    assert not (await filtering.poll(1.0)).filtered
    assert (await filtering.poll(2.0)).filtered


@pytest.mark.parametrize(
    "body",
    [SEVERAL_SERVERS, V0_IDLE, PART_OF_THE_CHECKLIST],
    ids=["several API servers", "a server that has not served", "a server that does not give everything yet"],
)
async def test_a_server_for_which_filtering_would_not_do_is_polled_in_full(body: bytes) -> None:
    filtering = poller(Client(body))
    assert not any([(await filtering.poll(float(now))).filtered for now in range(5)])


async def test_a_failure_of_the_full_body_is_the_pollers() -> None:
    client = Client(b"")
    with pytest.raises(PollError) as failed:
        await poller(client).poll(0.0)
    assert failed.value.reason is Reason.EMPTY


async def test_the_filtered_path_is_the_metrics_path_with_a_slash_behind_any_prefix() -> None:
    client = Client(BODY)
    behind_prefix = Poller(client, "/llm/metrics", filtered=True, discovery_interval=60.0)  # type: ignore[arg-type]
    await behind_prefix.poll(0.0)
    await behind_prefix.poll(1.0)
    assert client.asked == ["/llm/metrics", "/llm/metrics/"]


async def test_a_server_that_is_down_fails_the_poll_and_is_polled_in_full_when_it_is_back() -> None:
    client = Client(BODY)
    filtering = poller(client)
    await filtering.poll(0.0)
    client.body, client.filtered = b"", PollError(Reason.REFUSED, "nobody listens")
    with pytest.raises(PollError) as failed:
        await filtering.poll(1.0)
    assert failed.value.reason is Reason.EMPTY
    client.body, client.filtered = BODY, None
    assert not (await filtering.poll(2.0)).filtered
