"""Every part of every burn alert matters: without it, or with another number, some case fails."""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING, Any

import promtool
import pytest
from verified import digest, only_of, verify_once

from vllm_sidecar.config import parse_duration
from vllm_sidecar.generate.settings.thresholds import Thresholds
from vllm_sidecar.generate.slo_rules import slo_rules

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    Rule = dict[str, Any]

GROUPS = slo_rules(Thresholds()).groups
ALERTS = [
    ({key: value for key, value in rule.items() if key != "annotations"}, parse_duration(group["interval"]))
    for group in GROUPS
    for rule in group["rules"]
    if "long_window" in rule.get("labels", {})
]
EXPRESSION = re.compile(
    r"(?P<long>\S+) > (?P<factor>[\d.]+) and (?P<short>\S+) > [\d.]+ and "
    r"sum_over_time\((?P<seen>[^\[]+)\[\w+\]\)(?: \* (?P<each>\d+))? >= (?P<least>\d+)"
)
NAME = re.compile(r"[^{]+")


def series(selector: str, values: str) -> dict[str, str]:
    return {"series": selector.replace("}", ',model_name="m"}'), "values": values}


def cases(rule: Rule, pace: float) -> Iterator[dict[str, Any]]:
    """Write promtool's tests of one alert, with the recorded series that it reads as input."""
    found = EXPRESSION.fullmatch(rule["expr"])
    assert found is not None, rule["expr"]
    factor, least = float(found["factor"]), float(found["least"]) / float(found["each"] or 1.0)
    hold = parse_duration(rule["for"])
    keep = parse_duration(rule["keep_firing_for"]) if "keep_firing_for" in rule else 0.0
    begun = int(hold / pace) + 4

    def case(long: float, short: float, seen: float, expected: dict[float, bool]) -> dict[str, Any]:
        return {
            "interval": f"{pace:g}s",
            "input_series": [
                series(found["long"], f"{long * factor}x{begun} {0.1 * factor}x100"),
                series(found["short"], f"{short * factor}x{begun} {0.1 * factor}x100"),
                series(found["seen"], f"{seen * least} 0x{begun + 100}"),
            ],
            "promql_expr_test": [
                {
                    "expr": 'count(ALERTS{alertstate="firing"})',
                    "eval_time": f"{at:g}s",
                    "exp_samples": [{"labels": "{}", "value": 1}] if fires else [],
                }
                for at, fires in expected.items()
            ],
        }

    end = begun * pace
    yield case(1.02, 1.02, 1.02, {hold - pace: False, hold: True, end: True})
    yield case(1.02, 1.02, 1.02, {end + max(keep - 2 * pace, 0.0): True, end + keep + 3 * pace: False})
    for long, short, seen in ((0.98, 1.02, 1.02), (1.02, 0.98, 1.02), (1.02, 1.02, 0.98)):
        yield case(long, short, seen, {end: False})


def failures(versions: dict[str, Rule], pace: float, tests: list[dict[str, Any]], folder: Path) -> dict[str, str]:
    """Play the tests against versions of a rule in one process; return what failed with which."""
    files = {f"v{number}": name for number, name in enumerate(versions)}
    for file, name in files.items():
        group = {"name": "g", "interval": f"{pace:g}s", "rules": [versions[name]]}
        (folder / f"{file}.rules").write_text(json.dumps({"groups": [group]}))
        document = {"rule_files": [f"{file}.rules"], "evaluation_interval": f"{pace:g}s", "tests": tests}
        (folder / f"{file}.yml").write_text(json.dumps(document))
    failed = promtool.failures([folder / f"{file}.yml" for file in files])
    return {files[file]: text for file, text in failed.items()}


def without(key: str) -> Callable[[Rule], Rule]:
    return lambda rule: {name: value for name, value in rule.items() if name != key}


def with_part(number: int, change: Callable[[str], str]) -> Callable[[Rule], Rule]:
    """Change one of the three parts that `and` joins; an empty one is left out."""

    def mutated(rule: Rule) -> Rule:
        parts = rule["expr"].split(" and ")
        parts[number] = change(parts[number])
        return {**rule, "expr": " and ".join(part for part in parts if part)}

    return mutated


def scaled(by: float) -> Callable[[str], str]:
    return lambda part: re.sub(r"[\d.]+$", lambda number: f"{float(number[0]) * by:g}", part)


MUTATIONS: dict[str, Callable[[Rule], Rule]] = {
    "no for": without("for"),
    "twice the for": lambda rule: {**rule, "for": f"{2 * parse_duration(rule['for']):g}s"},
    "long left out": with_part(0, lambda _: ""),
    "short left out": with_part(1, lambda _: ""),
    "guard left out": with_part(2, lambda _: ""),
    **{f"long times {by}": with_part(0, scaled(by)) for by in (0.95, 1.05)},
    **{f"short times {by}": with_part(1, scaled(by)) for by in (0.95, 1.05)},
    **{f"guard times {by}": with_part(2, scaled(by)) for by in (0.95, 1.05)},
    **{f"comparison {i} turned": with_part(i, lambda part: part.replace(">", "<")) for i in range(3)},
    "no keep_firing_for": without("keep_firing_for"),
}


def names(rule: Rule) -> str:
    return f"{rule['labels']['slo']}-{rule['labels']['long_window']}"


def mutants(rule: Rule) -> dict[str, Rule]:
    """Return the changes of a rule that change something."""
    changed = {name: mutate(rule) for name, mutate in MUTATIONS.items()}
    return {name: mutant for name, mutant in changed.items() if mutant != rule}


def verify(rule: Rule, pace: float, folder: Path) -> None:
    """The cases hold with the rule as it is, and with no mutant of it."""
    changed = mutants(rule)
    failed = failures({"the rule": rule, **changed}, pace, list(cases(rule, pace)), folder)
    assert "the rule" not in failed, failed["the rule"]
    assert [name for name in changed if name not in failed] == []


by_alert = pytest.mark.parametrize(("rule", "pace"), ALERTS, ids=[names(rule) for rule, _ in ALERTS])


@pytest.mark.io
@by_alert
def test_mutants_of_a_burn_alert_that_changed_are_noticed(
    rule: Rule, pace: float, tmp_path: Path, pytestconfig: pytest.Config
) -> None:
    now = digest(rule, pace, list(cases(rule, pace)), mutants(rule))
    verify_once(pytestconfig, f"slo {names(rule)}", now, lambda: verify(rule, pace, tmp_path))


def test_no_burn_alert_that_is_gone_has_recorded_mutants(pytestconfig: pytest.Config) -> None:
    only_of(pytestconfig, "slo", [f"slo {names(rule)}" for rule, _ in ALERTS])


@pytest.mark.io
@pytest.mark.slow
@pytest.mark.mutants
@by_alert
def test_an_alert_does_as_it_says_and_no_mutant_of_it_does(rule: Rule, pace: float, tmp_path: Path) -> None:
    verify(rule, pace, tmp_path)


def test_a_page_goes_on_over_a_restart_and_a_ticket_need_not() -> None:
    assert {(rule["labels"]["severity"], rule.get("keep_firing_for")) for rule, _ in ALERTS} == {
        ("page", "5m"),
        ("ticket", None),
    }
