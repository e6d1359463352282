"""Servers that are found while the sidecar runs: lists of files, web services, DNS and Kubernetes -> targets.

A source reads its list and turns each entry into a target by its rules; `selection` merges the lists of all sources.
Nothing here polls a server.
"""

from vllm_sidecar.discovery.finder import Finder
from vllm_sidecar.discovery.selection import Selection

__all__ = ["Finder", "Selection"]
