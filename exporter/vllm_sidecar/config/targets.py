"""The servers to watch: how to reach each, and the checks on the whole list."""

import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from pydantic import Field, ValidationInfo, field_validator
from pydantic_core import InitErrorDetails

from vllm_sidecar.config.lists import mistake
from vllm_sidecar.config.pem_files import CaFile, pair_mistake
from vllm_sidecar.config.section import Section
from vllm_sidecar.config.values import (
    Arguments,
    FilePath,
    Headers,
    Headless,
    HttpPath,
    SocketPath,
    StaticLabels,
    Text,
    Token,
    Url,
    not_allowed,
    target_url,
)
from vllm_sidecar.redaction import redact

WORKER_INDEX = "LWS_WORKER_INDEX"
_LOOPBACK = ("localhost", "127.0.0.1", "::1")


class HttpServer(Section):
    """How to reach an HTTP server: its address, and the credentials for it."""

    url: Url = Field(default="http://127.0.0.1:8000", description="Address of the server; a path prefix is allowed.")
    headers: Headers = Field(default={}, validate_default=True, description="Headers for every request; kept secret.")
    bearer_token_file: FilePath | None = Field(
        default=None, description="File with the token for the Authorization header."
    )
    bearer_token: Token | None = Field(
        default=None, description="The token itself, instead of a file; kept secret, without a flag."
    )
    ca_file: CaFile | None = Field(default=None, description="CA certificates to trust instead of the system's.")
    cert_file: FilePath | None = Field(default=None, description="Certificate to show to the server.")
    key_file: FilePath | None = Field(
        default=None, validate_default=True, description="Key of cert_file, unless that file holds it too."
    )
    insecure_skip_verify: bool = Field(default=False, description="Accept any certificate of the server.")

    @field_validator("bearer_token_file", "bearer_token")
    @classmethod
    def _the_only_authorization(cls, value: object, info: ValidationInfo) -> object:
        if value is not None and any(name.lower() == "authorization" for name in info.data.get("headers", ())):
            raise not_allowed(f"either {info.field_name} or an Authorization header, not both")
        if value is not None and info.data.get("bearer_token_file") is not None:
            raise not_allowed("either bearer_token or bearer_token_file, not both")
        return value

    @field_validator("key_file")
    @classmethod
    def _belongs_to_a_certificate(cls, value: Path | None, info: ValidationInfo) -> Path | None:
        cert = info.data.get("cert_file")
        if value is not None and "cert_file" in info.data and cert is None:
            raise not_allowed("key_file only together with cert_file")
        mistake = pair_mistake(cert, value) if cert is not None else None
        if mistake:
            raise not_allowed(f"the key of cert_file, both in PEM format ({redact(str(cert))}: {mistake})")
        return value


class Target(HttpServer):
    """How to reach one vLLM server, and its known command line."""

    if TYPE_CHECKING:
        # Declared here for code that handles any target; below it is a key of one kind and a constant of the other.
        @property
        def name(self) -> str | None:
            """Value of the label `target`; None for the sole target, whose series do not have the label."""

    metrics_path: HttpPath = Field(default="/metrics", description="Path of the metrics below url.")
    labels: StaticLabels = Field(
        default={}, validate_default=True, description="Labels for every series of the server."
    )
    unix_socket: SocketPath | None = Field(
        default=None, description="Connect through this socket; the host in url is then only the Host header."
    )
    args: Arguments = Field(
        default=(),
        repr=False,
        description="The server's command line, a list or one text, for flags that it does not report.",
    )

    @field_validator("url")
    @classmethod
    def _is_not_that_of_the_metrics(cls, value: str) -> str:
        return target_url(value)

    def is_same_server(self, other: "Target") -> bool:
        """Whether this is the same server, regardless of how it is reached and of its labels."""
        return all(getattr(self, key) == getattr(other, key) for key in ("url", "unix_socket", "metrics_path"))


class SoleTarget(Target):
    """The one server next to the sidecar; its series have no target label."""

    headless: Headless = Field(
        default="auto",
        description="Expect no HTTP server, as in the pod of a worker; auto: true where LWS_WORKER_INDEX is above 0.",
    )

    @property
    def is_headless(self) -> bool:
        """Whether no HTTP server is expected: a worker of a LeaderWorkerSet, or vLLM with --headless.

        LeaderWorkerSet sets LWS_WORKER_INDEX in every container of a group, so one template serves leader and workers.
        A url on another machine is watched wherever the sidecar runs.
        """
        if self.headless != "auto":
            return bool(self.headless)
        here = self.unix_socket is not None or (urlsplit(self.url).hostname or "") in _LOOPBACK
        index = os.environ.get(WORKER_INDEX, "")
        return here and index.isdecimal() and int(index[:9]) > 0

    @property
    def name(self) -> None:
        """A sole target needs no name."""
        return


class NamedTarget(Target):
    """One of several servers; its name is the `target` label of its series."""

    name: Text = Field(description="Name of the target, unique in the list: the label target of its series.")


def repeated_names(items: Sequence[object]) -> Iterator[InitErrorDetails]:
    """Find targets that repeat the name of an earlier one."""
    seen: dict[str, int] = {}
    for index, item in enumerate(items):
        name = item.get("name") if isinstance(item, dict) else getattr(item, "name", None)
        if isinstance(name, str) and seen.setdefault(name, index) != index:
            yield mistake((index, "name"), f"a name that targets.{seen[name]} does not have", name)
