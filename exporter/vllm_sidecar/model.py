"""Frozen values that the stages hand to each other, and the closed set of reasons why a poll fails."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

Labels = tuple[tuple[str, str], ...]
"""Label pairs sorted by label name."""


class Scope(StrEnum):
    """What a series describes; decides which labels it has."""

    ENGINE = "engine"
    """One data-parallel engine of one model: `model_name`, `engine`."""
    MODEL = "model"
    """All engines of one model: `model_name`."""
    TARGET = "target"
    """The server: no label of its own."""
    SIDECAR = "sidecar"
    """The sidecar's process: not even the labels of a target."""
    GPU = "gpu"
    """One GPU or MIG instance of the node: `gpu` (its index) and `uuid`; no labels of a target."""

    @property
    def labels(self) -> tuple[str, ...]:
        """Label names that every series of the scope has."""
        return {"engine": ("model_name", "engine"), "model": ("model_name",), "gpu": ("gpu", "uuid")}.get(
            self.value, ()
        )


class Reason(StrEnum):
    """Why a poll of one source failed; a label value, so the set is closed."""

    REFUSED = "refused"
    UNREACHABLE = "unreachable"
    DNS = "dns"
    TLS = "tls"
    TIMEOUT = "timeout"
    DISCONNECTED = "disconnected"
    NOT_HTTP = "not_http"
    REDIRECT = "redirect"
    HTTP_401 = "http_401"
    HTTP_403 = "http_403"
    HTTP_404 = "http_404"
    HTTP_4XX = "http_4xx"
    HTTP_5XX = "http_5xx"
    HTTP_OTHER = "http_other"
    CREDENTIALS = "credentials"
    TOO_LARGE = "too_large"
    TRUNCATED = "truncated"
    BAD_ENCODING = "bad_encoding"
    EMPTY = "empty"
    NOT_PROMETHEUS = "not_prometheus"
    NO_VLLM_METRICS = "no_vllm_metrics"
    NOT_AN_ENGINE = "not_an_engine"
    SEVERAL_SERVERS = "several_servers"
    LIBRARY_NOT_FOUND = "library_not_found"
    DRIVER_NOT_LOADED = "driver_not_loaded"
    DRIVER_MISMATCH = "driver_mismatch"
    NO_PERMISSION = "no_permission"
    DEVICE_ACCESS_LOST = "device_access_lost"
    GPU_LOST = "gpu_lost"
    NO_GPU = "no_gpu"
    NVML_ERROR = "nvml_error"
    CRASHED = "crashed"
    HUNG = "hung"
    NOT_A_SIMULATOR = "not_a_simulator"
    INTERNAL = "internal"


GPU_REASONS = (
    Reason.LIBRARY_NOT_FOUND,
    Reason.DRIVER_NOT_LOADED,
    Reason.DRIVER_MISMATCH,
    Reason.NO_PERMISSION,
    Reason.DEVICE_ACCESS_LOST,
    Reason.GPU_LOST,
    Reason.NO_GPU,
    Reason.NVML_ERROR,
    Reason.CRASHED,
    Reason.HUNG,
    Reason.TIMEOUT,
    Reason.NOT_A_SIMULATOR,
    Reason.REFUSED,
    Reason.INTERNAL,
)
"""Why a poll of the GPUs fails; TIMEOUT, NOT_A_SIMULATOR and REFUSED only with `gpu.simulate`."""
VLLM_REASONS = tuple(
    reason for reason in Reason if reason not in GPU_REASONS or reason in ("refused", "timeout", "internal")
)
"""Why a poll of vLLM fails."""
NOT_ONE_ENGINE = (Reason.NOT_AN_ENGINE, Reason.SEVERAL_SERVERS)
"""What answers is well and is not one vLLM server: the address is wrong, and nothing that it exposes is about one."""


class PollError(Exception):
    """A poll that gave nothing to use.

    `reason` goes to metrics, `detail` only to the log and the status page: it never holds a secret, and it names the
    address without its user part.
    """

    def __init__(self, reason: Reason, detail: str) -> None:
        super().__init__(f"{reason}: {detail}")
        self.reason = reason
        self.detail = detail


@dataclass(frozen=True, slots=True)
class Response:
    """An HTTP answer with status 200: inflated `body`, its `content_type`, and what it cost."""

    body: bytes
    content_type: str
    seconds: float
    """From sending the request to the last byte."""
    wire_bytes: int
    """Size of the body before it was inflated."""
    date: float | None = None
    """The server's clock when it answered: Unix time of the Date header; None where it sends none."""


@dataclass(frozen=True, slots=True)
class Series:
    """One time series of an exposition: sample name (with `_total`, `_bucket`, ...) and labels."""

    name: str
    labels: Labels


@dataclass(frozen=True, eq=False, slots=True)
class Layout:
    """Which series a body holds, in the order of the values; the same object as long as nothing came or went.

    `families` maps the names of `# TYPE` lines to their type, `openmetrics` tells that the body ended with `# EOF`.
    """

    series: tuple[Series, ...]
    families: Mapping[str, str]
    openmetrics: bool


@dataclass(frozen=True, slots=True)
class Rejected:
    """A line that is no valid sample: its number in the body (from 1), why, and the start of its text."""

    line: int
    why: str
    text: str


@dataclass(frozen=True, slots=True)
class Exposition:
    """One parsed body: `values[i]` belongs to `layout.series[i]`; `rejected` lines are left out of both.

    `rejected_count` counts them all, `rejected` describes the first few.
    """

    layout: Layout
    values: Sequence[float]
    rejected: tuple[Rejected, ...] = ()
    rejected_count: int = 0


@dataclass(frozen=True, slots=True)
class ServedModel:
    """One card of `/v1/models`: a base model, an alias of it, or a LoRA adapter (then `parent` names its base)."""

    id: str
    root: str | None = None
    parent: str | None = None
    max_model_len: int | None = None


FlagValue = str | int | float | bool


@dataclass(frozen=True, slots=True)
class Identity:
    """Who the server is, as far as any source told; what no source told is None or absent.

    `flags` holds vLLM's command line options under their argument names (`tensor_parallel_size`), `flag_sources` says
    where each came from. `fingerprint` is 12 hex digits over version, models and flags; it changes with any of them.
    `changes` counts changes of a value that was known before, `last_change` is the Unix time of the last or None.
    """

    version: str | None = None
    rust_frontend_version: str | None = None
    models: tuple[ServedModel, ...] = ()
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
        """The name of the base model, the first where it has several; None where not exactly one is known."""
        bases = [model for model in self.models if model.parent is None]
        one = len({model.root or model.id for model in bases}) == 1
        return bases[0].id if one else None


Key = str | tuple[str, ...]
"""Canonical signal name, or the name followed by the values of the labels that it has beyond its scope's."""


class Histogram(NamedTuple):
    """One cumulative histogram at one poll."""

    bounds: tuple[float, ...]
    """Upper edges of the finite buckets, ascending (n)."""
    cumulative: tuple[float, ...]
    """Observations at or below each edge, the last for +Inf (n + 1): it is the count."""
    total: float | None
    """Sum of all observations; None where the server gives none."""


class Observed(NamedTuple):
    """What was observed in a histogram between two polls."""

    bins: tuple[tuple[int, float], ...]
    """Buckets that grew, ascending, with the observations that they grew by."""
    total: float | None
    """The sum of the observations; None where the server gives none, or it fell (a negative observation)."""


class Summary(NamedTuple):
    """Quantiles over the window beside the cumulative sum and count of all observations."""

    quantiles: tuple[tuple[float, float], ...]
    total: float | None
    observations: float
    bounds: tuple[tuple[float, float | None], ...] = ()
    """Edges of the bucket that certainly holds each quantile; None for +Inf."""
    recent: float = 0.0
    """Observations in the window, which the quantiles are those of."""


Value = float | Histogram | Summary
"""What a series of an exported family can be; the labels of an info metric say all, its value is 1."""


class Reading(NamedTuple):
    """What one group (an engine, a model, the server) said at one poll, under canonical names."""

    counters: Mapping[Key, float]
    gauges: Mapping[Key, float]
    histograms: Mapping[str, Histogram]


class Group(NamedTuple):
    """Whose reading it is: the scope and the values of the scope's labels."""

    scope: Scope
    labels: tuple[str, ...]


class Engine(NamedTuple):
    """One engine: its group, and the labels that its series have beside their own dimensions."""

    group: Group
    labels: Mapping[str, str]


class Adapters(NamedTuple):
    """The newest `lora_requests_info`: names of LoRA adapters with running and with waiting requests.

    `slots` is --max-loras, None where the front end does not tell. From vLLM 0.11.1 each adapter with any request
    stands in both lists, so lists that are equal do not tell running from waiting.
    """

    running: tuple[str, ...]
    waiting: tuple[str, ...]
    slots: int | None


@dataclass(frozen=True, slots=True)
class Dialect:
    """How this server speaks: all of it read off the exposition, none from a version number."""

    prefix: str
    """What stands before vLLM's own names, such as `vllm:` or `ray_vllm_`."""
    engine: str
    """`v1` where series have an engine label, else `v0` (also the v1 of 0.7 and 0.8.0 to 0.8.2)."""
    front_end: str
    """`rust` or `python`."""
    multiprocess: bool
    """Several API servers (prometheus_client's multiprocess mode): no process metrics, no creation times."""


@dataclass(frozen=True, slots=True)
class Readings:
    """One poll of one target, normalised."""

    groups: Mapping[Group, Reading]
    dialect: Dialect
    started: float | None
    """Unix time of the API server's start, None where it does not tell (multiprocess mode, Rust front end)."""
    created: Mapping[Group, float]
    """Unix time at which a group's counters were made, where the server tells."""
    cache_config: Mapping[Group, Mapping[str, str]]
    """Whitelisted labels of `cache_config_info` per engine; without a model where it is of no engine known."""
    adapters: Adapters | None
    """None where LoRA is off or has not been used."""
    sources: Mapping[str, str]
    """Canonical signal -> the name it was read from, in this server's own dialect."""
    missing: tuple[str, ...]
    """Signals of the checklist that this server does not give (or not yet)."""
    unknown: tuple[str, ...]
    """vLLM families that the catalog does not know: a newer vLLM than this release."""
    anomalies: Mapping[str, int]
    """Values left out at this poll, by kind (see `normalise`)."""
    engines: Mapping[Group, Engine] = field(default_factory=dict)
    """The engines, with the labels that tell them apart as the server wrote them."""
    unknown_labels: tuple[str, ...] = ()
    """Labels of known families that the catalog does not know; they tell engines apart where they differ."""
    unattributed: tuple[str, ...] = ()
    """The first of the families with series that are left out because they are of no engine, or of several."""
    not_an_engine: str = ""
    """What the server is where it is no engine; empty where it is one, and where nothing tells."""


@dataclass(frozen=True, slots=True)
class GpuDevice:
    """A GPU, or a MIG instance of one: then `parent` is the UUID of its GPU and `index` is GPU:INSTANCE."""

    index: str
    uuid: str
    name: str = ""
    pci_bus_id: str = ""
    compute_capability: str = ""
    power_source: str = ""
    """How its power was measured: instant, average (of a second), or usage (either, as the architecture has it)."""
    parent: str | None = None

    @property
    def labels(self) -> tuple[str, str]:
        """Values of the labels `gpu` and `uuid`."""
        return self.index, self.uuid


@dataclass(frozen=True, slots=True)
class GpuReading:
    """What one device said at one poll, in base units under the names of the catalog."""

    device: GpuDevice
    values: Mapping[Key, float]
    capabilities: Mapping[str, bool] = field(default_factory=dict)
    """Group of fields -> whether this device gives any of them."""
    lost: bool = False
    """NVML says that the device is gone; it has no values but, where NVML still tells it, the recovery action."""


@dataclass(frozen=True, slots=True)
class GpuPoll:
    """One poll of all devices, in the order of their indices; `at` is monotonic, `seconds` what NVML took."""

    readings: tuple[GpuReading, ...]
    at: float
    seconds: float
    calls: Mapping[str, int] = field(default_factory=dict)
    """NVML calls that the last poll of each tier took."""
    chosen_by: str = "all"
    """How the devices were chosen: configured, processes, environment, all, or simulator."""
    driver_version: str = ""
    nvml_version: str = ""
    anomalies: Mapping[str, int] = field(default_factory=dict)
    """Values left out at this poll, by kind."""
    present: int = 0
    """Devices that the driver lists, whether they are read or not; of a GPU that is split by MIG its instances."""
