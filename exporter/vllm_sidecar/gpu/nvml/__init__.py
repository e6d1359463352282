"""The process that calls NVML: nothing in it but nvidia-ml-py and the standard library, to keep it small.

It imports nothing else of the package, so what it sends are NVML's own numbers; `frames` and `normalise` of the parent
make signals of them.
"""
