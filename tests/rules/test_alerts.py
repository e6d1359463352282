"""Each alert fires, and does not fire when it should not; and no change of its rule goes unnoticed."""

from __future__ import annotations

import json
import re
from functools import cache
from typing import TYPE_CHECKING, Any

import promtool
import pytest
from alert_cases import cases, promtool_test, read
from places import TESTS
from verified import digest, only_of, verify_once

from vllm_sidecar.catalog.alerts import ALERTS, RECORDS
from vllm_sidecar.config import parse_duration
from vllm_sidecar.generate.rules import alert_rules, record_rule
from vllm_sidecar.generate.settings.thresholds import Thresholds

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from alert_cases import Spec

    from vllm_sidecar.catalog.alerts import Alert

EVERY = slice(None)
PATIENCE = 1800
"""Seconds for all mutants of a rule: those of series of days take minutes."""
SHORT = 300
"""Samples of a series that promtool plays at once: longer ones take ten seconds for an alert."""
FOLDER = TESTS / "alerts"
TESTED = [alert for alert in ALERTS if alert.hold]
FLIPPED = {">": "<=", ">=": "<", "<": ">=", "<=": ">", "==": "!="}
RECORD = re.compile(r"@([a-z0-9_]+:[a-z0-9]+)")
COMPARISON = re.compile(r"(?<= )(>=|<=|==|>|<)(?= )")


def read_by(expr: str) -> set[str]:
    """Return the records that an expression of the catalog reads, directly or through others."""
    found = set(RECORD.findall(expr))
    own = {name for name in found if f"@{name}" in RECORDS[name].expr}
    return found.union(*(read_by(RECORDS[name].expr) for name in found - own))


def recorded(alert: Alert) -> list[dict[str, Any]]:
    """Return the recording rules that an alert needs, in the order of the catalog."""
    names = read_by(alert.expr)
    return [record_rule(record, Thresholds()) for name, record in RECORDS.items() if name in names]


def rule_of(alert: Alert) -> dict[str, Any]:
    """Return the rule of an alert, without texts: they change nothing of when it fires."""
    (rule,) = alert_rules(alert, Thresholds())
    return {key: value for key, value in rule.items() if key != "annotations"}


@cache
def spec_of(name: str) -> Spec:
    return read(FOLDER / f"{name}.yml")


@cache
def played(name: str, hold: str) -> dict[str, Any]:
    spec = spec_of(name)
    return promtool_test(cases(spec), spec, parse_duration(hold), "")


def cases_of(alert: Alert) -> dict[str, Any]:
    """Return the cases of an alert as promtool's tests."""
    return played(alert.name, alert.hold)


def failures(alert: Alert, versions: dict[str, list[dict[str, Any]]], folder: Path, which: slice) -> dict[str, str]:
    """Play some of an alert's cases against versions of its rules; return what failed with which version."""
    tests = cases_of(alert)
    files = {f"v{number}": name for number, name in enumerate(versions)}
    for file, name in files.items():
        (folder / f"{file}.rules").write_text(json.dumps({"groups": [{"name": "g", "rules": versions[name]}]}))
        test = {**tests, "rule_files": [f"{file}.rules"], "tests": tests["tests"][which]}
        (folder / f"{file}.yml").write_text(json.dumps(test))
    failed = promtool.failures([folder / f"{file}.yml" for file in files])
    return {files[file]: text for file, text in failed.items()}


def test_every_alert_but_the_watchdog_has_its_cases() -> None:
    assert {path.stem for path in FOLDER.glob("*.yml")} == {alert.name for alert in TESTED}


def is_short(alert: Alert) -> bool:
    return spec_of(alert.name).samples <= SHORT


@pytest.mark.io
@pytest.mark.parametrize("half", [0, 1])
def test_alerts_fire_when_they_should_and_only_then(half: int, tmp_path: Path) -> None:
    """One process plays the cases of many alerts. Those of days are played with their mutants, when they changed."""
    files = []
    for alert in [alert for alert in TESTED if is_short(alert)][half::2]:
        rules = {"groups": [{"name": "g", "rules": [*recorded(alert), rule_of(alert)]}]}
        (tmp_path / f"{alert.name}.rules").write_text(json.dumps(rules))
        files.append(tmp_path / f"{alert.name}.yml")
        files[-1].write_text(json.dumps({**cases_of(alert), "rule_files": [f"{alert.name}.rules"]}))
    failed = promtool.failures(files)
    assert failed == {}, "\n".join(f"{name}:\n{text}" for name, text in failed.items())


NUMBER = re.compile(r"(?:>=|<=|==|>|<|clamp_min\() ?(\d+(?:\.\d+)?)(?=[\s)]|$)")


def changed_expressions(expr: str) -> Iterator[tuple[str, str]]:
    """Turn each comparison round, and change each number that something is compared with."""
    for found in COMPARISON.finditer(expr):
        yield f"{found[0]} at {found.start()}", expr[: found.start()] + FLIPPED[found[0]] + expr[found.end() :]
    for found in NUMBER.finditer(expr):
        value = float(found[1])
        for other in others(value):
            yield (
                f"{found[1]} at {found.start(1)} as {other:g}",
                expr[: found.start(1)] + f"{other:g}" + expr[found.end(1) :],
            )


def others(value: float) -> tuple[float, ...]:
    """Return the values that a number is changed to: of a count the next ones, for there is nothing in between."""
    if not value:
        return (1000.0,)
    return (value + 1, value - 1) if value in range(2, 6) else (value * 1.3, value * 0.7)


def mutants(alert: Alert) -> dict[str, dict[str, Any]]:
    """Change one thing of a rule after the other."""
    rule = rule_of(alert)
    changed = {"without for": {key: value for key, value in rule.items() if key != "for"}}
    return changed | {name: rule | {"expr": expr} for name, expr in changed_expressions(rule["expr"])}


def verify_alert(alert: Alert, folder: Path) -> None:
    """All cases hold with the rule as it is, and with no mutant of it."""
    records = recorded(alert)
    failed = failures(alert, {"the rule": [*records, rule_of(alert)]}, folder, EVERY)
    assert failed == {}, failed["the rule"]
    changed = {name: [*records, rule] for name, rule in mutants(alert).items()}
    assert survivors(alert, changed, folder) == []


def record_mutants(name: str) -> dict[str, str]:
    return dict(changed_expressions(record_rule(RECORDS[name], Thresholds())["expr"]))


def readers(name: str) -> list[Alert]:
    """Return the alerts that read a record; those of short series first, for they are quick to play."""
    return sorted((alert for alert in TESTED if name in read_by(alert.expr)), key=lambda alert: not is_short(alert))


def verify_record(name: str, folder: Path) -> None:
    """Some alert that reads the record notices each change of it."""
    left = record_mutants(name)
    for alert in readers(name):
        changed = {
            what: [*with_expression(recorded(alert), name, other), rule_of(alert)] for what, other in left.items()
        }
        left = {what: left[what] for what in survivors(alert, changed, folder)}
    assert left == {}


def with_expression(records: list[dict[str, Any]], name: str, expr: str) -> list[dict[str, Any]]:
    return [each | {"expr": expr} if each["record"].endswith(f":{name}") else each for each in records]


def survivors(alert: Alert, changed: dict[str, list[dict[str, Any]]], folder: Path) -> list[str]:
    """Return the changes with which all cases of an alert still hold; most are noticed by the first two cases."""
    for which in (slice(2), *(slice(at, at + 4) for at in range(2, len(cases_of(alert)["tests"]), 4))):
        if changed:
            noticed = failures(alert, changed, folder, which)
            changed = {name: rules for name, rules in changed.items() if name not in noticed}
    return list(changed)


by_alert = pytest.mark.parametrize("alert", TESTED, ids=lambda alert: alert.name)
by_record = pytest.mark.parametrize("name", RECORDS)


@pytest.mark.io
@pytest.mark.timeout(PATIENCE)
@by_alert
def test_mutants_of_a_rule_that_changed_are_noticed(alert: Alert, tmp_path: Path, pytestconfig: pytest.Config) -> None:
    now = digest(rule_of(alert), recorded(alert), cases_of(alert), mutants(alert))
    verify_once(pytestconfig, f"alert {alert.name}", now, lambda: verify_alert(alert, tmp_path))


@pytest.mark.io
@pytest.mark.timeout(PATIENCE)
@by_record
def test_mutants_of_a_record_that_changed_are_noticed(name: str, tmp_path: Path, pytestconfig: pytest.Config) -> None:
    parts = [[rule_of(alert), recorded(alert), cases_of(alert)] for alert in readers(name)]
    now = digest(record_mutants(name), parts)
    verify_once(pytestconfig, f"record {name}", now, lambda: verify_record(name, tmp_path))


def test_no_rule_that_is_gone_has_recorded_mutants(pytestconfig: pytest.Config) -> None:
    only_of(pytestconfig, "alert", [f"alert {alert.name}" for alert in TESTED])
    only_of(pytestconfig, "record", [f"record {name}" for name in RECORDS])


@pytest.mark.io
@pytest.mark.slow
@pytest.mark.mutants
@pytest.mark.timeout(PATIENCE)
@by_alert
def test_no_change_of_its_rule_goes_unnoticed(alert: Alert, tmp_path: Path) -> None:
    verify_alert(alert, tmp_path)


@pytest.mark.io
@pytest.mark.slow
@pytest.mark.mutants
@pytest.mark.timeout(PATIENCE)
@by_record
def test_no_change_of_a_record_goes_unnoticed(name: str, tmp_path: Path) -> None:
    verify_record(name, tmp_path)
