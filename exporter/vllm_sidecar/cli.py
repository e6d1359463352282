"""The command line: which command runs, its exit code, and the one line on standard error when something fails.

Each command is in the folder of what it runs. Only the arguments of the command that was given are built, so that
`--help` loads neither the schema of the configuration nor anything that serves or generates.
"""

from __future__ import annotations

import argparse
import contextlib
import errno
import importlib
import os
import platform
import sys
import traceback
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple, NoReturn

from vllm_sidecar import __version__
from vllm_sidecar.logs import PROGRAM, UserError, print_error
from vllm_sidecar.redaction import public

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

SHELLS = ("bash", "zsh", "tcsh")
_EXTRA = ("jinja2", "promql_parser")
"""Packages of the extra `generate`."""
EXIT_CODES = """exit codes:
  0    it worked
  1    it failed: one line on standard error says what to do
  2    wrong usage
  3    doctor: to watch; compare: only facts differ; replay: only tickets; shape: another load
  4    doctor: bad; compare: different; replay: a page
  5    doctor: unknown; compare: too little data
  130  interrupted
  141  the reader of the output went away"""


class _Command(NamedTuple):
    """A command: the module that has its arguments and runs it, and its line in --help."""

    module: str
    help: str


_COMMANDS = {
    "serve": _Command("vllm_sidecar.serve.command", "watch vLLM and its GPUs, and serve /metrics for Prometheus"),
    "check-config": _Command("vllm_sidecar.config.command", "list all mistakes of a configuration file"),
    "generate": _Command("vllm_sidecar.generate.command", "write alert rules, dashboards and Alertmanager routes"),
    "explain-quantiles": _Command("vllm_sidecar.tools.explain_command", "show what is behind the recent quantiles"),
    "promtool": _Command("vllm_sidecar.tools.command", "check rules, metrics and rule tests with promtool"),
    "doctor": _Command(
        "vllm_sidecar.tools.doctor.command", "diagnose a server: symptoms, evidence, cause, next command"
    ),
    "top": _Command("vllm_sidecar.tools.top.command", "show servers on one screen: states, load, latencies, GPUs"),
    "compare": _Command(
        "vllm_sidecar.tools.compare.command", "compare servers, or one at two times: differences that are not noise"
    ),
    "record": _Command("vllm_sidecar.tools.recording.command", "record every answer of vLLM servers into a file"),
    "replay": _Command("vllm_sidecar.tools.replay.command", "list the alerts that a recording would have raised"),
    "shape": _Command(
        "vllm_sidecar.tools.shape.command", "export the traffic of a server as inputs of load-testing tools"
    ),
    "simulate": _Command("vllm_sidecar.simulator.command", "serve the metrics of a simulated vLLM in an incident"),
}


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code; `argv` is without the program's name."""
    given = sys.argv[1:] if argv is None else list(argv)
    chosen = next((each for each in given if not each.startswith("-")), "")
    try:
        arguments = parser(chosen).parse_args(given)
        command: Callable[[argparse.Namespace], int] = arguments.command
        code = command(arguments)
        sys.stdout.flush()
    except SystemExit as done:  # argparse has printed help or what is wrong
        return done.code if isinstance(done.code, int) else 2
    except UserError as error:
        for line in str(error).splitlines():
            print_error(line)
        return 1
    except ImportError as error:
        print_error(_missing_extra(chosen, error) or _internal_error(error))
        return 1
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:
        _discard_output()
        return 141
    except Exception as error:  # noqa: BLE001 # the last line of defense between a bug and the user
        print_error(_cannot_write(error) or _internal_error(error))
        return 1
    return code


class _Parser(argparse.ArgumentParser):
    """Repeats no secret of a command line that it refuses."""

    def error(self, message: str) -> NoReturn:
        """Print what is wrong, and exit with code 2."""
        super().error(public(message))


def _cannot_write(error: Exception) -> str:
    """Return one line for output that cannot be written, also to a file; empty for any other error."""
    if not isinstance(error, OSError) or error.errno not in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO):
        return ""
    _discard_output()
    where = f"{error.filename}: " if error.filename else "the output "
    return f"{where}cannot be written: {error.strerror}"


def _discard_output() -> None:
    """Send what is left to /dev/null: Python flushes once more at the end and would complain about the same error."""
    with contextlib.suppress(OSError, ValueError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def parser(chosen: str | None = None) -> argparse.ArgumentParser:
    """Return the parser with the arguments of one command, or (None) of all of them."""
    root = _Parser(
        prog=PROGRAM,
        description="Exporter sidecar for vLLM: one stable, derived set of metrics, with alert rules and dashboards.",
        epilog=f"'{PROGRAM} COMMAND --help' explains a command, with examples.\n\n{EXIT_CODES}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    root.add_argument("--version", action="version", version=_version_text())
    commands = root.add_subparsers(title="commands", metavar="COMMAND", required=True)
    for name, command in _COMMANDS.items():
        part = commands.add_parser(
            name, help=command.help, allow_abbrev=False, formatter_class=argparse.RawDescriptionHelpFormatter
        )
        if chosen in (None, name):
            importlib.import_module(command.module).add_arguments(part)
    completion = commands.add_parser(
        "completion",
        help="print a completion script for a shell",
        description="Print a completion script for a shell.",
        epilog=f"example: {PROGRAM} completion bash > /etc/bash_completion.d/{PROGRAM}",
        allow_abbrev=False,
    )
    completion.add_argument("shell", choices=SHELLS)
    completion.set_defaults(command=_completion)
    version = commands.add_parser("version", help="print the version")
    version.set_defaults(command=_version)
    return root


def _completion(arguments: argparse.Namespace) -> int:
    import shtab

    print(shtab.complete(parser(), arguments.shell))
    return 0


def _version(_: argparse.Namespace) -> int:
    print(_version_text())
    return 0


def _version_text() -> str:
    return f"{PROGRAM} {__version__} (python {platform.python_version()})"


def _missing_extra(command: str, error: ImportError) -> str:
    """Name the package of the extra that a command needs; empty for an import that fails within the program."""
    missing = (error.name or "").partition(".")[0]
    return f"{command} needs {missing}: pip install '{PROGRAM}[generate]'" if missing in _EXTRA else ""


def _internal_error(error: Exception) -> str:
    """Return an unexpected exception as one line, with the place where it was raised."""
    frames = traceback.extract_tb(error.__traceback__)
    place = f" ({Path(frames[-1].filename).name}:{frames[-1].lineno})" if frames else ""
    text = " ".join(f"{type(error).__name__}: {error}".split())
    return f"internal error: {text}{place}"
