"""Each alert fires, and does not fire when it should not; and no change of its rule goes unnoticed."""

from __future__ import annotations

import re
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import yaml

import promtool
from alert_cases import cases, promtool_test, read
from vllm_sidecar.catalog.alerts import ALERTS
from vllm_sidecar.config import parse_duration
from vllm_sidecar.config.thresholds import Thresholds
from vllm_sidecar.generate.rules import alert_rules

if TYPE_CHECKING:
    from collections.abc import Iterator

    from vllm_sidecar.catalog.alerts import Alert

FOLDER = Path(__file__).parent / "alerts"
TESTED = [alert for alert in ALERTS if alert.hold]
FLIPPED = {">": "<=", ">=": "<", "<": ">=", "<=": ">", "==": "!="}
COMPARISON = re.compile(r"(?<= )(>=|<=|==|>|<)(?= )")


def verdict(alert: Alert, rule: dict[str, Any], folder: Path, name: str) -> promtool.Result:
    spec = read(FOLDER / f"{alert.name}.yml")
    rules = folder / f"{name}.rules.yml"
    rules.write_text(yaml.safe_dump({"groups": [{"name": "g", "rules": [rule]}]}))
    file = folder / f"{name}.yml"
    file.write_text(
        yaml.safe_dump(promtool_test(cases(spec), spec, parse_duration(alert.hold), str(rules)), width=10**6)
    )
    return promtool.test_rules(file)


def test_every_alert_but_the_watchdog_has_its_cases() -> None:
    assert {path.stem for path in FOLDER.glob("*.yml")} == {alert.name for alert in TESTED}


@pytest.mark.parametrize("alert", TESTED, ids=lambda alert: alert.name)
def test_it_fires_when_it_should_and_only_then(alert: Alert, tmp_path: Path) -> None:
    (rule,) = alert_rules(alert, Thresholds())
    result = verdict(alert, rule, tmp_path, "rule")
    assert result.ok, re.sub(r"\n\s*\n", "\n", result.output)


def mutants(alert: Alert) -> Iterator[tuple[str, dict[str, Any]]]:
    """Change one thing of a rule after the other."""
    (rule,) = alert_rules(alert, Thresholds())
    yield "without for", {key: value for key, value in rule.items() if key != "for"}
    expr = rule["expr"]
    for found in COMPARISON.finditer(expr):
        changed = expr[: found.start()] + FLIPPED[found[0]] + expr[found.end() :]
        yield f"{found[0]} at {found.start()}", rule | {"expr": changed}
    for found in re.finditer(r"(?:>=|<=|==|>|<|clamp_min\() ?(\d+(?:\.\d+)?)(?=[\s)]|$)", expr):
        value = float(found[1])
        for other in (value * 1.3, value * 0.7) if value else (1000.0,):
            changed = expr[: found.start(1)] + f"{other:g}" + expr[found.end(1) :]
            yield f"{found[1]} at {found.start(1)} as {other:g}", rule | {"expr": changed}


@pytest.mark.parametrize("alert", TESTED, ids=lambda alert: alert.name)
def test_no_change_of_its_rule_goes_unnoticed(alert: Alert, tmp_path: Path) -> None:
    changed = dict(mutants(alert))
    with ThreadPoolExecutor(2) as pool:
        results = pool.map(
            lambda numbered: verdict(alert, numbered[1][1], tmp_path, f"m{numbered[0]}").ok,
            enumerate(changed.items()),
        )
        survived = [name for name, ok in zip(changed, results, strict=True) if ok]
    assert survived == []
