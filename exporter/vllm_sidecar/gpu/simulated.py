"""GPUs of the simulator instead of NVML: the JSON of /simulate/gpus -> the same polls, by the same conversion.

    {"gpus": [{"index": 0, "uuid": "GPU-...", "name": "NVIDIA H100 80GB HBM3",
               "fields": {"utilization_ratio": 0.97, ...}, "throttle_reasons": ["sw_power_cap"], "xid": {"79": 1}}]}

`fields` are signals of the catalog without their prefix and in base units; any may be absent.
"""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from vllm_sidecar.catalog.gpu_fields import FIELDS_BY_NAME, THROTTLE_BITS
from vllm_sidecar.catalog.reasons import PollError, Reason
from vllm_sidecar.gpu.polls import GpuDevice, GpuPoll, GpuReading
from vllm_sidecar.gpu.units import to_base_units
from vllm_sidecar.vllm.client import Client

if TYPE_CHECKING:
    from collections.abc import Mapping

    from vllm_sidecar.config import Config
    from vllm_sidecar.gpu.units import Raw

PATH = "/simulate/gpus"
_REASONS = {Reason.REFUSED: Reason.REFUSED, Reason.TIMEOUT: Reason.TIMEOUT}


@dataclass(frozen=True, slots=True)
class Simulated:
    """One answer of the simulator: a poll, and the XID counts by device and code."""

    poll: GpuPoll
    xids: Mapping[tuple[GpuDevice, int], int] = field(default_factory=dict)


async def poll(client: Client, now: float) -> Simulated:
    """Poll the simulator once; `now` is monotonic.

    Raises:
        PollError: it does not answer (REFUSED, TIMEOUT), or is not a simulator.
    """
    try:
        response = await client.get(PATH, accept="application/json")
    except PollError as error:
        raise PollError(_REASONS.get(error.reason, Reason.NOT_A_SIMULATOR), error.detail) from None
    try:
        return read(response.body, now, response.seconds)
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise PollError(Reason.NOT_A_SIMULATOR, f"the answer of {PATH} is not a simulator's: {error!r}") from None


def read(body: bytes, now: float, seconds: float) -> Simulated:
    """Read an answer.

    Raises:
        ValueError, TypeError, KeyError, AttributeError: it has another form.
    """
    anomalies: Counter[str] = Counter()
    readings, xids = [], {}
    for gpu in json.loads(body)["gpus"]:
        device = GpuDevice(str(gpu["index"]), str(gpu["uuid"]), str(gpu.get("name", "")))
        raw: Raw = {(name,): float(value) for name, value in gpu.get("fields", {}).items() if _scalar(name)}
        active = gpu.get("throttle_reasons")
        if active is not None:
            raw |= {("throttled", reason): float(reason in active) for reason in THROTTLE_BITS}
        values = to_base_units(raw, anomalies, scaled=True)
        groups = {FIELDS_BY_NAME[key[0]].group: True for key in raw}
        readings.append(GpuReading(device, values, groups))
        xids.update({(device, int(code)): int(count) for code, count in gpu.get("xid", {}).items()})
    found = GpuPoll(tuple(readings), now, seconds, {}, "simulator", anomalies=anomalies)
    return Simulated(found, xids)


def _scalar(name: str) -> bool:
    """Return whether the catalog has a field with that name and without labels; a newer simulator may send others."""
    known = FIELDS_BY_NAME.get(name)
    return known is not None and not known.signal.labels


def client_of(config: Config) -> Client:
    """Make the client for the first target, which is the simulator."""
    return Client(config.all_targets[0], config.scrape)
