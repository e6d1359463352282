"""Names -> hashes, so that a recording can be handed on without them."""

from __future__ import annotations

import hashlib
import re
import secrets
from functools import partial
from itertools import chain
from typing import Any

from vllm_sidecar.catalog import HTTP_REQUESTS, TRANSFERS, UPSTREAM
from vllm_sidecar.catalog.routes import WORDS
from vllm_sidecar.catalog.upstream import CACHE_CONFIG, CACHE_CONFIG_KEYS, DIMENSIONS

_READ = (*(entry.signal for entry in UPSTREAM), TRANSFERS.signal, HTTP_REQUESTS.signal)
KEPT_LABELS = frozenset(
    (
        *("le", "quantile", "operation", "status_code", "code", "max_lora"),
        *("implementation", "major", "minor", "patchlevel", "generation"),
        *chain.from_iterable(DIMENSIONS.values()),
        *chain.from_iterable(signal.labels for signal in _READ),
    )
) - {"handler"}
"""Labels whose values are from closed sets, and are never hashed; numbers are not hashed anywhere."""
_SETTINGS = KEPT_LABELS.union(CACHE_CONFIG_KEYS)
"""The same for cache_config_info."""
_PLAIN = re.compile(r"|[-+]?[\d.]+(?:[eE][-+]?\d+)?|[-+]?Inf|NaN|True|False|true|false|None|none|null|auto")
"""Values without a name in them."""
_LABEL = re.compile(r'([a-zA-Z_][\w.]*)="((?:[^"\\]|\\.)*)"')
_CONFIG = re.compile(rf"\w*:?\w*{CACHE_CONFIG}\b")
_HASH_BYTES = 5


class Hasher:
    """Replaces names by hashes with a key that is stored nowhere: equal names stay equal within one recording."""

    def __init__(self) -> None:
        self._key = secrets.token_bytes(32)
        self._heads: dict[str, str] = {}

    def text(self, text: str) -> str:
        """Hash a text, or each part of a list with commas; numbers and the like stay."""
        return ",".join(map(self._one, text.split(",")))

    def _one(self, text: str) -> str:
        if _PLAIN.fullmatch(text):
            return text
        return (
            "h-" + hashlib.blake2b(text.encode("utf-8", "replace"), key=self._key, digest_size=_HASH_BYTES).hexdigest()
        )

    def line(self, line: str) -> str:
        """Hash the values of labels in a line of metrics."""
        if line.startswith("#"):
            return line
        head, blank, value = line.rpartition(" ")
        known = self._heads.get(head)
        if known is None:
            kept = _SETTINGS if _CONFIG.match(head) else KEPT_LABELS
            known = self._heads[head] = _LABEL.sub(partial(self._label, kept), head)
        return known + blank + value

    def _label(self, kept: frozenset[str], found: re.Match[str]) -> str:
        name, value = found.groups()
        if name in kept:
            return found[0]
        return f'{name}="{self._route(value) if name == "handler" else self.text(value)}"'

    def _route(self, path: str) -> str:
        """Hash the parts of a path that are not of vLLM's own routes."""
        return "/".join(part if part in WORDS else self._one(part) for part in path.split("/"))

    def json(self, value: Any) -> Any:
        """Hash every text in a value of JSON."""
        if isinstance(value, dict):
            return {name: self.json(each) for name, each in value.items()}
        if isinstance(value, list):
            return [self.json(each) for each in value]
        return self.text(value) if isinstance(value, str) else value
