"""Flags of a server that no answer contains -> a command line of vLLM, and so back through the sidecar's own reader."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from vllm_sidecar.vllm.probes.flag_values import NONE
from vllm_sidecar.vllm.probes.identity import FactSource

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from vllm_sidecar.tools.recording.hashing import Hasher
    from vllm_sidecar.vllm.probes.flag_values import FlagValue

READ_ELSEWHERE = frozenset((FactSource.CONFIG, FactSource.PROC))
"""Sources of flags outside the answers of the server."""
NAMES = frozenset(("model", "served_model_name", "tokenizer", "chat_template", "generation_config"))
"""Flags whose values are names; with hashed names the model of a draft is left out."""


def command_line(flags: Mapping[str, FlagValue], hasher: Hasher | None = None) -> tuple[str, ...]:
    """Write flags as arguments of vLLM; empty without flags."""
    return tuple(_arguments(flags, hasher)) if flags else ()


def _arguments(flags: Mapping[str, FlagValue], hasher: Hasher | None) -> Iterator[str]:
    for name, value in flags.items():
        if hasher and name == "speculative_config":
            continue
        option = name.replace("_", "-")
        if isinstance(value, bool):
            yield f"--{option}" if value else f"--no-{option}"
            continue
        text = argument(name, value)
        yield f"--{option}={hasher.text(text) if hasher and name in NAMES else text}"


def argument(name: str, value: FlagValue) -> str:
    """Write the value of a flag as an option of vLLM takes it."""
    return _FORMS.get(name, str)(value)


def _speculative(value: FlagValue) -> str:
    """Write what `describe_speculative` made of a speculative config as a config again."""
    words = [word for word in str(value).split() if "=" not in word]
    if str(value) == NONE:
        return "None"
    counts = dict(word.split("=", 1) for word in str(value).split() if "=" in word)
    return json.dumps({**dict(zip(("method", "model"), words, strict=False)), **{k: int(v) for k, v in counts.items()}})


def _connector(value: FlagValue) -> str:
    return "None" if value == NONE else json.dumps({"kv_connector": value})


_FORMS: Mapping[str, Callable[[FlagValue], str]] = {
    "speculative_config": _speculative,
    "kv_transfer_config": _connector,
}
"""Flags whose command line has another form than their value."""
