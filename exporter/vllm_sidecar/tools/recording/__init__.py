"""Recordings of servers: every answer of vLLM that the sidecar received, compressed, as differences.

A recording is one gzip stream of JSON lines; docs/tools.md has the format. `record` writes it with the loop of the
sidecar itself, so a recording holds exactly what a sidecar would have received at these times.
"""
