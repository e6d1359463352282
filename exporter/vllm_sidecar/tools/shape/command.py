"""The command `shape`: what was served as a load profile, and as inputs of load-testing tools."""

from __future__ import annotations

import asyncio
import math
import time
from argparse import ArgumentTypeError
from pathlib import Path
from typing import TYPE_CHECKING

from vllm_sidecar.logs import UserError, print_error
from vllm_sidecar.tools.prometheus_api import unix_time
from vllm_sidecar.tools.recording.command import duration
from vllm_sidecar.tools.targets import add_config_arguments, add_login_argument, configuration, other_server
from vllm_sidecar.tools.terminal import Progress, without_log

if TYPE_CHECKING:
    import argparse

    from vllm_sidecar.tools.shape.profile import Profile
    from vllm_sidecar.tools.shape.traffic import Traffic

LIVE_SECONDS = 60.0
PAST_SECONDS = 3600.0
DIFFERENT = 3
"""Exit code of another load than that of --expect."""
NAMES = ("vllm-bench", "guidellm", "inference-perf", "k6")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of the command."""
    parser.description = (
        "Export the traffic of vLLM as a load profile: lengths, arrivals, shared prefixes; and as inputs of\n"
        "vllm bench serve, guidellm, inference-perf and k6. No text of any request is read."
    )
    parser.epilog = (
        "exit codes: 0 done, 3 another load than that of --expect, 1 no profile\n\n"
        "examples:\n"
        "  vllm-sidecar shape http://localhost:8000 --window 10m -o load\n"
        "  vllm-sidecar shape incident.vllm-recording.gz -o load --for vllm-bench\n"
        "  vllm-sidecar shape --prometheus http://prometheus:9090 --select 'pod=\"vllm-0\"' --window 1h -o load\n"
        "  vllm-sidecar shape replay.vllm-recording.gz --expect load/profile.json"
    )
    parser.add_argument(
        "sources", nargs="*", metavar="SOURCE", help="addresses of vLLM, or one recording, or one profile"
    )
    parser.add_argument("--from", dest="sidecar", metavar="URL", help="follow a running sidecar")
    parser.add_argument("--prometheus", metavar="URL", help="read the past of sidecars from Prometheus")
    parser.add_argument(
        "--select", default="", metavar="MATCHERS", help="with --prometheus: label matchers of sidecars"
    )
    parser.add_argument("--at", type=_time, metavar="TIME", help="with --prometheus: end of the window (default now)")
    parser.add_argument(
        "--window", type=duration, metavar="TIME",
        help="how long to observe (default 1m), how far to look back in Prometheus (default 1h), or the end of a "
        "recording (default all)",
    )  # fmt: skip
    parser.add_argument("--model", metavar="NAME", help="the model, if there are several")
    parser.add_argument(
        "--prefixes", type=_whole, default=1, metavar="N", help="different shared prefixes in the replay (default 1)"
    )
    parser.add_argument("--seed", type=int, default=1, metavar="N", help="of everything that is drawn (default 1)")
    parser.add_argument("--format", choices=("text", "yaml", "json"), default="text", help="default text")
    parser.add_argument("-o", "--out", type=Path, metavar="FOLDER", help="write the profile and the inputs of tools")
    parser.add_argument(
        "--for", dest="tools", action="append", choices=NAMES, metavar="TOOL",
        help=f"with -o: only for this tool, may be repeated ({', '.join(NAMES)})",
    )  # fmt: skip
    parser.add_argument(
        "--url", default="http://localhost:8000", help="with -o: server that the tools address (default %(default)s)"
    )
    parser.add_argument("--force", action="store_true", help="with -o: replace files that exist")
    parser.add_argument("--expect", type=Path, metavar="PROFILE", help="compare with the profile of another load")
    parser.add_argument(
        "--timeout",
        type=duration,
        default=30.0,
        metavar="TIME",
        help="of a request of --from and --prometheus (default 30s)",
    )
    add_config_arguments(parser)
    add_login_argument(parser)
    parser.set_defaults(command=run)


def _whole(text: str) -> int:
    if not text.isdigit() or not 1 <= int(text) <= 10_000:
        raise ArgumentTypeError(f"{text!r} is not a whole number from 1 to 10000")
    return int(text)


def _time(text: str) -> float:
    try:
        return unix_time(text)
    except ValueError:
        raise ArgumentTypeError(f"{text!r} is neither a Unix time nor a time such as 2027-01-15T08:00:00Z") from None


def run(arguments: argparse.Namespace) -> int:
    """Print or write the profile, or compare it."""
    from vllm_sidecar.tools.shape.likeness import compared
    from vllm_sidecar.tools.shape.likeness import lines as table
    from vllm_sidecar.tools.shape.profile import read_profile

    without_log()
    _check(arguments)
    try:
        expected = read_profile(arguments.expect) if arguments.expect else None
        with Progress() as progress:
            profile = _profile(arguments, progress)
        if arguments.out:
            _write(profile, arguments)
    except OSError as error:
        print_error(str(error))
        return 1
    if expected is None:
        _print(profile, arguments.format)
        return 0
    rows = compared(expected, profile)
    for line in table(rows):
        print(line)
    return 0 if all(row.alike for row in rows) else DIFFERENT


def _check(arguments: argparse.Namespace) -> None:
    """Refuse flags that do not fit each other."""
    given = [name for name, value in (("--from", arguments.sidecar), ("--prometheus", arguments.prometheus)) if value]
    if len(given) + bool(arguments.sources) > 1:
        raise UserError(f"one source at a time: got {' and '.join([*given, *arguments.sources])}")
    if not arguments.prometheus and (arguments.select or arguments.at is not None):
        raise UserError("--select and --at belong to --prometheus")
    if not arguments.out and (arguments.tools or arguments.force):
        raise UserError("--for and --force belong to -o FOLDER")
    if arguments.expect and arguments.format != "text":
        raise UserError("--expect prints a table: leave out --format")


def _profile(arguments: argparse.Namespace, progress: Progress) -> Profile:
    from vllm_sidecar.tools.shape.builder import build
    from vllm_sidecar.tools.shape.profile import read_profile

    source = Path(arguments.sources[0]) if len(arguments.sources) == 1 else None
    if source and "://" not in arguments.sources[0] and not _is_recording(source):
        return read_profile(source)
    traffic = _traffic(arguments, progress)
    progress.show("reading the lengths")
    return build(_of_one_model(traffic, arguments.model), prefixes=arguments.prefixes, seed=arguments.seed)


def _is_recording(path: Path) -> bool:
    from vllm_sidecar.tools.recording.reader import is_recording

    return is_recording(path)


def _traffic(arguments: argparse.Namespace, progress: Progress) -> Traffic:
    from vllm_sidecar.tools.exported.stored import LARGEST
    from vllm_sidecar.tools.shape import prometheus, sidecar, sources

    given, window = arguments.sources, arguments.window
    if arguments.sidecar:
        config = other_server(arguments, arguments.sidecar)
        return asyncio.run(sidecar.sidecar(config, window or LIVE_SECONDS, progress.show))
    if arguments.prometheus:
        config = other_server(arguments, arguments.prometheus, {"scrape.max_body_size": LARGEST})
        end = time.time() if arguments.at is None else arguments.at
        past = window or PAST_SECONDS
        return asyncio.run(prometheus.prometheus(config, arguments.select, end, past, progress.show))
    if not given or all("://" in each for each in given):
        config = configuration(arguments, given, {})
        if not config.all_targets:
            raise UserError("no server: give its address, a recording, --from or --prometheus")
        return sources.live(config, window or LIVE_SECONDS, progress.show)
    if len(given) > 1:
        raise UserError("give one recording or profile, or addresses such as http://localhost:8000")
    progress.show("reading the recording")
    return sources.recording(Path(given[0]), window or math.inf)


def _of_one_model(traffic: Traffic, model: str | None) -> Traffic:
    found = sorted(traffic.models)
    if model is None and len(found) == 1:
        return traffic
    if model in found:
        return traffic.only(model)
    listed = ", ".join(found) or "none"
    if model is None and found:
        raise UserError(f"several models were served, and a profile has one: add --model with one of {listed}")
    raise UserError(f"{traffic.source}: no engine of the model {model or ''} was seen; seen: {listed}")


def _write(profile: Profile, arguments: argparse.Namespace) -> None:
    from vllm_sidecar.tools.shape.exports import TOOLS, files

    tools = list(dict.fromkeys(arguments.tools or NAMES))
    texts = files(profile, tools, arguments.url.rstrip("/"))
    folder: Path = arguments.out
    if folder.exists() and not folder.is_dir():
        raise UserError(f"{folder} is not a folder: name one that exists, or one to create")
    there = [name for name in texts if (folder / name).exists()]
    if there and not arguments.force:
        raise UserError(f"{folder} already has {', '.join(there)}: name another folder, or replace them with --force")
    for name, text in texts.items():
        try:
            folder.mkdir(parents=True, exist_ok=True)
            _put(folder / name, text)
        except OSError as error:
            raise UserError(f"cannot write {folder / name}: {error.strerror}") from None
        print_error(f"wrote {folder / name}")
    for tool in tools:
        print_error(f"{tool}: {TOOLS[tool].LIMITS}")


def _put(path: Path, text: str) -> None:
    """Write a file as a whole or not at all, also at Ctrl-C or on a full disk."""
    partial = path.with_name(f".{path.name}.partial")
    try:
        partial.write_text(text, encoding="utf-8")
        if path.suffix == ".sh":
            partial.chmod(0o755)
        partial.replace(path)
    except BaseException:
        partial.unlink(missing_ok=True)
        raise


def _print(profile: Profile, form: str) -> None:
    from vllm_sidecar.tools.shape.text import lines

    if form == "text":
        for line in lines(profile):
            print(line)
    else:
        print(profile.as_yaml() if form == "yaml" else profile.as_json(), end="")
