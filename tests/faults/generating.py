"""Thresholds that nobody should write, and servers that `generate --live` reads: good rules, or a refusal."""

from __future__ import annotations

import shutil
import subprocess
from typing import TYPE_CHECKING

from commands import Command

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

ALERT = "VllmEngineStalled"
_TEXTS = {
    "an open template": "a {{ b", "a closed template": "a }} b", "an unknown function": "{{ nosuch . }}", "a query": '{{ query "up" | first | value }}',
    "YAML in a text": "a: b\n  - c\n# d\t", "a quote": 'a"b\\c', "a rule": "x\n- alert: Evil\n  expr: vector(1)", "an open comment": "{{/* a", "an open block": "{{ if $value }}a",
    "a thousand characters": "x" * 1000, "emoji and right-to-left marks": "\u202e\U0001f600", "a word of YAML": "yes", "a control character": "a\x07b", "nothing": "",
}  # fmt: skip
_PATTERNS = {
    "a digit class": r"vllm-\d+\.x", "an open bracket": "a[b", "a possessive quantifier": "a++b", "a look-ahead": "(?=a)b", "a named group": "(?P<n>a)", "a quote": 'a"} or vector(1) or up{b="',
    "a template": "a{{ .X }}b", "a backslash at its end": "a\\", "nothing": "", "every series": ".*",
}  # fmt: skip
_DOCUMENTS: dict[str, str] = {
    "an unknown key": "nonsense: 1\n", "an unknown alert": "alerts: {VllmNonsense: {for: 1m}}\n", "a severity that nobody routes": f"alerts: {{{ALERT}: {{severity: loud}}}}\n",
    "a time of no unit": f"alerts: {{{ALERT}: {{for: 5}}}}\n", "a time of a day": f"alerts: {{{ALERT}: {{for: 1d}}}}\n", "a scrape each day": "scrape_interval: 1d\nevaluation_interval: 1d\n",
    "a scrape each millisecond": "scrape_interval: 1ms\nevaluation_interval: 1ms\n", "times that are a thousandth": "time_scale: 0.001\n", "times that are ten million times shorter": "time_scale: 0.0000001\n",
    "an objective of 100 %": "slos: {availability: {objective: 1}}\n", "an objective of NaN": "slos: {availability: {objective: .nan}}\n", "an objective of sixteen nines": "slos: {availability: {objective: 0.9999999999999999}}\n",
    "a threshold that is not a bound": "slos: {time_to_first_token: {threshold: 2s123ms}}\n", "a label name with a dash": "labels: {a-b: c}\n", "a label name of another script": "labels: {tëam: a}\n",
    "a label that the rules use": "labels: {severity: a}\n", "an annotation name with a blank": "annotations: {my key: a}\n", "a URL of a script": "runbook_url: 'javascript:alert(1)'\n",
    "a selector that is not one": "selector: 'a=b=c'\n", "a selector with a bracket": "selector: 'a=~\"[\"'\n", "a selector of the name": "selector: '__name__=\"up\"'\n",
    "a model whose name is a pattern": "models: {'.*(': {profile: batch}}\n", "a model whose name is a template": "models: {'{{ $value }}': {profile: batch}}\n",
    "a model whose name ends the selector": "models: {'x\"} or vector(1) or up{a=\"': {profile: batch}}\n", "a billion laughs": "a: &a [x, x]\n" + "".join(f"a{n}: &a{n} [*a{n - 1 if n else ''}, *a{n - 1 if n else ''}]\n" for n in range(40)),
    "no YAML": "{", "a list": "- a\n", "nothing": "", "an integer of 5,000 digits": f"time_scale: {'9' * 5000}\n", "a gateway of no kind": "slo: {gateway: {kind: nonsense}}\n",
}  # fmt: skip


def thresholds() -> Iterator[Command]:
    """Yield thresholds that nobody should write."""
    for what, document in _DOCUMENTS.items():
        yield _rules(f"Thresholds with {what}", document)
    for number, (what, text) in enumerate(_TEXTS.items()):
        place, form = (
            ("An annotation", "annotations: {{note: {}}}") if number % 2 else ("A label", "labels: {{team: {}}}")
        )
        yield _rules(f"{place} with {what}", form.format(_quoted(text)) + "\n")
    for what, pattern in _PATTERNS.items():
        yield _rules(f"A job whose pattern has {what}", f"sidecar_job: {_quoted(pattern)}\n")
    for what, url in {
        "of a file": "file:///etc/passwd", "of another kind": "ftp://h/", "without a host": "http://", "with a password": "http://u:Pl4nted-s3cret@127.0.0.1:1/metrics",
        "where nobody listens": "http://127.0.0.1:1/metrics", "with a line break": "http://127.0.0.1:1/\n/metrics",
    }.items():  # fmt: skip
        arguments = ("generate", "rules", "--out", "{folder}/out", "--live", url)
        yield Command(f"--live with a URL {what}", arguments, codes=(1,), says="--live", hidden="Pl4nted-s3cret")
    for what, change, says in (
        ("a file where the folder should be", lambda folder: (folder / "out").write_text("mine"), "out"),
        ("a rule file of the user", _of_the_user, "--force overwrites it"),
    ):
        arguments = ("generate", "rules", "--out", "{folder}/out")
        yield Command(f"The output has {what}", arguments, codes=(1,), says=says, prepare=change)


def _of_the_user(folder: Path) -> None:
    (folder / "out").mkdir()
    (folder / "out" / "vllm-sidecar.rules.yml").write_text("groups: []\n", encoding="utf-8")


def _rules(name: str, document: str) -> Command:
    arguments = "generate", "rules", "--thresholds", "{folder}/thresholds.yaml", "--out", "{folder}/out"
    return Command(name, arguments, {"thresholds.yaml": document}, (0, 1), judge=_checked)


def _quoted(text: str) -> str:
    return '"' + "".join(f"\\U{ord(letter):08x}" for letter in text) + '"'


def _checked(folder: Path) -> str:
    """Return what promtool says against the rules, or that one is not the generator's."""
    files = sorted((folder / "out").glob("*.yml"))
    promtool = shutil.which("promtool")
    if any(line.strip().startswith("- alert: Evil") for path in files for line in path.read_text().splitlines()):
        return "a rule of the text"
    if promtool is None:
        return "" if files else "no files"
    done = subprocess.run([promtool, "check", "rules", *map(str, files)], capture_output=True, check=False)
    return "" if done.returncode == 0 and files else f"promtool: {done.stderr.decode(errors='replace')[:200]}"
