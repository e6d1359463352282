"""Any value of any source -> a flag value, or None: no value from a server or a user raises here.

Texts are shortened and cleaned of characters that UTF-8 cannot encode. URLs lose their user part and query, which may
contain credentials.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping, Sequence
from pathlib import PurePosixPath

from vllm_sidecar.vllm.urls import cut_text, without_credentials

FlagValue = str | int | float | bool

MAX_TEXT = 512
"""Longest text: it becomes a label value in every scrape."""

NONE = "none"
"""Value of a flag whose feature the server reports as off; a flag that no source reports is absent instead."""

_MAX_READ = 4096
"""Characters of a text that are read: texts are cut before anything else is done with them."""

_EXACT = 2**53
"""Flags become gauges, so an integer that a double cannot hold is not a flag value."""

_WORDS = {"true": True, "false": False, "1": True, "0": False, "yes": True, "no": False}
_DECIMAL = {"k": 10**3, "m": 10**6, "g": 10**9, "t": 10**12}
_BINARY = {"K": 2**10, "M": 2**20, "G": 2**30, "T": 2**40}
_HUMAN = re.compile(r"([0-9]{1,16}(?:\.[0-9]{1,16})?)([kKmMgGtT])")
_WHOLE = re.compile(r"[+-]?[0-9]{1,16}")
_REPR_PAIR = re.compile(r"\b(method|model|num_spec_tokens|num_speculative_tokens)=('[^']*'|\"[^\"]*\"|[^,()]+)")


def text(value: object) -> str | None:
    """Clean a text of at most 512 characters; None for anything that is not text, is empty, or is `None`."""
    if not isinstance(value, str):
        return None
    printable = "".join(c if c.isprintable() else " " for c in cut_text(value, _MAX_READ).strip())
    # JSON and /proc can both carry lone surrogates, which would fail when the metrics are written.
    utf8 = printable.encode("utf-8", "replace").decode("utf-8")
    safe = without_credentials(utf8).strip()[:MAX_TEXT]
    return safe if safe and safe not in {"None", "null"} else None


def integer(value: object) -> int | None:
    """Read an integer, also with vLLM's suffixes (`8k` = 8000, `8K` = 8192, since 0.9.0); None if it is not one."""
    if isinstance(value, bool):
        return None
    number: float
    if isinstance(value, int | float):
        number = value
    elif isinstance(value, str) and _WHOLE.fullmatch(value.strip()):
        number = int(value)
    elif isinstance(value, str) and (match := _HUMAN.fullmatch(value.strip())):
        digits, suffix = match.groups()
        number = int(float(digits) * (_DECIMAL.get(suffix) or _BINARY[suffix]))
    else:
        return None
    return int(number) if abs(number) < _EXACT and number == int(number) else None


def positive(value: object) -> int | None:
    """Read an integer above 0; None also for -1 and `auto`, for which vLLM decides the value itself."""
    number = integer(value)
    return number if number is not None and number > 0 else None


def real(value: object) -> float | None:
    """Read a finite number; None for anything else."""
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        return None
    try:
        number = float(value)
    except (ValueError, OverflowError):
        return None
    return number if math.isfinite(number) else None


def truth(value: object) -> bool | None:
    """Read a bool or its usual spellings; None for anything else."""
    if isinstance(value, bool):
        return value
    return _WORDS.get(value.strip().lower()) if isinstance(value, str) else None


def switched(value: object) -> bool | None:
    """Return whether a feature with a section such as `lora_config` is on: vLLM writes null when it is off."""
    if value is None or isinstance(value, Mapping):
        return value is not None
    return truth(value)


def first(value: object) -> str | None:
    """Take the first of several names: only the first is in the `model_name` label of vLLM's metrics."""
    if isinstance(value, Sequence) and not isinstance(value, str | bytes):
        return text(value[0]) if value else None
    return text(value)


def dtype(value: object) -> str | None:
    """Read a data type; /server_info has `torch.bfloat16` where the command line has `bfloat16`."""
    name = text(value)
    return name.removeprefix("torch.") if name else None


def optional(value: object) -> str | None:
    """Read a text where the server's None means that the feature is off, which is exported as `none`."""
    return NONE if value is None or value == "None" else text(value)


def template(value: object) -> str | None:
    """Name a chat template without its content: a file's name, or `inline` if the option holds the text itself."""
    if not isinstance(value, str) or not value.strip():
        return None
    if "{" in value or "\n" in value:
        return "inline"
    return text(PurePosixPath(value[:_MAX_READ]).name)


def document(value: object) -> Mapping[str, object] | None:
    """Read a JSON object, given as an object or as text; None if it is not one."""
    if isinstance(value, str):
        try:
            value = json.loads(value)
        except (ValueError, RecursionError):
            return None
    return value if isinstance(value, Mapping) else None


def connector(value: object) -> str | None:
    """Name the KV connector; the rest of its config is dropped: it may contain addresses and other private values."""
    if value is None or value == "None":
        return NONE
    config = document(value)
    return text(config.get("kv_connector")) if config is not None else None


def speculative(value: object) -> Mapping[str, object] | None:
    """Read the relevant keys of a speculative config: method, model, num_speculative_tokens; None if it is not one.

    It is an object, JSON (command line), or Python's repr: `SpeculativeConfig(method='ngram', model=None,
    num_spec_tokens=3)` in the text form of /server_info.
    """
    config = document(value)
    if config is None and isinstance(value, str) and value.startswith("SpeculativeConfig("):
        config = {name: found.strip("'\"") for name, found in _REPR_PAIR.findall(value[:_MAX_READ])}
    if config is None:
        return None
    count = config.get("num_speculative_tokens", config.get("num_spec_tokens"))
    return {"method": config.get("method"), "model": config.get("model"), "num_speculative_tokens": count}


def describe_speculative(value: object) -> str | None:
    """Write a speculative config compactly: `ngram num_speculative_tokens=3`; `none` when it is off."""
    if value is None or value == "None":
        return NONE
    config = speculative(value)
    if config is None:
        return None
    method, model, count = text(config["method"]), text(config["model"]), integer(config["num_speculative_tokens"])
    # vLLM sets model to the method's own name for ngram, and V0 (up to 0.8) wrote the method as model "[ngram]".
    model = model.strip("[]") if model else None
    parts: list[str] = [part for part in (method, model if model != method else None) if part]
    if count is not None:
        parts.append(f"num_speculative_tokens={count}")
    return " ".join(parts)[:MAX_TEXT] or None


def draft_length(value: object) -> FlagValue | None:
    """Take the number of speculative tokens from a speculative config; None if it is off or unknown."""
    config = speculative(value)
    return positive(config["num_speculative_tokens"] if config is not None else value)
