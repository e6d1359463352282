"""promtool in tests: what passes, what fails, and what a missing one does."""

from __future__ import annotations

from typing import TYPE_CHECKING

import promtool
import pytest

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.io


def test_good_metrics_pass_without_a_word() -> None:
    result = promtool.check_metrics("# HELP a_total Things.\n# TYPE a_total counter\na_total 1\n")
    assert (result.ok, result.output) == (True, "")


def test_what_promtool_finds_wrong_is_in_the_output() -> None:
    result = promtool.check_metrics("# HELP a Things.\n# TYPE a counter\na 1\n")
    assert not result.ok
    assert "_total" in result.output


def test_rules_and_their_tests_run(tmp_path: Path) -> None:
    rules = tmp_path / "rules.yml"
    rules.write_text("groups: [{name: g, rules: [{alert: A, expr: up == 0}]}]\n")
    tests = tmp_path / "test.yml"
    tests.write_text(
        "rule_files: [rules.yml]\ntests: [{interval: 1m, input_series: [{series: up, values: '0'}], "
        "alert_rule_test: [{eval_time: 0m, alertname: A, exp_alerts: [{}]}]}]\n"
    )
    assert promtool.check_rules(rules).ok
    assert promtool.test_rules(tests).ok
    tests.write_text(tests.read_text().replace("[{}]}]}]", "[]}]}]"))
    failed = promtool.test_rules(tests)
    assert not failed.ok
    assert "FAILED" in failed.output


@pytest.mark.parametrize(("ci", "outcome"), [("", pytest.skip.Exception), ("true", pytest.fail.Exception)])
def test_a_missing_promtool_skips_locally_and_fails_in_ci(
    ci: str, outcome: type[BaseException], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(promtool, "_find", lambda: None)
    monkeypatch.setenv("CI", ci)
    with pytest.raises(outcome, match="apt-get install prometheus"):
        promtool.program()
