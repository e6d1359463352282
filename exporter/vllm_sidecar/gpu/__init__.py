"""GPUs through NVML: read in a thread of their own, handed to the event loop as frozen values.

NVML is optional and hostile: it is a library of the driver that may be missing, may not fit the kernel module, blocks,
and sometimes never returns. Nothing here is called while a scrape is answered, and nothing waits for a thread for long.
"""

from vllm_sidecar.gpu.monitor import GpuMonitor

__all__ = ["GpuMonitor"]
