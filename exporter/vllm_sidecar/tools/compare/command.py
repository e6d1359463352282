"""The command `compare`: differences of servers, or of one server at two times, and how sure they are."""

from __future__ import annotations

import asyncio
import json
import sys
from typing import TYPE_CHECKING

from vllm_sidecar.logs import print_error
from vllm_sidecar.tools.recording.command import duration
from vllm_sidecar.tools.targets import add_config_arguments, add_login_argument
from vllm_sidecar.tools.terminal import Progress, without_log

if TYPE_CHECKING:
    import argparse


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of the command."""
    parser.description = (
        "Compare A with B, or with several siblings: version, flags, adapters, request shape, outcomes and latency,\n"
        "with intervals, so that noise is not called a difference. Sources may be mixed:\n"
        "  http://HOST:8000                  a vLLM server, observed for --for\n"
        "  sidecar+http://HOST:10190         a running sidecar (#TARGET for one of its servers)\n"
        "  FILE.vllm-recording.gz            a recording (#NAME for one of its servers)\n"
        "  metrics.prom, first.prom,second.prom   one saved body of /metrics, or two that are --apart\n"
        "  --prometheus URL --at TIME --at TIME   one server at two times, from the series of its sidecar"
    )
    parser.epilog = (
        "exit codes: 0 no difference that this much data can show, 3 only version, flags or adapters differ,\n"
        "4 a measured difference, 5 too little data, 1 it failed\n\n"
        "examples:\n"
        "  vllm-sidecar compare http://stable:8000 http://canary:8000 --for 5m\n"
        "  vllm-sidecar compare http://pod-3:8000 http://pod-0:8000 http://pod-1:8000 http://pod-2:8000\n"
        "  vllm-sidecar compare before.vllm-recording.gz after.vllm-recording.gz --format markdown\n"
        "  vllm-sidecar compare --prometheus http://prometheus:9090 --at now-24h --at now --selector 'pod=\"vllm-0\"'"
    )
    parser.add_argument("sources", nargs="*", metavar="SOURCE", help="A, then what it is compared with")
    parser.add_argument(
        "--for",
        dest="duration",
        type=duration,
        metavar="TIME",
        help="how long to observe (default 1m); with --prometheus the window that ends at each --at (default 30m)",
    )
    parser.add_argument("--apart", type=duration, metavar="TIME", help="time between the two saved bodies of a side")
    parser.add_argument("--prometheus", metavar="URL", help="read the series of sidecars from this Prometheus")
    parser.add_argument(
        "--at", action="append", metavar="TIME", help="end of a window: now, now-24h, 2027-01-15T08:00:00Z or Unix time"
    )
    parser.add_argument(
        "--selector",
        action="append",
        metavar="MATCHERS",
        help="of the series in Prometheus, as in 'pod=\"vllm-0\"'; several compare servers at one time",
    )
    parser.add_argument(
        "--timeout",
        type=duration,
        default=10.0,
        metavar="TIME",
        help="for each request to a sidecar or Prometheus (default 10s)",
    )
    parser.add_argument("--format", choices=("text", "markdown", "json"), default="text", help="default text")
    add_config_arguments(parser)
    add_login_argument(parser)
    parser.set_defaults(command=run)


def run(arguments: argparse.Namespace) -> int:
    """Print the comparison, and return the exit code of its result."""
    from vllm_sidecar.tools.compare.report import CODES, compare
    from vllm_sidecar.tools.compare.sources import observe
    from vllm_sidecar.tools.compare.text import lines

    without_log()
    try:
        with Progress() as progress:
            observed = asyncio.run(observe(arguments, progress.show))
    except OSError as error:
        print_error(str(error))
        return 1
    report = compare(observed.sides, interrupted=observed.interrupted)
    if arguments.format == "json":
        print(json.dumps(report.as_json(), indent=2))
    else:
        markdown = arguments.format == "markdown"
        for line in lines(report, markdown=markdown, color=not markdown and sys.stdout.isatty()):
            print(line)
    return CODES[report.result]
