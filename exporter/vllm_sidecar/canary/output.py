"""A complete answer, its expectation and its baseline -> the state of the output. Pure."""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass
from itertools import groupby
from typing import TYPE_CHECKING

from vllm_sidecar.catalog.canary import OutputState

if TYPE_CHECKING:
    from collections.abc import Hashable, Iterable, Sequence

    from vllm_sidecar.canary.stream import Answer
    from vllm_sidecar.config.canary import CanaryPrompt, Expectation

LEAST_REPEATS = 8
"""A token that occurs so often in a row, and makes up half of the answer, is garbage."""
LEAST_REPLACEMENTS = 2
"""Replacement characters before the end; one at the end is a character that max_tokens cut in two."""
HASH_DIGITS = 12
"""48 bits: a number that a metric holds exactly."""
_CONTROL = re.compile(
    r"<\|[a-z_][a-z0-9_]{1,30}\|>|<[|\uff5c][^<>]{1,30}[|\uff5c]>|</?s>|<(?:start|end)_of_turn>|\[/?INST\]|<<SYS>>"
    r"|<(?:unk|pad|bos|eos)>"
)


@dataclass(frozen=True, slots=True)
class Fingerprint:
    """An answer as it is compared: a hash of its tokens, of the prompt's token ids, and whether it ended by itself."""

    answer: str
    prompt: str
    """Empty where the server does not return token ids."""
    ended: bool


def fingerprint(answer: Answer, tolerance: int) -> Fingerprint:
    """Return what is compared of an answer: all tokens but the last `tolerance` ones.

    A token that differs changes all that follow, so the tolerance is about the end. Where the server returns no token
    ids, words are compared.
    """
    parts: Sequence[object] = answer.token_ids or re.findall(r"\S+", answer.text)
    compared = parts[: max(1, len(parts) - tolerance)]
    return Fingerprint(_hash(compared), _hash(answer.prompt_ids) if answer.prompt_ids else "", answer.finish == "stop")


def _hash(parts: Iterable[object]) -> str:
    return hashlib.sha256(" ".join(map(str, parts)).encode()).hexdigest()[:HASH_DIGITS]


def state_of(
    prompt: CanaryPrompt, answer: Answer, found: Fingerprint, known: Fingerprint | None, *, matched: bool | None = None
) -> OutputState:
    """Return the state of a complete answer.

    An answer that is exactly the configured one is right, whatever it looks like.

    Args:
        prompt: The request and the answer that is expected.
        answer: The answer.
        found: Its fingerprint.
        known: The baseline; None while that is learned.
        matched: Whether `expect.pattern` matches; None without a pattern, or if that is not known.
    """
    text, expect = answer.text.strip(), prompt.expect
    if not text:
        return OutputState.EMPTY
    exact = _is_exact(expect, text, found)
    ended = found.ended or not prompt.ends
    if not exact:
        if len(answer.token_ids) > prompt.max_tokens:
            return OutputState.ENDLESS
        if is_garbage(text, answer.token_ids):
            return OutputState.GARBAGE
        if _CONTROL.search(text):
            return OutputState.CONTROL_TOKENS
    if not ended:
        return OutputState.ENDLESS
    if not exact and not _is_allowed(expect, matched=matched):
        return OutputState.UNEXPECTED
    return _compared(found, known, exact=exact)


def _is_exact(expect: Expectation, text: str, found: Fingerprint) -> bool:
    return text == (expect.text or "").strip() or found.answer == expect.hash


def _is_allowed(expect: Expectation, *, matched: bool | None) -> bool:
    """Return whether an answer that is not the exact one may be right."""
    return matched is not False if expect.pattern is not None else expect.text is None and expect.hash is None


def _compared(found: Fingerprint, known: Fingerprint | None, *, exact: bool) -> OutputState:
    if known is None:
        return OutputState.EXPECTED if exact else OutputState.LEARNING
    if found.prompt != known.prompt:
        return OutputState.TEMPLATE_CHANGED
    if exact or found.answer == known.answer:
        return OutputState.EXPECTED
    return OutputState.ENDLESS if known.ended and not found.ended else OutputState.CHANGED


def is_garbage(text: str, tokens: Sequence[Hashable]) -> bool:
    """Return whether a text has replacement characters before its end, or repeats one token or word."""
    if text.rstrip("\ufffd").count("\ufffd") >= LEAST_REPLACEMENTS:
        return True
    parts: Sequence[Hashable] = tokens or text.split()
    longest = max((len(list(same)) for _, same in groupby(parts)), default=0)
    return longest >= LEAST_REPEATS and 2 * longest >= len(parts)
