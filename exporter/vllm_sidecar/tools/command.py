"""The command `promtool`: Prometheus' own checker, with readable results and reliable exit codes."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vllm_sidecar.logs import print_error

if TYPE_CHECKING:
    import argparse
    from collections.abc import Callable

_VERBS = {
    "check": "check rule files",
    "test": "run files of rule unit tests",
    "metrics": "lint bodies of /metrics; - is standard input",
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of the command."""
    parser.description = "Run promtool, the checker of Prometheus, on files of rules, of rule tests or of metrics."
    parser.epilog = (
        "examples:\n"
        "  vllm-sidecar promtool check rules/*.rules.yml\n"
        "  curl -s localhost:10190/metrics | vllm-sidecar promtool metrics -"
    )
    verbs = parser.add_subparsers(title="what to do", metavar="VERB", required=True)
    for verb, text in _VERBS.items():
        part = verbs.add_parser(verb, help=text, description=text.capitalize(), allow_abbrev=False)
        part.add_argument("files", type=Path, nargs="+", metavar="FILE")
        part.set_defaults(command=run, verb=verb)


def run(arguments: argparse.Namespace) -> int:
    """Check each file, and print its problems."""
    from vllm_sidecar.tools import promtool  # needs the extra

    checks: dict[str, Callable[[Any], promtool.Result]] = {
        "check": promtool.check_rules,
        "test": promtool.test_rules,
        "metrics": promtool.check_metrics,
    }
    failed = False
    for file in arguments.files:
        try:
            result = checks[arguments.verb](sys.stdin.read() if str(file) == "-" else file)
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
