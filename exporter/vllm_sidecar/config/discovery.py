"""Where servers are found while the sidecar runs: files, web services, DNS names and Kubernetes."""

import re
from collections.abc import Iterator, Mapping
from typing import Annotated, Literal, TypeVar

from pydantic import AfterValidator, BeforeValidator, Field, field_validator

from vllm_sidecar.config.label_texts import LabelText
from vllm_sidecar.config.section import Section, written
from vllm_sidecar.config.targets import HttpServer, Target
from vllm_sidecar.config.values import (
    STATIC_LABEL,
    PathPattern,
    Seconds,
    Text,
    as_frozen,
    as_tuple,
    described,
    label_name,
    not_allowed,
    server_url,
    static_label,
)

MOST_SHARDS = 1000
_SHARD = re.compile(r"(\d{1,4})/(\d{1,4})", re.ASCII)
_HOST_NAME = re.compile(r"(?=.{1,253}\.?\Z)[a-zA-Z0-9_-]{1,63}(\.[a-zA-Z0-9_-]{1,63})*\.?", re.ASCII)
_PORT_NAME = re.compile(r"[a-z0-9-]{1,15}", re.ASCII)
_NAMESPACE = re.compile(r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?", re.ASCII)
_NAME_SERVER = re.compile(r"(\d{1,3}(\.\d{1,3}){3}|\[[0-9a-fA-F:.]+\])(:\d{1,5})?", re.ASCII)

_T = TypeVar("_T")


def split_shard(shard: str) -> tuple[int, int]:
    """Split "2/5" into the index of a shard, which starts at 0, and the number of shards; "0/5" is "5/5"."""
    found = _SHARD.fullmatch(shard)
    number, count = (int(found[1]), int(found[2])) if found else (0, 0)
    if not 0 < count <= MOST_SHARDS or number > count:
        raise not_allowed(f"NUMBER/COUNT such as 2/5, with a count up to {MOST_SHARDS} and a number up to the count")
    return (number - 1) % count, count


def _shard(value: str) -> str:
    split_shard(value)
    return value


def _known_label(value: str) -> str:
    """Check the name of a label of an entry, which may start with __."""
    label_name(value.removeprefix("__"))
    return value


def _not_empty(value: tuple[_T, ...]) -> tuple[_T, ...]:
    if not value:
        raise not_allowed("a list of one or more")
    return value


def _as_patterns(value: object) -> object:
    return (value,) if isinstance(value, str) else as_tuple(value)


def _source_url(value: str) -> str:
    """Check the address of a list; unlike that of a server it may have a query."""
    address, mark, query = value.partition("?")
    if not query.isprintable() or " " in query or "#" in query:
        raise not_allowed("http://HOST[:PORT][/PATH][?QUERY] or https://..., without blanks and #")
    # A trailing slash is part of the path of a list.
    slash = "/" if address.endswith("/") else ""
    return server_url(address) + slash + mark + query


def _api_url(value: str) -> str:
    return server_url(value)


def _host_name(value: str) -> str:
    if not _HOST_NAME.fullmatch(value):
        raise not_allowed("a host name")
    return value


def _name_server(value: str) -> str:
    if not _NAME_SERVER.fullmatch(value):
        raise not_allowed("the IP address of a name server, with a port if it is not 53: 10.0.0.10 or [fd00::10]:8600")
    return value


def _port(value: object) -> object:
    in_range = isinstance(value, int) and not isinstance(value, bool) and 0 < value <= 65535
    if not in_range and not (isinstance(value, str) and _PORT_NAME.fullmatch(value) and not value.isdecimal()):
        raise not_allowed("a port from 1 to 65535, or the name of a container's port")
    return value


def _namespace(value: str) -> str:
    if value != "*" and not _NAMESPACE.fullmatch(value):
        raise not_allowed("the name of a namespace, or * for all of them")
    return value


Patterns = Annotated[tuple[str, ...], BeforeValidator(_as_patterns), AfterValidator(_not_empty)]
Conditions = Annotated[Mapping[Annotated[str, AfterValidator(_known_label)], Patterns], AfterValidator(as_frozen)]
LabelTexts = Annotated[
    Mapping[Annotated[str, AfterValidator(static_label)], LabelText],
    AfterValidator(as_frozen),
    described(type="object", propertyNames=STATIC_LABEL, additionalProperties={"type": "string"}),
]
NameServer = Annotated[str, AfterValidator(_name_server), described(type="string", pattern=f"^{_NAME_SERVER.pattern}$")]
HostName = Annotated[str, AfterValidator(_host_name), described(type="string", pattern=r"^[a-zA-Z0-9_.-]{1,254}$")]
Namespace = Annotated[
    str, AfterValidator(_namespace), described(type="string", pattern=rf"^(\*|{_NAMESPACE.pattern})$")
]
Port = Annotated[
    int | str,
    BeforeValidator(_port),
    described(
        anyOf=[
            {"type": "integer", "minimum": 1, "maximum": 65535},
            {"type": "string", "pattern": f"^{_PORT_NAME.pattern}$"},
        ]
    ),
]


class DiscoveredTarget(Target):
    """How the entries of a source become targets; texts may contain labels of the entry in braces."""

    url: LabelText = Field(
        default="{__scheme__}://{__address__}", description="Address of the server; a path prefix is allowed."
    )
    metrics_path: LabelText = Field(default="{__metrics_path__}", description="Path of the metrics below url.")
    labels: LabelTexts = Field(
        default={},
        validate_default=True,
        description="Labels for every series of the server; one whose text is empty is left out.",
    )
    name: LabelText | None = Field(
        default=None, description="Name of the target; null: the address, and NAMESPACE/POD of pods."
    )
    keep: Conditions = Field(
        default={},
        validate_default=True,
        description="Watch only entries that match: for each label a pattern with * and ?, or a list of patterns.",
    )
    drop: Conditions = Field(
        default={}, validate_default=True, description="Do not watch entries of which one of these labels matches."
    )

    @field_validator("unix_socket")
    @classmethod
    def _not_found_by_discovery(cls, value: object) -> object:
        if value is not None:
            raise not_allowed("null, because a list contains addresses")
        return value


class ListSettings(Section):
    """One list of servers that changes."""

    target: DiscoveredTarget = Field(default=DiscoveredTarget(), description="How entries become targets.")


class FileList(ListSettings):
    """Files in the format of Prometheus' file_sd_configs."""

    files: Annotated[tuple[PathPattern, ...], BeforeValidator(as_tuple), AfterValidator(_not_empty)] = Field(
        description="Files in JSON or YAML; * and ? are allowed in their paths."
    )
    refresh: Seconds = written("5s", "Time after which a file is read again if it changed.")


class HttpList(HttpServer, ListSettings):
    """A web service in the format of Prometheus' http_sd_configs."""

    url: Annotated[str, AfterValidator(_source_url), described(type="string", pattern=r"^https?://[^\s#]+$")] = Field(
        description="Address of the list; a query is allowed."
    )
    refresh: Seconds = written("60s", "Time between two requests.")


class DnsList(ListSettings):
    """The records of DNS names."""

    names: Annotated[tuple[HostName, ...], BeforeValidator(as_tuple), AfterValidator(_not_empty)] = Field(
        description="Names to look up, such as that of a headless Service."
    )
    type: Literal["A", "AAAA", "SRV"] = Field(default="A", description="Type of the records.")
    port: int = Field(default=8000, ge=1, le=65535, description="Port of the servers; SRV records have their own.")
    servers: Annotated[tuple[NameServer, ...], BeforeValidator(as_tuple)] = Field(
        default=(), description="Name servers, instead of those of this machine."
    )
    refresh: Seconds = written("30s", "Time between two lookups.")


class PodList(HttpServer, ListSettings):
    """Pods of a Kubernetes cluster."""

    url: Annotated[str, AfterValidator(_api_url)] | None = Field(  # type: ignore[assignment] # None is the cluster
        default=None, description="Address of the API server; null: that of the cluster in which the sidecar runs."
    )
    namespaces: Annotated[tuple[Namespace, ...], BeforeValidator(as_tuple)] = Field(
        default=(), description="Namespaces of the pods; none: that of the sidecar's own pod; *: all."
    )
    label_selector: Text | None = Field(default=None, description="Labels that pods must have, such as app=vllm.")
    field_selector: Text | None = Field(
        default=None, description="Fields that pods must have, such as spec.nodeName=gpu-7."
    )
    port: Port = Field(
        default=8000, description="Port of the server in the pod: a number, or the name of a container's port."
    )
    refresh: Seconds = written("60s", "Length of one watch request.")


ServerList = FileList | HttpList | DnsList | PodList


class DiscoverySettings(Section):
    """Servers that are found while the sidecar runs, in addition to `targets`."""

    shard: Annotated[str, AfterValidator(_shard)] = Field(
        default="1/1",
        description="Watch only this part of all servers, as in 2/5; 0/5 is 5/5, so a StatefulSet's ordinal fits.",
    )
    limit: int = Field(default=250, ge=1, le=100_000, description="Most servers that this process watches.")
    file: Annotated[tuple[FileList, ...], BeforeValidator(as_tuple)] = Field(
        default=(), description="Files in the format of Prometheus' file_sd_configs."
    )
    http: Annotated[tuple[HttpList, ...], BeforeValidator(as_tuple)] = Field(
        default=(), description="Web services in the format of Prometheus' http_sd_configs."
    )
    dns: Annotated[tuple[DnsList, ...], BeforeValidator(as_tuple)] = Field(
        default=(), description="Records of DNS names, such as those of headless Services."
    )
    kubernetes: Annotated[tuple[PodList, ...], BeforeValidator(as_tuple)] = Field(
        default=(), description="Pods of Kubernetes, watched by label."
    )

    @property
    def is_used(self) -> bool:
        """Whether there is a source of servers."""
        return bool(self.file or self.http or self.dns or self.kubernetes)

    @property
    def lists(self) -> Iterator[tuple[str, ServerList]]:
        """The sources by their place in the configuration, such as file.0, in the order of their precedence."""
        yield from ((f"file.{index}", each) for index, each in enumerate(self.file))
        yield from ((f"http.{index}", each) for index, each in enumerate(self.http))
        yield from ((f"dns.{index}", each) for index, each in enumerate(self.dns))
        yield from ((f"kubernetes.{index}", each) for index, each in enumerate(self.kubernetes))
