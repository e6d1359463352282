"""The library of the driver: loaded where it is, unloaded when the last user leaves, never under anybody's feet."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pynvml
import pytest

from stub_nvml import LOST, MISMATCH, NOT_SUPPORTED, UNKNOWN
from vllm_sidecar.gpu.nvml import CallError, GoneError, LackingError, Nvml, NvmlFailedError

if TYPE_CHECKING:
    from stub_nvml import Stub

EXPORTER = Path(__file__).parents[1] / "exporter"


def test_the_library_is_unloaded_when_the_last_user_leaves(stub: Stub) -> None:
    one, other = Nvml(), Nvml()
    one.close()
    assert other.call("nvmlDeviceGetCount") == 1
    stub.script(f"ret.nvmlInitWithFlags {MISMATCH}")
    with pytest.raises(NvmlFailedError):
        Nvml()
    assert pynvml.nvmlLib is not None
    other.close()
    assert pynvml.nvmlLib is None
    stub.script()
    again = Nvml()
    assert again.call("nvmlDeviceGetCount") == 1
    again.close()


def test_without_the_library_nvidia_ml_py_is_not_even_imported() -> None:
    program = (
        "import sys\nfrom vllm_sidecar.gpu import nvml\nnvml.LIBRARY = 'libnvidia-ml-none.so.1'\n"
        "try:\n    nvml.Nvml()\nexcept nvml.NvmlFailedError as error:\n    print(error.reason, 'pynvml' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", program], cwd=EXPORTER, capture_output=True, text=True, check=True)
    assert done.stdout == "library_not_found False\n"


@pytest.mark.parametrize(
    ("code", "kind"), [(LOST, GoneError), (16, GoneError), (NOT_SUPPORTED, LackingError), (UNKNOWN, CallError)]
)
def test_an_error_of_a_call_names_the_call_and_the_code(code: int, kind: type[CallError], stub: Stub) -> None:
    stub.script(f"ret.nvmlDeviceGetCount_v2 {code}")
    nvml = Nvml()
    nvml.about = " of GPU 3"
    with pytest.raises(kind, match=rf"^nvmlDeviceGetCount of GPU 3: .* \(code {code}\)$") as caught:
        nvml.call("nvmlDeviceGetCount")
    assert type(caught.value) is kind
    assert caught.value.code == code
    nvml.close()
