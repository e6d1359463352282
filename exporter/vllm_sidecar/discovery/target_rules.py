"""An entry of a list -> a target, by the keys of `target` in its source; or why it is not one."""

from __future__ import annotations

import re
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING, NamedTuple

from pydantic_core import PydanticCustomError

from vllm_sidecar.catalog.discovery import EntryState
from vllm_sidecar.config import TAKEN_LABELS, NamedTarget
from vllm_sidecar.config.label_texts import fill, labels_in
from vllm_sidecar.config.values import as_frozen, http_path, label_name, not_allowed, target_url
from vllm_sidecar.discovery.errors import shown

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    from vllm_sidecar.config import DiscoveredTarget
    from vllm_sidecar.discovery.entries import Entry

MOST_LABELS = 64
MOST_CHARACTERS = 1024
"""Longest address or value of a label."""

_ADDRESS = re.compile(r"[^\s/@?#\\]+")
_NAMESPACE, _POD = "__meta_kubernetes_namespace", "__meta_kubernetes_pod_name"
_DEFAULTS = {"__scheme__": "http", "__metrics_path__": "/metrics"}
_OF_ENTRIES = frozenset((_NAMESPACE, _POD, *_DEFAULTS))


class Refusal(NamedTuple):
    """An entry that is not watched."""

    address: str
    state: EntryState
    why: str


class TargetRules:
    """How the entries of one source become targets."""

    def __init__(self, settings: DiscoveredTarget) -> None:
        self._settings = settings
        self._keep = {name: _escaped(patterns) for name, patterns in settings.keep.items()}
        self._drop = {name: _escaped(patterns) for name, patterns in settings.drop.items()}
        kept = (key for key in NamedTarget.model_fields if key not in ("name", "url", "metrics_path", "labels"))
        self._constant = {key: getattr(settings, key) for key in kept}
        texts = (settings.url, settings.metrics_path, settings.name or "", *settings.labels.values())
        self.labels_read = _OF_ENTRIES.union(settings.keep, settings.drop, *map(labels_in, texts))
        """Names of the labels that the rules read; besides them only those without __ matter."""

    def apply(self, entry: Entry) -> NamedTarget | Refusal:
        """Return the target of an entry, or why it is not watched."""
        labels = {**_DEFAULTS, **dict(entry.labels), "__address__": entry.address}
        address = _without_user(entry.address[:MOST_CHARACTERS])
        try:
            _check_form(labels)
            if not self._matches(labels):
                return Refusal(address, EntryState.FILTERED, "left out by keep or drop")
            return self._target(labels)
        except _NotAllowedError as error:
            return Refusal(address, EntryState.INVALID, str(error))

    def _matches(self, labels: Mapping[str, str]) -> bool:
        kept = all(_fits(labels.get(name, ""), patterns) for name, patterns in self._keep.items())
        return kept and not any(_fits(labels.get(name, ""), patterns) for name, patterns in self._drop.items())

    def _target(self, labels: Mapping[str, str]) -> NamedTarget:
        settings = self._settings
        name = fill(settings.name, labels) if settings.name is not None else _default_name(labels)
        # Everything that an entry can change is checked here, and the rest was when the configuration was loaded.
        return NamedTarget.model_construct(
            **self._constant,
            name=_checked("name", name, _name),
            url=_checked("url", fill(settings.url, labels), target_url),
            metrics_path=_checked("metrics_path", fill(settings.metrics_path, labels), http_path),
            labels=as_frozen(self._labels(labels)),
        )

    def _labels(self, labels: Mapping[str, str]) -> dict[str, str]:
        found = {_exported(name): value for name, value in labels.items() if value and not name.startswith("__")}
        found |= {name: fill(text, labels) for name, text in self._settings.labels.items()}
        return {name: _checked(f"label {name}", value, _printable) for name, value in found.items() if value}


class _NotAllowedError(Exception):
    """A part of a target that is not allowed."""


def _without_user(address: str) -> str:
    """Return an address without a user and password, which do not belong there and are secrets."""
    return re.sub(r"[^/]*@", "***@", address)


def _default_name(labels: Mapping[str, str]) -> str:
    if _POD in labels:
        return f"{labels.get(_NAMESPACE, '')}/{labels[_POD]}"
    return labels["__address__"]


def _exported(name: str) -> str:
    """Return the name of a label of an entry on the series of its target, as Prometheus renames one that collides."""
    _checked("label", name, label_name)
    return f"exported_{name}" if name in TAKEN_LABELS else name


def _checked(part: str, value: str, check: Callable[[str], str]) -> str:
    try:
        return check(value)
    except PydanticCustomError as error:
        raise _NotAllowedError(f"{part}: got {shown(value)}; allowed: {error.message()}") from None


def _name(value: str) -> str:
    if not value.strip():
        raise not_allowed("text; the entry has none of the labels in target.name")
    return _printable(value)


def _printable(value: str) -> str:
    if not value.isprintable():
        raise not_allowed("text on one line, without control characters")
    return value


def _check_form(labels: Mapping[str, str]) -> None:
    if len(labels) > MOST_LABELS + len(_DEFAULTS) + 1:
        raise _NotAllowedError(f"{len(labels)} labels; allowed: at most {MOST_LABELS}")
    for name, value in labels.items():
        if len(value) > MOST_CHARACTERS or len(name) > MOST_CHARACTERS:
            raise _NotAllowedError(f"label {shown(name)}: longer than {MOST_CHARACTERS} characters")
    address = labels["__address__"]
    if not _ADDRESS.fullmatch(address):
        text = shown(_without_user(address))
        raise _NotAllowedError(f"got {text}; allowed: HOST:PORT, without http:// and path")


def _escaped(patterns: Iterable[str]) -> tuple[str, ...]:
    """Return patterns in which only * and ? are special."""
    return tuple(pattern.replace("[", "[[]") for pattern in patterns)


def _fits(value: str, patterns: Iterable[str]) -> bool:
    return any(fnmatchcase(value, pattern) for pattern in patterns)
