"""What an operator can do about each reason of a failed poll, for the log and the status page."""

from __future__ import annotations

from types import MappingProxyType
from typing import TYPE_CHECKING

from vllm_sidecar.model import Reason

if TYPE_CHECKING:
    from collections.abc import Mapping

REMEDY: Mapping[Reason, str] = MappingProxyType(
    {
        Reason.REFUSED: "Nothing listens there: is vLLM running (it listens only once the model is loaded), and are "
        "host, port or unix_socket right?",
        Reason.UNREACHABLE: "There is no route to the host: check the address in url, firewalls and network policies.",
        Reason.DNS: "The host name in url does not resolve: check its spelling and the resolver of this machine.",
        Reason.TLS: "The TLS handshake failed: check http or https in url and ca_file, cert_file and key_file, or set "
        "insecure_skip_verify for a certificate that cannot be checked.",
        Reason.TIMEOUT: "No complete answer in time: vLLM may be overloaded or frozen, a firewall may drop packets, or "
        "timeout and connect_timeout are too short for it.",
        Reason.DISCONNECTED: "The server closed the connection without an answer: look whether vLLM or a proxy before "
        "it is crashing or restarting.",
        Reason.NOT_HTTP: "Something else than an HTTP server listens there: check the port, and http or https, in url.",
        Reason.REDIRECT: "Redirects are not followed: put the address that the server names into url or metrics_path.",
        Reason.HTTP_401: "The server wants a credential: set bearer_token_file (vLLM's --api-key, or what a proxy "
        "before it asks for).",
        Reason.HTTP_403: "The server does not accept this credential: check bearer_token_file, headers and what the "
        "proxy before vLLM allows.",
        Reason.HTTP_404: "There are no metrics at this address: check metrics_path and the path prefix in url, and "
        "that url is vLLM's API port.",
        Reason.HTTP_4XX: "The server does not accept the request: check url, metrics_path and headers, and whether a "
        "proxy limits the rate.",
        Reason.HTTP_5XX: "The server or a proxy before it failed: read the log of vLLM, its engine may be dead.",
        Reason.HTTP_OTHER: "Only status 200 is an answer with metrics: check that url is vLLM and no other service.",
        Reason.CREDENTIALS: "A file or header for the target is unusable: check that bearer_token_file, ca_file, "
        "cert_file and key_file exist, are readable and complete.",
        Reason.TOO_LARGE: "The body exceeds max_body_size: raise it if vLLM really exports that much (many engines or "
        "adapters), else check that url is vLLM.",
        Reason.TRUNCATED: "The body ended early: vLLM or a proxy before it was cut off; if it stays, look at the "
        "limits of the proxy.",
        Reason.BAD_ENCODING: "The body's compression cannot be undone: turn it off in the proxy before vLLM, or "
        "allow it gzip or deflate only.",
        Reason.EMPTY: "The server answered with an empty body: check metrics_path, and whether a proxy answers in "
        "place of vLLM.",
        Reason.NOT_PROMETHEUS: "The body is no Prometheus metrics: check metrics_path, and that url is vLLM and no "
        "web page or login form.",
        Reason.NO_VLLM_METRICS: "Metrics came, but none of vLLM's: was it started with --disable-log-stats, has its "
        "engine not served a request yet, or is url another program?",
        Reason.NOT_AN_ENGINE: "This is a router, a gateway or another program, not a vLLM engine: point url at the API "
        "port of an engine, with one sidecar or one target for each.",
        Reason.SEVERAL_SERVERS: "Several servers answer at this address, as behind a Service or a load balancer, so "
        "rates and counters would mix: run one sidecar in each pod, or give each server's own address as a target.",
        Reason.INTERNAL: "This is unexpected, perhaps a bug of the sidecar: report it with the detail from the log, "
        "and check its limit of open files.",
    }
)

GPU_REMEDY: Mapping[Reason, str] = MappingProxyType(
    {
        Reason.LIBRARY_NOT_FOUND: "There is no libnvidia-ml.so.1 here: on a machine without NVIDIA GPUs all is well, "
        "or set gpu.devices to none; in a container see how to give the sidecar the GPU, or run one with --gpu.only "
        "on each node.",
        Reason.DRIVER_NOT_LOADED: "The NVIDIA kernel module is not loaded: look at nvidia-smi and dmesg on the host; "
        "a driver that restarts is picked up by itself.",
        Reason.DRIVER_MISMATCH: "The library does not fit the loaded kernel module, usually after an upgrade of the "
        "driver: reload the module or reboot the host; in a container, recreate it so that the new library is mounted.",
        Reason.NO_PERMISSION: "NVML denies access: check the rights on /dev/nvidia*, and the security profile and "
        "device rules of the container.",
        Reason.DEVICE_ACCESS_LOST: "NVML works no more and initialising it again did not help, as after a systemctl "
        "daemon-reload that takes /dev/nvidia* from containers: recreate the container.",
        Reason.GPU_LOST: "The GPU fell off the bus or waits for a reset: look for XIDs in dmesg and at its recovery "
        "action, drain the node, and reset the GPU or reboot.",
        Reason.NO_GPU: "The driver shows no GPU that is to be watched: check gpu.devices, and NVIDIA_VISIBLE_DEVICES "
        "of the container.",
        Reason.NVML_ERROR: "NVML answered with an error, and it is tried again: if it stays, look at nvidia-smi and "
        "dmesg on the host.",
        Reason.CRASHED: "The process that calls NVML was ended, by a fault in the driver's library or by a signal, and "
        "is started again: read the detail in the log and dmesg (a SIGKILL may be the memory limit); if it stays, run "
        "nvidia-smi and update the driver, or set gpu.devices to none.",
        Reason.HUNG: "A call to the driver does not return, as after some XIDs, and vLLM's metrics go on: look at "
        "dmesg and whether nvidia-smi hangs too, drain the node, and reset the GPU or reboot.",
        Reason.TIMEOUT: "With --gpu.simulate: the simulator is too slow.",
        Reason.NOT_A_SIMULATOR: "gpu.simulate takes GPUs from vllm-sidecar's simulator, and the target is something "
        "else: leave --gpu.simulate out for a real vLLM.",
        Reason.REFUSED: "With --gpu.simulate: the simulator does not listen there; check that it runs and the url.",
        Reason.INTERNAL: REMEDY[Reason.INTERNAL],
    }
)
"""The same for the GPUs."""
