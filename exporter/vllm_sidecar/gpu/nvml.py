"""nvidia-ml-py behind one function that counts calls, says what is being called, and sorts errors into four kinds."""

from __future__ import annotations

import ctypes
import importlib
import threading
import time
from _ctypes import dlclose
from typing import Any

from vllm_sidecar.model import Reason

LIBRARY = "libnvidia-ml.so.1"
_users = 0
"""Instances of Nvml that are in the library."""
_lock = threading.Lock()

NO_PERMISSION, UNKNOWN = 4, 999
INVALID_ARGUMENT = 2
_WHOLE = {
    1: Reason.NVML_ERROR,
    9: Reason.DRIVER_NOT_LOADED,
    12: Reason.LIBRARY_NOT_FOUND,
    18: Reason.DRIVER_MISMATCH,
}
"""Codes after which no GPU can be read until NVML is initialised again."""
_GONE = frozenset((15, 16, 28))
"""GPU_IS_LOST, RESET_REQUIRED, GPU_NOT_FOUND: this GPU only."""
_LACKING = frozenset((INVALID_ARGUMENT, 3, 6, 13, 25, 26))
"""INVALID_ARGUMENT, NOT_SUPPORTED, NOT_FOUND, FUNCTION_NOT_FOUND, ARGUMENT_VERSION_MISMATCH, DEPRECATED: it will not
come until the driver changes."""


class NvmlFailedError(Exception):
    """NVML as a whole cannot be used; `reason` and a `detail` for the log."""

    def __init__(self, reason: Reason, detail: str) -> None:
        super().__init__(f"{reason}: {detail}")
        self.reason = reason
        self.detail = detail


class CallError(Exception):
    """One call failed for now; `code` is NVML's."""

    def __init__(self, code: int, detail: str) -> None:
        super().__init__(detail)
        self.code = code


class LackingError(CallError):
    """The GPU or the driver does not have what was asked for."""


class GoneError(CallError):
    """The GPU fell off the bus, or waits for a reset."""


def error_of(code: int, detail: str) -> CallError | NvmlFailedError:
    """Sort an NVML error code into its kind."""
    if code in _WHOLE:
        return NvmlFailedError(_WHOLE[code], detail)
    kind = GoneError if code in _GONE else LackingError if code in _LACKING else CallError
    return kind(code, detail)


class Nvml:
    """NVML, initialised; used by one thread, beside that of the events.

    Raises:
        NvmlFailedError: the library is not there, or does not work.
    """

    def __init__(self) -> None:
        self.calls = 0
        """Calls so far."""
        self.doing = "looking for the library"
        """What the thread is at, for a watchdog that sees it hang."""
        self.about = ""
        """The GPU that is being asked."""
        self.called_at = time.monotonic()
        """When the last call began."""
        self.module = _load()
        try:
            self.call("nvmlInitWithFlags", 0)
        except CallError as error:
            _leave(self.module)
            reason = Reason.NO_PERMISSION if error.code == NO_PERMISSION else Reason.NVML_ERROR
            raise NvmlFailedError(reason, str(error)) from None
        except NvmlFailedError:
            # The library stays mapped for ever otherwise, and after an upgrade of the driver the new one is on disk.
            _leave(self.module)
            raise

    def call(self, function: str, *arguments: object) -> Any:
        """Call a function of nvidia-ml-py by name.

        Raises:
            LackingError: not supported here.
            GoneError: the GPU is lost.
            CallError: failed for now.
            NvmlFailedError: NVML does not work any more.
        """
        self.calls += 1
        self.doing, self.called_at = function, time.monotonic()
        called = self.constant(function)
        try:
            return called(*arguments)
        except self.module.NVMLError as error:
            raise error_of(error.value, f"{function}{self.about}: {error} (code {error.value})") from None

    def constant(self, name: str) -> Any:
        """Return a function, constant or structure of nvidia-ml-py.

        Raises:
            LackingError: this nvidia-ml-py is too old to have it.
        """
        try:
            return getattr(self.module, name)
        except AttributeError:
            raise LackingError(13, f"{name} is not in this nvidia-ml-py") from None

    def close(self) -> None:
        """Release the driver, and unload its library once nobody uses it; the thread of the events must have ended."""
        try:
            self.call("nvmlShutdown")
        except (CallError, NvmlFailedError):
            return  # who knows what still runs in it
        _leave(self.module)


def _load() -> Any:
    """Load the driver's library, and nvidia-ml-py only where there is one: importing it costs a few MiB."""
    global _users  # noqa: PLW0603 - the library is one for the process, as is nvidia-ml-py's reference to it
    try:
        library = ctypes.CDLL(LIBRARY)
    except OSError as error:
        raise NvmlFailedError(Reason.LIBRARY_NOT_FOUND, str(error)) from None
    module: Any = importlib.import_module("pynvml")
    with _lock:
        _users += 1
        if module.nvmlLib is None:
            module.nvmlLib = library
        else:
            dlclose(library._handle)  # noqa: SLF001 - ctypes has no public way to close a library
    return module


def _leave(module: Any) -> None:
    """Unload the library when its last user leaves: one that hangs in it never does, and needs its code."""
    global _users  # noqa: PLW0603
    with _lock:
        _users -= 1
        if _users:
            return
        library, module.nvmlLib = module.nvmlLib, None
        module._nvmlGetFunctionPointer_cache.clear()  # noqa: SLF001 - its functions point into the library
        dlclose(library._handle)  # noqa: SLF001
