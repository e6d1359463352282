"""Files for users that were written by hand: thresholds, an example of the configuration, and the runbooks."""

from __future__ import annotations

from vllm_sidecar.catalog.shipped import runbooks, shipped
from vllm_sidecar.generate.output_files import Origin, sealed


def thresholds_file() -> dict[str, bytes]:
    """Return the thresholds with their defaults, for a user to tune, by name."""
    return {"thresholds.yaml": _marked("thresholds.yaml", "thresholds")}


def config_file() -> dict[str, bytes]:
    """Return the example of the sidecar's configuration, by name."""
    return {"vllm-sidecar.yaml": _marked("config.example.yaml", "config")}


def runbook_files() -> dict[str, bytes]:
    """Return the runbooks, by name."""
    end = f"\n<!-- {Origin('runbooks').mark()} -->\n"
    return {name: sealed((text + end).encode()) for name, text in runbooks().items()}


def _marked(name: str, part: str) -> bytes:
    return sealed(shipped(name).read_bytes() + f"# {Origin(part).mark()}\n".encode())
