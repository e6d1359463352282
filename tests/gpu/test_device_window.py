"""The recent polls of a device: another length while it runs."""

from __future__ import annotations

from gpus import device

from vllm_sidecar.gpu.device_window import GpuWindow


def test_a_shorter_window_lets_go_of_what_is_older() -> None:
    window = GpuWindow(device(0), 60.0)
    for at in range(0, 61, 5):
        window.append(float(at), {"gpu_power_watts": float(at)})
    window.resize(20.0)
    assert (window.since, window.seconds) == (40.0, 20.0)
    window.append(65.0, {"gpu_power_watts": 65.0})
    assert window.seconds == 20.0


def test_a_longer_window_grows_from_where_it_is() -> None:
    window = GpuWindow(device(0), 10.0)
    for at in range(0, 61, 5):
        window.append(float(at), {"gpu_power_watts": float(at)})
    window.resize(30.0)
    for at in range(65, 101, 5):
        window.append(float(at), {"gpu_power_watts": float(at)})
    assert window.seconds == 30.0
