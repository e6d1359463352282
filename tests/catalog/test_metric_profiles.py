"""The profiles of exported metrics: lean is enough for every rule and the overview, default for every dashboard."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

from places import ROOT

from vllm_sidecar.catalog import SIGNALS, signal_of
from vllm_sidecar.catalog.metric_profiles import LEAN, ONLY_FULL, MetricProfile, exported
from vllm_sidecar.catalog.objectives import SLOS
from vllm_sidecar.catalog.types import PREFIX, Kind
from vllm_sidecar.generate.dashboards import dashboard_files
from vllm_sidecar.generate.rules import alert_groups
from vllm_sidecar.generate.settings.thresholds import Thresholds
from vllm_sidecar.generate.slo_rules import slo_rules

if TYPE_CHECKING:
    from collections.abc import Iterator

SOURCES = ("histogram", "sidecar")
OVERVIEW = "vllm-overview.json"


def thresholds(source: str) -> Thresholds:
    """Return thresholds with every alert and every objective, counted by one source."""
    slos: dict[str, Any] = {slo.name: {"enabled": True, "source": source} for slo in SLOS}
    return Thresholds.model_validate({"slos": slos, "batch_hours": ["01:00-02:00"]})


def signals_in(text: str) -> set[str]:
    """Return the names of the signals that a text of expressions reads."""
    found = (signal_of(name.removeprefix(PREFIX)) for name in re.findall(rf"\b{PREFIX}\w+", text))
    return {signal.name for signal in found if signal}


def read_by_rules() -> set[str]:
    return {name for expression in _expressions() for name in signals_in(expression)}


def _expressions() -> Iterator[str]:
    for settings in map(thresholds, SOURCES):
        for group in (*alert_groups(settings), *slo_rules(settings, None).groups):
            yield from (str(rule["expr"]) for rule in group["rules"])


def read_by_dashboards() -> dict[str, set[str]]:
    files = dashboard_files(Thresholds())
    return {name: signals_in(content.decode()) for name, content in files.items() if name.endswith(".json")}


def test_lean_has_all_that_rules_and_the_overview_read() -> None:
    needed = read_by_rules() | read_by_dashboards()[OVERVIEW]
    assert len(needed) > 60
    assert sorted(needed - exported(MetricProfile.LEAN)) == [], "add to LEAN in catalog/metric_profiles.py"


def test_lean_has_nothing_that_neither_reads_besides_the_state_of_the_sidecar() -> None:
    needed = read_by_rules() | read_by_dashboards()[OVERVIEW]
    assert sorted(LEAN - needed) == [], "remove from LEAN in catalog/metric_profiles.py"


def test_default_has_all_that_dashboards_and_runbooks_read() -> None:
    default = exported(MetricProfile.DEFAULT)
    runbooks = {path.name: signals_in(path.read_text()) for path in (ROOT / "rules" / "runbooks").glob("*.md")}
    for name, read in (read_by_dashboards() | runbooks).items():
        assert sorted(read - default) == [], name


def test_only_full_has_histograms_alone() -> None:
    assert {SIGNALS[name].kind for name in ONLY_FULL} == {Kind.HISTOGRAM}


def test_each_profile_has_all_of_the_one_before() -> None:
    lean, default, full = (exported(profile) for profile in MetricProfile)
    assert lean < default < full == set(SIGNALS)
