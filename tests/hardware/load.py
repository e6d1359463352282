"""Work for a GPU through the driver's own library, libcuda: no toolkit, no torch. `load.py UUID [fault]`.

Without `fault` it keeps the GPU busy until its standard input ends. With it, it writes to an address that is not
there, which the driver reports as an XID of the application (13 or 31) and which harms nobody else.
"""

from __future__ import annotations

import ctypes
import select
import sys
from typing import Any

BYTES = 256 << 20
ROUNDS = 50
PTX = b"""
.version 6.0
.target sm_50
.address_size 64
.visible .entry fault() {
    .reg .u64 %address;
    .reg .u32 %value;
    mov.u64 %address, 16;
    mov.u32 %value, 1;
    st.global.u32 [%address], %value;
    ret;
}
"""


class Cuda:
    """The driver API with a context on one GPU.

    Raises:
        OSError: there is no libcuda.so.1.
        RuntimeError: a call failed, or there is no such GPU.
    """

    def __init__(self, uuid: str) -> None:
        self._library = ctypes.CDLL("libcuda.so.1")
        self.call("cuInit", 0)
        count = ctypes.c_int()
        self.call("cuDeviceGetCount", ctypes.byref(count))
        self._context = ctypes.c_void_p()
        for index in range(count.value):
            device = ctypes.c_int()
            self.call("cuDeviceGet", ctypes.byref(device), index)
            if self._uuid(device) == uuid:
                self.call("cuDevicePrimaryCtxRetain", ctypes.byref(self._context), device)
                self.call("cuCtxSetCurrent", self._context)
                return
        raise RuntimeError(f"CUDA shows no {uuid}")

    def _uuid(self, device: ctypes.c_int) -> str:
        raw = (ctypes.c_ubyte * 16)()
        self.call("cuDeviceGetUuid", ctypes.byref(raw), device)
        text = bytes(raw).hex()
        return f"GPU-{text[:8]}-{text[8:12]}-{text[12:16]}-{text[16:20]}-{text[20:]}"

    def call(self, function: str, *arguments: Any) -> None:
        """Call a function of the driver API."""
        code = getattr(self._library, function)(*arguments)
        if code != 0:
            raise RuntimeError(f"{function}: error {code}")

    def busy(self) -> None:
        """Fill memory again and again until standard input ends."""
        memory = ctypes.c_uint64()
        self.call("cuMemAlloc_v2", ctypes.byref(memory), ctypes.c_size_t(BYTES))
        print("busy", flush=True)
        while not select.select([sys.stdin], [], [], 0.0)[0]:
            for value in range(ROUNDS):
                self.call("cuMemsetD32_v2", memory, ctypes.c_uint(value), ctypes.c_size_t(BYTES // 4))
            self.call("cuCtxSynchronize")

    def fault(self) -> None:
        """Write where nothing is."""
        module, function = ctypes.c_void_p(), ctypes.c_void_p()
        self.call("cuModuleLoadData", ctypes.byref(module), PTX)
        self.call("cuModuleGetFunction", ctypes.byref(function), module, b"fault")
        self.call("cuLaunchKernel", function, 1, 1, 1, 1, 1, 1, 0, None, None, None)
        self.call("cuCtxSynchronize")


def main() -> None:
    """Do what the arguments say."""
    try:
        cuda = Cuda(sys.argv[1])
        (cuda.fault if "fault" in sys.argv else cuda.busy)()
    except (OSError, RuntimeError) as error:
        print(error, flush=True)


if __name__ == "__main__":
    main()
