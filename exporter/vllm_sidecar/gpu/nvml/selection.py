"""The choice of devices: as configured, or those that vLLM uses according to its processes and environment."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from vllm_sidecar.gpu.nvml.device import Device


class Choice(NamedTuple):
    """Devices by UUID, and how they were chosen: configured, processes, environment or all."""

    uuids: frozenset[str]
    by: str


def configured(wanted: Sequence[str], devices: Sequence[Device]) -> Choice:
    """Choose the devices that the configuration lists by index, UUID or a prefix of one; empty if none exists."""
    return Choice(frozenset(d.uuid for d in _named(wanted, devices)), "configured")


def everything(devices: Sequence[Device]) -> Choice:
    """Choose all devices."""
    return Choice(frozenset(d.uuid for d in devices), "all")


def by_processes(pids: frozenset[int], computing: Mapping[str, frozenset[int]]) -> Choice | None:
    """Choose the devices on which any of the processes computes; None if NVML shows none of them.

    NVML may show the process ids of the host, which differ from those in a container's PID namespace.
    """
    found = frozenset(uuid for uuid, there in computing.items() if there & pids)
    return Choice(found, "processes") if found else None


def by_environment(environment: Mapping[str, str], devices: Sequence[Device]) -> Choice | None:
    """Choose the devices in vLLM's environment; None if it names none of the devices, or is ambiguous.

    CUDA_VISIBLE_DEVICES counts among the devices of the container, which are those in NVIDIA_VISIBLE_DEVICES unless it
    is `all`, a name of the volume strategy, or unset. CUDA stops at the first unknown name.
    """
    given = _named(_split(environment.get("NVIDIA_VISIBLE_DEVICES", "")), devices)
    cuda = environment.get("CUDA_VISIBLE_DEVICES")
    if cuda is None:
        chosen: Sequence[Device] = given
    else:
        base = given or [d for d in devices if d.parent is None]
        indices = _same_order(environment, base)
        chosen = _as_cuda_reads(_split(cuda), base, devices, indices=indices)
    return Choice(frozenset(d.uuid for d in chosen), "environment") if chosen else None


def _same_order(environment: Mapping[str, str], base: Sequence[Device]) -> bool:
    """Return whether CUDA numbers the devices as NVML does, by PCI bus: by default the fastest model is first."""
    return environment.get("CUDA_DEVICE_ORDER") == "PCI_BUS_ID" or len({d.name for d in base}) == 1


def _as_cuda_reads(
    names: Sequence[str], base: Sequence[Device], devices: Sequence[Device], *, indices: bool
) -> list[Device]:
    """Return the named devices; none if an index is among the names and CUDA's order is unknown."""
    chosen: list[Device] = []
    for name in names:
        if name.isdecimal():
            if not indices:
                return []
            found = list(base[int(name) : int(name) + 1])
        else:
            found = _named([name], devices)
        if not found:
            break
        chosen += found
    return chosen


def _split(text: str) -> list[str]:
    return [name for name in re.split(r"[,\s]+", text) if name and name not in ("all", "none", "void")]


def _named(names: Sequence[str], devices: Sequence[Device]) -> list[Device]:
    """Return the devices that match any name, in the order of the devices: the order of the names has no effect."""
    return [d for d in devices if any(_is(name, d) for name in names)]


def _is(name: str, device: Device) -> bool:
    """Return whether a name matches a device: its index (`0`, `0:1`), its UUID, or a prefix of one."""
    if name[:4] in ("GPU-", "MIG-"):
        return device.uuid.startswith(name)
    return device.index == name
