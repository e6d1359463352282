"""promtool, the checker of Prometheus, with typed results and readable errors.

The program is the one in VLLM_SIDECAR_PROMTOOL, otherwise the one on PATH. Without it rule files are checked as far as
promql-parser can, and the result lists what was not checked.
"""

from __future__ import annotations

import functools
import os
import re
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import promql_parser
import yaml

VARIABLE = "VLLM_SIDECAR_PROMTOOL"
OLDEST = (2, 42)
TIMEOUT = 120.0
HINT = (
    "promtool is not on PATH: apt-get install prometheus (Debian, Ubuntu), or unpack a Prometheus release and set "
    f"{VARIABLE} to its promtool"
)
NOT_CHECKED = "only the syntax of the expressions was checked, not templates, durations or duplicates: " + HINT

_RULE = re.compile(
    r'^(?P<file>.+?): (?:(?P<line>\d+):\d+: )?group "(?P<group>[^"]*)", rule (?P<rule>\d+), (?P<text>.+)'
)
_TEST = re.compile(r"^\s*(?P<what>(?:expr|alertname): .*?),? ?time: (?P<time>\w+),?\s*$")


class PromtoolError(OSError):
    """promtool cannot be used; the text is for the user."""


@dataclass(frozen=True, slots=True)
class Problem:
    """One problem, with as much of its place as promtool reports; None and empty where it reports none."""

    text: str
    group: str = ""
    rule: int | None = None
    """From 1, as in promtool."""
    line: int | None = None

    def __str__(self) -> str:
        place = [f"line {self.line}"] if self.line else []
        place += [f"group {self.group}"] if self.group else []
        place += [f"rule {self.rule}"] if self.rule else []
        return f"{', '.join(place)}: {self.text}" if place else self.text


@dataclass(frozen=True, slots=True)
class Result:
    """promtool's result for one file. `output` is all its text; `not_checked` is empty if promtool ran."""

    ok: bool
    problems: tuple[Problem, ...] = ()
    output: str = ""
    not_checked: str = ""


def check_rules(path: Path) -> Result:
    """Check a rule file.

    Raises:
        PromtoolError: The installed promtool cannot be used.
        OSError: The file cannot be read.
    """
    program = find()
    return _run(program, "check", "rules", str(path)) if program else _parsed(path)


def check_config(path: Path) -> Result:
    """Check a configuration file of Prometheus and the rule files that it names; errors as of `check_rules`."""
    return _run(_needed(), "check", "config", str(path))


def check_metrics(source: Path | str) -> Result:
    """Lint a body of /metrics in the text format, from a file or as text; errors as of `check_rules`."""
    text = source.read_text(encoding="utf-8") if isinstance(source, Path) else source
    return _run(_needed(), "check", "metrics", text=text)


def test_rules(path: Path, timeout: float = TIMEOUT) -> Result:  # noqa: PT028 - it is not a test
    """Run a file of rule unit tests for at most `timeout` seconds; errors as of `check_rules`."""
    return _run(_needed(), "test", "rules", str(path), timeout=timeout)


test_rules.__test__ = False  # type: ignore[attr-defined] # pytest must not take it for one of its own


def find() -> str | None:
    """Return the path of a promtool that is new enough; None if there is none.

    Raises:
        PromtoolError: It is too old, or does not print its version.
    """
    named = os.environ.get(VARIABLE)
    program = shutil.which(named or "promtool")
    if named and program is None:
        raise PromtoolError(f"{VARIABLE}: {named} is not an executable program")
    if program:
        _must_be_new_enough(program)
    return program


@functools.cache
def _must_be_new_enough(program: str) -> None:
    printed = _run(program, "--version").output
    found = re.search(r"version (\d+)\.(\d+)", printed)
    oldest = ".".join(map(str, OLDEST))
    if found is None:
        raise PromtoolError(f"{program} does not print its version; promtool {oldest} or newer is required")
    if (int(found[1]), int(found[2])) < OLDEST:
        raise PromtoolError(f"{program} has version {found[1]}.{found[2]}; {oldest} or newer is required")


def _needed() -> str:
    program = find()
    if program is None:
        raise PromtoolError(HINT)
    return program


def _run(program: str, *arguments: str, text: str | None = None, timeout: float = TIMEOUT) -> Result:
    try:
        done = subprocess.run(  # noqa: S603 - the result says whether it failed
            [program, *arguments], input=text, capture_output=True, text=True, timeout=timeout, check=False
        )
    except subprocess.TimeoutExpired:
        raise PromtoolError(f"{program} {' '.join(arguments[:2])} did not end within {timeout:g} s") from None
    output = (done.stdout + done.stderr).strip()
    return Result(done.returncode == 0, tuple(_problems(output)) if done.returncode else (), output)


def _problems(output: str) -> list[Problem]:
    lines = [line for line in output.splitlines() if line.strip()]
    found = []
    for index, line in enumerate(lines):
        if rule := _RULE.match(line.strip()):
            at = int(rule["line"]) if rule["line"] else None
            found.append(Problem(rule["text"], rule["group"], int(rule["rule"]), at))
        elif test := _TEST.match(line):
            rest = " ".join(each.strip() for each in lines[index + 1 : index + 3])
            found.append(Problem(f"{test['what']} at {test['time']}: {rest}"))
    skipped = re.compile(r"^(Checking|Unit Testing:|SUCCESS|FAILED:?$)")
    return found or [Problem(line.strip()) for line in lines if not skipped.match(line.strip())]


def _parsed(path: Path) -> Result:
    """Check a rule file without promtool."""
    try:
        document = yaml.safe_load(path.read_text(encoding="utf-8"))
        groups = document["groups"]
        rules = [(group["name"], number, rule) for group in groups for number, rule in enumerate(group["rules"], 1)]
    except (yaml.YAMLError, KeyError, TypeError, UnicodeDecodeError) as error:
        return Result(False, (Problem(f"is not a rule file: {' '.join(str(error).split())}"),), "", NOT_CHECKED)
    found = [problem for group, number, rule in rules if (problem := _wrong(group, number, rule))]
    return Result(not found, tuple(found), "", NOT_CHECKED)


def _wrong(group: str, number: int, rule: dict[str, Any]) -> Problem | None:
    try:
        promql_parser.parse(str(rule["expr"]))
    except ValueError as error:
        return Problem(f"could not parse expression: {error}", group, number)
    except (KeyError, TypeError):
        return Problem("has no expression", group, number)
    return None
