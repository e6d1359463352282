"""Writes series to a real Prometheus by remote write: of any time, and with ends marked as a scrape marks them."""

from __future__ import annotations

import re
import struct
import urllib.request
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from fleets.clock import Floats

FLAGS = ("--web.enable-remote-write-receiver", "--storage.tsdb.min-block-duration=20d",
         "--storage.tsdb.max-block-duration=20d", "--storage.tsdb.retention.time=100y")  # fmt: skip
"""Prometheus accepts what is younger than half a block, so a block holds all that a test writes."""
STALE = struct.unpack("<d", struct.pack("<Q", 0x7FF0000000000002))[0]
"""The NaN by which Prometheus marks the end of a series."""
AT_ONCE = 200
_STAMP_BYTES = 6
"""Of a time in milliseconds in this century, as a varint."""
_LABEL = re.compile(r'([a-zA-Z_]\w*)="((?:[^"\\]|\\.)*)"')


def labels_of(text: str) -> dict[str, str]:
    """Read the text of a series, as in `up{job="a"}`."""
    name, _, rest = text.partition("{")
    return {"__name__": name, **dict(_LABEL.findall(rest))}


def push(url: str, found: Iterable[tuple[Mapping[str, str], Floats, Floats]]) -> None:
    """Write series: labels, Unix times in seconds, and values, of which NaN are left out but for the mark of an end."""
    batch: list[bytes] = []
    for labels, times, values in found:
        batch.append(_field(1, _series(labels, times, values)))
        if len(batch) == AT_ONCE:
            _send(url, b"".join(batch))
            batch = []
    if batch:
        _send(url, b"".join(batch))


def ended(times: Floats, values: Floats, *, before: bool = False) -> tuple[Floats, Floats]:
    """Leave out what is absent, and mark where a series ends; `before` says whether it was there just before."""
    absent = np.isnan(values)
    ends = absent & np.concatenate(([before], ~absent[:-1]))
    keep = ~absent | ends
    return times[keep], np.where(ends, STALE, values)[keep]


def _series(labels: Mapping[str, str], times: Floats, values: Floats) -> bytes:
    written = b"".join(
        _field(1, _field(1, name.encode()) + _field(2, value.encode()))
        for name, value in sorted(labels.items())
        if value
    )
    return written + _samples(times, values)


def _samples(times: Floats, values: Floats) -> bytes:
    """Encode all samples at once: each takes the same number of bytes."""
    stamps = np.round(times * 1000).astype(np.uint64)
    rows = np.zeros((len(stamps), 12 + _STAMP_BYTES), dtype=np.uint8)
    rows[:, 0], rows[:, 1], rows[:, 2], rows[:, 11] = 0x12, 10 + _STAMP_BYTES, 0x09, 0x10
    rows[:, 3:11] = np.ascontiguousarray(values, dtype="<f8").view(np.uint8).reshape(-1, 8)
    for byte in range(_STAMP_BYTES):
        more = 0x80 if byte < _STAMP_BYTES - 1 else 0
        rows[:, 12 + byte] = ((stamps >> np.uint64(7 * byte)) & np.uint64(0x7F)).astype(np.uint8) | more
    return rows.tobytes()


def _varint(number: int) -> bytes:
    found = bytearray()
    while number > 0x7F:
        found.append(number & 0x7F | 0x80)
        number >>= 7
    return bytes([*found, number])


def _field(number: int, content: bytes) -> bytes:
    return bytes([number << 3 | 2]) + _varint(len(content)) + content


def _send(url: str, message: bytes) -> None:
    """Send it in snappy's format, as one literal: what is not compressed needs no library."""
    body = _varint(len(message)) + b"\xfc" + struct.pack("<I", len(message) - 1) + message
    headers = {"Content-Type": "application/x-protobuf", "Content-Encoding": "snappy",
               "X-Prometheus-Remote-Write-Version": "0.1.0"}  # fmt: skip
    request = urllib.request.Request(f"{url}/api/v1/write", body, headers)  # noqa: S310 - loopback
    with urllib.request.urlopen(request, timeout=120) as answer:  # noqa: S310 - loopback
        answer.read()
