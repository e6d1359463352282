"""The binding: which call failed and how, for the log and for what to do next."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from stub_nvml import LOST, NOT_SUPPORTED, UNKNOWN

from vllm_sidecar.gpu.nvml.binding import CallError, GpuLostError, Nvml, UnsupportedError

if TYPE_CHECKING:
    from stub_nvml import Stub

pytestmark = pytest.mark.io


@pytest.mark.parametrize(
    ("code", "kind"),
    [(LOST, GpuLostError), (16, GpuLostError), (NOT_SUPPORTED, UnsupportedError), (UNKNOWN, CallError)],
)
def test_an_error_of_a_call_names_the_call_and_the_code(code: int, kind: type[CallError], stub: Stub) -> None:
    stub.script(f"ret.nvmlDeviceGetCount_v2 {code}")
    noted: list[str] = []
    nvml = Nvml(noted.append)
    nvml.about = " of GPU 3"
    with pytest.raises(kind, match=rf"^nvmlDeviceGetCount of GPU 3: .* \(code {code}\)$") as caught:
        nvml.call("nvmlDeviceGetCount")
    assert type(caught.value) is kind
    assert caught.value.code == code
    assert noted[-1] == "nvmlDeviceGetCount of GPU 3"
    nvml.close()
