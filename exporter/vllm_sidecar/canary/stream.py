"""Bytes of an answer -> server-sent events, and their JSON -> what was generated. Pure, and limited in every way."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from vllm_sidecar.canary.errors import CanaryError
from vllm_sidecar.catalog.canary import CanaryReason
from vllm_sidecar.redaction import redact

if TYPE_CHECKING:
    from collections.abc import Iterator

DONE = "[DONE]"
_SHOWN = 200
"""Characters of an error or a damaged line in a detail."""


class EventStream:
    """Splits bytes into the data of server-sent events; refuses more than `limit` bytes."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._size = 0
        self._rest: list[bytes] = []

    def feed(self, piece: bytes) -> Iterator[str]:
        """Yield the data of each line that `piece` completes.

        Raises:
            CanaryError: TOO_LARGE, or BAD_STREAM for a line that is neither data nor another field of an event.
        """
        self._size += len(piece)
        if self._size > self._limit:
            detail = f"the answer has more than {self._limit} bytes (canary.max_body_size)"
            raise CanaryError(CanaryReason.TOO_LARGE, detail)
        *lines, rest = piece.split(b"\n")
        if lines:
            lines[0] = b"".join((*self._rest, lines[0]))
            self._rest.clear()
        self._rest.append(rest)
        for line in lines:
            text = line.decode("utf-8", "replace").rstrip("\r")
            name, colon, value = text.partition(":")
            if colon and name == "data":
                yield value.removeprefix(" ")
            elif text and name not in ("", "event", "id", "retry"):
                raise CanaryError(CanaryReason.BAD_STREAM, f"not a server-sent event: {_shown(text)}")


@dataclass(slots=True)
class Answer:
    """The answer so far: what the events of its stream hold."""

    texts: list[str] = field(default_factory=list)
    token_ids: list[int] = field(default_factory=list)
    """Empty where the server does not return them."""
    prompt_ids: tuple[int, ...] = ()
    """Token ids of the prompt after template and tokenizer; empty where the server does not return them."""
    finish: str = ""
    """The finish reason; empty until it is known."""
    server_fingerprint: str = ""
    """vLLM's `system_fingerprint`: version, parallel sizes and a hash of the configuration."""

    @property
    def text(self) -> str:
        """The whole text, with the reasoning before it."""
        return "".join(self.texts)

    def add(self, data: str) -> bool:
        """Add an event; return whether it holds generated tokens.

        Raises:
            CanaryError: BAD_STREAM for anything but an event of vLLM, SERVER_ERROR for its error.
        """
        event = _parsed(data)
        if "error" in event or event.get("object") == "error":
            error = event.get("error", event)
            message = error.get("message") if isinstance(error, dict) else error
            raise CanaryError(CanaryReason.SERVER_ERROR, f"the server ended the stream: {_shown(str(message))}")
        choices = event.get("choices")
        if not isinstance(choices, list):
            raise CanaryError(CanaryReason.BAD_STREAM, f"an event without choices: {_shown(data)}")
        if isinstance(fingerprint := event.get("system_fingerprint"), str):
            self.server_fingerprint = fingerprint[:_SHOWN]
        self._note_prompt(event)
        generated = [self._add_choice(choice) for choice in choices if isinstance(choice, dict)]
        return any(generated)

    def _note_prompt(self, part: dict[str, Any]) -> None:
        ids = _ids(part.get("prompt_token_ids"))
        self.prompt_ids = self.prompt_ids or tuple(ids)

    def _add_choice(self, choice: dict[str, Any]) -> bool:
        self._note_prompt(choice)
        delta = choice.get("delta")
        part = delta if isinstance(delta, dict) else choice
        texts = [
            text
            for name in ("reasoning_content", "reasoning", "content", "text")
            if isinstance(text := part.get(name), str) and text
        ]
        ids = _ids(choice.get("token_ids"))
        self.texts += texts[:1] if "reasoning_content" in part and "reasoning" in part else texts
        self.token_ids += ids
        if isinstance(finish := choice.get("finish_reason"), str):
            self.finish = finish[:_SHOWN]
        return bool(ids or texts)


def _parsed(data: str) -> dict[str, Any]:
    try:
        event = json.loads(data)
    except (ValueError, RecursionError):
        event = None
    if not isinstance(event, dict):
        raise CanaryError(CanaryReason.BAD_STREAM, f"an event that is not a JSON object: {_shown(data)}")
    return event


def _ids(value: object) -> list[int]:
    return [each for each in value if isinstance(each, int)] if isinstance(value, list) else []


def _shown(text: str) -> str:
    return redact(text[:_SHOWN])
