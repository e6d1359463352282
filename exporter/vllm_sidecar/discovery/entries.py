"""The format of Prometheus' file_sd_configs and http_sd_configs -> entries; every mistake names its place."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, NamedTuple

from vllm_sidecar.catalog.discovery import SourceReason
from vllm_sidecar.config.document import DocumentError, not_utf_8, read_document
from vllm_sidecar.discovery.errors import SourceError, shown

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

MOST_BYTES = 32 * 1024 * 1024
"""Largest file or answer that is read."""
MOST_ENTRIES = 20_000
"""Most entries of one source."""

Labels = tuple[tuple[str, str], ...]


class Entry(NamedTuple):
    """One server in the list of a source."""

    address: str
    """Its label `__address__`."""
    labels: Labels
    """Its other labels, sorted by name."""


def read_json(text: bytes) -> object:
    """Read JSON in UTF-8, as Prometheus does.

    Raises:
        SourceError: It is not JSON, or not UTF-8.
    """
    try:
        return json.loads(_decoded(text))  # bytes would be taken as UTF-16 or UTF-32, too
    except (ValueError, RecursionError) as error:
        raise SourceError(SourceReason.INVALID, f"not JSON: {error}") from None


def read_yaml(text: bytes) -> object:
    """Read YAML.

    Raises:
        SourceError: It is not YAML, or not UTF-8.
    """
    try:
        return read_document(_decoded(text)).root
    except DocumentError as error:
        raise SourceError(SourceReason.INVALID, str(error)) from None


def _decoded(text: bytes) -> str:
    try:
        return text.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise SourceError(SourceReason.INVALID, f"{not_utf_8(text, error.start)}; save it as UTF-8") from None


def read_groups(groups: object, origin: Mapping[str, str]) -> list[Entry]:
    """Return the entries of a list of groups: `[{"targets": ["HOST:PORT"], "labels": {"team": "search"}}]`.

    Args:
        groups: Plain values; None, as of an empty file, is an empty list.
        origin: Labels of every entry, such as `__meta_filepath`.

    Raises:
        SourceError: It has another form, or too many entries.
    """
    if groups is None:
        return []
    if not isinstance(groups, list):
        raise _invalid("the list", groups, "a list of groups with targets and labels")
    found: list[Entry] = []
    for number, group in enumerate(groups):
        found.extend(_entries(group, f"group {number}", origin))
        check_count(len(found))
    return found


def check_count(count: int) -> None:
    """Check the number of entries of one source.

    Raises:
        SourceError: There are too many.
    """
    if count > MOST_ENTRIES:
        raise SourceError(SourceReason.TOO_LARGE, f"more than {MOST_ENTRIES} entries")


def _entries(group: object, place: str, origin: Mapping[str, str]) -> Iterator[Entry]:
    if not isinstance(group, dict):
        raise _invalid(place, group, "a mapping with targets and labels")
    for key in group.keys() - {"targets", "labels"}:
        raise _invalid(place, key, "the keys targets and labels")
    targets, labels = group.get("targets") or [], group.get("labels") or {}
    if not isinstance(targets, list):
        raise _invalid(f"{place}: targets", targets, "a list of HOST:PORT")
    if not isinstance(labels, dict):
        raise _invalid(f"{place}: labels", labels, "a mapping of names to texts")
    for name, value in labels.items():
        if not isinstance(name, str) or not isinstance(value, str):
            raise _invalid(f"{place}: labels: {name}", value, "text (a number or true needs quotes to be text)")
    merged = tuple(sorted({**labels, **origin}.items()))
    for target in targets:
        if not isinstance(target, str):
            raise _invalid(f"{place}: targets", target, "text such as 10.0.0.7:8000")
        yield Entry(target, merged)


def _invalid(place: str, value: object, allowed: str) -> SourceError:
    return SourceError(SourceReason.INVALID, f"{place}: got {shown(value)}; allowed: {allowed}")
