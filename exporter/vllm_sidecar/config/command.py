"""The command `check-config`: file, environment and flags, without running anything."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

from vllm_sidecar.config import ConfigSource, format_duration, unknown_variables
from vllm_sidecar.config.explanation import explain
from vllm_sidecar.config.flags import add_flags, file_of, given_flags
from vllm_sidecar.config.web_file import load_web_file
from vllm_sidecar.logs import print_error

if TYPE_CHECKING:
    import argparse

    from vllm_sidecar.config import Config


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of the command."""
    parser.description = "Check a configuration file, the environment and the flags of 'serve', and list the targets."
    parser.epilog = (
        "examples:\n"
        "  vllm-sidecar check-config /etc/vllm-sidecar/config.yaml\n"
        "  vllm-sidecar check-config --print config.yaml        # every value, and where it is set"
    )
    parser.add_argument(
        "file",
        type=Path,
        metavar="FILE",
        nargs="?",
        help="YAML file, as 'serve --config.file' reads it; without it, that of VLLM_SIDECAR_CONFIG_FILE, or none",
    )
    parser.add_argument(
        "--print", action="store_true", help="print the whole configuration, each value with its origin; no secrets"
    )
    add_flags(parser)
    parser.set_defaults(command=run)


def run(arguments: argparse.Namespace) -> int:
    """Print the targets, or the whole configuration; all mistakes are raised together."""
    source = ConfigSource(file_of(arguments.file), given_flags(arguments), os.environ)
    config = source.load()
    if config.web.config_file:
        load_web_file(config.web.config_file)
    for problem in unknown_variables(os.environ):
        print_error(problem)
    where = source.path or "no file"
    if arguments.print:
        print(f"# {where}: {_summary(config)}")
        for line in explain(source.gathered()):
            print(line)
        return 0
    print(f"{where}: {_summary(config)}")
    for target in config.all_targets:
        way = f" through {target.unix_socket}" if target.unix_socket else ""
        print(f"  {target.name or 'vllm'}: {target.url}{target.metrics_path}{way}")
    return 0


def _summary(config: Config) -> str:
    targets = config.all_targets
    every = format_duration(config.scrape.interval if targets or config.discovery.is_used else config.gpu.interval)
    return f"OK, {_watched(config)} every {every}, served on {', '.join(config.web.listen_address)}"


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
