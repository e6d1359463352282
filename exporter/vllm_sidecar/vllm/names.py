"""The names in a body, read before any series: their prefix, and their family.

Each family is read under one prefix only: a body may contain vLLM's own names next to those of Ray, or of another
program whose names begin with `vllm_` too.
"""

from __future__ import annotations

import re
from collections import defaultdict
from itertools import chain
from typing import TYPE_CHECKING

from vllm_sidecar.catalog import upstream

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping

    from vllm_sidecar.exposition.layout import Layout

PARTS = ("_bucket", "_sum", "_count")
"""Suffixes of the samples of a histogram."""
_KNOWN = re.compile("|".join(f"(?:{pattern})" for pattern in upstream.KNOWN_PATTERNS))
_FAMILIES = frozenset(chain.from_iterable(entry.aliases for entry in upstream.UPSTREAM))
_SUFFIXES = (*PARTS, "_created", "_total")


def strip_prefix(name: str) -> tuple[str, str] | None:
    """Split a vLLM name into prefix and the rest; None for anything else."""
    if name.removeprefix("ray_").removeprefix("kserve_").startswith(upstream.NOT_VLLM):
        return None
    for prefix in upstream.PREFIXES:
        if name.startswith(prefix):
            rest = name[len(prefix) :]
            return (prefix, rest) if ":" not in rest else None
    return None


class Names:
    """The names of a layout under vLLM's prefixes: which prefix is used, and which names the catalog lists."""

    def __init__(self, layout: Layout) -> None:
        self.by_prefix: dict[str, dict[str, str]] = defaultdict(dict)
        """Prefix -> name of a family or sample without it -> declared type, empty without one."""
        names = {**dict.fromkeys((name for name, _ in layout.series), ""), **layout.families}
        self.split = {name: split for name in names if (split := strip_prefix(name))}
        for name, (prefix, rest) in self.split.items():
            self.by_prefix[prefix][rest] = names[name]
        for prefix in list(self.by_prefix):
            # Other programs may have names that begin with vllm_; no other program's begin with vllm:.
            if prefix.endswith("_") and not any(map(_is_known, self.by_prefix[prefix])):
                del self.by_prefix[prefix]
        self.prefixes = sorted(self.by_prefix, key=self._rank)

    def _rank(self, prefix: str) -> tuple[int, int, int]:
        names = self.by_prefix[prefix]
        return -len(only_engines(names)), -sum(map(_is_known, names)), upstream.PREFIXES.index(prefix)

    def all(self) -> set[str]:
        """Return all names without their prefixes."""
        return set(chain.from_iterable(self.by_prefix.values()))

    def unknown(self) -> tuple[str, ...]:
        """Return the families, with their prefixes, that are not in the catalog."""
        found = set()
        for prefix, names in self.by_prefix.items():
            bases = {_base(name, names) for name in names}
            found |= {prefix + name for name in bases if not _is_family(name)}
        return tuple(sorted(found))


def _is_family(name: str) -> bool:
    """Return whether a family is in the catalog, by its name without prefix."""
    return bool(
        {name, name + "_total"} & _FAMILIES or _KNOWN.fullmatch(name) or _KNOWN.fullmatch(name + "_total")
    )  # fmt: skip


def _is_known(name: str) -> bool:
    """Return whether the family of a sample name without prefix is in the catalog."""
    return _is_family(name) or any(name.endswith(x) and _is_family(name.removesuffix(x)) for x in _SUFFIXES)


def only_engines(names: Mapping[str, str]) -> list[str]:
    """Return the families among names (with their declared types) that only an engine has."""
    return [
        family
        for family in upstream.ONLY_ENGINES
        for name in (family, family.removesuffix("_total"), family + "_bucket")
        if name in names and (names[name] != "gauge" or family in upstream.GAUGES_OF_ENGINES)
    ]


def family_of(name: str) -> str:
    """The family of a sample name, precise enough to compare prefixes; Ray writes counters twice."""
    for suffix in (*PARTS, "_created"):
        name = name.removesuffix(suffix)
    return name.removesuffix("_total")


def _base(name: str, names: Collection[str]) -> str:
    """The family of a sample name: without its suffix, if the rest is a family or the suffix has no other meaning."""
    while True:
        for suffix in _SUFFIXES:
            stem = name.removesuffix(suffix)
            if stem != name and (stem in names or suffix in ("_bucket", "_created") or stem + "_bucket" in names):
                name = stem
                break
        else:
            return name
