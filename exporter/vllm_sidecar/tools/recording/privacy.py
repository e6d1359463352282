"""The part of an answer that is recorded: nothing secret, and on request no names.

Of `/metrics` everything is recorded, because vLLM puts no secret there. Of the probed endpoints only what the sidecar
reads is recorded: `/server_info` also contains the environment of the server.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from vllm_sidecar.tools.recording.flags import argument
from vllm_sidecar.vllm.probes import flag_values
from vllm_sidecar.vllm.probes.endpoints import parse_server_info
from vllm_sidecar.vllm.probes.flags import FLAGS

if TYPE_CHECKING:
    from collections.abc import Callable

    from vllm_sidecar.tools.recording.hashing import Hasher

_CARD = ("id", "root", "parent", "max_model_len")
_SECTIONS: dict[str, frozenset[str]] = {
    section: frozenset(path[1] for flag in FLAGS for path in flag.paths if len(path) == 2 and path[0] == section)
    for section in {path[0] for flag in FLAGS for path in flag.paths}
} | {
    "speculative_config": frozenset(("method", "model", "num_speculative_tokens", "num_spec_tokens")),
    "kv_transfer_config": frozenset(("kv_connector",)),
}
"""Sections of /server_info, and their keys that the sidecar reads."""


def reduced(path: str, body: bytes, hashed: Hasher | None = None) -> bytes:
    """Return the part of a probe's answer that is recorded; empty if it is not an answer of vLLM.

    Args:
        path: What was probed.
        body: The answer.
        hashed: Replaces names; None keeps them.
    """
    reader = _READERS.get(path)
    if reader is None:
        return b""
    try:
        answer = json.loads(body)
    except (ValueError, RecursionError):
        return b""
    if not isinstance(answer, dict):
        return b""
    found = reader(answer)
    return json.dumps(hashed.json(found) if hashed and path in _NAMES else found).encode()


def _version(answer: dict[str, Any]) -> dict[str, Any]:
    return {name: answer[name] for name in ("version", "rust_frontend_version") if name in answer}


def _load(answer: dict[str, Any]) -> dict[str, Any]:
    return {"server_load": answer.get("server_load")}


def _models(answer: dict[str, Any]) -> dict[str, Any]:
    cards = answer.get("data")
    if not isinstance(cards, list):
        return {}
    read = [card for card in cards if isinstance(card, dict)]
    return {"data": [{name: _scalar(card.get(name)) for name in _CARD} for card in read]}


def _server_info(answer: dict[str, Any]) -> dict[str, Any]:
    config = answer.get("vllm_config")
    if isinstance(config, str):
        return {"vllm_config": _text_form(config)}
    if not isinstance(config, dict):
        return {}
    return {"vllm_config": {name: _section(config[name], keys) for name, keys in _SECTIONS.items() if name in config}}


def _text_form(config: str) -> str:
    """Write the flags of the text form (0.8.5 to 0.10) in the same form."""
    flags = parse_server_info(json.dumps({"vllm_config": config}).encode()).flags
    pairs = {flag.key: argument(flag.name, flags[flag.name]) for flag in reversed(FLAGS) if flag.name in flags}
    return ", ".join(f"{key}='{value}'" for key, value in pairs.items() if key)


def _section(section: object, keys: frozenset[str]) -> object:
    if not isinstance(section, dict):
        return _scalar(section)
    return {name: _scalar(section[name]) for name in keys if name in section}


def _scalar(value: object) -> object:
    if isinstance(value, list):
        return [_scalar(each) for each in value[:16]]
    if isinstance(value, str):
        return flag_values.text(value)  # without the user part and the query of a URL
    return value if value is None or isinstance(value, bool | int | float) else None


_READERS: dict[str, Callable[[dict[str, Any]], dict[str, Any]]] = {
    "/version": _version,
    "/v1/models": _models,
    "/server_info": _server_info,
    "/load": _load,
}
_NAMES = frozenset(("/v1/models", "/server_info"))
"""Answers that contain names."""
