"""The command line: the only module that prints or returns exit codes, with `cli_generate` for that command.

Exit codes: 0 fine, 1 failed, 2 wrong usage, 130 interrupted, 141 the reader of the output went away. Whatever happens,
a user gets one line that says what, and no traceback.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import errno
import importlib
import logging
import os
import platform
import socket
import sys
import traceback
from pathlib import Path
from typing import TYPE_CHECKING

from vllm_sidecar import __version__, logs
from vllm_sidecar.config import (
    CONFIG_FILE,
    Config,
    ConfigError,
    ConfigSource,
    format_duration,
    is_secret,
    keys,
    kinds,
    unknown_variables,
)
from vllm_sidecar.generate import command
from vllm_sidecar.generate.command import PROGRAM, extra_is_missing, print_error

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from pydantic.fields import FieldInfo

_CANNOT_LISTEN = {
    errno.EADDRINUSE: "address already in use",
    errno.EADDRNOTAVAIL: "no network interface of this machine has that address",
    errno.EACCES: "permission denied",
    errno.EAFNOSUPPORT: "this machine does not have that kind of address",
}
"""Errors of binding a socket, in words."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code; `argv` is without the program's name."""
    try:
        arguments = _parser().parse_args(argv)
        command: Callable[[argparse.Namespace], int] = arguments.command
        code = command(arguments)
        sys.stdout.flush()
    except SystemExit as done:  # argparse has printed help or what is wrong
        return done.code if isinstance(done.code, int) else 2
    except ConfigError as error:
        for line in str(error).splitlines():
            print_error(line)
        return 1
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:
        # Python flushes once more at the end and would complain about the same pipe.
        with contextlib.suppress(OSError, ValueError):
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141
    except Exception as error:  # noqa: BLE001 # the last line of defence between a bug and the user
        print_error(_internal_error(error))
        return 1
    return code


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog=PROGRAM, description="Watches a vLLM server and tells Prometheus about it.", allow_abbrev=False
    )
    parser.add_argument("--version", action="version", version=_version_text())
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)

    _add_serve(commands)

    check = commands.add_parser("check-config", help="list all mistakes of a config file", allow_abbrev=False)
    check.add_argument("file", type=Path, metavar="FILE")
    check.set_defaults(command=_check_config)

    command.add(commands)
    _add_promtool(commands)
    _add_simulate(commands)

    version = commands.add_parser("version", help="print the version")
    version.set_defaults(command=_version)
    return parser


def _add_serve(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    serve = commands.add_parser(
        "serve",
        help="watch vLLM and serve /metrics",
        epilog="Every key of the config can be set by an environment variable, VLLM_SIDECAR_<SECTION>_<KEY>, such as "
        "VLLM_SIDECAR_SCRAPE_INTERVAL=2s. A flag goes before the environment, and that before the file.",
        allow_abbrev=False,
    )
    serve.add_argument(
        "--config.file", type=Path, metavar="FILE", help=f"YAML file; without it, the defaults; also as {CONFIG_FILE}"
    )
    # These flags are the config's own keys, so that one text tells about both; their values are checked there.
    serve.add_argument(
        "--web.listen-address",
        dest="web.listen_address",
        metavar="ADDRESS",
        help=f"where to serve: HOST:PORT or :PORT (default {Config().web.listen_address})",
    )
    serve.add_argument("--gpu.only", action="store_true", default=None, help="watch the GPUs of this node and no vLLM")
    serve.add_argument(
        "--gpu.simulate", action="store_true", default=None, help="take the GPUs from the simulator in place of NVML"
    )
    serve.add_argument("--log.level", metavar="LEVEL", help="debug, info, warning or error (default info)")
    serve.add_argument("--log.format", metavar="FORMAT", help="logfmt or json (default logfmt)")
    for path, field in keys():
        if path[0] == "vllm" and not is_secret(field):
            _add_key(serve, path, field)
    serve.set_defaults(command=_serve)


def _add_key(serve: argparse.ArgumentParser, path: tuple[str, ...], field: FieldInfo) -> None:
    """Add the flag of a key, such as --vllm.ca-file; one that is true or false may be given without a value."""
    dotted = ".".join(path)
    flag = "--" + dotted.replace("_", "-")
    text = str(field.description).rstrip(".").replace("%", "%%")
    if isinstance(field.default, str):
        text += f" (default {field.default})"
    if bool in kinds(field):
        serve.add_argument(flag, dest=dotted, metavar="BOOL", help=text, nargs="?", const="true")
    else:
        serve.add_argument(flag, dest=dotted, metavar=path[-1].upper(), help=text)


def _add_promtool(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    promtool = commands.add_parser("promtool", help="check rules, metrics and rule tests with promtool")
    verbs = promtool.add_subparsers(title="what to do", metavar="VERB", required=True)
    for verb, text in (
        ("check", "check rule files"),
        ("test", "run files of rule unit tests"),
        ("metrics", "lint bodies of /metrics; - is standard input"),
    ):
        parser = verbs.add_parser(verb, help=text, allow_abbrev=False)
        parser.add_argument("files", type=Path, nargs="+", metavar="FILE")
        parser.set_defaults(command=_promtool, verb=verb)


def _promtool(arguments: argparse.Namespace) -> int:
    try:
        wrapper = importlib.import_module("vllm_sidecar.tools.promtool")
    except ImportError as error:
        return extra_is_missing(error)
    run = {"check": wrapper.check_rules, "test": wrapper.test_rules, "metrics": wrapper.check_metrics}[arguments.verb]
    failed = False
    for file in arguments.files:
        try:
            result = run(sys.stdin.read() if str(file) == "-" else file)
        except OSError as error:
            print_error(str(error))
            return 1
        failed = failed or not result.ok
        print(f"{file}: {'OK' if result.ok else 'FAILED'}")
        for problem in result.problems:
            print(f"  {problem}")
        if result.not_checked:
            print_error(f"{file}: {result.not_checked}")
    return int(failed)


def _add_simulate(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    simulate = commands.add_parser(
        "simulate", help="serve the metrics of a simulated vLLM that gets into trouble", allow_abbrev=False
    )
    simulate.add_argument("--list", action="store_true", help="describe the scenarios and the alerts they should raise")
    simulate.add_argument(
        "--scenario",
        metavar="TEXT",
        help="a scenario between calm phases, or phases: 'healthy 60s -> stall 180s -> healthy' (default healthy)",
    )
    simulate.add_argument("--file", type=Path, metavar="FILE", help="YAML file with phases, server and traffic")
    simulate.add_argument("--host", default="127.0.0.1", help="where to listen (default %(default)s)")
    simulate.add_argument("--port", type=int, default=8000, help="0 for any free one (default %(default)s)")
    simulate.add_argument("--dialect", help="v0, 0.9, 0.11, 0.33, rust or ray (default 0.33)")
    simulate.add_argument("--speed", type=_number, help="simulated seconds in a second (default 1)")
    simulate.add_argument("--seed", type=_number, help="a whole number; the same one gives the same run (default 1)")
    simulate.set_defaults(command=_simulate)


def _number(text: str) -> object:
    """Read a number of the command line; anything else stays text, which the schema refuses in its own words."""
    for kind in (int, float):
        with contextlib.suppress(ValueError):
            return kind(text)
    return text


def _simulate(arguments: argparse.Namespace) -> int:
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
    return _listening(address, "--port", lambda: asyncio.run(serve(script, arguments.host, arguments.port)))


def _listening(address: str, flag: str, run: Callable[[], int]) -> int:
    """Run what listens on an address; say in one line why it cannot."""
    try:
        return run()
    except (OSError, OverflowError) as error:
        reason = _reason_not_to_listen(error)
        if not reason:
            raise
        print_error(f"cannot listen on {address}: {reason}; choose another with {flag}")
        return 1


def _serve(arguments: argparse.Namespace) -> int:
    flags = {name: value for name, value in vars(arguments).items() if "." in name and value is not None}
    variable = os.environ.get(CONFIG_FILE)
    file: Path | None = flags.pop("config.file", None) or (Path(variable) if variable else None)
    source = ConfigSource(file, flags, os.environ)
    config = source.load()
    logs.setup(config.log.level, config.log.format)
    for problem in unknown_variables(os.environ):
        logs.event(logging.getLogger(__name__), logging.WARNING, "unknown_variable", detail=problem)
    from vllm_sidecar.serve.app import serve  # not needed, and slow to load, for the other commands

    try:
        return _listening(
            config.web.listen_address, "--web.listen-address", lambda: asyncio.run(serve(config, source.load))
        )
    except Exception as error:
        logs.event(logging.getLogger(__name__), logging.ERROR, "internal_error", exc_info=error)
        raise


def _check_config(arguments: argparse.Namespace) -> int:
    config = ConfigSource(arguments.file, environment=os.environ).load()
    for problem in unknown_variables(os.environ):
        print_error(problem)
    targets = config.all_targets
    count = "1 target" if len(targets) == 1 else f"{len(targets)} targets" if targets else "GPUs and no target"
    if config.headless:
        count = "GPUs of a worker without an HTTP server (vllm.headless)"
    every = format_duration(config.scrape.interval if targets else config.gpu.interval)
    print(f"{arguments.file}: OK, {count} every {every}, served on {config.web.listen_address}")
    for target in targets:
        way = f" through {target.unix_socket}" if target.unix_socket else ""
        print(f"  {target.name or 'vllm'}: {target.url}{target.metrics_path}{way}")
    return 0


def _version(_: argparse.Namespace) -> int:
    print(_version_text())
    return 0


def _version_text() -> str:
    return f"{PROGRAM} {__version__} (python {platform.python_version()})"


def _reason_not_to_listen(error: OSError | OverflowError) -> str | None:
    """Say why an address cannot be listened on; None for an error that is not about that."""
    if isinstance(error, OverflowError):
        return "a port is a number from 0 to 65535"
    if isinstance(error, socket.gaierror):
        return "no such host"
    return _CANNOT_LISTEN.get(error.errno or 0)


def _internal_error(error: Exception) -> str:
    """Write an exception that nobody expected on one line, with the place it came from."""
    frames = traceback.extract_tb(error.__traceback__)
    place = f" ({Path(frames[-1].filename).name}:{frames[-1].lineno})" if frames else ""
    text = " ".join(f"{type(error).__name__}: {error}".split())
    return f"internal error: {text}{place}"
