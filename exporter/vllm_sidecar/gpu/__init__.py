"""GPUs through NVML: read in a process of their own, followed by the event loop as frozen values.

NVML is optional and hostile: it is a library of the driver that may be missing, may not fit the kernel module, may
crash the process that calls it, and sometimes never returns. So it is only ever loaded in a child process (`nvml`),
which `supervisor` starts, watches and replaces. Nothing here is called while a scrape is answered.
"""
