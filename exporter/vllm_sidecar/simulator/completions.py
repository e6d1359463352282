"""POST /v1/completions and /v1/chat/completions: streams a fixed answer through the simulated engine.

An answer takes as long as the simulated scheduler needs for it, and waits where clients of the simulation wait: in the
queue, in a stall, while the engine sleeps. Its text depends on the conditions (`answers`), not on the prompt. A prompt
of token ids has exactly these tokens, a text about one for four characters; both find the blocks of equal beginnings in
the prefix cache.
"""

from __future__ import annotations

import asyncio
import json
import time
from typing import TYPE_CHECKING, Any

from aiohttp import web

if TYPE_CHECKING:
    from collections.abc import Callable

    from vllm_sidecar.simulator.lookalike import Lookalike
    from vllm_sidecar.simulator.requests import Request

COMPLETIONS = ("/v1/completions", "/v1/chat/completions")
LOOK_SECONDS = 0.005
"""Real seconds between two looks at the progress of a request."""
MOST_TOKENS = 4096
_CHARACTERS_PER_TOKEN = 4
_WORDS: dict[str, list[str]] = {
    "right": ["Paris", "."],
    "other": ["Lyon", ",", " I", " think", "."],
    "empty": [],
    "endless": ["Paris", ".", " The", " capital", " of", " Italy", " is"],
    "garbage": ["\ufffd"],
    "control_tokens": ["Paris", "<|im_end|>", "\n", "<|im_start|>", "user"],
}


async def complete(request: web.Request, advance: Callable[[], Lookalike]) -> web.StreamResponse:
    """Answer one request as vLLM does; `advance` runs the simulation up to now."""
    look, chat = advance(), request.path == COMPLETIONS[1]
    try:
        body = json.loads(await request.text())
        model, most = str(body["model"]), int(body.get("max_completion_tokens") or body.get("max_tokens") or 16)
        prompt_ids, content = _prompt(json.dumps(body["messages"]) if chat else body["prompt"])
    except (ValueError, TypeError, KeyError) as error:
        return _refused(400, f"not a request: {error!r}")
    names = (look.settings.model_name, *look.settings.adapter_names)
    if model not in names:
        return _refused(404, f"The model `{model}` does not exist.")
    if not 1 <= most <= MOST_TOKENS or not body.get("stream"):
        return _refused(400, f"the simulator streams answers of 1 to {MOST_TOKENS} tokens")
    tokens, finish = _answer(look.answers, most, ignore_eos=bool(body.get("ignore_eos")))
    adapter = model if model != look.settings.model_name else ""
    work = look.submit(len(content), max(1, len(tokens)), most, adapter, finish, content)
    events = _Events(chat, model, f"{'chatcmpl' if chat else 'cmpl'}-{request.headers.get('X-Request-Id', 'sim')}")
    return await _stream(request, advance, work, events, tokens, finish, prompt_ids)


def _prompt(given: object) -> tuple[list[int], tuple[int, ...]]:
    """Return the token ids of a prompt, and its tokens in the cache: of a text, the ids stand for its words.

    Raises:
        ValueError: It is neither a text nor a list of token ids.
    """
    if isinstance(given, str):
        ids = [sum(map(ord, word)) for word in given.split()]
        return ids, _tokens(given, max(len(ids), len(given) // _CHARACTERS_PER_TOKEN))
    if isinstance(given, list) and given and all(type(each) is int for each in given):
        return given, tuple(given)
    raise ValueError("the prompt is neither a text nor a list of token ids")


def _tokens(text: str, count: int) -> tuple[int, ...]:
    """Divide a text into so many tokens; equal beginnings have equal ones, and the rest is in the last."""
    width = _CHARACTERS_PER_TOKEN
    pieces = [text[at : at + width] for at in range(0, width * max(0, count - 1), width)]
    return tuple(hash(each) for each in [*pieces, text[width * len(pieces) :]][:count])


def _answer(kind: str, most: int, *, ignore_eos: bool) -> tuple[list[str], str]:
    """Return the tokens of an answer, and its finish reason."""
    words = _WORDS[kind]
    if ignore_eos or kind in ("endless", "garbage"):
        return (words * most)[:most], "length"
    return words[:most], "stop" if len(words) <= most else "length"


async def _stream(
    request: web.Request,
    advance: Callable[[], Lookalike],
    work: Request,
    events: _Events,
    tokens: list[str],
    finish: str,
    prompt_ids: list[int],
) -> web.StreamResponse:
    response = web.StreamResponse(headers={"Content-Type": "text/event-stream; charset=utf-8"})
    started, sent = advance().started, 0
    while not (work.ended and response.prepared and sent >= len(tokens)):
        await asyncio.sleep(LOOK_SECONDS)
        look = advance()
        if request.transport is None or request.transport.is_closing():
            work.gives_up = look.clock
            return response
        if look.started != started or work.ended in ("abort", "error"):
            request.transport.close()
            return response
        if not work.generated:
            continue
        if not response.prepared:
            await response.prepare(request)
            await response.write(events.first(prompt_ids))
        ready = tokens[sent : work.generated]
        for token in ready:
            await response.write(events.token(token))
        sent += len(ready)
    await response.write(events.last(finish))
    await response.write(b"data: [DONE]\n\n")
    return response


class _Events:
    """Writes the events of one stream in vLLM's form."""

    def __init__(self, chat: bool, model: str, number: str) -> None:
        self._chat = chat
        kind = "chat.completion.chunk" if chat else "text_completion"
        self._head = {"id": number, "object": kind, "created": int(time.time()), "model": model}

    def first(self, prompt_ids: list[int]) -> bytes:
        """Return the event with the token ids of the prompt."""
        if self._chat:
            return self._event(self._part("", None, None), prompt_token_ids=prompt_ids)
        return self._event(self._part("", None, None) | {"prompt_token_ids": prompt_ids})

    def token(self, text: str) -> bytes:
        """Return the event of one token."""
        return self._event(self._part(text, None, [sum(map(ord, text))]))

    def last(self, finish: str) -> bytes:
        """Return the event with the finish reason."""
        return self._event(self._part("", finish, []), system_fingerprint="vllm-simulated")

    def _part(self, text: str, finish: str | None, ids: list[int] | None) -> dict[str, Any]:
        content = {"delta": {"content": text}} if self._chat else {"text": text}
        return {"index": 0, **content, "finish_reason": finish, "token_ids": ids}

    def _event(self, choice: dict[str, Any], **more: object) -> bytes:
        return b"data: " + json.dumps({**self._head, "choices": [choice], **more}).encode() + b"\n\n"


def _refused(status: int, message: str) -> web.Response:
    return web.json_response({"error": {"message": message, "code": status}}, status=status)
