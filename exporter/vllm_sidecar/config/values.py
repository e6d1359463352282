"""Kinds of single values in the config: durations, sizes, addresses, label names, files.

Each check raises `not_allowed(...)` with the allowed values only. The value itself is added, or hidden, in one place:
where a mistake is reported.
"""

import ipaddress
import os
import re
import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, TypeVar
from urllib.parse import urlsplit

from pydantic import AfterValidator, BeforeValidator, SecretStr, ValidationInfo, WithJsonSchema
from pydantic_core import PydanticCustomError

from vllm_sidecar.catalog import SIGNALS
from vllm_sidecar.catalog.types import RESERVED_LABELS
from vllm_sidecar.config.regular_files import open_regular
from vllm_sidecar.redaction import redact

NOT_ALLOWED = "not_allowed"
"""Type of the errors raised here; their message is the allowed values."""

_UNIT_MS = {"d": 86_400_000, "h": 3_600_000, "m": 60_000, "s": 1000, "ms": 1}
_DURATION = re.compile(r"(?:(\d+)d)?(?:(\d+)h)?(?:(\d+)m(?!s))?(?:(\d+)s)?(?:(\d+)ms)?", re.ASCII)
_MAX_DURATION_MS = _UNIT_MS["d"]

_UNIT_BYTES = {"GiB": 1024**3, "MiB": 1024**2, "KiB": 1024}
_SIZE = re.compile(r"(\d+)(KiB|MiB|GiB)", re.ASCII)

_LISTEN = re.compile(r"(?:\[(?P<v6>[^\[\]]+)\]|(?P<host>[\w.-]*)):(?P<port>\d{1,5})", re.ASCII)
_LABEL_NAME = re.compile(r"[a-zA-Z_][a-zA-Z0-9_]*", re.ASCII)
_HEADER_NAME = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+", re.ASCII)

TAKEN_LABELS = RESERVED_LABELS | {label for signal in SIGNALS.values() for label in signal.label_names}
"""Names that a static label of a target must not have: labels of Prometheus, of the formats and of signals."""


def not_allowed(allowed: str) -> PydanticCustomError:
    """Make the error for a value that is not allowed; `allowed` is the text for the allowed values."""
    # Passed as context and not as the template, so that braces in the text stay unchanged.
    return PydanticCustomError(NOT_ALLOWED, "{allowed}", {"allowed": allowed})


def parse_duration(value: object, most: float = _MAX_DURATION_MS / 1000) -> float:
    """Turn a Prometheus duration ("500ms", "1m30s") of at most `most` seconds into seconds."""
    allowed = f"a duration such as 500ms, 1s, 1m30s, 5m or 1h, above 0 and at most {format_duration(most)}"
    match = _DURATION.fullmatch(value) if isinstance(value, str) else None
    if not match:
        raise not_allowed(allowed)
    counts = zip(match.groups(default="0"), _UNIT_MS.values(), strict=True)
    milliseconds = sum(int(count[:12]) * unit for count, unit in counts)
    if not 0 < milliseconds <= 1000 * most:
        raise not_allowed(allowed)
    return milliseconds / 1000


def format_duration(seconds: float) -> str:
    """Write seconds the way Prometheus does: 90.0 -> "1m30s"."""
    rest = round(seconds * 1000)
    parts = []
    for unit, milliseconds in _UNIT_MS.items():
        count, rest = divmod(rest, milliseconds)
        if count:
            parts.append(f"{count}{unit}")
    return "".join(parts) or "0s"


def parse_size(value: object) -> int:
    """Turn a size, an int in bytes or a text such as "16MiB", into bytes."""
    size = value if isinstance(value, int) and not isinstance(value, bool) else 0
    if isinstance(value, str) and (match := _SIZE.fullmatch(value)):
        size = int(match[1][:12]) * _UNIT_BYTES[match[2]]
    if not 1024 <= size <= 1024**3:
        raise not_allowed("a size in bytes, or such as 512KiB, 16MiB or 1GiB, from 1KiB to 1GiB")
    return size


def split_listen_address(address: str) -> tuple[str | None, int]:
    """Split ":9000", "127.0.0.1:9000" or "[::1]:9000" into host and port; no host (None) means every interface."""
    allowed = "HOST:PORT, [IPV6]:PORT or :PORT for every interface, with a port from 0 (any free one) to 65535"
    match = _LISTEN.fullmatch(address)
    if not match or int(match["port"]) > 65535:
        raise not_allowed(allowed)
    if match["v6"]:
        try:
            ipaddress.IPv6Address(match["v6"])
        except ValueError:
            raise not_allowed(allowed) from None
    return match["v6"] or match["host"] or None, int(match["port"])


def server_url(value: str) -> str:
    """Check the address of a server and drop a trailing slash."""
    allowed = "http://HOST[:PORT][/PREFIX] or https://..."
    try:
        url = urlsplit(value)
        has_host = bool(url.hostname) and url.port != 0
    except ValueError:
        raise not_allowed(allowed) from None
    # urlsplit drops line breaks and keeps blanks; a URL with either is a typing mistake.
    if url.scheme not in ("http", "https") or not has_host or not value.isprintable() or " " in value:
        raise not_allowed(allowed)
    if "@" in url.netloc:
        raise not_allowed("a URL without user and password; use bearer_token_file or headers")
    if "?" in value or "#" in value:
        raise not_allowed("a URL without query and fragment")
    return value.rstrip("/")


def target_url(value: str) -> str:
    """Check the address of a vLLM server: not that of its metrics, whose path is a setting of its own."""
    url = server_url(value)
    if url.endswith("/metrics"):
        raise not_allowed("the address without /metrics at its end: metrics_path is added to it")
    return url


def http_path(value: str) -> str:
    """Check the path of a request."""
    if not value.startswith("/") or not value.isprintable() or any(character in value for character in " ?#"):
        raise not_allowed("a path that starts with / and has no blank, ? or #")
    return value


def label_name(value: str) -> str:
    """Return a name that a label may have in Prometheus."""
    if not _LABEL_NAME.fullmatch(value) or value.startswith("__"):
        raise not_allowed("a label name of letters, digits and _, not starting with a digit or __")
    return value


def static_label(value: str) -> str:
    """Check the name of a label that is added to all series of a target."""
    if label_name(value) in TAKEN_LABELS:
        raise not_allowed(f"a label name other than {', '.join(sorted(TAKEN_LABELS))}")
    return value


def _not_blank(value: str) -> str:
    if not value.strip() or not value.isprintable():
        raise not_allowed("text that is not empty, on one line")
    return value


def _header_name(value: str) -> str:
    if not _HEADER_NAME.fullmatch(value):
        raise not_allowed("a header name such as X-Team")
    return value


def _token(value: SecretStr) -> SecretStr:
    text = value.get_secret_value()
    if not text or not text.isascii() or not text.isprintable() or " " in text:
        raise not_allowed("a token: printable ASCII without blanks")
    return value


def _header_value(value: SecretStr) -> SecretStr:
    if not value.get_secret_value().isprintable():
        raise not_allowed("text on one line")
    return value


def _path(value: object, info: ValidationInfo) -> Path:
    """Resolve a path against the folder of the config file, which the loader passes as context."""
    if isinstance(value, Path):
        return value
    if not isinstance(value, str) or not value or "\0" in value:
        raise not_allowed("a path")
    return Path((info.context or {}).get("folder", "."), value)


def _headless(value: object) -> bool | str:
    if isinstance(value, bool) or value == "auto":
        return value
    raise not_allowed("true, false or auto")


def _readable_file(path: Path) -> Path:
    try:
        os.close(open_regular(path))
    except OSError as error:
        raise not_allowed(f"a file that can be read ({redact(str(path))}: {error.strerror})") from None
    return path


def as_tuple(value: object) -> object:
    """Turn a list, which is YAML's type, into a tuple, which is the config's."""
    return tuple(value) if isinstance(value, list) else value


def _arguments(value: object) -> object:
    if not isinstance(value, str):
        return as_tuple(value)
    try:
        return tuple(shlex.split(value))
    except ValueError:
        raise not_allowed("a list of texts, or one text whose quotes are closed") from None


_K = TypeVar("_K")
_V = TypeVar("_V")


class _HashableDict(dict[_K, _V]):
    """A dict that is never changed (its fields are typed as Mapping), so that a whole config can be hashed."""

    def __hash__(self) -> int:  # type: ignore[override]
        return hash(frozenset(self.items()))


def as_frozen(value: Mapping[_K, _V]) -> Mapping[_K, _V]:
    """Copy a mapping into one that can be hashed, like the rest of the config."""
    return _HashableDict(value)


def described(**schema: Any) -> WithJsonSchema:
    """Describe a kind of value for editors, as it is written in the file."""
    return WithJsonSchema(schema)


_TEXT = {"type": "string", "minLength": 1}
STATIC_LABEL = {"pattern": "^(?!__)[a-zA-Z_][a-zA-Z0-9_]*$", "not": {"enum": sorted(TAKEN_LABELS)}}
"""The name of a label that may be added, for editors."""
Seconds = Annotated[
    float,
    BeforeValidator(parse_duration),
    described(type="string", pattern=r"^(?=.)(\d+d)?(\d+h)?(\d+m(?!s))?(\d+s)?(\d+ms)?$"),
]
Bytes = Annotated[
    int,
    BeforeValidator(parse_size),
    described(
        anyOf=[
            {"type": "integer", "minimum": 1024, "maximum": 1024**3},
            {"type": "string", "pattern": r"^\d+(KiB|MiB|GiB)$"},
        ]
    ),
]
Url = Annotated[str, AfterValidator(server_url), described(type="string", pattern=r"^https?://[^\s?#]+$")]
HttpPath = Annotated[str, AfterValidator(http_path), described(type="string", pattern=r"^/[^ ?#]*$")]
Text = Annotated[str, AfterValidator(_not_blank), described(type="string", pattern=r"\S")]
SocketPath = Annotated[Path, BeforeValidator(_path), described(**_TEXT)]
PathPattern = Annotated[Path, BeforeValidator(_path), described(**_TEXT)]
FilePath = Annotated[Path, BeforeValidator(_path), AfterValidator(_readable_file), described(**_TEXT)]
Token = Annotated[SecretStr, AfterValidator(_token), described(type="string", pattern=r"^[!-~]+$")]
Headless = Annotated[bool | str, BeforeValidator(_headless), described(enum=[True, False, "auto"])]
Arguments = Annotated[
    tuple[str, ...],
    BeforeValidator(_arguments),
    described(anyOf=[{"type": "string"}, {"type": "array", "items": {"type": "string"}}]),
]
StaticLabels = Annotated[
    Mapping[Annotated[str, AfterValidator(static_label)], Text],
    AfterValidator(as_frozen),
    described(
        type="object",
        propertyNames=STATIC_LABEL,
        additionalProperties={"type": "string", "pattern": r"\S"},
    ),
]
HeaderName = Annotated[str, AfterValidator(_header_name)]
Headers = Annotated[
    Mapping[HeaderName, Annotated[SecretStr, AfterValidator(_header_value)]],
    AfterValidator(as_frozen),
    described(
        type="object",
        propertyNames={"pattern": r"^[!#$%&'*+.^_`|~0-9A-Za-z-]+$"},
        additionalProperties={"type": "string"},
    ),
]
