"""Each alert fires, and does not fire when it should not; and no change of its rule goes unnoticed."""

from __future__ import annotations

import re
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import promtool
import pytest
import yaml
from alert_cases import cases, promtool_test, read
from places import TESTS

from vllm_sidecar.catalog.alerts import ALERTS, RECORDS
from vllm_sidecar.catalog.alerts.alert import RECORD
from vllm_sidecar.config import parse_duration
from vllm_sidecar.generate.rules import alert_rules, record_rule
from vllm_sidecar.generate.settings.thresholds import Thresholds

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from vllm_sidecar.catalog.alerts import Alert

EVERY = slice(None)
FOLDER = TESTS / "alerts"
TESTED = [alert for alert in ALERTS if alert.hold]
FLIPPED = {">": "<=", ">=": "<", "<": ">=", "<=": ">", "==": "!="}
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


def verdict(alert: Alert, rules: list[dict[str, Any]], folder: Path, name: str, which: slice) -> promtool.Result:
    """Play some of an alert's cases against rules."""
    spec = read(FOLDER / f"{alert.name}.yml")
    written = folder / f"{name}.rules.yml"
    written.write_text(yaml.safe_dump({"groups": [{"name": "g", "rules": rules}]}))
    file = folder / f"{name}.yml"
    test = promtool_test(cases(spec)[which], spec, parse_duration(alert.hold), str(written))
    file.write_text(yaml.safe_dump(test, width=10**6))
    return promtool.test_rules(file)


def test_every_alert_but_the_watchdog_has_its_cases() -> None:
    assert {path.stem for path in FOLDER.glob("*.yml")} == {alert.name for alert in TESTED}


@pytest.mark.parametrize("alert", TESTED, ids=lambda alert: alert.name)
def test_it_fires_when_it_should_and_only_then(alert: Alert, tmp_path: Path) -> None:
    (rule,) = alert_rules(alert, Thresholds())
    result = verdict(alert, [*recorded(alert), rule], tmp_path, "rule", EVERY)
    assert result.ok, re.sub(r"\n\s*\n", "\n", result.output)


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


def mutants(alert: Alert) -> Iterator[tuple[str, dict[str, Any]]]:
    """Change one thing of a rule after the other."""
    (rule,) = alert_rules(alert, Thresholds())
    yield "without for", {key: value for key, value in rule.items() if key != "for"}
    for name, expr in changed_expressions(rule["expr"]):
        yield name, rule | {"expr": expr}


@pytest.mark.parametrize("alert", TESTED, ids=lambda alert: alert.name)
def test_no_change_of_its_rule_goes_unnoticed(alert: Alert, tmp_path: Path) -> None:
    records = recorded(alert)
    changed = {name: [*records, rule] for name, rule in mutants(alert)}
    assert survivors(alert, changed, tmp_path) == []


@pytest.mark.parametrize("name", RECORDS)
def test_no_change_of_a_record_goes_unnoticed(name: str, tmp_path: Path) -> None:
    """Some alert that reads the record must notice."""
    expr = record_rule(RECORDS[name], Thresholds())["expr"]
    left = dict(changed_expressions(expr))
    for alert in (alert for alert in TESTED if name in read_by(alert.expr)):
        (rule,) = alert_rules(alert, Thresholds())
        changed = {what: [*with_expression(recorded(alert), name, other), rule] for what, other in left.items()}
        left = {what: left[what] for what in survivors(alert, changed, tmp_path)}
    assert left == {}


def with_expression(records: list[dict[str, Any]], name: str, expr: str) -> list[dict[str, Any]]:
    return [each | {"expr": expr} if each["record"].endswith(f":{name}") else each for each in records]


def survivors(alert: Alert, changed: dict[str, list[dict[str, Any]]], folder: Path) -> list[str]:
    """Return the changes with which all cases of an alert still hold; most are noticed by the first two."""

    def survives(numbered: tuple[int, list[dict[str, Any]]]) -> bool:
        number, rules = numbered
        parts = enumerate((slice(2), slice(2, None)))
        return all(verdict(alert, rules, folder, f"m{number}-{part}", which).ok for part, which in parts)

    with ThreadPoolExecutor(2) as pool:
        results = pool.map(survives, enumerate(changed.values()))
        return [name for name, survived in zip(changed, results, strict=True) if survived]
