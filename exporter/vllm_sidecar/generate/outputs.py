"""Catalog -> the files of each part of `generate`: rules, dashboards and documents, written or checked."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from vllm_sidecar.generate import handwritten, lint
from vllm_sidecar.generate import output_files as on_disk
from vllm_sidecar.generate.alertmanager import AlertmanagerFormat, alertmanager_files
from vllm_sidecar.generate.bucket_bounds import live
from vllm_sidecar.generate.config_schema import schema_file
from vllm_sidecar.generate.dashboards import BY as BY_DASHBOARDS
from vllm_sidecar.generate.dashboards import dashboard_files
from vllm_sidecar.generate.docs import sections
from vllm_sidecar.generate.expressions import RANGE_SCRAPES
from vllm_sidecar.generate.formats import ENDING, Format, rule_file
from vllm_sidecar.generate.helm_chart import BY as BY_CHART
from vllm_sidecar.generate.helm_chart import FILES as CHART_FILES
from vllm_sidecar.generate.helm_chart import chart_files, chart_sections
from vllm_sidecar.generate.output_files import FilesError, Origin
from vllm_sidecar.generate.promql import without_texts
from vllm_sidecar.generate.rules import alert_groups
from vllm_sidecar.generate.settings.late_errors import LateError
from vllm_sidecar.generate.settings.thresholds import DEFAULT_GRAFANA, DEFAULT_RUNBOOKS, load_thresholds
from vllm_sidecar.generate.shim import BY as BY_SHIM
from vllm_sidecar.generate.shim import PACK as PLAIN_PACK
from vllm_sidecar.generate.shim import raw_names, relabel_file, shim_groups
from vllm_sidecar.generate.slo_gateways import METRICS, without_expressions
from vllm_sidecar.generate.slo_rules import slo_rules

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Mapping, Sequence
    from pathlib import Path

    from vllm_sidecar.generate.bucket_bounds import BucketBounds
    from vllm_sidecar.generate.rules import Group
    from vllm_sidecar.generate.settings.thresholds import Thresholds

__all__ = [
    "AlertmanagerFormat",
    "Changes",
    "FilesError",
    "Format",
    "WriteOptions",
    "alertmanager",
    "dashboards",
    "examples",
    "main",
    "rules",
    "shim",
]

RULES = "rules"
DASHBOARDS = "dashboards"
THRESHOLDS = "rules/thresholds.yaml"
PACK = "vllm-sidecar"
SLO_PACK = "vllm-sidecar-slo"
EXAMPLES: dict[str, Callable[[], dict[str, bytes]]] = {
    "thresholds": handwritten.thresholds_file,
    "config": handwritten.config_file,
    "runbooks": handwritten.runbook_files,
}
"""Files that are copied unchanged, by the name of the command."""


@dataclass(frozen=True, slots=True)
class WriteOptions:
    """Permissions for the files of a folder."""

    check: bool = False
    """Write and delete nothing."""
    force: bool = False
    """Overwrite also files that were edited, or that the generator did not write."""
    prune: bool = False
    """Delete files that are no longer generated."""


@dataclass(frozen=True, slots=True)
class Changes:
    """Paths of files that differ from what is generated, and of files that are no longer generated."""

    differing: list[str]
    """Written, unless this was a check or some are refused."""
    orphans: list[str]
    """Deleted, if `prune` was set."""
    notes: tuple[str, ...] = ()
    """Substitutions for requested settings, and other notes for the user."""
    refused: tuple[str, ...] = ()
    """Those that differ and that the generator must not overwrite; if there are any, nothing is written."""

    def __bool__(self) -> bool:
        return bool(self.differing or self.orphans)


@dataclass(frozen=True, slots=True)
class Earlier:
    """Where to find files that one command wrote earlier."""

    pattern: str
    by: Origin


def main(root: Path, how: WriteOptions) -> Changes:
    """Write all generated files of the project below `root`; a checkout has git, so nothing is refused.

    Raises:
        FilesError: `root` is not a checkout of the project, or a file in it lacks its markers.
        ConfigError: Its thresholds have mistakes.
    """
    on_disk.must_be_checkout(root)
    thresholds = load_thresholds(root / THRESHOLDS)
    texts_of = sections() | chart_sections(root)
    documents = {path: on_disk.filled(root, path, texts) for path, texts in texts_of.items()} | schema_file()
    rule_set, notes = _all_rules(root / THRESHOLDS, thresholds, Format.PROMETHEUS, None)
    rule_set |= alertmanager_files(thresholds, AlertmanagerFormat.ALERTMANAGER)
    rule_set |= shim_files(thresholds, Format.PROMETHEUS)
    in_folder = {f"{RULES}/{name}": content for name, content in rule_set.items()}
    dashboards = dashboard_files(thresholds)
    grafana = {f"{DASHBOARDS}/{name}": content for name, content in dashboards.items()}
    earlier = (
        Earlier(f"{RULES}/*{ENDING[Format.PROMETHEUS]}", Origin(RULES)),
        Earlier(f"{DASHBOARDS}/*.json", BY_DASHBOARDS),
        Earlier(f"{CHART_FILES}/*.yaml", BY_CHART),
        Earlier(f"{CHART_FILES}/dashboards/*.json", BY_DASHBOARDS),
    )
    found = documents | in_folder | grafana | chart_files(root, dashboards)
    return _put(root, found, WriteOptions(how.check, force=True, prune=how.prune), earlier, notes)


def rules(thresholds: Path | None, kind: Format, out: Path, how: WriteOptions, servers: Sequence[str] = ()) -> Changes:
    """Write the rules into the folder `out`.

    Args:
        thresholds: The user's file; None for the defaults.
        kind: The system that reads the rules.
        out: Where they are written.
        how: Permissions for its files.
        servers: Addresses of /metrics of servers, whose bucket bounds are read.

    Raises:
        ConfigError: The thresholds have mistakes.
        OSError: The folder cannot be written, or a server does not expose its bucket bounds.
    """
    settings = load_thresholds(thresholds)
    found, notes = _all_rules(thresholds, settings, kind, live(servers) if servers else None)
    earlier = Earlier(f"*{ENDING[kind]}", _by(settings))
    return _put(out, found, how, (earlier,), (*notes, *_dead_links(settings)))


def shim(thresholds: Path | None, kind: Format, out: Path, how: WriteOptions) -> Changes:
    """Write the rules that create the sidecar's names in a Prometheus without it into the folder `out`.

    Arguments and errors as of `rules`.
    """
    return _put(out, shim_files(load_thresholds(thresholds), kind), how)


def shim_files(thresholds: Thresholds, kind: Format) -> dict[str, bytes]:
    """Return the recording rules and the relabeling for use without the sidecar as files by name."""
    name, content = _checked(PLAIN_PACK, shim_groups(thresholds), kind, thresholds, BY_SHIM, raw_names())
    return {name: content} | relabel_file()


def alertmanager(thresholds: Path | None, kind: AlertmanagerFormat, out: Path, how: WriteOptions) -> Changes:
    """Write the configuration of Alertmanager into the folder `out`.

    Raises:
        ConfigError: The thresholds have mistakes.
        OSError: The folder cannot be written.
    """
    return _put(out, alertmanager_files(load_thresholds(thresholds), kind), how)


def dashboards(thresholds: Path | None, out: Path, how: WriteOptions) -> Changes:
    """Write the dashboards into the folder `out`.

    Args:
        thresholds: The user's file, whose numbers color the panels; None for the defaults.
        out: Where they are written.
        how: Permissions for its files.

    Raises:
        ConfigError: The thresholds have mistakes.
        OSError: The folder cannot be written.
    """
    try:
        found = dashboard_files(load_thresholds(thresholds))
    except LateError as error:
        raise error.located(thresholds) from None
    return _put(out, found, how, (Earlier("*.json", BY_DASHBOARDS),))


def examples(part: str, out: Path, how: WriteOptions) -> Changes:
    """Write files that users copy or edit into the folder `out`; `part` is one of `EXAMPLES`.

    Raises:
        OSError: The folder cannot be written.
    """
    return _put(out, EXAMPLES[part](), how)


def _put(
    root: Path,
    contents: Mapping[str, bytes],
    how: WriteOptions,
    earlier: Sequence[Earlier] = (),
    notes: tuple[str, ...] = (),
) -> Changes:
    """Write the files that differ, unless one is refused, and delete orphans with `prune`."""
    differing = on_disk.differing(root, contents)
    refused = () if how.force else tuple(on_disk.of_others(root, {path: contents[path] for path in differing}))
    orphans = [path for each in earlier for path in on_disk.orphans(root, each.pattern, contents, each.by)]
    if not how.check and not refused:
        on_disk.save(root, contents, differing)
        on_disk.remove(root, orphans if how.prune else ())
    return Changes(differing, orphans, notes, refused)


def _by(thresholds: Thresholds) -> Origin:
    return Origin(RULES, thresholds.pack_name)


def _dead_links(thresholds: Thresholds) -> tuple[str, ...]:
    """Return a note for each link of the alerts that leads nowhere, because its address is not set."""
    defaults = (
        ("runbook_url", thresholds.runbook_url, DEFAULT_RUNBOOKS, "the address where you serve the runbooks"),
        ("dashboard_url", thresholds.dashboard_url, DEFAULT_GRAFANA, "the address of your Grafana"),
    )
    return tuple(
        f'{key} is the default, {default}, which no pager can open: set it to {what}, or to "" for no link'
        for key, value, default, what in defaults
        if value == default
    )


def _all_rules(
    path: Path | None, thresholds: Thresholds, kind: Format, bounds: BucketBounds | None
) -> tuple[dict[str, bytes], tuple[str, ...]]:
    try:
        slos, notes = slo_files(thresholds, kind, bounds)
    except LateError as error:
        raise error.located(path) from None
    return rule_files(thresholds, kind) | slos, notes


def rule_files(thresholds: Thresholds, kind: Format) -> dict[str, bytes]:
    """Return the bytes of each rule file by its name."""
    return dict([_checked(PACK, alert_groups(thresholds), kind, thresholds, _by(thresholds))])


def _checked(
    name: str, groups: list[Group], kind: Format, thresholds: Thresholds, by: Origin, known: Collection[str] = ()
) -> tuple[str, bytes]:
    """Return a file of rules, after lint has found no mistake in them."""
    _lint(groups, thresholds, known)
    return rule_file(name, groups, kind, thresholds, by)


def _lint(groups: list[Group], thresholds: Thresholds, known: Collection[str]) -> None:
    least = RANGE_SCRAPES * thresholds.scrape_interval
    for rule in (rule for group in groups for rule in group["rules"]):
        plain = without_texts(rule["expr"], thresholds.cluster_label)
        lint.check(rule.get("alert") or rule["record"], plain, least_range=least, known=known)


def slo_files(
    thresholds: Thresholds, kind: Format, bounds: BucketBounds | None = None
) -> tuple[dict[str, bytes], tuple[str, ...]]:
    """Return the rules of the objectives as files by name, and notes for the user about them.

    Raises:
        LateError: A threshold is not a bucket bound, a factor can never be reached, or a gateway is missing or wrong.
    """
    found = slo_rules(thresholds, bounds)
    _lint(slo_rules(without_expressions(thresholds), bounds).groups, thresholds, METRICS)
    files = [rule_file(SLO_PACK, found.groups, kind, thresholds, _by(thresholds))] if found.groups else []
    return dict(files), found.notes
