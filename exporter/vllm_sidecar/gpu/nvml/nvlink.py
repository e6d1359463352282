"""NVLink of one GPU: active links, their errors and their traffic, summed over the links."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from vllm_sidecar.gpu.nvml.binding import FieldId, FieldReader, Raw

LINK_COUNT = 91
MOST_LINKS = 36
ERRORS = {
    206: "malformed_packet",
    207: "buffer_overrun",
    208: "receive",
    211: "link_integrity",
    212: "transmit_discard",
    213: "link_recovered",
    214: "link_recovery_failed",
    219: "effective",
    221: "symbol",
}
"""Counters of each link, on Hopper and later."""
LEGACY_ERRORS = {38: "crc_flit", 45: "crc_data", 52: "replay", 59: "recovery"}
"""Totals over all links, before Hopper."""
TRAFFIC = {138: "nvlink_transmitted_bytes_total", 139: "nvlink_received_bytes_total"}
"""Counters of each link."""


class Links:
    """Reads all links of one GPU; `legacy` means that the totals from before Hopper are reliable.

    The last value of a failed link remains in the sum: otherwise the sum would fall, which Prometheus treats as a reset
    and counts the whole rest as an increase.
    """

    def __init__(self, gpu: FieldReader, *, legacy: bool) -> None:
        self._gpu = gpu
        self._legacy = legacy
        self._last: dict[FieldId, float] = {}

    def read(self) -> Raw:
        """Return raw values; empty without NVLink."""
        count = self._gpu.fields((LINK_COUNT,)).get(LINK_COUNT)
        if count == 0.0:
            return {}
        states = []
        for link in range(min(int(count or MOST_LINKS), MOST_LINKS)):
            state = self._gpu.query("nvmlDeviceGetNvLinkState", link)
            if state is None:
                break
            states.append(state)
        if not states:
            return {}
        raw: Raw = {("nvlink_links",): float(len(states)), ("nvlink_active_links",): float(sum(states))}
        self._counters(raw, len(states))
        return raw

    def _counters(self, raw: Raw, count: int) -> None:
        per_link = self._gpu.fields([(field, link) for field in (*TRAFFIC, *ERRORS) for link in range(count)])
        self._last.update(per_link)
        for field, name in TRAFFIC.items():
            self._sum(raw, (name,), field)
        for field, error in ERRORS.items():
            self._sum(raw, ("nvlink_errors_total", error), field)
        if self._legacy:
            totals = self._gpu.fields(tuple(LEGACY_ERRORS))
            raw.update({("nvlink_errors_total", LEGACY_ERRORS[f]): n for f, n in totals.items() if isinstance(f, int)})

    def _sum(self, raw: Raw, key: tuple[str, ...], field: int) -> None:
        links = [value for each, value in self._last.items() if isinstance(each, tuple) and each[0] == field]
        if links:
            raw[key] = sum(links)
