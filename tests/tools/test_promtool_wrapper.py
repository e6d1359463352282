"""The wrapper around promtool: what is wrong, where, and what was not checked where promtool is missing."""

from __future__ import annotations

from typing import TYPE_CHECKING

import promtool as skipping
import pytest
from places import RULES

from vllm_sidecar import cli
from vllm_sidecar.tools import promtool

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.io

RULES = RULES / "vllm-sidecar.rules.yml"
BAD = """\
groups:
  - name: g
    rules:
      - {record: a:b, expr: "1 +"}
      - {record: a:c, expr: "sum(x)"}
"""
TEST = """\
rule_files: [{rules}]
evaluation_interval: 15s
tests:
  - interval: 15s
    input_series: [{{series: x, values: '1 1 1'}}]
    promql_expr_test:
      - {{expr: x, eval_time: 15s, exp_samples: [{{labels: x, value: {value}}}]}}
"""


@pytest.fixture
def without(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A machine that has no promtool."""
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv(promtool.VARIABLE, raising=False)


def program(folder: Path, says: str) -> str:
    """Make a promtool that says something and nothing else."""
    file = folder / "promtool"
    file.write_text(f"#!/bin/sh\necho '{says}'\n")
    file.chmod(0o755)
    return str(file)


def test_a_good_rule_file_has_no_problem() -> None:
    skipping.program()
    assert promtool.check_rules(RULES) == promtool.Result(True, (), promtool.check_rules(RULES).output)


def test_a_bad_expression_is_told_with_its_place(tmp_path: Path) -> None:
    skipping.program()
    (tmp_path / "bad.yml").write_text(BAD)
    result = promtool.check_rules(tmp_path / "bad.yml")
    (problem,) = result.problems
    assert (result.ok, problem.group, problem.rule) == (False, "g", 1)
    assert "could not parse expression" in problem.text


@pytest.mark.parametrize(("value", "ok"), [("1", True), ("2", False)])
def test_a_rule_test_says_what_was_expected_and_what_came(value: str, ok: bool, tmp_path: Path) -> None:
    skipping.program()
    file = tmp_path / "test.yml"
    file.write_text(TEST.format(rules=RULES, value=value))
    result = promtool.test_rules(file)
    assert result.ok is ok
    if not ok:
        (problem,) = result.problems
        assert 'expr: "x" at 15s: ' in problem.text
        assert "exp" in problem.text
        assert "got" in problem.text


def test_metrics_are_linted_from_text_and_from_a_file(tmp_path: Path) -> None:
    skipping.program()
    file = tmp_path / "body"
    file.write_text("# HELP a_total A.\n# TYPE a_total gauge\na_total 1\n")
    for source in (file, file.read_text()):
        result = promtool.check_metrics(source)
        assert not result.ok
        assert "a_total" in str(result.problems[0])


@pytest.mark.usefixtures("without")
def test_without_promtool_expressions_are_parsed_and_the_rest_is_told(tmp_path: Path) -> None:
    assert promtool.check_rules(RULES) == promtool.Result(True, (), "", promtool.NOT_CHECKED)
    (tmp_path / "bad.yml").write_text(BAD)
    (problem,) = promtool.check_rules(tmp_path / "bad.yml").problems
    assert str(problem).startswith("group g, rule 1: could not parse expression")


@pytest.mark.usefixtures("without")
@pytest.mark.parametrize("text", ["", "[]", "groups: 3", "groups: [{name: g}]", "{"])
def test_without_promtool_what_is_no_rule_file_is_told(text: str, tmp_path: Path) -> None:
    file = tmp_path / "x.yml"
    file.write_text(text)
    assert "is not a rule file" in promtool.check_rules(file).problems[0].text


@pytest.mark.usefixtures("without")
def test_without_promtool_tests_cannot_run_and_the_hint_says_how_to_get_it(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["promtool", "test", str(tmp_path / "x")]) == 1
    assert capsys.readouterr().err == f"vllm-sidecar: {promtool.HINT}\n"


@pytest.mark.parametrize(
    ("says", "expected"),
    [("promtool, version 2.41.0 (x)", "has version 2.41; 2.42"), ("hello", "does not print its version")],
)
def test_a_promtool_of_no_use_is_refused(
    says: str, expected: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(promtool.VARIABLE, program(tmp_path, says))
    with pytest.raises(promtool.PromtoolError, match=expected):
        promtool.find()


def test_a_variable_that_names_no_program_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(promtool.VARIABLE, "/nowhere/promtool")
    with pytest.raises(promtool.PromtoolError, match="/nowhere/promtool is not an executable program"):
        promtool.find()


def test_the_command_lists_problems_and_fails(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    skipping.program()
    (tmp_path / "bad.yml").write_text(BAD)
    assert cli.main(["promtool", "check", str(RULES), str(tmp_path / "bad.yml")]) == 1
    out = capsys.readouterr().out
    assert out.startswith(f"{RULES}: OK\n{tmp_path}/bad.yml: FAILED\n  ")
    assert "group g, rule 1" in out


def test_a_file_that_is_not_there_is_told_in_one_line(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    skipping.program()
    assert cli.main(["promtool", "metrics", str(tmp_path / "gone")]) == 1
    assert "No such file" in capsys.readouterr().err
