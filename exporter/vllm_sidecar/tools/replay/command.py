"""The command `replay`: a recording through the sidecar and the rules, or served again as if it were vLLM."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import TYPE_CHECKING

from vllm_sidecar.logs import UserError, print_error
from vllm_sidecar.tools.observing import set_by_signals
from vllm_sidecar.tools.terminal import Progress, without_log

if TYPE_CHECKING:
    import argparse

    from vllm_sidecar.tools.recording.playback import Playback
    from vllm_sidecar.tools.replay.rules import Rules
    from vllm_sidecar.tools.replay.scrapes import Scrapes
    from vllm_sidecar.tools.replay.timeline import Timeline

TICKETS, PAGES = 3, 4
"""Exit codes."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of the command."""
    parser.description = (
        "Play a recording through the sidecar and its alert rules, and list the alerts that would have fired.\n"
        "The rules are evaluated by promtool, with the engine of Prometheus. The simulated time is that of the\n"
        "recording, so an hour takes seconds. With --serve, the recorded servers answer again, for a sidecar,\n"
        "Prometheus and Grafana."
    )
    parser.epilog = (
        "exit codes: 0 nothing fired, 3 tickets only, 4 at least one page, 1 it failed\n\n"
        "examples:\n"
        "  vllm-sidecar replay incident.vllm-recording.gz\n"
        "  vllm-sidecar replay incident.vllm-recording.gz --thresholds tomorrow.yaml\n"
        "  vllm-sidecar replay incident.vllm-recording.gz --serve 127.0.0.1:8000 --speed 10"
    )
    parser.add_argument("file", type=Path, metavar="FILE", help="a recording of 'record', complete or not")
    parser.add_argument("--thresholds", type=Path, metavar="FILE", help="your thresholds; without it, the defaults")
    parser.add_argument("--format", choices=("text", "json"), default="text", help="form of the result (default text)")
    parser.add_argument("--serve", metavar="ADDRESS", help="HOST:PORT on which the first recorded server answers again")
    parser.add_argument(
        "--speed", type=float, default=1.0, metavar="FACTOR", help="recorded seconds per second of --serve (default 1)"
    )
    parser.set_defaults(command=run)


def run(arguments: argparse.Namespace) -> int:
    """Print the timeline and return 4 after a page, 3 after a ticket; or serve the recording."""
    without_log()
    try:
        if arguments.serve:
            return _serve(arguments)
        timeline = _timeline(arguments)
    except OSError as error:  # a recording that cannot be read, or promtool that is missing
        print_error(str(error))
        return 1
    if arguments.format == "json":
        print(json.dumps(timeline.as_json(), indent=2))
    else:
        for line in timeline.lines():
            print(line)
    return PAGES if timeline.fired("page") else TICKETS if timeline.fired("ticket") else 0


def _timeline(arguments: argparse.Namespace) -> Timeline:
    from vllm_sidecar.tools import promtool
    from vllm_sidecar.tools.recording.playback import Playback, outline
    from vllm_sidecar.tools.replay.alert_times import Evaluation
    from vllm_sidecar.tools.replay.rules import rules_of
    from vllm_sidecar.tools.replay.timeline import Timeline

    if promtool.find() is None:
        raise promtool.PromtoolError(promtool.HINT)
    with Progress() as progress:
        progress.show("reading the recording")
        found = outline(arguments.file)
        rules = rules_of(arguments.thresholds, found.head.started)
        if found.seconds < 2 * rules.scrape:
            raise UserError(
                f"{arguments.file}: {found.seconds:.0f} s are too short for rules: Prometheus scrapes each "
                f"{rules.scrape:g} s; 'doctor' also reads short recordings"
            )
        thresholds = str(arguments.thresholds) if arguments.thresholds else "default thresholds"
        timeline = Timeline(arguments.file, found, thresholds, rules.severities)
        timeline.need_history = rules.needing_history(found.seconds)
        scrapes = asyncio.run(_scrapes(Playback(arguments.file, found), timeline, rules, progress))
        progress.show(f"evaluating the rules over {scrapes.count} scrapes")
        timeline.alerts = Evaluation(rules, scrapes).alerts()
    return timeline


async def _scrapes(playback: Playback, timeline: Timeline, rules: Rules, progress: Progress) -> Scrapes:
    """Play the recording, to its end or until Ctrl-C, and scrape the sidecar as Prometheus does."""
    from vllm_sidecar.serve.state import target_state
    from vllm_sidecar.tools.replay.scrapes import Scrapes

    scrapes = Scrapes(rules.text, timeline.outline.head.started, rules.scrape)

    async def scrape() -> None:
        scrapes.add(playback.exporter.render(openmetrics=False))
        for target_loop in playback.loops:
            timeline.add_state(playback.at, target_loop.name, target_state(target_loop.snapshot()))
        progress.show(f"playing: {playback.at / timeline.outline.seconds:.0%}")

    stop = asyncio.Event()
    with set_by_signals(stop):
        await playback.run(rules.scrape, scrape, stop)
    if stop.is_set():
        timeline.interrupted = playback.at
    return scrapes


def _serve(arguments: argparse.Namespace) -> int:
    from vllm_sidecar.config.listening import listening
    from vllm_sidecar.config.values import split_listen_address
    from vllm_sidecar.tools.recording.playback import outline
    from vllm_sidecar.tools.replay.server import serve

    if not arguments.speed > 0:
        raise UserError(f"--speed: got {arguments.speed:g}; allowed: a number above 0")
    try:
        host, port = split_listen_address(arguments.serve)
    except ValueError as error:
        raise UserError(f"--serve: got {arguments.serve!r}; allowed: {error}") from None
    found = outline(arguments.file)
    return listening(
        (arguments.serve,), "--serve", lambda: asyncio.run(serve(arguments.file, found, host, port, arguments.speed))
    )
