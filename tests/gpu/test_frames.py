"""Frames of the child that calls NVML: what they mean, and what is none."""

from __future__ import annotations

import json
from typing import Any

import pytest

from vllm_sidecar.catalog.reasons import PollError, Reason
from vllm_sidecar.gpu.frames import FrameReader, GpuEvent, Note, Opened, Outdated
from vllm_sidecar.gpu.polls import GpuPoll
from vllm_sidecar.gpu.units import decode

OPENED = {"driver": "580", "nvml": "13", "devices": 1, "without_handle": 0}
DEVICE = ["0", "GPU-0", "H100", "00:10", "9.0", "instant", None]
READING: dict[str, Any] = {
    "device": DEVICE, "fast": [["power_watts", 612000]], "slow": [["power_limit_watts", 700000]],
    "lost": False, "events": True,
}  # fmt: skip
POLL: dict[str, Any] = {
    "devices": [READING], "at": 5.0, "seconds": 0.1, "calls": {"fast": 11}, "chosen_by": "all", "present": 8,
}  # fmt: skip


def line(kind: str, content: object) -> bytes:
    return json.dumps([kind, content]).encode()


def poll(reader: FrameReader, **reading: Any) -> GpuPoll:
    found = reader.read(line("poll", {**POLL, "devices": [{**READING, **reading}]}))
    assert isinstance(found, GpuPoll)
    return found


@pytest.fixture
def reader() -> FrameReader:
    made = FrameReader(processes=False)
    assert made.read(line("opened", OPENED)) == Opened("580", 1, 0, "13")
    return made


def test_a_poll_is_in_base_units_and_has_the_versions_of_its_child(reader: FrameReader) -> None:
    found = poll(reader)
    assert found.readings[0].values == {"gpu_power_watts": 612.0, "gpu_power_limit_watts": 700.0}
    assert (found.driver_version, found.nvml_version, found.present) == ("580", "13", 8)
    assert found.readings[0].device.uuid == "GPU-0"


def test_values_of_the_slow_tier_stay_until_it_is_read_again(reader: FrameReader) -> None:
    poll(reader)
    assert poll(reader, slow=None).readings[0].values["gpu_power_limit_watts"] == 700.0
    assert "gpu_power_limit_watts" not in poll(reader, slow=[]).readings[0].values


def test_of_a_lost_gpu_only_what_it_says_last_is_left(reader: FrameReader) -> None:
    poll(reader)
    found = poll(reader, fast=[], slow=[["recovery_action", 1]], lost=True).readings[0]
    assert found.lost
    assert found.capabilities == {}
    assert found.values["gpu_recovery_action", "gpu_reset"] == 1.0
    assert "gpu_power_limit_watts" not in found.values
    assert poll(reader, fast=[], slow=None, lost=True).readings[0].values == found.values


def test_a_group_that_was_given_once_is_a_capability_and_events_are_one_while_they_are_had(
    reader: FrameReader,
) -> None:
    first = poll(reader).readings[0].capabilities
    later = poll(reader, fast=[], slow=None, events=False).readings[0].capabilities
    assert (first["power"], first["energy"], first["events"]) == (True, False, True)
    assert (later["power"], later["events"]) == (True, False)
    assert "processes" not in first


def test_an_event_has_the_names_of_all_its_types(reader: FrameReader) -> None:
    content = {"index": "1", "uuid": "GPU-1", "types": 0x8008, "data": 79, "at": 7.0}
    assert reader.read(line("event", content)) == GpuEvent("1", "GPU-1", ("xid", "recovery_action"), 79, 7.0)


def test_other_frames(reader: FrameReader) -> None:
    assert reader.read(line("note", {"what": "a", "detail": "b"})) == Note("a", "b")
    assert isinstance(reader.read(line("outdated", {})), Outdated)
    failed = reader.read(line("failed", {"reason": "driver_mismatch", "detail": "code 18"}))
    assert isinstance(failed, PollError)
    assert (failed.reason, failed.detail) == (Reason.DRIVER_MISMATCH, "code 18")


@pytest.mark.parametrize(
    "garbled",
    [
        b"",
        b"\xff\xfe",
        b"{}",
        b"[]",
        b"null",
        b'["poll"]',
        b"[" * 100_000,
        line("poll", {}),
        line("poll", []),
        line("of the future", {}),
        line("opened", None),
        line("failed", {"reason": "no such reason", "detail": ""}),
        line("event", {"index": "0", "uuid": "a", "types": "many", "data": 1, "at": 1}),
        line("poll", {**POLL, "devices": 3}),
        line("poll", {**POLL, "devices": [{**READING, "device": ["0"]}]}),
        line("poll", {**POLL, "devices": [{**READING, "fast": [["no_such_field", 1]]}]}),
        line("poll", {**POLL, "devices": [{**READING, "fast": [["power_watts", "much"]]}]}),
        line("poll", {**POLL, "devices": [{**READING, "fast": [[]]}]}),
        line("poll", {**POLL, "devices": [{**READING, "fast": [["throttled", 1e400]]}]}),
    ],
)
def test_what_is_no_frame_is_a_value_error(garbled: bytes, reader: FrameReader) -> None:
    with pytest.raises(ValueError, match="an invalid frame"):
        reader.read(garbled)


def test_bits_and_numbers_with_a_meaning_become_one_value_for_each() -> None:
    found = decode([["throttled", 0x44], ["fabric_state", 3], ["fabric_unhealthy", 0b01_10], ["utilization_ratio", 97]])
    assert {key[1] for key, value in found.items() if key[0] == "throttled" and value} == {"sw_power_cap", "hw_thermal"}
    assert [key[1] for key, value in found.items() if key[0] == "fabric_state" and value] == ["completed"]
    assert {key[1]: value for key, value in found.items() if key[0] == "fabric_unhealthy"} == {
        "degraded_bandwidth": 0.0, "route_recovery": 1.0,
    }  # fmt: skip
    assert found["utilization_ratio",] == 97.0
