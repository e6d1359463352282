"""The known facts about the identity of servers, and those that differ."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from vllm_sidecar.catalog.server import FLAG_GAUGES, FLAGS_SHOWN
from vllm_sidecar.derive.kv_cache import tokens_of
from vllm_sidecar.tools.compare.measures import KV_CAPACITY
from vllm_sidecar.tools.doctor.diagnosis import CAPACITY, COMPATIBILITY
from vllm_sidecar.vllm.probes.flags import FLAGS

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from vllm_sidecar.series.readings import Readings
    from vllm_sidecar.tools.compare.observation import Observation

SLOTS = "lora_slots"
EXPORTED = ("server_info", "server_config_info", "model_info", SLOTS, *(name for name, _ in FLAG_GAUGES.values()))
"""Signals of a sidecar that contain facts."""
KV_CACHE = "kv_cache_tokens"
"""Tokens in the KV cache of an engine: what --gpu-memory-utilization and the like result in."""
MAX_LORAS = "max_loras"
FIRST = (
    "version",
    "rust_frontend_version",
    "models",
    "adapters",
    "front_end",
    "engine_generation",
    "engines",
    KV_CACHE,
)
SAME_KV_CACHE = 0.05
"""Share of the larger one up to which two KV caches have the same size: it depends on the memory that was free."""
FINGERPRINT = "fingerprint"
_PER_SERVER = frozenset(flag.name for flag in FLAGS if flag.per_server)


@dataclass(frozen=True, slots=True)
class FactDifference:
    """A fact with different values; None where a side does not expose it."""

    name: str
    values: tuple[str | None, ...]


def facts_of(identity: Mapping[str, Any]) -> dict[str, str]:
    """Return the facts of an identity, as plain values (of `ServerIdentity`, or from the status of a sidecar)."""
    models = identity.get("models") or ()
    adapters = sorted(f"{each['id']} on {each['parent']}" for each in models if each.get("parent"))
    found = {
        "version": identity.get("version"),
        "rust_frontend_version": identity.get("rust_frontend_version"),
        "models": ", ".join(sorted(_model(each) for each in models if not each.get("parent"))),
        "adapters": ", ".join(adapters) or ("none" if models else ""),
        FINGERPRINT: identity.get("fingerprint"),
        **{name: value for name, value in (identity.get("flags") or {}).items() if name not in _PER_SERVER},
    }
    return {name: _text(value) for name, value in found.items() if value not in (None, "")}


def exported_facts(series: Iterable[tuple[str, Mapping[str, str], float]]) -> dict[str, str]:
    """Return the facts that the series of a sidecar contain; names are without the prefix."""
    facts: dict[str, str] = {}
    models = []
    gauges = {name: flag for flag, (name, _) in FLAG_GAUGES.items() if flag not in FLAGS_SHOWN}
    for name, labels, value in series:
        if name == "server_info":
            facts |= {key: labels[key] for key in ("version", "front_end", "engine_generation") if labels.get(key)}
        elif name == "server_config_info":
            facts |= {key: labels[key] for key in (FINGERPRINT, *FLAGS_SHOWN) if labels.get(key)}
        elif name == "model_info":
            models.append(
                {"id": labels.get("model_name", ""), "root": labels.get("root"), "parent": labels.get("parent")}
            )
        elif name == SLOTS:
            facts.setdefault(MAX_LORAS, _text(value))
        elif name in gauges:
            facts[gauges[name]] = _text(value)
    of_models = facts_of({"models": models}) if models else {}
    return facts | of_models


def size_facts(readings: Readings) -> dict[str, str]:
    """Return --max-loras and the KV cache of a server that exposes no flags: both are in its metrics."""
    slots = readings.adapters.slots if readings.adapters else None
    return kv_cache_fact(readings) | ({MAX_LORAS: str(slots)} if slots else {})


def kv_cache_fact(readings: Readings) -> dict[str, str]:
    """Return the smallest KV cache of a server's engines, from vLLM or from its sidecar; empty if it is unknown."""
    exported = [each.gauges[KV_CAPACITY] for each in readings.groups.values() if KV_CAPACITY in each.gauges]
    own = (tokens_of(config, max(1, len(readings.engines))) for config in readings.cache_config.values())
    sizes = exported or [each for each in own if each is not None]
    return {KV_CACHE: _text(min(sizes))} if sizes else {}


def compare_facts(sides: Sequence[Observation]) -> tuple[list[FactDifference], list[FactDifference]]:
    """Return the facts that differ, and those that only some sides expose, the important ones first."""
    names = {name for side in sides for name in side.facts}
    order = [*FIRST, *COMPATIBILITY, *CAPACITY]
    differ, partly = [], []
    for name in sorted(
        names - {FINGERPRINT}, key=lambda each: (order.index(each) if each in order else len(order), each)
    ):
        row = FactDifference(name, tuple(side.facts.get(name) for side in sides))
        if None in row.values:
            partly.append(row)
        if _differs(row):
            differ.append(row)
    prints = FactDifference(FINGERPRINT, tuple(side.facts.get(FINGERPRINT) for side in sides))
    if not differ and not partly and None not in prints.values and len(set(prints.values)) > 1:
        differ.append(prints)  # otherwise it repeats what the rows above show
    return differ, partly


def _differs(row: FactDifference) -> bool:
    known = {value for value in row.values if value is not None}
    if row.name == KV_CACHE and known:
        sizes = list(map(float, known))
        return min(sizes) < (1.0 - SAME_KV_CACHE) * max(sizes)
    return len(known) > 1


def _model(card: Mapping[str, Any]) -> str:
    root = card.get("root")
    return f"{card['id']} ({root})" if root and root != card["id"] else str(card["id"])


def _text(value: object) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, float):
        return f"{value:g}" if value != int(value) else str(int(value))
    return str(value)
