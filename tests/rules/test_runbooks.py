"""Every alert has a runbook that can be pasted: its commands are kubectl's, its queries find the series they name."""

from __future__ import annotations

import functools
import json
import re
import subprocess
from typing import TYPE_CHECKING

import promtool
import pytest
import runbook_commands as commands
import runbook_series as series
import yaml
from rows import for_each
from runbook_pages import EXAMPLE, FOLDER, LABELS, SECTIONS, Page, blocks, filled, pages, prose, queries, read
from slo_alert_names import SLO_ALERTS

from vllm_sidecar.catalog.alerts import ALERTS
from vllm_sidecar.catalog.gpu_fields import XID_SEVERITY
from vllm_sidecar.generate.settings.thresholds import labels_of

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.io

PAGES = pages()
GENERAL = read(FOLDER / "README.md")
ALL = [*PAGES, GENERAL]
OF_NO_MODEL = {"VllmWatchdog", "VllmRuleEvaluationsMissed"}
"""Alerts about Prometheus itself: their queries have no pod and no model to be scoped to."""
FLAGS = {
    *(FOLDER.parents[1] / "tests" / "vllm_flags.txt").read_text().split(),
    "--swap-space",  # of old versions of vLLM, and named as theirs
    "--context",  # of kubectl
}
PROGRAMS = {"kubectl", "export", "echo", "for"}
NOTE = (
    "The values are those of an example, here and in the queries below; "
    "see [how to read a runbook](README.md#how-to-read-a-runbook)."
)
NOTHING = re.compile(r"[Nn]othing (else )?(is|needs) to be done")
COST = re.compile(r"cost|minute|outage|capacity|ends|loses|restarts every")
by_name = for_each("page", PAGES, ids=lambda page: page.name)
by_page = for_each("page", ALL, ids=lambda page: page.name)


def test_every_alert_has_a_runbook_and_every_runbook_an_alert() -> None:
    assert {page.name for page in PAGES} == {*(alert.name for alert in ALERTS), *SLO_ALERTS}


@by_name
def test_a_page_begins_with_the_labels_and_has_its_four_sections_in_order(page: Page) -> None:
    assert page.text.startswith(f"# {page.name}\n\n```sh\nexport NAMESPACE=")
    assert page.headings == SECTIONS
    assert (NOTE in page.head) == (page.name != "VllmWatchdog")
    assert len(page.head.split("```")[-1].replace(NOTE, "").strip().splitlines()) in (1, 2, 3)
    for title in SECTIONS:
        assert prose(page.section(title)).strip(), title
    assert queries(page.section("Confirm"))
    assert "True" in page.section("Confirm") or "| yes |" in page.section("Confirm")
    assert len(page.text.splitlines()) <= 85


@by_name
def test_the_first_block_sets_exactly_the_variables_that_are_used(page: Page) -> None:
    first, *_ = blocks(page.head, "sh")
    rest = page.text.replace(first, "")
    shell = "\n".join([*blocks(rest, "sh"), *re.findall(r"`([^`\n]+)`", prose(rest))])
    used = set(re.findall(r"\$\{?([A-Z]+)\b(?!:\?)", shell))
    used |= {name for name, label in LABELS.items() if any(f'{label}="' in query for query in queries(page.text))}
    found = set(re.findall(r"^export (\w+)=\$\(", first, flags=re.MULTILINE))
    needed = used | set(re.findall(r"\$\{?([A-Z]+)\b", re.sub(r"^echo.*", "", first, flags=re.MULTILINE)))
    assert found <= used
    assert used <= found | set(page.exported)
    assert set(page.exported) <= needed


@by_name
def test_values_of_the_example_are_in_the_first_block_and_in_matchers_and_nowhere_else(page: Page) -> None:
    if page.name != "VllmWatchdog":
        assert page.exported == {name: EXAMPLE[name] for name in page.exported}
    rest = re.sub(r'\b(\w+)="([^"]*)"', lambda found: "" if found[1] in LABELS.values() else found[0], page.text)
    rest = rest.replace(blocks(page.head, "sh")[0].splitlines()[0], "")
    rest = re.sub(r"--chat-template|chat template", "", rest)
    for value in EXAMPLE.values():
        assert not re.search(rf"(?<![\w-]){re.escape(value)}(?![\w-])", rest), value
    for query in queries(page.text):
        for name, label in LABELS.items():
            assert set(re.findall(rf'\b{label}="([^"]*)"', query)) <= {EXAMPLE[name]}, query


@by_name
def test_labels_of_an_alert_take_the_place_of_the_example(page: Page, tmp_path: Path) -> None:
    real = dict.fromkeys(EXAMPLE, "x") | {"MODEL": 'Org/Model "7B" $(touch made)', "NAMESPACE": "prod", "POD": "real-1"}
    text = filled(page.text, real)
    done = subprocess.run(
        ["bash", "-c", f"{blocks(text, 'sh')[0].splitlines()[0]}\nprintf %s \"${{MODEL-}}|${{POD-}}\""],
        capture_output=True, text=True, check=True, cwd=tmp_path, timeout=60,
    )  # fmt: skip
    exported = page.exported
    assert done.stdout == f"{real['MODEL'] if 'MODEL' in exported else ''}|{'real-1' if 'POD' in exported else ''}"
    assert not list(tmp_path.iterdir())
    for value in (f'"{value}"' for name, value in EXAMPLE.items() if name in exported):
        assert value not in "\n".join(queries(text))
    check = tmp_path / "queries.yml"
    check.write_text(rules_of(queries(text)))
    assert promtool.check_rules(check).ok


@by_page
def test_blocks_are_shell_without_prose(page: Page) -> None:
    for block in blocks(page.text, "sh"):
        done = subprocess.run(["bash", "-n"], input=block, capture_output=True, text=True, check=False, timeout=60)
        assert not done.stderr
        assert {line.split()[0] for line in block.splitlines()} <= PROGRAMS, block


@by_page
def test_every_command_is_one_of_kubectl_and_scoped(page: Page, tmp_path: Path) -> None:
    head = page.text if page is GENERAL else page.head
    for call in commands.calls(head, page.text, tmp_path):
        check(call)


def check(call: commands.Call) -> None:
    assert call.verb in commands.FLAGS, call
    assert call.flags <= commands.FLAGS[call.verb], call
    assert commands.refused(call.verb, call.options) == "", call
    assert all(call.arguments), call
    raw = call.value("--raw")
    if raw is not None:
        pod = f"/api/v1/namespaces/{EXAMPLE['NAMESPACE']}/pods/{EXAMPLE['POD']}:(8000|10190)/proxy/"
        assert re.fullmatch(pod + r"(health|metrics|wake_up|is_sleeping|api/v1/status|-/healthy|-/reload)", raw), call
    elif call.verb in commands.ON_NODES or call.operands[:1] == ["node"]:
        assert "found-node" in call.operands or call.verb == "describe", call
        assert "-n" not in call.flags, call
    elif call.verb == "debug" and call.operands[0] == "node/found-node":
        assert "-n" not in call.flags, call
    else:
        assert call.value("-n") in commands.NAMESPACES or (call.verb == "get" and "-A" in call.flags), call
    if call.verb in ("get", "describe", "delete", "label") and raw is None:
        assert call.operands[0] in {*commands.RESOURCES, *commands.WORKLOADS}, call
    if call.verb.split()[0] in ("scale", "set", "rollout"):
        assert call.operands[0] in {*commands.WORKLOADS, "statefulset"}, call


@by_name
def test_the_bleeding_is_stopped_by_a_command_that_changes_something_or_nothing_is_to_be_done(
    page: Page, tmp_path: Path
) -> None:
    stop = page.section("Stop the bleeding")
    changing = [call for call in commands.calls(page.head, stop, tmp_path) if call.verb in commands.CHANGES]
    assert changing or NOTHING.search(stop)
    if changing:
        assert COST.search(prose(stop))
    if not NOTHING.search(stop):
        first = commands.calls(page.head, f"```sh\n{blocks(stop, 'sh')[0].splitlines()[0]}\n```", tmp_path)
        assert first[-1].verb in commands.CHANGES


def rules_of(found: list[str]) -> str:
    rules = [{"record": f"page:{number}:query", "expr": query} for number, query in enumerate(found)]
    return yaml.safe_dump({"groups": [{"name": "pages", "rules": rules}]})


@by_page
def test_every_query_is_scoped_to_the_pod_or_the_model(page: Page) -> None:
    for query in queries(page.text):
        names = re.findall(
            r"\b(vllm_sidecar[\w:]+|kube_\w+|container_\w+|up|scrape_\w+|process_\w+)\b(?!\s*[,)=])", query
        )
        if page.name in OF_NO_MODEL:
            continue
        assert names, query
        assert 'pod="chat-0"' in query or 'model_name="chat"' in query, query
        for selector in re.findall(r"(?:[a-z_]\w*[\w:]*)\{([^}]*)\}", query):
            assert 'namespace="llm"' in selector, query
        for name in names:
            assert re.search(rf"\b{name}\{{", query), query


@by_page
def test_every_metric_of_a_query_is_in_the_catalog(page: Page) -> None:
    for query in queries(page.text):
        for name in re.findall(r"\bvllm_sidecar_(\w+)\b(?!\.)", query):
            if name:
                labels_of(name)  # raises where there is none


@functools.cache
def found_nothing(folder: Path) -> str:
    """Evaluate the queries of all pages at once: the series are many, and promtool reads them once."""
    every = sorted({query for page in ALL for query in queries(page.text) if "__name__" not in query})
    file = folder / "queries.yml"
    file.write_text(json.dumps(series.finds_something(every)))
    result = promtool.test_rules(file)
    assert result.ok or re.search("got:|err:", result.output), result.output
    return result.output


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("pages")


@by_page
def test_every_query_finds_the_series_of_the_example(page: Page, folder: Path) -> None:
    output = found_nothing(folder)
    assert [query for query in queries(page.text) if f'expr: "count(({query}) ==' in output.replace('\\"', '"')] == []


def test_a_label_that_does_not_exist_finds_nothing(tmp_path: Path) -> None:
    good = 'vllm_sidecar_requests_running{namespace="llm",pod="chat-0"}'
    for number, (query, ok) in enumerate({good: True, good.replace("pod", "pot"): False}.items()):
        file = tmp_path / f"{number}.yml"
        file.write_text(json.dumps(series.finds_something([query])))
        assert promtool.test_rules(file).ok is ok


def test_prometheus_can_read_every_query(tmp_path: Path) -> None:
    file = tmp_path / "queries.yml"
    file.write_text(rules_of([query for page in ALL for query in queries(page.text)]))
    result = promtool.check_rules(file)
    assert result.ok, result.output


@by_page
def test_every_flag_and_link_exists(page: Page) -> None:
    assert set(re.findall(r"`(--[a-z][a-z0-9-]+)", prose(page.text))) <= FLAGS
    for target, anchor in re.findall(r"\]\(([^)#]*)(?:#([^)]+))?\)", page.text):
        path = FOLDER / target if target else FOLDER / "README.md"
        assert path.exists(), target
        titles = re.findall(r"^#+ (.+)$", path.read_text(), flags=re.MULTILINE)
        assert not anchor or anchor in {title.lower().replace(" ", "-") for title in titles}, anchor


@by_name
def test_every_threshold_that_a_page_names_exists(page: Page) -> None:
    known = {alert.name: {threshold.name for threshold in alert.thresholds} for alert in ALERTS}
    for line in prose(page.text).splitlines():
        if "thresholds.yaml" in line:
            of = {page.name, *re.findall(r"\bVllm\w+", line)}
            assert set(re.findall(r"`([a-z_]+)`", line)) <= {"slo", "slos", "action", "label"}.union(
                *(known.get(name, set()) for name in of), OTHER.get(page.name, set())
            ), line


OTHER = {
    "VllmInterTokenLatencySloBurn": {"inter_token_latency", "time_per_output_token"},
    "VllmOutputShapeChanged": {"length", "repetition"},
}
"""What such lines name besides thresholds."""


def test_the_general_page_lists_every_runbook() -> None:
    assert set(re.findall(r"\]\((Vllm\w+)\.md\)", GENERAL.text)) == {page.name for page in PAGES}


def test_every_xid_that_has_a_severity_has_an_action() -> None:
    tables = (FOLDER / "VllmGpuXidCritical.md").read_text() + (FOLDER / "VllmGpuXid.md").read_text()
    rows = " ".join(re.findall(r"^\| ([\d, to]+) \|", tables, flags=re.MULTILINE))
    spans = re.findall(r"(\d+) to (\d+)", rows)
    listed = {int(code) for code in re.findall(r"\d+", rows)}.union(*(range(int(a), int(b)) for a, b in spans))
    assert set(XID_SEVERITY) <= listed
