"""The command `doctor`: one diagnosis of a server, a sidecar, saved bodies or a recording."""

from __future__ import annotations

import asyncio
import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from vllm_sidecar.logs import UserError, print_error
from vllm_sidecar.tools.recording.command import duration
from vllm_sidecar.tools.targets import add_config_arguments, add_login_argument, configuration, other_server
from vllm_sidecar.tools.terminal import Progress, without_log

if TYPE_CHECKING:
    import argparse

    from vllm_sidecar.tools.doctor.diagnosis import Diagnosis
    from vllm_sidecar.tools.doctor.sources import Observed

CODES = {"fine": 0, "watch": 3, "bad": 4, "unknown": 5}
"""Exit codes by severity."""
_WORST = (0, 5, 3, 4)
"""Exit codes of several servers: the last one that occurs counts."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of the command."""
    parser.description = (
        "Diagnose vLLM: identity, symptoms, load, findings with evidence, likely cause, next command and flag,\n"
        "and everything that is unknown."
    )
    parser.epilog = (
        "exit codes: 0 fine, 3 to watch, 4 bad, 5 unknown, 1 no diagnosis\n\n"
        "examples:\n"
        "  vllm-sidecar doctor http://localhost:8000\n"
        "  vllm-sidecar doctor --from http://localhost:10190 --format markdown\n"
        "  vllm-sidecar doctor before.prom after.prom --apart 30s\n"
        "  vllm-sidecar doctor incident.vllm-recording.gz"
    )
    parser.add_argument(
        "sources", nargs="*", metavar="SOURCE", help="address of vLLM, one or two saved bodies, or a recording"
    )
    parser.add_argument("--from", dest="sidecar", metavar="URL", help="use the status of a running sidecar")
    parser.add_argument(
        "--for", dest="duration", type=duration, default=30.0, metavar="TIME", help="how long to observe (default 30s)"
    )
    parser.add_argument(
        "--apart", type=duration, metavar="TIME", help="time between two saved bodies, which are given in order"
    )
    parser.add_argument(
        "--timeout", type=duration, default=10.0, metavar="TIME", help="for the request of --from (default 10s)"
    )
    parser.add_argument("--format", choices=("text", "markdown", "json"), default="text", help="default text")
    add_config_arguments(parser)
    add_login_argument(parser)
    parser.set_defaults(command=run)


def run(arguments: argparse.Namespace) -> int:
    """Print the diagnosis of each server, and return the exit code of the worst."""
    from vllm_sidecar.tools.doctor.diagnosis import diagnose

    without_log()
    try:
        with Progress() as progress:
            observed = asyncio.run(_observed(arguments, progress))
    except OSError as error:
        print_error(str(error))
        return 1
    found = diagnose(*observed)
    _print(found, arguments.format)
    return max((CODES[each.severity] for each in found), key=_WORST.index)


async def _observed(arguments: argparse.Namespace, progress: Progress) -> Observed:
    from vllm_sidecar.tools.doctor import sources
    from vllm_sidecar.tools.recording.reader import is_recording

    given: list[str] = arguments.sources
    if arguments.sidecar:
        if given:
            raise UserError("either --from or sources, not both")
        return await sources.sidecar_status(other_server(arguments, arguments.sidecar))
    if not given or any("://" in each for each in given):
        config = configuration(arguments, given, {})
        if not config.all_targets:
            raise UserError("no server to diagnose: give its address")
        return await sources.live(config, arguments.duration, progress.show)
    paths = list(map(Path, given))
    if len(paths) == 1 and is_recording(paths[0]):
        return await sources.recording(paths[0], progress.show)
    if len(paths) > 2 or any(map(is_recording, paths)):
        raise UserError("give one recording, or one or two saved bodies")
    if len(paths) == 2 and arguments.apart is None:
        raise UserError("two bodies need the time between them: add --apart, such as --apart 30s")
    return await sources.bodies(paths, arguments.apart or 0.0)


def _print(found: list[Diagnosis], form: str) -> None:
    from vllm_sidecar.tools.doctor.text import lines

    if form == "json":
        print(json.dumps([each.as_json() for each in found], indent=2))
        return
    for number, each in enumerate(found):
        if number:
            print()
        for line in lines(each, markdown=form == "markdown", color=form == "text" and sys.stdout.isatty()):
            print(line)
