"""Facts of all sources -> one Identity, with a fingerprint and a count of changes. Pure; the wall clock is injected."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass, field, replace
from enum import StrEnum
from typing import TYPE_CHECKING, Final

from vllm_sidecar.vllm.probes.flags import FLAGS

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from vllm_sidecar.vllm.probes.flag_values import FlagValue


@dataclass(frozen=True, slots=True)
class ModelCard:
    """One card of `/v1/models`: a base model, an alias of it, or a LoRA adapter (then `parent` names its base)."""

    id: str
    root: str | None = None
    parent: str | None = None
    max_model_len: int | None = None


@dataclass(frozen=True, slots=True)
class ServerIdentity:
    """A server's identity, merged from all sources; facts that no source exposes are None or absent.

    `flags` holds vLLM's command line options under their argument names (`tensor_parallel_size`), `flag_sources` has
    the source of each. `fingerprint` is 12 hex digits over version, models and flags; it changes with any of them.
    `changes` counts changes of a value that was known before, `last_change` is the Unix time of the last or None.
    """

    version: str | None = None
    rust_frontend_version: str | None = None
    models: tuple[ModelCard, ...] = ()
    flags: Mapping[str, FlagValue] = field(default_factory=dict)
    flag_sources: Mapping[str, str] = field(default_factory=dict)
    fingerprint: str | None = None
    changes: int = 0
    last_change: float | None = None
    requests_in_flight: float | None = None
    """`/load` of a server with --enable-server-load-tracking; None while it was never above 0."""
    source_errors: Mapping[str, str] = field(default_factory=dict)

    @property
    def served_model(self) -> str | None:
        """The name of the base model, the first of several names; None unless exactly one is known."""
        bases = [model for model in self.models if model.parent is None]
        one = len({model.root or model.id for model in bases}) == 1
        return bases[0].id if one else None


class FactSource(StrEnum):
    """Sources of facts; the values are shown to users."""

    CONFIG = "vllm.args"
    PROC = "/proc"
    CACHE_CONFIG = "cache_config_info"
    VERSION = "/version"
    MODELS = "/v1/models"
    SERVER_INFO = "/server_info"
    LOAD = "/load"


PRIORITY: Final[tuple[str, ...]] = (
    FactSource.CONFIG,
    FactSource.PROC,
    FactSource.CACHE_CONFIG,
    FactSource.MODELS,
    FactSource.SERVER_INFO,
)
"""Priority of the sources of a flag, the last wins: values of the running engine override requested values."""

_REPORTED_BY_SERVER: Final = (
    FactSource.CACHE_CONFIG,
    FactSource.VERSION,
    FactSource.MODELS,
    FactSource.SERVER_INFO,
    FactSource.LOAD,
)

_DIGITS = 12
_PER_SERVER = frozenset(flag.name for flag in FLAGS if flag.per_server)


@dataclass(frozen=True, slots=True)
class Facts:
    """The facts of one source at one time; None or absent means unknown.

    `requests_in_flight` counts requests, `flags` has whitelisted argument names only.
    """

    version: str | None = None
    rust_frontend_version: str | None = None
    models: tuple[ModelCard, ...] = ()
    flags: Mapping[str, FlagValue] = field(default_factory=dict)
    requests_in_flight: float | None = None


class IdentityKeeper:
    """Keeps the last facts of every source and merges them.

    A source that fails keeps its facts until `forget`. While held, fingerprint and changes do not move, so that a
    rollout, which the sources show one after the other, is one change with one new fingerprint.
    """

    def __init__(self, wall: Callable[[], float]) -> None:
        """Use `wall` (Unix time in seconds) to date changes."""
        self._wall = wall
        self._facts: dict[str, Facts] = {}
        self._known: dict[tuple[str, str], object] = {}
        self._identity = ServerIdentity()
        self._held = False
        self._changed = False

    @property
    def identity(self) -> ServerIdentity:
        """The known facts."""
        return self._identity

    def update(self, source: str, facts: Facts) -> None:
        """Replace the facts of `source`."""
        if self._facts.get(source) != facts:
            self._facts[source] = facts
            self._merge()

    def forget(self, source: str) -> None:
        """Drop the facts of `source`: it no longer exposes them, or the server may be another one."""
        if self._facts.pop(source, None) is not None:
            self._merge()

    def start_over(self) -> None:
        """Drop all facts from the server itself without counting a change: they may be from several servers."""
        for source in _REPORTED_BY_SERVER:
            self._facts.pop(source, None)
        self._known.clear()
        self._identity = replace(self._identity, fingerprint=None)
        self._changed = False
        self._held = True
        self._merge()

    def fail(self, source: str, reason: str | None) -> None:
        """Note why `source` had no facts, from a closed set of words; None if it answered."""
        errors = self._identity.source_errors
        if errors.get(source) != reason:
            others = {name: why for name, why in errors.items() if name != source}
            kept = others if reason is None else {**others, source: reason}
            self._identity = replace(self._identity, source_errors=dict(sorted(kept.items())))

    def hold(self) -> None:
        """Collect changes from now on without publishing them, until `settle`."""
        self._held = True

    def settle(self) -> None:
        """Publish a new fingerprint, and all changes while held as one change."""
        if self._held:
            self._held = False
            self._merge()

    def _merge(self) -> None:
        flags, sources = self._merged_flags()
        version = self._facts.get(FactSource.VERSION, Facts())
        models = self._facts.get(FactSource.MODELS, Facts()).models
        identity = replace(
            self._identity,
            version=version.version,
            rust_frontend_version=version.rust_frontend_version,
            models=models,
            flags=flags,
            flag_sources=sources,
            requests_in_flight=self._facts.get(FactSource.LOAD, Facts()).requests_in_flight,
        )
        self._changed |= self._note(identity)
        if not self._held:
            identity = replace(identity, fingerprint=fingerprint(identity))
            if self._changed:
                self._changed = False
                identity = replace(identity, changes=identity.changes + 1, last_change=self._wall())
        self._identity = identity

    def _merged_flags(self) -> tuple[dict[str, FlagValue], dict[str, str]]:
        flags: dict[str, FlagValue] = {}
        sources: dict[str, str] = {}
        for flag in FLAGS:
            for source in PRIORITY:
                value = self._facts.get(source, Facts()).flags.get(flag.name)
                if value is not None:
                    flags[flag.name], sources[flag.name] = value, source
        return flags, sources

    def _note(self, identity: ServerIdentity) -> bool:
        """Remember the known facts; return whether any of them replaced a different known value.

        A flag is compared with the previous value of the same source: `auto` on the command line and `bfloat16` from
        /server_info are the same setting, and a better source that appears is not a change of the server.
        """
        now: dict[tuple[str, str], object] = {
            (source, name): identity.flags[name] for name, source in identity.flag_sources.items()
        }
        if identity.version is not None:
            now[FactSource.VERSION, "version"] = identity.version, identity.rust_frontend_version
        if base := _base_models(identity):
            now[FactSource.MODELS, "models"] = base
        changed = any(key in self._known and self._known[key] != value for key, value in now.items())
        self._known.update(now)
        return changed


def fingerprint(identity: ServerIdentity) -> str | None:
    """Hash version, base models and flags to 12 hex digits; None while nothing is known.

    LoRA adapters are left out because they load and unload at run time, and so are flags that only distinguish the
    servers of one deployment. None of the other flags differs between two identical starts (num_gpu_blocks would: it
    depends on the memory that was free).
    """
    models = _base_models(identity)
    if identity.version is None and not models and not identity.flags:
        return None
    flags = {name: value for name, value in identity.flags.items() if name not in _PER_SERVER}
    facts = [identity.version, identity.rust_frontend_version, models, flags]
    canonical = json.dumps(facts, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(canonical.encode()).hexdigest()[:_DIGITS]


def _base_models(identity: ServerIdentity) -> list[tuple[str, str, int]]:
    return sorted((m.id, m.root or "", m.max_model_len or 0) for m in identity.models if m.parent is None)
