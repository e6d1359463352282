"""Whatever a user writes: rules that promtool accepts, or a mistake with file, line and path. Never an internal error.

Examples are collected and judged by one call of promtool, which takes longer to start than to check.
"""

from __future__ import annotations

import json
import re
import subprocess
from typing import TYPE_CHECKING, Any

import promtool
import pytest
import yaml
from hypothesis import HealthCheck, given
from hypothesis import strategies as st
from properties import examples

from vllm_sidecar import cli
from vllm_sidecar.catalog.alerts import ALERTS
from vllm_sidecar.catalog.objectives import SLOS
from vllm_sidecar.generate.expressions import quoted
from vllm_sidecar.generate.settings import alert_template, re2

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.io

ALERT_NAMES = [alert.name for alert in ALERTS]
FRAGMENTS = (
    *(
        "a",
        "1",
        ".",
        "*",
        "+",
        "?",
        "|",
        "(",
        ")",
        "[",
        "]",
        "^",
        "$",
        "-",
        "{2}",
        "{2,3}",
        "{,}",
        "{x}",
        "(?:",
        "(?i)",
    ),
    *("(?P<n>", "(?!", "(?=", "(?<=", "(?P=n)", "(?>", "++", "*?", "??", "[^", "a-z", "[:alpha:]", "\\d", "\\1", "\\q"),
    *(
        "\\.",
        "\\-",
        "\\[",
        "\\]",
        "\\\\",
        '"',
        "'",
        "{{",
        "}}",
        "\\pL",
        "\\p{Lu}",
        "\\x41",
        "\\b",
        "\\Z",
        "/",
        "é",
        "😀",
    ),
)
"""Of regular expressions."""
PATTERNS = st.lists(st.sampled_from(FRAGMENTS), max_size=6).map("".join)
PARTS = (
    *("{{", "}}", "{{ ", " }}", "{{- ", " -}}", "$labels.pod", "$value", "$x", ".Labels.x", ".", " | ", "humanize"),
    *(
        "query",
        '"up"',
        "`up`",
        "first",
        "value",
        "(",
        ")",
        "if ",
        "else",
        "else if ",
        "end",
        "with ",
        "range ",
        "define",
    ),
    *("1", "-1", "nosuch", "printf", '"%s"', " ", "\n", '"', "`", "text", "{", "}", "/*", "*/", ":=", "true", "not "),
)
TEMPLATES = st.lists(st.sampled_from(PARTS), max_size=8).map("".join)
WELL_FORMED = st.sampled_from(
    [
        "{{ $labels.pod }}",
        "{{ with $labels.pod }} ({{ . }}){{ end }}",
        '{{ query "up" | first | value }}',
        '{{ if eq $labels.a "x" }}a{{ else if gt $value 1.0 }}b{{ else }}c{{ end }}',
        '{{ range query "up" }}{{ .Labels.instance }} {{ end }}',
        "{{- $value | humanizePercentage -}}",
        '{{ printf "%.2f" $value }}',
    ]
)
TEXT = st.one_of(st.text(max_size=12), PATTERNS, TEMPLATES, WELL_FORMED)
NAMES = st.one_of(st.sampled_from(["team", "pod", "a b", "", "severity", "__x", "é", "le", "release", "a/b"]), TEXT)
TIMES = st.sampled_from(["1ms", "1s", "15s", "7m", "1h", "1d", "2d", 0, "x"])
NUMBERS = st.one_of(st.integers(-1, 10**18), st.floats(allow_nan=True), st.sampled_from([1e-7, 0.05, 0.5, 10, 10**400]))
SELECTORS = st.one_of(
    TEXT,
    st.tuples(st.sampled_from(["cluster", "env", "model_name", "__name__"]), st.sampled_from(["=", "!=", "=~", "!~"]),
              st.one_of(PATTERNS, TEXT)).map(lambda parts: f'{parts[0]}{parts[1]}"{parts[2]}"'),
)  # fmt: skip
LABELS = st.dictionaries(NAMES, TEXT, max_size=2)
OBJECTIVE = st.fixed_dictionaries(
    {},
    optional={
        "objective": st.one_of(st.sampled_from([0.5, 0.9, 0.999, 0.99999]), NUMBERS),
        "threshold": st.sampled_from(["2s500ms", "10s", "3s", "1ms"]),
        "source": st.sampled_from(["histogram", "sidecar", "gateway"]),
        "observations": NUMBERS,
        "labels": LABELS,
        "annotations": LABELS,
        "snap": st.just(True),
    },
)
WINDOWS = st.sampled_from(["1m", "5m", "1h", "3d", "30d", "31d", "0m", 5])
BURN = st.fixed_dictionaries(
    {
        "long": WINDOWS,
        "short": WINDOWS,
        "for": TIMES,
        "factor": NUMBERS,
        "severity": st.sampled_from(["page", "ticket", "loud"]),
    }
)
GATEWAY = st.fixed_dictionaries(
    {"kind": st.sampled_from(["envoy", "istio", "litellm", "inference-extension", "custom", "other"])},
    optional={
        "selector": SELECTORS,
        "services": st.dictionaries(TEXT, PATTERNS, max_size=2),
        "labels": st.dictionaries(st.sampled_from(["cluster", "namespace", "x"]), TEXT, max_size=2),
        "requests": st.one_of(
            TEXT, st.sampled_from(["sum by (model_name) (rate(a_total[5m]))", "1", "up{", "vector(1)"])
        ),
        "failures": st.one_of(TEXT, st.sampled_from(["sum by (model_name) (rate(b_total[5m]))", "rate(up[5m])"])),
    },
)
BUCKETS = st.dictionaries(
    st.sampled_from(["time_to_first_token_seconds", "inter_token_latency_seconds", "request_latency", "x"]),
    st.lists(NUMBERS, max_size=3),
    max_size=2,
)
HOURS = st.one_of(
    TEXT, st.lists(st.one_of(st.sampled_from(["02:00-03:30", "23:30-01:00", "00:00-24:00", "1-2"]), TEXT), max_size=2)
)
OBJECTIVES = st.dictionaries(st.sampled_from([slo.name for slo in SLOS]), OBJECTIVE, max_size=2)
SLO_SETTINGS = st.fixed_dictionaries(
    {},
    optional={
        "enabled": st.booleans(),
        "source": st.sampled_from(["histogram", "sidecar", "x"]),
        "burn": st.lists(BURN, max_size=2),
        "gateway": GATEWAY,
        "buckets": BUCKETS,
        "observations": NUMBERS,
    },
)
SETTINGS = st.fixed_dictionaries(
    {},
    optional={
        "severity": st.sampled_from(["page", "critical", "loud"]),
        "for": TIMES,
        "labels": LABELS,
        "annotations": LABELS,
        "requests": NUMBERS,
        "wait": TIMES,
    },
)
OF_ALERTS = st.dictionaries(st.sampled_from(ALERT_NAMES), SETTINGS, max_size=2)
MODEL = st.fixed_dictionaries(
    {}, optional={"profile": st.sampled_from(["batch", "interactive"]), "alerts": OF_ALERTS, "slos": OBJECTIVES}
)
DOCUMENTS: st.SearchStrategy[dict[str, Any]] = st.fixed_dictionaries(
    {},
    optional={
        "pack": st.one_of(st.sampled_from(["prod", "slo"]), TEXT),
        "selector": SELECTORS,
        "cluster_label": NAMES,
        "sidecar_job": st.one_of(PATTERNS, TEXT),
        "vllm_job": PATTERNS,
        "scrape_interval": TIMES,
        "evaluation_interval": TIMES,
        "time_scale": NUMBERS,
        "runbook_url": st.one_of(TEXT, TEXT.map(lambda text: f"https://x/{text}")),
        "dashboard_url": TEXT,
        "rule_namespace": NAMES,
        "rule_labels": LABELS,
        "rule_annotations": LABELS,
        "severities": st.dictionaries(st.sampled_from(["page", "ticket"]), NAMES, max_size=2),
        "labels": LABELS,
        "annotations": LABELS,
        "alerts": OF_ALERTS,
        "slos": st.tuples(OBJECTIVES, SLO_SETTINGS).map(lambda parts: parts[0] | parts[1]),
        "batch_hours": HOURS,
        "models": st.dictionaries(st.one_of(st.sampled_from(["org/model[v2]", "a[5m] offset 1h", "{{ x"]), TEXT), MODEL,
                                  max_size=3),
    },
)  # fmt: skip
LOOKS_DANGEROUS: list[dict[str, Any]] = [
    {"selector": 'cluster=~"prod[12]"'},
    {"selector": 'a=~"[5m] offset 1h"'},
    {"sidecar_job": "vllm-sidecar-[ab]"},
    {"sidecar_job": r"v-\d+\.x"},
    {"sidecar_job": 'a"} or vector(1) or up{b="'},
    {"annotations": {"pod": "{{ $labels.pod }}"}},
    {"annotations": {"summary": "{{ $labels.nowhere }}"}},
    {"labels": {"team": "{{ $labels.pod }}"}},
    {"models": {"org/model[v2]": {"profile": "batch"}}},
    {"models": {"{{ x": {"profile": "batch"}}},
    {"models": {"a~up{x": {"profile": "batch"}, "a[5m] offset 1h": {"profile": "batch"}}},
    {"cluster_label": "k8s_cluster", "selector": 'k8s_cluster="cluster"', "sidecar_job": "cluster-.*"},
    {"time_scale": 0.05},
    {"time_scale": 0.001},
    {"time_scale": 1e-9},
    {"scrape_interval": "1d", "evaluation_interval": "1d"},
    {"severities": {"page": "critical", "ticket": "warning"}},
]
PROBLEM = re.compile(r"line \d+: \S.*", re.DOTALL)


def generated(document: dict[str, Any], folder: Path, number: int, said: pytest.CaptureFixture[str]) -> list[Path]:
    """Return the rule files of a document; none where its mistakes were told, as they should be."""
    file = folder / f"{number}.yaml"
    # JSON is YAML, and shows hostile names as they are.
    file.write_text(json.dumps(document, indent=1), encoding="utf-8", errors="surrogatepass")
    out = folder / str(number)
    codes = [cli.main(["generate", part, "--thresholds", str(file), "--out", str(out)]) for part in ("rules", "shim")]
    told = said.readouterr().err
    assert "internal error" not in told, f"{told}\n{file.read_text(errors='replace')}"
    if codes == [0, 0]:
        return sorted(out.glob("*.rules.yml"))
    for line in told.splitlines():
        text = line.removeprefix(f"vllm-sidecar: {file}: ")
        noted = "is the default" in text or "bucket bound" in text
        assert PROBLEM.match(text) or "not UTF-8" in text or noted or "not valid YAML" in text, told
    return []


@pytest.mark.hypothesis
def test_hostile_thresholds_end_in_rules_or_in_mistakes_with_lines(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    written: list[Path] = []
    numbers = iter(range(10**6))

    @examples(100, suppress_health_check=list(HealthCheck), database=None)
    @given(DOCUMENTS)
    def generate(document: dict[str, Any]) -> None:
        written.extend(generated(document, tmp_path, next(numbers), capsys))

    generate()
    assert written
    judged(written)


@pytest.mark.slow
def test_what_looks_dangerous_and_is_allowed_becomes_rules(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    written = []
    for number, document in enumerate(LOOKS_DANGEROUS):
        found = generated(document, tmp_path, number, capsys)
        assert found, document
        written += found
    judged(written)


def judged(files: list[Path]) -> None:
    command = [promtool.program(), "check", "rules", *map(str, files)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize(
    "pattern",
    ["vllm-sidecar-[ab]", r"v-\d+\.x", "(.*/)?vllm(-gpu)?", "[^a-z]", "[]a]", "[a-]", r"[\d_.-]", "a{2}", "a{x}", "",
     r"\p{Lu}", "(?i)x", "(?i:x)", "(?P<n>x)", "a*?", "[[:alpha:]_]", "^a$", r"\x{1F600}", "a||b", "é"],
)  # fmt: skip
def test_a_regular_expression_of_re2_is_taken(pattern: str) -> None:
    re2.check(pattern)


@pytest.mark.parametrize(
    "pattern",
    ["a++", "a**", "(", "a)|(b", "[a", "*", "(?!x)y", r"(a)\1", "(?P=a)", r"\q", "a{1001}", "(a{100}){100}", "[z-a]",
     "(?P<n>x)(?P<n>y)", "a{3,2}", "a{2}{3}", r"\p{Foo}", "a|*", "(?i)*", r"\Z", "(" * 101 + ")" * 101, "a" * 2001],
)  # fmt: skip
def test_what_is_none_of_re2_is_refused(pattern: str) -> None:
    with pytest.raises(re2.Re2Error):
        re2.check(pattern)


@pytest.mark.hypothesis
def test_no_pattern_that_is_taken_is_refused_by_prometheus(tmp_path: Path) -> None:
    taken: list[str] = []

    @examples(2500, database=None)
    @given(PATTERNS)
    def collect(pattern: str) -> None:
        try:
            re2.check(pattern)
        except re2.Re2Error:
            return
        taken.append(f"up{{a=~{quoted(pattern)}}} == 0")

    collect()
    assert len(taken) > 100
    checked_by_promtool(tmp_path, [{"alert": f"A{n}", "expr": expr} for n, expr in enumerate(dict.fromkeys(taken))])


@pytest.mark.hypothesis
def test_no_template_that_is_taken_is_refused_by_prometheus(tmp_path: Path) -> None:
    taken: list[str] = []

    @examples(2500, database=None)
    @given(st.one_of(TEMPLATES, TEMPLATES.map(lambda text: f"{{{{ {text} }}}}"), WELL_FORMED))
    def collect(text: str) -> None:
        try:
            alert_template.check(text)
        except alert_template.TemplateError:
            return
        taken.append(text)

    collect()
    assert len(taken) > 100
    rules = [
        {"alert": f"A{n}", "expr": "up == 0", "annotations": {"a": text}} for n, text in enumerate(dict.fromkeys(taken))
    ]
    checked_by_promtool(tmp_path, rules)


def checked_by_promtool(folder: Path, rules: list[dict[str, Any]]) -> None:
    file = folder / "all.rules.yml"
    file.write_text(yaml.safe_dump({"groups": [{"name": "g", "rules": rules}]}, allow_unicode=True), encoding="utf-8")
    result = promtool.check_rules(file)
    assert result.ok, result.output[:3000]


@pytest.mark.parametrize("text", ["{{ x", "a }} {{ b }}", "{{{{", "plain", '{{ "{{" }}'])
def test_a_literal_text_is_a_template_that_puts_it_out(text: str) -> None:
    alert_template.check(alert_template.literal(text))
