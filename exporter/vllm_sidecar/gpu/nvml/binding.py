"""nvidia-ml-py behind one function that notes each call, and sorts errors into four kinds."""

from __future__ import annotations

import ctypes
import importlib
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

LIBRARY = "libnvidia-ml.so.1"

NO_PERMISSION, TIMEOUT, FUNCTION_NOT_FOUND = 4, 10, 13
INVALID_ARGUMENT = 2
_WHOLE = {
    1: "nvml_error",
    9: "driver_not_loaded",
    12: "library_not_found",
    18: "driver_mismatch",
}
"""Codes after which no GPU can be read until NVML is initialized again, and the reason of each."""
_GPU_LOST = frozenset((15, 16, 28))
"""GPU_IS_LOST, RESET_REQUIRED, GPU_NOT_FOUND: this GPU only."""
_UNSUPPORTED = frozenset((INVALID_ARGUMENT, 3, 6, FUNCTION_NOT_FOUND, 25, 26))
"""INVALID_ARGUMENT, NOT_SUPPORTED, NOT_FOUND, FUNCTION_NOT_FOUND, ARGUMENT_VERSION_MISMATCH, DEPRECATED: not available
until the driver changes."""


FieldId = int | tuple[int, int]
"""A field, or a field of one link."""
Raw = dict[tuple[str, ...], float]
"""Name of a field, then the value of its label -> NVML's number."""


class FieldReader(Protocol):
    """A device whose functions and fields can be read."""

    def query(self, function: str, *arguments: object) -> Any:
        """Call a function for the device; None if the device lacks it or the call failed for now."""

    def fields(self, ids: Sequence[FieldId]) -> dict[FieldId, float]:
        """Read fields in one call; unsupported or failed fields are left out."""


class NvmlFailedError(Exception):
    """NVML as a whole is unusable; `reason` is a value of the sidecar's reasons, `detail` is for the log."""

    def __init__(self, reason: str, detail: str) -> None:
        super().__init__(f"{reason}: {detail}")
        self.reason = reason
        self.detail = detail


class CallError(Exception):
    """One call failed for now; `code` is NVML's."""

    def __init__(self, code: int, detail: str) -> None:
        super().__init__(detail)
        self.code = code


class UnsupportedError(CallError):
    """The GPU or the driver does not support the call."""


class GpuLostError(CallError):
    """The GPU fell off the bus, or waits for a reset."""


def error_of(code: int, detail: str) -> CallError | NvmlFailedError:
    """Sort an NVML error code into its kind."""
    if code in _WHOLE:
        return NvmlFailedError(_WHOLE[code], detail)
    kind = GpuLostError if code in _GPU_LOST else UnsupportedError if code in _UNSUPPORTED else CallError
    return kind(code, detail)


def reason_of(error: CallError) -> str:
    """Return the reason of a failed call if nothing else can be read."""
    if isinstance(error, GpuLostError):
        return "gpu_lost"
    return "no_permission" if error.code == NO_PERMISSION else "nvml_error"


class Nvml:
    """NVML, initialized; `note` receives each call before it is made.

    Raises:
        NvmlFailedError: the library is missing, or does not work.
    """

    def __init__(self, note: Callable[[str], None] = lambda _: None) -> None:
        self.note = note
        self.calls = 0
        """Calls so far."""
        self.about = ""
        """The GPU of the current call."""
        note(f"loading {LIBRARY}")
        self.module = _load()
        try:
            self.call("nvmlInitWithFlags", 0)
        except CallError as error:
            raise NvmlFailedError(reason_of(error), str(error)) from None

    def call(self, function: str, *arguments: object) -> Any:
        """Call a function of nvidia-ml-py by name.

        Raises:
            UnsupportedError: not supported here.
            GpuLostError: the GPU is lost.
            CallError: failed for now.
            NvmlFailedError: NVML no longer works.
        """
        self.calls += 1
        self.note(function + self.about)
        called = self.constant(function)
        try:
            return called(*arguments)
        except self.module.NVMLError as error:
            raise error_of(error.value, f"{function}{self.about}: {error} (code {error.value})") from None

    def constant(self, name: str) -> Any:
        """Return a function, constant or structure of nvidia-ml-py.

        Raises:
            UnsupportedError: this nvidia-ml-py is too old for it.
        """
        try:
            return getattr(self.module, name)
        except AttributeError:
            raise UnsupportedError(FUNCTION_NOT_FOUND, f"{name} is not in this nvidia-ml-py") from None

    def close(self) -> None:
        """Release the driver, so that it can be unloaded."""
        try:
            self.call("nvmlShutdown")
        except (CallError, NvmlFailedError):
            return


def _load() -> Any:
    """Load the driver's library, and nvidia-ml-py only if that succeeds: it is most of this process."""
    try:
        ctypes.CDLL(LIBRARY)
    except OSError as error:
        raise NvmlFailedError("library_not_found", str(error)) from None
    return importlib.import_module("pynvml")
