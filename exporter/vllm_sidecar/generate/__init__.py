"""Catalog -> committed rules, dashboards and documents; needs the extra `generate` and is never imported by `serve`."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from vllm_sidecar.config import ConfigError
from vllm_sidecar.config.thresholds import load_thresholds
from vllm_sidecar.generate import lint
from vllm_sidecar.generate.alertmanager import alertmanager_file
from vllm_sidecar.generate.dashboards import BOARD_HEAD, dashboard_files
from vllm_sidecar.generate.docs import sections
from vllm_sidecar.generate.edges import live
from vllm_sidecar.generate.expressions import RANGE_SCRAPES
from vllm_sidecar.generate.files import FilesError, clear, filled, must_be_checkout, save
from vllm_sidecar.generate.formats import ENDING, HEAD, Format, rule_file
from vllm_sidecar.generate.rules import alert_groups
from vllm_sidecar.generate.shim import PACK as PLAIN_PACK
from vllm_sidecar.generate.shim import raw_names, relabel_file, shim_groups
from vllm_sidecar.generate.slos import slo_rules

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence
    from pathlib import Path

    from vllm_sidecar.config.thresholds import Thresholds
    from vllm_sidecar.generate.edges import Edges
    from vllm_sidecar.generate.rules import Group

__all__ = ["Changes", "FilesError", "Format", "alertmanager", "dashboards", "main", "rules", "shim"]

RULES = "rules"
DASHBOARDS = "dashboards"
THRESHOLDS = "rules/thresholds.yaml"
PACK = "vllm-sidecar"
SLO_PACK = "vllm-sidecar-slo"


@dataclass(frozen=True, slots=True)
class Changes:
    """Paths of files that were not as generated, and of files that are generated no more; written and deleted now."""

    differing: list[str]
    orphans: list[str]
    notes: tuple[str, ...] = ()
    """What was taken in place of what was asked for."""

    def __bool__(self) -> bool:
        return bool(self.differing or self.orphans)


def main(root: Path, check: bool) -> Changes:
    """Write all generated files of the project below `root`, or with `check` write nothing.

    Raises:
        FilesError: `root` is no checkout of the project, or a file in it lacks its markers.
        ConfigError: Its thresholds have mistakes.
    """
    must_be_checkout(root)
    thresholds = load_thresholds(root / THRESHOLDS)
    documents = {path: filled(root, path, texts) for path, texts in sections().items()}
    found, notes = _all_rules(root / THRESHOLDS, Format.PROMETHEUS, None)
    found |= alertmanager_file() | shim_files(thresholds, Format.PROMETHEUS)
    in_folder = {f"{RULES}/{name}": content for name, content in found.items()}
    boards = {f"{DASHBOARDS}/{name}": content for name, content in dashboard_files(thresholds).items()}
    files = documents | in_folder | boards
    orphans = clear(root, f"{DASHBOARDS}/*.json", files, BOARD_HEAD, check=check)
    saved = _save(root, files, f"{RULES}/*{ENDING[Format.PROMETHEUS]}", check, notes)
    return replace(saved, orphans=[*saved.orphans, *orphans])


def rules(thresholds: Path | None, kind: Format, out: Path, check: bool, servers: Sequence[str] = ()) -> Changes:
    """Write the rules into the folder `out`, or with `check` write nothing.

    Args:
        thresholds: The user's file; None for the defaults.
        kind: Who reads the rules.
        out: Where they are written.
        check: Write nothing.
        servers: Addresses of /metrics of servers, whose bucket edges are asked for.

    Raises:
        ConfigError: The thresholds have mistakes.
        OSError: The folder cannot be written, or a server does not tell its edges.
    """
    found, notes = _all_rules(thresholds, kind, live(servers) if servers else None)
    differing = save(out, found, check=check)
    keep = {*found, PLAIN_PACK + ENDING[kind]}  # another command writes that
    return Changes(differing, clear(out, f"*{ENDING[kind]}", keep, HEAD.encode(), check=check), notes)


def shim(thresholds: Path | None, kind: Format, out: Path, check: bool) -> Changes:
    """Write what gives a Prometheus without the sidecar its names into the folder `out`, or with `check` nothing.

    Arguments and errors as of `rules`.
    """
    return Changes(save(out, shim_files(load_thresholds(thresholds), kind), check=check), [])


def shim_files(thresholds: Thresholds, kind: Format) -> dict[str, bytes]:
    """Return the recording rules and the relabelling for use without the sidecar as files by name."""
    return dict([_checked(PLAIN_PACK, shim_groups(thresholds), kind, thresholds, raw_names())]) | relabel_file()


def alertmanager(out: Path, check: bool) -> Changes:
    """Write the configuration of Alertmanager into the folder `out`, or with `check` write nothing.

    Raises:
        OSError: The folder cannot be written.
    """
    return Changes(save(out, alertmanager_file(), check=check), [])


def dashboards(thresholds: Path | None, out: Path, check: bool) -> Changes:
    """Write the dashboards into the folder `out`, or with `check` write nothing.

    Args:
        thresholds: The user's file, whose numbers colour the panels; None for the defaults.
        out: Where they are written.
        check: Write nothing.

    Raises:
        ConfigError: The thresholds have mistakes.
        OSError: The folder cannot be written.
    """
    try:
        files = dashboard_files(load_thresholds(thresholds))
    except ConfigError as error:
        raise ConfigError(thresholds, error.mistakes) from None
    differing = save(out, files, check=check)
    return Changes(differing, clear(out, "*.json", files, BOARD_HEAD, check=check))


def _all_rules(path: Path | None, kind: Format, edges: Edges | None) -> tuple[dict[str, bytes], tuple[str, ...]]:
    thresholds = load_thresholds(path)
    try:
        slos, notes = slo_files(thresholds, kind, edges)
    except ConfigError as error:
        raise ConfigError(path, error.mistakes) from None
    return rule_files(thresholds, kind) | slos, notes


def rule_files(thresholds: Thresholds, kind: Format) -> dict[str, bytes]:
    """Return the bytes of each rule file by its name."""
    return dict([_checked(PACK, alert_groups(thresholds), kind, thresholds)])


def _checked(
    pack: str, groups: list[Group], kind: Format, thresholds: Thresholds, known: Collection[str] = ()
) -> tuple[str, bytes]:
    """Return a file of rules that lint has nothing to say about."""
    least = RANGE_SCRAPES * thresholds.scrape_interval
    for rule in (rule for group in groups for rule in group["rules"]):
        texts = " ".join(rule.get("annotations", {}).values())
        lint.check(rule.get("alert") or rule["record"], rule["expr"], least_range=least, texts=texts, known=known)
    return rule_file(pack, groups, kind, thresholds.rule_labels)


def slo_files(
    thresholds: Thresholds, kind: Format, edges: Edges | None = None
) -> tuple[dict[str, bytes], tuple[str, ...]]:
    """Return the rules of the objectives as files by name, and what the user should know about them.

    Raises:
        ConfigError: A threshold is no bucket edge, or a factor can never be reached.
    """
    found = slo_rules(thresholds, edges)
    files = [_checked(SLO_PACK, found.groups, kind, thresholds)] if found.groups else []
    return dict(files), found.notes


def _save(root: Path, files: dict[str, bytes], pattern: str, check: bool, notes: tuple[str, ...]) -> Changes:
    differing = save(root, files, check=check)
    return Changes(differing, clear(root, pattern, files, HEAD.encode(), check=check), notes)
