"""The stream of an answer: every form that servers use, and what is not a stream at all."""

from __future__ import annotations

import json
import time
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vllm_sidecar.canary.errors import CanaryError
from vllm_sidecar.canary.stream import Answer, EventStream
from vllm_sidecar.catalog.canary import CanaryReason


def event(**fields: object) -> str:
    return json.dumps({"choices": [{"index": 0, "finish_reason": None, **fields}]})


def test_a_completion_has_text_tokens_and_the_prompts_tokens() -> None:
    answer = Answer()

    assert answer.add(event(text="Par", token_ids=[1], prompt_token_ids=[7, 8]))
    assert answer.add(event(text="is", token_ids=[2], prompt_token_ids=None))
    assert not answer.add(event(text="", finish_reason="stop"))
    assert (answer.text, answer.token_ids, answer.prompt_ids, answer.finish) == ("Paris", [1, 2], (7, 8), "stop")


def test_a_chat_has_reasoning_before_content_and_usage_without_choices() -> None:
    answer = Answer()
    head = {"choices": [{"delta": {"role": "assistant", "content": ""}}], "prompt_token_ids": [7]}

    assert not answer.add(json.dumps(head))
    assert answer.add(event(delta={"reasoning": "hm", "reasoning_content": "hm"}, token_ids=[1]))
    assert answer.add(event(delta={"content": "Paris"}))
    assert not answer.add(json.dumps({"choices": [], "usage": {"total_tokens": 3}, "system_fingerprint": "vllm-1"}))
    assert (answer.text, answer.prompt_ids, answer.server_fingerprint) == ("hmParis", (7,), "vllm-1")


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        ("not json", CanaryReason.BAD_STREAM),
        ("[1]", CanaryReason.BAD_STREAM),
        ("[" * 100_000, CanaryReason.BAD_STREAM),
        ('{"choices": null}', CanaryReason.BAD_STREAM),
        ('{"error": {"message": "engine is dead"}}', CanaryReason.SERVER_ERROR),
        ('{"object": "error", "message": "engine is dead"}', CanaryReason.SERVER_ERROR),
        ('{"error": 1}', CanaryReason.SERVER_ERROR),
    ],
)
def test_an_event_that_is_none_of_vllm_is_a_reason(data: str, reason: CanaryReason) -> None:
    with pytest.raises(CanaryError) as raised:
        Answer().add(data)
    assert raised.value.reason is reason
    assert len(raised.value.detail) < 300


def test_odd_fields_are_left_out() -> None:
    answer = Answer()

    assert not answer.add('{"choices": [1, null, {"delta": 3, "token_ids": "x", "text": 5, "finish_reason": 7}]}')
    assert answer == Answer()


BODY = b'event: x\r\ndata: {"a": 1}\r\n\r\n: a comment\nid: 3\ndata:two\n\nretry: 5\ndata: [DONE]\n\n'


@given(st.lists(st.integers(1, len(BODY)), max_size=20))
def test_events_do_not_depend_on_how_the_bytes_are_split(cuts: list[int]) -> None:
    stream, found = EventStream(10_000), []
    places = [0, *sorted(cuts), len(BODY)]
    for begin, end in pairwise(places):
        found += stream.feed(BODY[begin:end])

    assert found == ['{"a": 1}', "two", "[DONE]"]


def test_a_page_of_html_is_no_stream_and_an_endless_line_is_too_large() -> None:
    with pytest.raises(CanaryError, match="not a server-sent event: <html>"):
        list(EventStream(1000).feed(b"<html>\n<body>\n"))
    stream = EventStream(1000)
    assert not [data for _ in range(1000) for data in stream.feed(b"x")]
    with pytest.raises(CanaryError) as raised:
        list(stream.feed(b"x"))
    assert raised.value.reason is CanaryReason.TOO_LARGE


def test_a_long_line_in_many_pieces_takes_linear_time() -> None:
    def seconds(pieces: int) -> float:
        stream, began = EventStream(10**8), time.perf_counter()
        for _ in range(pieces):
            list(stream.feed(b"x" * 10))
        return time.perf_counter() - began

    short = min(seconds(10_000) for _ in range(3))
    assert min(seconds(40_000) for _ in range(3)) < 12 * short
