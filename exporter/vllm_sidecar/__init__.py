"""Sidecar that normalizes, derives and re-exports the metrics of a vLLM server."""

__version__ = "0.1.0"
