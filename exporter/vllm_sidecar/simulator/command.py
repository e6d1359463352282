"""The command `simulate`: the script, and the address."""

from __future__ import annotations

import asyncio
import contextlib
from pathlib import Path
from typing import TYPE_CHECKING

from vllm_sidecar import logs
from vllm_sidecar.config.listening import listening

if TYPE_CHECKING:
    import argparse


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of the command."""
    parser.description = "Serve the endpoints of a simulated vLLM server, with scripted incidents."
    parser.epilog = (
        "examples:\n"
        "  vllm-sidecar simulate --list\n"
        "  vllm-sidecar simulate --scenario kv-exhaustion\n"
        "  vllm-sidecar simulate --scenario 'healthy 60s -> stall 180s -> healthy' --port 8001"
    )
    parser.add_argument("--list", action="store_true", help="describe the scenarios and the alerts they should raise")
    parser.add_argument(
        "--scenario",
        metavar="TEXT",
        help="a scenario between healthy phases, or phases: 'healthy 60s -> stall 180s -> healthy' (default healthy)",
    )
    parser.add_argument("--file", type=Path, metavar="FILE", help="YAML file with phases, server and traffic")
    parser.add_argument("--host", default="127.0.0.1", help="where to listen (default %(default)s)")
    parser.add_argument("--port", type=int, default=8000, help="port, 0 for any free port (default %(default)s)")
    parser.add_argument("--dialect", help="v0, 0.9, 0.11, 0.33, rust or ray (default 0.33)")
    parser.add_argument("--speed", type=_number, help="simulated seconds per second (default 1)")
    parser.add_argument("--seed", type=_number, help="an integer; the same seed results in the same run (default 1)")
    parser.set_defaults(command=run)


def _number(text: str) -> object:
    """Parse a number of the command line; other text is left for the schema to reject."""
    for kind in (int, float):
        with contextlib.suppress(ValueError):
            return kind(text)
    return text


def run(arguments: argparse.Namespace) -> int:
    """List the scenarios, or run a script until a signal ends it."""
    from vllm_sidecar.simulator.scenarios import SCENARIOS

    if arguments.list:
        for scenario in SCENARIOS.values():
            print(f"{scenario.name}: {scenario.description}")
            print(f"    alerts: {', '.join(scenario.alerts) or 'none'}")
        return 0
    from vllm_sidecar.simulator.script import read_script

    given = {name: getattr(arguments, name) for name in ("dialect", "speed", "seed")}
    script = read_script(arguments.scenario, arguments.file, {k: v for k, v in given.items() if v is not None})
    logs.setup("info", "logfmt")
    from vllm_sidecar.simulator.web import serve

    address = f"{arguments.host}:{arguments.port}"
    return listening([address], "--port", lambda: asyncio.run(serve(script, arguments.host, arguments.port)))
