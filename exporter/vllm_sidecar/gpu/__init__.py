"""GPUs through NVML: read in a separate process, and published to the event loop as frozen values.

NVML is optional and unreliable: it is a library of the driver that may be missing, may not fit the kernel module, may
crash the process that calls it, and sometimes never returns. It is therefore only loaded in a child process (`nvml`),
which `supervisor` starts, watches and replaces. A scrape never waits for NVML.
"""
