"""Stage 1: one HTTP GET with a deadline and size caps -> Response | PollError(reason)."""

from vllm_sidecar.scrape.client import METRICS_ACCEPT, Client

__all__ = ["METRICS_ACCEPT", "Client"]
