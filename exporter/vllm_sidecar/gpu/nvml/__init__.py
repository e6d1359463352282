"""The process that calls NVML, with only nvidia-ml-py and the standard library to keep it small.

It imports nothing else of the package, so its frames contain NVML's own numbers; `frames` and `units` of the parent
turn them into signals.
"""
