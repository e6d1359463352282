"""The command `record`: every answer of vLLM servers, into a file that `replay` and `doctor` read."""

from __future__ import annotations

import asyncio
import math
from argparse import ArgumentTypeError
from pathlib import Path
from typing import TYPE_CHECKING

from vllm_sidecar.catalog.reasons import Reason
from vllm_sidecar.config import format_duration, parse_duration
from vllm_sidecar.config.values import parse_size
from vllm_sidecar.logs import UserError, print_error
from vllm_sidecar.tools.observing import unanswered
from vllm_sidecar.tools.targets import add_config_arguments, configuration

if TYPE_CHECKING:
    import argparse

    from vllm_sidecar.config import Config
    from vllm_sidecar.tools.recording.session import Session
    from vllm_sidecar.tools.recording.writer import Writer

DEFAULT_SIZE = "100MiB"
ENDING = ".vllm-recording.gz"
_LONGEST = 7 * 86_400.0


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of the command."""
    parser.description = (
        "Record every answer of one or more vLLM servers until Ctrl-C, for a bug report or for 'replay' and 'doctor'."
    )
    parser.epilog = (
        "Credentials are never recorded. A recording contains names of models and adapters unless --hash is given.\n\n"
        "examples:\n"
        f"  vllm-sidecar record http://localhost:8000 -o incident{ENDING}\n"
        f"  vllm-sidecar record http://10.0.0.7:8000 http://10.0.0.8:8000 --for 10m --hash -o fleet{ENDING}"
    )
    parser.add_argument(
        "urls", nargs="*", metavar="URL", help="address of vLLM; without one, that of the configuration"
    )
    parser.add_argument("-o", "--out", type=Path, required=True, metavar="FILE", help="the recording to write")
    parser.add_argument(
        "--for", dest="duration", type=duration, metavar="TIME", help="end after this time, such as 10m"
    )
    parser.add_argument("--interval", metavar="TIME", help="time between two polls (default 1s)")
    parser.add_argument(
        "--max-size", type=_size, default=DEFAULT_SIZE, metavar="SIZE", help="end at this size (default %(default)s)"
    )
    parser.add_argument("--hash", action="store_true", help="replace names of models, adapters and hosts by hashes")
    parser.add_argument("--force", action="store_true", help="replace the file if it exists")
    add_config_arguments(parser)
    parser.set_defaults(command=run)


def duration(text: str) -> float:
    """Read a duration of the command line, in seconds; a mistake is reported as wrong usage."""
    try:
        return parse_duration(text, _LONGEST)
    except ValueError as error:
        raise ArgumentTypeError(f"{text!r} is not {error}") from None


def _size(text: str) -> int:
    try:
        return parse_size(text)
    except ValueError as error:
        raise ArgumentTypeError(f"{text!r} is not {error}") from None


def run(arguments: argparse.Namespace) -> int:
    """Record until Ctrl-C or a limit; fails if no server answered."""
    from vllm_sidecar.tools.recording.events import RecordingError
    from vllm_sidecar.tools.recording.hashing import Hasher
    from vllm_sidecar.tools.recording.session import Limits, Session
    from vllm_sidecar.tools.recording.writer import Writer
    from vllm_sidecar.tools.terminal import Progress, without_log

    without_log()
    settings = {"scrape.interval": arguments.interval} if arguments.interval else {}
    config = configuration(arguments, arguments.urls, settings)
    if not config.all_targets:
        raise UserError("no server to record: give its address")
    limits = Limits(arguments.duration or math.inf, arguments.max_size)
    try:
        with Writer(arguments.out, replace=arguments.force) as writer, Progress() as progress:
            session = Session(config, writer, Hasher() if arguments.hash else None, limits)
            asyncio.run(session.run(lambda now: progress.show(_line(now, writer))))
    except RecordingError as error:
        print_error(str(error))
        return 1
    return _report(session, writer, config)


def _line(session: Session, writer: Writer) -> str:
    counts = session.counts
    failed = f", {counts.failed} failed" if counts.failed else ""
    time = format_duration(round(session.seconds))
    return f"recording for {time}: {counts.polls} polls{failed}, {_kib(writer.size)}; Ctrl-C ends it"


def _kib(size: int) -> str:
    return f"{max(1, size >> 10)} KiB" if size < 1 << 20 else f"{size / (1 << 20):.1f} MiB"


def _report(session: Session, writer: Writer, config: Config) -> int:
    counts = session.counts
    time = format_duration(round(session.seconds))
    print(f"{writer.path}: {counts.polls} polls in {time}, {counts.failed} of them failed, {_kib(writer.size)}")
    print("GPUs are not recorded: what they did is in 'nvidia-smi -q' now, and in Prometheus where a sidecar runs")
    for reason, detail in counts.reasons.items():
        print_error(f"a poll failed: {reason}: {detail}. {Reason(reason).hint}")
    for address, why in session.not_vllm.items():
        print_error(f"{address} answered, but not as one vLLM server does: {why}")
    if not counts.polls:
        print_error(unanswered(session.seconds, config))
    if counts.polls == counts.failed:
        print_error("no poll succeeded, so the recording shows only that")
        return 1
    return 0
