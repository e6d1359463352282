"""The section `web`: where the sidecar's own HTTP server listens, and whom it answers."""

import re
from typing import Annotated

from pydantic import AfterValidator, BeforeValidator, Field, WithJsonSchema

from vllm_sidecar.config.section import Section
from vllm_sidecar.config.values import FilePath, HttpPath, as_tuple, described, not_allowed, split_listen_address

DEFAULT_PORT = 10190
"""Port of `/metrics` unless the config sets another.

The public list of Prometheus' default ports (wiki page "Default port allocations") has had no free port from 9100 to
9999 since 2023 and continues from 10000. It reached 10019 in June 2024 and grows by about twenty a year, so 10190
leaves years of margin. 10190 is not in Debian's /etc/services, not a port of Kubernetes (10248 to 10260), not a
NodePort (30000 to 32767), and not in the range that Linux uses for outgoing connections (from 32768).
"""
UNIX_PREFIX = "unix:"
"""Start of the address of a Unix socket."""
_MOST_UNIX_BYTES = 107
"""Longest path of a Unix socket on Linux."""
_HOST_NAME = re.compile(r"\.?[a-z0-9_]([a-z0-9_.-]*[a-z0-9_])?", re.IGNORECASE | re.ASCII)
OWN_PATHS = ("/page", "/runbooks", "/api", "/debug", "/-")
"""Where the sidecar's other pages are."""


def _listen_address(value: str) -> str:
    if value.startswith(UNIX_PREFIX):
        path = value.removeprefix(UNIX_PREFIX)
        if not path.startswith("/") or "\0" in path or len(path.encode()) > _MOST_UNIX_BYTES:
            raise not_allowed(f"unix:/PATH, with a path of at most {_MOST_UNIX_BYTES} bytes")
        return value
    split_listen_address(value)
    return value


def _addresses(value: object) -> object:
    """Accept a list, or a text with one address or several, as in an environment variable."""
    return tuple(map(_listen_address, _parts(value))) if isinstance(value, str) else as_tuple(value)


def _names(value: object) -> object:
    """Accept a list, or a text with one name or several."""
    return tuple(map(_host_name, _parts(value))) if isinstance(value, str) else as_tuple(value)


def _parts(text: str) -> list[str]:
    return [part.strip() for part in text.split(",")]


def _not_empty(value: tuple[str, ...]) -> tuple[str, ...]:
    if not value or len(set(value)) != len(value):
        raise not_allowed("at least one address, and each only once")
    return value


def _telemetry_path(value: str) -> str:
    if value == "/" or any(value == path or value.startswith(f"{path}/") for path in OWN_PATHS) or "{" in value:
        raise not_allowed(f"a path other than / and those below {', '.join(OWN_PATHS)}")
    return value


def _host_name(value: str) -> str:
    if not _HOST_NAME.fullmatch(value):
        raise not_allowed("a name without a port such as vllm.example.com, or .example.com for all names below it")
    return value.lower()


def _one_or_many(pattern: str) -> WithJsonSchema:
    """Describe a text, or a list of such texts."""
    text = {"type": "string", "pattern": pattern}
    return described(anyOf=[text, {"type": "array", "items": text}])


class WebSettings(Section):
    """The sidecar's own HTTP server."""

    listen_address: Annotated[
        tuple[Annotated[str, AfterValidator(_listen_address)], ...],
        BeforeValidator(_addresses),
        AfterValidator(_not_empty),
        _one_or_many(r"^\s*unix:/|:\d{1,5}\s*(,|$)"),
    ] = Field(
        default=(f":{DEFAULT_PORT}",),
        description="Where to serve /metrics: HOST:PORT, [IPV6]:PORT, :PORT for every interface, or unix:/PATH; one or "
        "a list.",
    )
    systemd_socket: bool = Field(
        default=False, description="Serve on the sockets that a systemd .socket unit passes, instead of listen_address."
    )
    config_file: FilePath | None = Field(
        default=None,
        description="TLS, passwords and headers, in the format of Prometheus' exporter-toolkit; changes of the file "
        "and of its certificates are used without a restart.",
    )
    telemetry_path: Annotated[HttpPath, AfterValidator(_telemetry_path)] = Field(
        default="/metrics", description="Path of the metrics."
    )
    max_connections: int = Field(
        default=512,
        ge=8,
        le=100_000,
        description="Most open connections, at most as many as open files allow; for one more, the one that has been "
        "idle for the longest time is closed.",
    )
    allowed_hosts: Annotated[
        tuple[Annotated[str, AfterValidator(_host_name)], ...],
        BeforeValidator(_names),
        _one_or_many(r"^[A-Za-z0-9_., -]+$"),
    ] = Field(
        default=(),
        description="Names by which browsers may open the pages, besides addresses, localhost and names without a "
        "public domain; .example.com allows all names below it. Metrics are served under any name.",
    )
    enable_lifecycle: bool = Field(default=False, description="Serve POST /-/reload, which loads this file again.")
