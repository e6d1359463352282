"""The command `top`: one screen for a server or a fleet, or the same once as text or JSON."""

from __future__ import annotations

import asyncio
import contextlib
import json
import shutil
import sys
from typing import TYPE_CHECKING

from vllm_sidecar.logs import UserError, print_error
from vllm_sidecar.tools.recording.command import duration
from vllm_sidecar.tools.targets import add_config_arguments, add_login_argument, configuration, names, other_server
from vllm_sidecar.tools.terminal import Progress, without_log

if TYPE_CHECKING:
    import argparse

    from vllm_sidecar.tools.top.feeds import Feed
    from vllm_sidecar.tools.top.pages import Shown

_WIDE = 200
"""Columns where the output is not a terminal, and COLUMNS does not say how many."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of the command."""
    parser.description = (
        "Show vLLM servers on one screen, refreshed each second: states, queue time, TTFT, ITL, KV cache,\n"
        "preemptions, requests, prefix-cache hits, tokens, engines, LoRA adapters and GPUs.\n"
        "The key '?' shows all keys, 'q' quits."
    )
    parser.epilog = (
        "Where the output is not a terminal it is printed once, as with --once.\n\n"
        "examples:\n"
        "  vllm-sidecar top http://localhost:8000\n"
        "  vllm-sidecar top http://10.0.0.7:8000 http://10.0.0.8:8000\n"
        "  vllm-sidecar top --from http://localhost:10190\n"
        "  vllm-sidecar top --from http://localhost:10190 --once --format json"
    )
    parser.add_argument(
        "urls", nargs="*", metavar="URL", help="address of vLLM; without one, those of the configuration"
    )
    parser.add_argument(
        "--from", dest="sidecars", action="append", default=[], metavar="URL",
        help="use the values of a running sidecar (may be repeated)",
    )  # fmt: skip
    parser.add_argument("--once", action="store_true", help="print the values once and end")
    parser.add_argument(
        "--for", dest="duration", type=duration, default=5.0, metavar="TIME",
        help="how long --once observes servers without a sidecar (default 5s)",
    )  # fmt: skip
    parser.add_argument("--format", choices=("text", "json"), default="text", help="of --once (default text)")
    parser.add_argument(
        "--timeout", type=duration, default=5.0, metavar="TIME", help="for each request of --from (default 5s)"
    )
    add_config_arguments(parser)
    add_login_argument(parser)
    parser.set_defaults(command=run)


def run(arguments: argparse.Namespace) -> int:
    """Show the screen until a key ends it, or print once."""
    without_log()
    if arguments.once or arguments.format == "json" or not (sys.stdin.isatty() and sys.stdout.isatty()):
        return _once(arguments)
    asyncio.run(_show(_feeds(arguments)))
    return 0


def _feeds(arguments: argparse.Namespace) -> list[Feed]:
    from vllm_sidecar.tools.top.feeds import PolledServers, RunningSidecar

    sidecars = list(dict.fromkeys(arguments.sidecars))
    configs = [other_server(arguments, url) for url in sidecars]
    found: list[Feed] = [RunningSidecar(name, config) for name, config in zip(names(sidecars), configs, strict=True)]
    if arguments.urls or not found:
        config = configuration(arguments, arguments.urls, {})
        if not config.all_targets and not config.discovery.is_used:
            raise UserError("no server to show: give its address")
        found.append(PolledServers(config))
    return found


async def _show(feeds: list[Feed]) -> None:
    from vllm_sidecar.tools.top.session import Session, without_stray_lines
    from vllm_sidecar.tools.top.terminal_screen import TerminalScreen

    without_stray_lines()
    with TerminalScreen() as screen:
        async with contextlib.AsyncExitStack() as stack:
            for feed in feeds:
                await stack.enter_async_context(feed)
            await Session(feeds).run(screen)


def _once(arguments: argparse.Namespace) -> int:
    with Progress() as progress:
        shown, answered = asyncio.run(_collected(arguments, progress))
    _print(shown, arguments.format)
    if not answered:
        print_error("no server answered")
    return 0 if answered else 1


async def _collected(arguments: argparse.Namespace, progress: Progress) -> tuple[Shown, bool]:
    from vllm_sidecar.tools.top.session import Session

    feeds = _feeds(arguments)
    seconds = 0.0 if arguments.sidecars and not arguments.urls else arguments.duration
    async with contextlib.AsyncExitStack() as stack:
        for feed in feeds:
            await stack.enter_async_context(feed)
        shown = await Session(feeds).collect(seconds, progress.show)
    return shown, any(server.engines for server in shown.servers)


def _print(shown: Shown, form: str) -> None:
    from vllm_sidecar.tools.top import once
    from vllm_sidecar.tools.top.drawing import glyphs_of

    if form == "json":
        print(json.dumps(once.as_json(shown), indent=2))
        return
    width = shutil.get_terminal_size((_WIDE, 24)).columns
    for line in once.text(shown, width, glyphs_of(sys.stdout.encoding)):
        print(line)
