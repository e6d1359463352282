"""The command line: the only module that prints or returns exit codes.

Exit codes: 0 fine, 1 failed, 2 wrong usage, 130 interrupted, 141 the reader of the output went away. Whatever happens,
a user gets one line that says what, and no traceback.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import errno
import logging
import os
import platform
import socket
import sys
import traceback
from pathlib import Path
from typing import TYPE_CHECKING

from vllm_sidecar import __version__, log
from vllm_sidecar.config import Config, ConfigError, format_duration, load

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

PROGRAM = "vllm-sidecar"

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
            _complain(line)
        return 1
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:
        # Python flushes once more at the end and would complain about the same pipe.
        with contextlib.suppress(OSError, ValueError):
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141
    except Exception as error:  # noqa: BLE001 # the last line of defence between a bug and the user
        _complain(_internal_error(error))
        return 1
    return code


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog=PROGRAM, description="Watches a vLLM server and tells Prometheus about it.", allow_abbrev=False
    )
    parser.add_argument("--version", action="version", version=_version_text())
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)

    serve = commands.add_parser("serve", help="watch vLLM and serve /metrics", allow_abbrev=False)
    serve.add_argument("--config.file", type=Path, metavar="FILE", help="YAML file; without it, the defaults")
    # These flags are the config's own keys, so that one text tells about both; their values are checked there.
    serve.add_argument("--vllm.url", metavar="URL", help="address of vLLM (default http://127.0.0.1:8000)")
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
    serve.set_defaults(command=_serve)

    check = commands.add_parser("check-config", help="list all mistakes of a config file", allow_abbrev=False)
    check.add_argument("file", type=Path, metavar="FILE")
    check.set_defaults(command=_check_config)

    generate = commands.add_parser(
        "generate", help="write rules, dashboards and docs from the catalog", allow_abbrev=False
    )
    generate.add_argument("--check", action="store_true", help="write nothing; fail if a file is not as generated")
    generate.add_argument(
        "--root", type=Path, default=Path(), metavar="FOLDER", help="the project's folder (default: the current one)"
    )
    generate.set_defaults(command=_generate)

    version = commands.add_parser("version", help="print the version")
    version.set_defaults(command=_version)
    return parser


def _serve(arguments: argparse.Namespace) -> int:
    flags = {name: value for name, value in vars(arguments).items() if "." in name and value is not None}
    file: Path | None = flags.pop("config.file", None)

    def reload() -> Config:
        return load(file, flags)

    config = reload()
    log.setup(config.log.level, config.log.format)
    from vllm_sidecar.app import serve  # not needed, and slow to load, for the other commands

    try:
        return asyncio.run(serve(config, reload))
    except OSError as error:
        reason = _reason_not_to_listen(error)
        if not reason:
            raise
        address = config.web.listen_address
        _complain(f"cannot listen on {address}: {reason}; choose another with --web.listen-address")
        return 1
    except Exception as error:
        log.event(logging.getLogger(__name__), logging.ERROR, "internal_error", exc_info=error)
        raise


def _check_config(arguments: argparse.Namespace) -> int:
    config = load(arguments.file)
    targets = config.all_targets
    count = "1 target" if len(targets) == 1 else f"{len(targets)} targets" if targets else "GPUs and no target"
    every = format_duration(config.scrape.interval if targets else config.gpu.interval)
    print(f"{arguments.file}: OK, {count} every {every}, served on {config.web.listen_address}")
    for target in targets:
        way = f" through {target.unix_socket}" if target.unix_socket else ""
        print(f"  {target.name or 'vllm'}: {target.url}{target.metrics_path}{way}")
    return 0


def _generate(arguments: argparse.Namespace) -> int:
    try:
        from vllm_sidecar.generate import main as generate
    except ImportError as error:
        missing = (error.name or "").partition(".")[0]
        if missing == "vllm_sidecar" or not missing:
            raise
        _complain(f"generate needs {missing}: pip install 'vllm-sidecar[generate]'")
        return 1
    try:
        paths = generate(arguments.root, arguments.check)
    except OSError as error:  # not a checkout, or nothing that can be written
        _complain(str(error))
        return 1
    for path in paths:
        print(f"{path}: not as generated" if arguments.check else f"{path}: written")
    if not paths:
        print("generated files are up to date")
    elif arguments.check:
        _complain("run 'vllm-sidecar generate' and commit what it writes")
    return 1 if paths and arguments.check else 0


def _version(_: argparse.Namespace) -> int:
    print(_version_text())
    return 0


def _version_text() -> str:
    return f"{PROGRAM} {__version__} (python {platform.python_version()})"


def _reason_not_to_listen(error: OSError) -> str | None:
    """Say why an address cannot be listened on; None for an error that is not about that."""
    if isinstance(error, socket.gaierror):
        return "no such host"
    return _CANNOT_LISTEN.get(error.errno or 0)


def _internal_error(error: Exception) -> str:
    """Write an exception that nobody expected on one line, with the place it came from."""
    frames = traceback.extract_tb(error.__traceback__)
    place = f" ({Path(frames[-1].filename).name}:{frames[-1].lineno})" if frames else ""
    text = " ".join(f"{type(error).__name__}: {error}".split())
    return f"internal error: {text}{place}"


def _complain(text: str) -> None:
    print(f"{PROGRAM}: {text}", file=sys.stderr)
