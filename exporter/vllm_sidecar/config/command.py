"""The command `check-config`: a configuration file and the environment, without running anything."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

from vllm_sidecar.config import ConfigSource, format_duration, unknown_variables
from vllm_sidecar.logs import print_error

if TYPE_CHECKING:
    import argparse

    from vllm_sidecar.config import Config


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of the command."""
    parser.description = "Check a configuration file and the environment variables of 'serve', and list the targets."
    parser.epilog = "example:\n  vllm-sidecar check-config /etc/vllm-sidecar/config.yaml"
    parser.add_argument("file", type=Path, metavar="FILE", help="YAML file, as 'serve --config.file' reads it")
    parser.set_defaults(command=run)


def run(arguments: argparse.Namespace) -> int:
    """Print the targets; all mistakes are raised together."""
    config = ConfigSource(arguments.file, environment=os.environ).load()
    for problem in unknown_variables(os.environ):
        print_error(problem)
    targets = config.all_targets
    every = format_duration(config.scrape.interval if targets or config.discovery.is_used else config.gpu.interval)
    count = _watched(config)
    print(f"{arguments.file}: OK, {count} every {every}, served on {config.web.listen_address}")
    for target in targets:
        way = f" through {target.unix_socket}" if target.unix_socket else ""
        print(f"  {target.name or 'vllm'}: {target.url}{target.metrics_path}{way}")
    return 0


def _watched(config: Config) -> str:
    """Return what a sidecar with this configuration watches, in a few words."""
    if config.headless:
        return "GPUs of a worker without an HTTP server (vllm.headless)"
    targets = len(config.all_targets)
    found = ", ".join(name for name, _ in config.discovery.lists)
    if not targets and not found:
        return "GPUs and no target"
    parts = [f"{targets} target{'' if targets == 1 else 's'}"] if targets else []
    return " and ".join([*parts, *([f"the targets of discovery.{found}"] if found else [])])
