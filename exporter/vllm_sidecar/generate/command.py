"""The command line of `generate`, which prints which files it wrote or left unchanged, and why."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from vllm_sidecar.config import ConfigError
from vllm_sidecar.logs import print_error

if TYPE_CHECKING:
    import argparse
    from collections.abc import Callable
    from types import ModuleType

    from vllm_sidecar.generate.outputs import Changes, WriteOptions

EXAMPLES = {
    "thresholds": ("the file of thresholds with its defaults, to edit", "."),
    "config": ("an example configuration of serve", "."),
    "runbooks": ("the runbooks, to serve at runbook_url", "runbooks"),
}
"""Files that are copied unchanged: help text and default folder."""


def add_arguments(generate: argparse.ArgumentParser) -> None:
    """Add the arguments of the command, with all its parts."""
    generate.description = "Write alert rules, dashboards and Alertmanager routes from the catalog of signals."
    generate.epilog = (
        "examples:\n"
        "  vllm-sidecar generate thresholds                     # a file of thresholds to edit\n"
        "  vllm-sidecar generate rules --thresholds thresholds.yaml --out /etc/prometheus/rules\n"
        "  vllm-sidecar generate dashboards --out dashboards\n"
        "  vllm-sidecar generate alertmanager\n"
        "  vllm-sidecar generate --check                        # in a checkout: check the generated files"
    )
    generate.add_argument("--check", action="store_true", help="write nothing; fail if a file is not as generated")
    generate.add_argument("--prune", action="store_true", help="delete files that are no longer generated")
    generate.add_argument(
        "--root", type=Path, default=Path(), metavar="FOLDER", help="the project's folder (default: the current one)"
    )
    generate.set_defaults(command=_generate, force=True)
    parts = generate.add_subparsers(
        title="parts", metavar="PART", description="without one: all generated files of the project"
    )
    _add_rules(parts)
    shim = parts.add_parser(
        "shim", help="recording rules with the sidecar's names for a Prometheus without it", allow_abbrev=False
    )
    _add_rule_options(shim)
    shim.set_defaults(command=_generate_shim)
    dashboards = parts.add_parser("dashboards", help="dashboards for Grafana with your thresholds", allow_abbrev=False)
    _add_thresholds(dashboards)
    _add_folder(dashboards, "dashboards")
    dashboards.set_defaults(command=_generate_dashboards)
    alertmanager = parts.add_parser("alertmanager", help="routes and inhibitions for Alertmanager", allow_abbrev=False)
    _add_thresholds(alertmanager)
    alertmanager.add_argument(
        "--format", default="alertmanager", metavar="FORMAT", help="alertmanager or alertmanager-config"
    )
    _add_folder(alertmanager, "rules")
    alertmanager.set_defaults(command=_generate_alertmanager)
    for name, (text, folder) in EXAMPLES.items():
        part = parts.add_parser(name, help=text, allow_abbrev=False)
        _add_folder(part, folder)
        part.set_defaults(command=_generate_example, part=name)


def _add_rules(parts: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    rules = parts.add_parser("rules", help="alert rules with your thresholds", allow_abbrev=False)
    _add_rule_options(rules)
    rules.add_argument(
        "--live",
        action="append",
        default=[],
        metavar="URL",
        help="/metrics of a vLLM or a sidecar: objectives are checked against its bucket bounds; can be repeated",
    )
    rules.set_defaults(command=_generate_rules)


def _add_thresholds(part: argparse.ArgumentParser) -> None:
    part.add_argument("--thresholds", type=Path, metavar="FILE", help="YAML file; without it, the defaults")


def _add_rule_options(part: argparse.ArgumentParser) -> None:
    _add_thresholds(part)
    part.add_argument(
        "--format",
        default="prometheus",
        metavar="FORMAT",
        help="prometheus, prometheus-operator, victoria-metrics-operator, helm or mimir",
    )
    _add_folder(part, "rules")


def _add_folder(part: argparse.ArgumentParser, folder: str) -> None:
    part.add_argument("--out", type=Path, default=Path(folder), metavar="FOLDER", help="default %(default)s")
    part.add_argument("--check", action="store_true", help="write nothing; fail if a file is not as generated")
    part.add_argument(
        "--force",
        action="store_true",
        default=False,
        help="overwrite files that were edited, or that this command did not write",
    )
    part.add_argument("--prune", action="store_true", help="delete files of earlier runs that are no longer generated")


def _generate(arguments: argparse.Namespace) -> int:
    return _generated(arguments, lambda generate, how: generate.main(arguments.root, how))


def _generate_rules(arguments: argparse.Namespace) -> int:
    def write(generate: ModuleType, how: WriteOptions) -> Changes:
        kind = _format(generate.Format, arguments.format)
        return cast("Changes", generate.rules(arguments.thresholds, kind, arguments.out, how, arguments.live))

    return _generated(arguments, write)


def _generate_shim(arguments: argparse.Namespace) -> int:
    def write(generate: ModuleType, how: WriteOptions) -> Changes:
        kind = _format(generate.Format, arguments.format)
        return cast("Changes", generate.shim(arguments.thresholds, kind, arguments.out, how))

    return _generated(arguments, write)


def _generate_dashboards(arguments: argparse.Namespace) -> int:
    return _generated(arguments, lambda generate, how: generate.dashboards(arguments.thresholds, arguments.out, how))


def _generate_alertmanager(arguments: argparse.Namespace) -> int:
    def write(generate: ModuleType, how: WriteOptions) -> Changes:
        kind = _format(generate.AlertmanagerFormat, arguments.format)
        return cast("Changes", generate.alertmanager(arguments.thresholds, kind, arguments.out, how))

    return _generated(arguments, write)


def _generate_example(arguments: argparse.Namespace) -> int:
    return _generated(arguments, lambda generate, how: generate.examples(arguments.part, arguments.out, how))


def _format(formats: Any, name: str) -> Any:
    kinds = [kind.value for kind in formats]
    if name not in kinds:
        raise ConfigError(None, [f"--format: got {name!r}; allowed: {', '.join(kinds)}"])
    return formats(name)


def _generated(arguments: argparse.Namespace, write: Callable[[ModuleType, WriteOptions], Changes]) -> int:
    """Run a part of the generator and print what it changed, or with `--check` would change."""
    generate = importlib.import_module("vllm_sidecar.generate.outputs")
    try:
        changes = write(generate, generate.WriteOptions(arguments.check, arguments.force, arguments.prune))
    except OSError as error:  # not a checkout, or nothing that can be written
        print_error(str(error))
        return 1
    for note in changes.notes:
        print_error(note)
    return _report(changes, arguments)


def _report(changes: Changes, arguments: argparse.Namespace) -> int:
    check, refused = arguments.check, bool(changes.refused) and not arguments.check
    for path in changes.differing if not refused else ():
        print(f"{path}: not as generated" if check else f"{path}: written")
    for path in changes.orphans if not refused else ():
        deleted = arguments.prune and not check
        print(f"{path}: deleted" if deleted else f"{path}: no longer generated; --prune deletes it")
    if refused:
        for path in changes.refused:
            print_error(f"{path}: was edited, or was not written by this command for this pack; --force overwrites it")
        print_error("nothing was written")
        return 1
    if not changes:
        print("generated files are up to date")
    elif check:
        print_error("run 'vllm-sidecar generate' and commit what it writes")
    return 1 if changes and check else 0
