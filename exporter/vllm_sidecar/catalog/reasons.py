"""Why a poll of one source fails, and what an operator can do about each reason.

The hints are shown in the log, on the status page and in the troubleshooting guide.
"""

from __future__ import annotations

from enum import Enum, StrEnum, auto
from types import MappingProxyType
from typing import TYPE_CHECKING, Self

if TYPE_CHECKING:
    from collections.abc import Mapping

_UNEXPECTED = (
    "This was not expected and may be a bug of the sidecar: report it with the detail from the log, and check the "
    "sidecar's limit of open files."
)


class Evidence(Enum):
    """Evidence of a failed poll about the vLLM server; it decides which alerts the failure concerns."""

    NO_PROCESS = auto()
    """No process listens at the address: the server is down."""
    FAILING = auto()
    """Something listens and does not answer, or answers that it failed: the server is down for its clients."""
    UNREADABLE = auto()
    """Something answers, but not with metrics of vLLM that can be read: users may be served."""
    NOT_ONE_ENGINE = auto()
    """The server answers and is not one vLLM server: its metrics describe no single engine."""
    SIDECAR = auto()
    """The fault is the sidecar's own, or of its files: it is unknown how the server is."""
    GPU = auto()
    """The poll was one of the GPUs, and shows nothing about the server."""


class Reason(StrEnum):
    """Why a poll of one source failed: a label value, so the set is closed; what it shows; the hint for operators."""

    evidence: Evidence
    hint: str

    def __new__(cls, value: str, evidence: Evidence | None = None, hint: str = "") -> Self:
        """Make a member from its label value, what it shows about a server, and its hint.

        Raises:
            TypeError: What it shows, or the hint, is missing.
        """
        if evidence is None or not hint:
            raise TypeError(f"reason {value}: what it shows about the server, or its hint, is missing")
        member = str.__new__(cls, value)
        member._value_ = value
        member.evidence = evidence
        member.hint = hint
        return member

    REFUSED = (
        "refused",
        Evidence.NO_PROCESS,
        (
            "Nothing listens at this address. Check that vLLM runs (it listens only after the model is loaded), "
            "and that host, port or unix_socket are right."
        ),
    )
    UNREACHABLE = (
        "unreachable",
        Evidence.NO_PROCESS,
        "There is no route to the host. Check the address in url, firewalls and network policies.",
    )
    DNS = (
        "dns",
        Evidence.NO_PROCESS,
        "The host name in url does not resolve. Check its spelling and the resolver of this machine.",
    )
    TLS = (
        "tls",
        Evidence.UNREADABLE,
        (
            "The TLS handshake failed. Check http or https in url and ca_file, cert_file and key_file, or set "
            "insecure_skip_verify for a certificate that cannot be verified."
        ),
    )
    TIMEOUT = (
        "timeout",
        Evidence.FAILING,
        (
            "The answer was not complete in time. vLLM may be overloaded or frozen, a firewall may drop packets, "
            "or timeout and connect_timeout may be too short for this server."
        ),
    )
    DISCONNECTED = (
        "disconnected",
        Evidence.FAILING,
        (
            "The server closed the connection without an answer. Check whether vLLM, or a proxy in front of it, "
            "is crashing or restarting."
        ),
    )
    NOT_HTTP = (
        "not_http",
        Evidence.UNREADABLE,
        "The port is open, but it is not an HTTP server. Check the port, and http or https, in url.",
    )
    REDIRECT = (
        "redirect",
        Evidence.UNREADABLE,
        "Redirects are not followed. Put the address that the server redirects to into url or metrics_path.",
    )
    HTTP_401 = (
        "http_401",
        Evidence.UNREADABLE,
        (
            "The server asks for a credential. Set bearer_token_file (vLLM's --api-key, or what a proxy in front "
            "of it expects)."
        ),
    )
    HTTP_403 = (
        "http_403",
        Evidence.UNREADABLE,
        (
            "The server does not accept this credential. Check bearer_token_file, headers, and what the proxy in "
            "front of vLLM allows."
        ),
    )
    HTTP_404 = (
        "http_404",
        Evidence.UNREADABLE,
        (
            "There are no metrics at this path. Check metrics_path, the path prefix in url, and that url is "
            "vLLM's API port."
        ),
    )
    HTTP_4XX = (
        "http_4xx",
        Evidence.UNREADABLE,
        (
            "The server does not accept the request. Check url, metrics_path and headers, and whether a proxy "
            "limits the rate."
        ),
    )
    HTTP_5XX = (
        "http_5xx",
        Evidence.FAILING,
        "The server, or a proxy in front of it, failed. Read vLLM's log: its engine may be dead.",
    )
    HTTP_OTHER = (
        "http_other",
        Evidence.UNREADABLE,
        "Only an answer with status 200 holds metrics. Check that url is vLLM and not another service.",
    )
    CREDENTIALS = (
        "credentials",
        Evidence.SIDECAR,
        (
            "A file or header with credentials cannot be used. Check that bearer_token_file, ca_file, cert_file "
            "and key_file exist, can be read and are complete."
        ),
    )
    TOO_LARGE = (
        "too_large",
        Evidence.UNREADABLE,
        (
            "The body exceeds max_body_size, or what is safe under the memory limit of the sidecar; the detail has the "
            "number. Raise the limit if vLLM really exports that much (many engines or adapters); otherwise check that "
            "url is vLLM."
        ),
    )
    TRUNCATED = (
        "truncated",
        Evidence.UNREADABLE,
        (
            "The body ended early: vLLM or a proxy in front of it was cut off. If this continues, check the "
            "limits of the proxy."
        ),
    )
    BAD_ENCODING = (
        "bad_encoding",
        Evidence.UNREADABLE,
        (
            "The body is compressed, although the sidecar asks for a body that is not. Turn compression off for "
            "/metrics in the proxy in front of vLLM."
        ),
    )
    EMPTY = (
        "empty",
        Evidence.UNREADABLE,
        ("The server answered with an empty body. Check metrics_path, and whether a proxy answers instead of vLLM."),
    )
    NOT_PROMETHEUS = (
        "not_prometheus",
        Evidence.UNREADABLE,
        (
            "The body is not in a Prometheus text format. Check metrics_path, and that url is vLLM and not a web "
            "page or a login form."
        ),
    )
    UNREADABLE = (
        "unreadable",
        Evidence.UNREADABLE,
        (
            "The body names metrics, but none of its lines could be read. The detail has the first error: check "
            "whether a proxy changes the body, such as its line ends."
        ),
    )
    NO_VLLM_METRICS = (
        "no_vllm_metrics",
        Evidence.UNREADABLE,
        (
            "The body holds metrics, but none of vLLM. Check whether vLLM was started with --disable-log-stats, "
            "whether its engine has served a request yet, and whether url is another program."
        ),
    )
    NOT_AN_ENGINE = (
        "not_an_engine",
        Evidence.NOT_ONE_ENGINE,
        (
            "This is a router, a gateway or another program, not a vLLM engine. Point url at the API port of an "
            "engine, with one sidecar or one target for each engine."
        ),
    )
    SEVERAL_SERVERS = (
        "several_servers",
        Evidence.NOT_ONE_ENGINE,
        (
            "Several servers answer at this address, as behind a Service or a load balancer, so rates and "
            "counters would mix. Run one sidecar in each pod, or list each server's own address as a target."
        ),
    )
    LIBRARY_NOT_FOUND = (
        "library_not_found",
        Evidence.GPU,
        (
            "libnvidia-ml.so.1 was not found. On a machine without NVIDIA GPUs this is fine; set gpu.devices to "
            "none to turn it off. In a container, see how to give the sidecar access to the GPU, or run one "
            "sidecar with --gpu.only on each node."
        ),
    )
    DRIVER_NOT_LOADED = (
        "driver_not_loaded",
        Evidence.GPU,
        (
            "The NVIDIA kernel module is not loaded. Check nvidia-smi and dmesg on the host. A driver that "
            "restarts is detected without a restart of the sidecar."
        ),
    )
    DRIVER_MISMATCH = (
        "driver_mismatch",
        Evidence.GPU,
        (
            "The library does not fit the loaded kernel module, usually after a driver upgrade. Reload the module "
            "or reboot the host; recreate a container, so that the new library is mounted."
        ),
    )
    NO_PERMISSION = (
        "no_permission",
        Evidence.GPU,
        (
            "NVML denies access. Check the rights on /dev/nvidia*, and the security profile and device rules of "
            "the container."
        ),
    )
    DEVICE_ACCESS_LOST = (
        "device_access_lost",
        Evidence.GPU,
        (
            "NVML stopped working and initializing it again did not help, as after a systemctl daemon-reload that "
            "takes /dev/nvidia* away from containers. Recreate the container."
        ),
    )
    GPU_LOST = (
        "gpu_lost",
        Evidence.GPU,
        (
            "The GPU fell off the bus or waits for a reset. Look for XIDs in dmesg and at its recovery action, "
            "drain the node, and reset the GPU or reboot."
        ),
    )
    NO_GPU = (
        "no_gpu",
        Evidence.GPU,
        (
            "The driver lists no GPU that is to be watched. Check gpu.devices, and NVIDIA_VISIBLE_DEVICES of the "
            "container."
        ),
    )
    NVML_ERROR = (
        "nvml_error",
        Evidence.GPU,
        (
            "NVML answered with an error; the sidecar tries again. If this continues, check nvidia-smi and dmesg "
            "on the host."
        ),
    )
    CRASHED = (
        "crashed",
        Evidence.GPU,
        (
            "The process that calls NVML ended, by a fault in the driver's library or by a signal, and is started "
            "again. Read the detail in the log and dmesg (a SIGKILL may be the memory limit). If this continues, "
            "run nvidia-smi and update the driver, or set gpu.devices to none."
        ),
    )
    HUNG = (
        "hung",
        Evidence.GPU,
        (
            "A call to the driver does not return, as after some XIDs; vLLM's metrics are not affected. Check "
            "dmesg and whether nvidia-smi hangs too, drain the node, and reset the GPU or reboot."
        ),
    )
    NOT_A_SIMULATOR = (
        "not_a_simulator",
        Evidence.GPU,
        (
            "gpu.simulate takes GPUs from the simulator of vllm-sidecar, and the target is another program. Leave "
            "--gpu.simulate out for a real vLLM."
        ),
    )
    INTERNAL = ("internal", Evidence.SIDECAR, _UNEXPECTED)


GPU_HINTS: Mapping[Reason, str] = MappingProxyType(
    {
        **{reason: reason.hint for reason in Reason if reason.evidence is Evidence.GPU},
        Reason.TIMEOUT: "The simulator that --gpu.simulate reads did not answer in time.",
        Reason.REFUSED: "The simulator that --gpu.simulate reads does not listen there. Check that it runs, and url.",
        Reason.INTERNAL: _UNEXPECTED,
    }
)
"""Why a poll of the GPUs fails, with the hints; TIMEOUT, NOT_A_SIMULATOR and REFUSED only with `gpu.simulate`."""
GPU_REASONS = tuple(GPU_HINTS)
HINTS: Mapping[Reason, str] = MappingProxyType(
    {reason: reason.hint for reason in Reason if reason.evidence is not Evidence.GPU}
)
"""Why a poll of vLLM fails, with the hints."""
VLLM_REASONS = tuple(HINTS)


def reasons_of(*kinds: Evidence) -> tuple[Reason, ...]:
    """Return the reasons that show one of these, in the order of the catalog."""
    return tuple(reason for reason in Reason if reason.evidence in kinds)


NOT_ONE_ENGINE = reasons_of(Evidence.NOT_ONE_ENGINE)
"""The address is wrong: a router, or several servers."""
NOT_READ = reasons_of(Evidence.UNREADABLE, Evidence.SIDECAR)
"""The metrics cannot be read, and that says nothing about the users of the server."""


class PollError(Exception):
    """A poll that returned nothing to use.

    `reason` goes to metrics; `detail` only to the log and the status page: it never holds a secret, and it names the
    address without its user part.
    """

    def __init__(self, reason: Reason, detail: str) -> None:
        super().__init__(f"{reason}: {detail}")
        self.reason = reason
        self.detail = detail
