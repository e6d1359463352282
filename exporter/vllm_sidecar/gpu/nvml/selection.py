"""Which devices are read: as configured, or those that vLLM uses as far as its processes and environment tell."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from vllm_sidecar.gpu.nvml.device import Device


class Choice(NamedTuple):
    """Devices by UUID, and by what they were chosen: configured, processes, environment or all."""

    uuids: frozenset[str]
    by: str


def configured(wanted: Sequence[str], devices: Sequence[Device]) -> Choice:
    """Take the devices that the configuration names by index, UUID or the start of one; empty where none is there."""
    return Choice(frozenset(d.uuid for d in _named(wanted, devices)), "configured")


def everything(devices: Sequence[Device]) -> Choice:
    """Take all devices."""
    return Choice(frozenset(d.uuid for d in devices), "all")


def by_processes(pids: frozenset[int], computing: Mapping[str, frozenset[int]]) -> Choice | None:
    """Take the devices on which any of the processes computes; None where NVML shows none of them.

    NVML may show the process ids of the host, which are others in a container's PID namespace.
    """
    found = frozenset(uuid for uuid, there in computing.items() if there & pids)
    return Choice(found, "processes") if found else None


def by_environment(environment: Mapping[str, str], devices: Sequence[Device]) -> Choice | None:
    """Take the devices that vLLM's environment names; None where it names none that is here, or leaves open which.

    CUDA_VISIBLE_DEVICES counts among those that the container was given, which NVIDIA_VISIBLE_DEVICES names unless it
    says `all`, is a name of the volume strategy, or is not there. CUDA stops at the first name that it does not know.
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
    """Tell whether CUDA numbers the devices as NVML does, by PCI bus: its default puts the fastest model first."""
    return environment.get("CUDA_DEVICE_ORDER") == "PCI_BUS_ID" or len({d.name for d in base}) == 1


def _as_cuda_reads(
    names: Sequence[str], base: Sequence[Device], devices: Sequence[Device], *, indices: bool
) -> list[Device]:
    """Return the named devices; none where an index is among the names and CUDA's order is not known."""
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
    """Return the devices that any name means, in the order of the devices: a list of names sets no order."""
    return [d for d in devices if any(_is(name, d) for name in names)]


def _is(name: str, device: Device) -> bool:
    """Tell whether a name means a device: its index (`0`, `0:1`), its UUID, or the start of one."""
    if name[:4] in ("GPU-", "MIG-"):
        return device.uuid.startswith(name)
    return device.index == name
