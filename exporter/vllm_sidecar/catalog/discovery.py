"""Discovery of servers: why a source fails, what becomes of an entry, and the metrics about both."""

from __future__ import annotations

from enum import StrEnum
from types import MappingProxyType
from typing import TYPE_CHECKING

from vllm_sidecar.catalog.types import Kind, Scope, Signal, Unit

if TYPE_CHECKING:
    from collections.abc import Mapping


class SourceReason(StrEnum):
    """Why a source of servers fails: a label value, so the set is closed."""

    UNREADABLE = "unreadable"
    INVALID = "invalid"
    TOO_LARGE = "too_large"
    UNREACHABLE = "unreachable"
    UNAUTHORIZED = "unauthorized"
    HTTP_STATUS = "http_status"
    NOT_FOUND = "not_found"
    NOT_IN_CLUSTER = "not_in_cluster"
    INTERNAL = "internal"


SOURCE_HINTS: Mapping[SourceReason, str] = MappingProxyType(
    {
        SourceReason.UNREADABLE: "A file of the list cannot be read. Check its path and its permissions; to remove its "
        "targets write an empty list into it.",
        SourceReason.INVALID: "The list is not in the format of Prometheus' file_sd_configs or http_sd_configs, or the "
        "answer is not one of a Kubernetes API server. The detail in the log names the place.",
        SourceReason.TOO_LARGE: "The list has more entries or bytes than are read. Split it into several sources, or "
        "select less.",
        SourceReason.UNREACHABLE: "There was no complete answer: name, address, network, TLS or time. Check the "
        "address of the source, and network policies for the sidecar's connections.",
        SourceReason.UNAUTHORIZED: "The credentials of the source cannot be read or are refused. For Kubernetes the "
        "service account needs a role that may list and watch pods in the namespace.",
        SourceReason.HTTP_STATUS: "The server of the list answers with an error; the detail has its status. Check the "
        "path in url, and for Kubernetes label_selector and field_selector.",
        SourceReason.NOT_FOUND: "The name server has no such record. Check the names and the type; a headless Service "
        "without ready pods has none.",
        SourceReason.NOT_IN_CLUSTER: "The sidecar does not run in a pod with a service account. Set url of the API "
        "server, namespaces, and bearer_token_file or cert_file; in a pod set automountServiceAccountToken.",
        SourceReason.INTERNAL: "This was not expected and may be a bug of the sidecar: report it with the detail from "
        "the log.",
    }
)  # fmt: skip
"""Advice for operators, by reason."""


class EntryState(StrEnum):
    """Whether an entry of a list is watched, and why not: a label value, so the set is closed."""

    WATCHED = "watched"
    FILTERED = "filtered"
    OTHER_SHARD = "other_shard"
    DUPLICATE = "duplicate"
    NAME_TAKEN = "name_taken"
    INVALID = "invalid"
    OVER_LIMIT = "over_limit"


def _signal(name: str, kind: Kind, text: str, *labels: str, unit: Unit = Unit.NONE) -> Signal:
    return Signal(name, kind, unit, text, Scope.SIDECAR, labels)


DISCOVERY: tuple[Signal, ...] = (
    _signal("discovery_targets", Kind.GAUGE,
            "Entries of the last list of a source by what became of them: watched, filtered (by keep or drop), "
            "other_shard, duplicate (another source lists the address), name_taken, invalid, over_limit. `discovery` "
            "is the source's place in the configuration, such as kubernetes.0.",
            "discovery", "state"),
    _signal("discovery_last_refresh_successful", Kind.GAUGE,
            "1 if the last refresh of the source succeeded; 0 before the first one, and while an old list is in use.",
            "discovery"),
    _signal("discovery_last_success_timestamp_seconds", Kind.GAUGE,
            "Unix time at which the list was last known to be current.", "discovery", unit=Unit.TIMESTAMP),
    _signal("discovery_failures_total", Kind.COUNTER, "Failed refreshes of the source by reason.",
            "discovery", "reason"),
)  # fmt: skip
