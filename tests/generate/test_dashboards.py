"""The dashboards: whole, laid out without overlaps, and of queries that can be asked."""

from __future__ import annotations

import itertools
import json
import re
from collections import Counter
from typing import TYPE_CHECKING, Any

import dashboards_on_disk
import promql_parser
import pytest
import yaml
from places import ROOT
from rows import for_each

from vllm_sidecar import cli
from vllm_sidecar.catalog import OWN
from vllm_sidecar.catalog.alerts import ALERTS
from vllm_sidecar.catalog.dashboards import DASHBOARDS, Panel, Query, Style
from vllm_sidecar.catalog.dashboards.server_state import SERVER_STATES
from vllm_sidecar.catalog.objectives import DASHBOARD
from vllm_sidecar.generate.dashboards import CONFIG_MAPS, dashboard_files
from vllm_sidecar.generate.dashboards.grid import placed
from vllm_sidecar.generate.dashboards.notation import Notation
from vllm_sidecar.generate.settings.thresholds import Thresholds

if TYPE_CHECKING:
    from pathlib import Path

DOCUMENTS = sorted(dashboards_on_disk.DOCUMENTS.items())
IDS = [uid for uid, _ in DOCUMENTS]
VARIABLES = ["datasource", "cluster", "namespace", "job", "model_name", "instance", "engine"]
CONFIG_MAP_BYTES = 1024 * 1024

each_board = pytest.mark.parametrize(("uid", "document"), DOCUMENTS, ids=IDS)


def every_target() -> list[tuple[str, str, dict[str, Any]]]:
    return [
        (uid, panel["title"], target)
        for uid, document in DOCUMENTS
        for panel in dashboards_on_disk.panels(document)
        for target in panel.get("targets", ())
    ]


def test_there_is_a_file_for_each_dashboard_of_the_catalog_and_no_other() -> None:
    assert set(dashboards_on_disk.DOCUMENTS) == {dashboard.uid for dashboard in DASHBOARDS}
    assert {alert.dashboard for alert in ALERTS} | {DASHBOARD} <= set(dashboards_on_disk.DOCUMENTS)


@each_board
def test_a_dashboard_has_nothing_that_a_server_gave_and_loads_in_grafana_11(uid: str, document: dict[str, Any]) -> None:
    assert document["uid"] == uid
    assert not {"id", "version", "gnetId", "__inputs", "__requires"} & set(document)
    assert document["schemaVersion"] <= 41
    text = json.dumps(document)
    assert '"uid": "${datasource}"' in text
    assert not set(re.findall(r'"datasource": \{"type": "prometheus", "uid": "([^"]*)"\}', text)) - {"${datasource}"}


@each_board
def test_panels_do_not_overlap_and_fit_into_24_columns(uid: str, document: dict[str, Any]) -> None:
    def cells(panel: dict[str, Any]) -> set[tuple[int, int]]:
        place = panel["gridPos"]
        assert 0 <= place["x"] <= place["x"] + place["w"] <= 24, panel["title"]
        rows = range(place["y"], place["y"] + place["h"])
        return set(itertools.product(range(place["x"], place["x"] + place["w"]), rows))

    for level in (document["panels"], *(row["panels"] for row in document["panels"] if row["type"] == "row")):
        taken = Counter(cell for panel in level for cell in cells(panel))
        assert not [cell for cell, times in taken.items() if times > 1], uid


def test_a_line_of_panels_is_full_and_of_one_height() -> None:
    sizes = ((16, 4), (8, 6), (24, 3))
    made = [
        Panel(title="t", help="h.", style=Style.LINES, queries=(Query("1"),), width=width, height=height)
        for width, height in sizes
    ]
    places, bottom = placed(made, 10)
    assert places == [
        {"h": 6, "w": 16, "x": 0, "y": 10},
        {"h": 6, "w": 8, "x": 16, "y": 10},
        {"h": 3, "w": 24, "x": 0, "y": 16},
    ]
    assert bottom == 19


@each_board
def test_ids_and_titles_are_unique_and_every_panel_says_what_it_means(uid: str, document: dict[str, Any]) -> None:
    found = dashboards_on_disk.panels(document)
    every = [panel["id"] for panel in [*found, *(row for row in document["panels"] if row["type"] == "row")]]
    assert len(set(every)) == len(every)
    assert not [title for title, times in Counter(panel["title"] for panel in found).items() if times > 1]
    for panel in found:
        assert re.search(r"[.?]$", panel["description"]), (uid, panel["title"])
        assert panel["description"] != panel["title"]
        if panel["type"] != "text":
            assert panel["fieldConfig"]["defaults"]["unit"], (uid, panel["title"])
            assert panel["fieldConfig"]["defaults"]["noValue"], (uid, panel["title"])


@each_board
def test_variables_are_the_same_everywhere_and_each_narrows_the_next(uid: str, document: dict[str, Any]) -> None:
    variables = document["templating"]["list"]
    assert [each["name"] for each in variables] == VARIABLES
    assert variables[0]["current"] == {}
    for index, each in enumerate(variables[1:], 1):
        assert each["multi"]
        assert each["includeAll"]
        used = set(re.findall(r"\$(\w+)", each["query"]["query"]))
        assert used == set(VARIABLES[1:index]), f"{uid}: {each['name']}"


@each_board
def test_only_variables_that_there_are_are_used(uid: str, document: dict[str, Any]) -> None:
    macros = {"__rate_interval", "__range", "__url_time_range", "__data", "__value", "__all"}
    used = set(re.findall(r"\$\{?(\w+)", json.dumps(document)))
    assert used <= {*VARIABLES, *macros}, uid
    assert set(VARIABLES[:4]) <= used


@each_board
def test_a_dashboard_leads_to_the_others_and_marks_restarts_changes_and_pages(
    uid: str, document: dict[str, Any]
) -> None:
    (link,) = document["links"]
    assert link["includeVars"]
    assert link["keepTime"]
    assert set(link["tags"]) <= set(document["tags"])
    assert [each["name"] for each in document["annotations"]["list"]] == ["Restarts", "Changes", "Pages"]
    for target in re.findall(r"/d/([\w-]+)", json.dumps(document)):
        assert target in dashboards_on_disk.DOCUMENTS, uid


def test_every_query_can_be_parsed() -> None:
    found = list(dashboards_on_disk.asked(dashboards_on_disk.ANYTHING))
    assert len(found) > 200
    for each in found:
        promql_parser.parse(each.expr)


def test_marks_can_be_parsed_too() -> None:
    for _, document in DOCUMENTS:
        for mark in document["annotations"]["list"]:
            promql_parser.parse(dashboards_on_disk.filled(mark["expr"], dashboards_on_disk.ANYTHING))


def test_every_metric_is_chosen_by_the_variables_that_it_has_labels_for() -> None:
    for uid, title, target in every_target():
        for name, matchers in re.findall(r"\b(vllm_sidecar[\w:]*|up|ALERTS)\{([^}]*)\}", target["expr"]):
            assert 'cluster=~"$cluster"' in matchers or "VllmWatchdog" in matchers, (uid, title, name)
        assert not re.search(r"\bvllm_sidecar[\w:]*(?![\w:{])(?=[\s\[)])", target["expr"]), (uid, title)


NOT_SHOWN = {
    "window_seconds": "a setting; the HELP of recent signals explains it",
    "probe_last_success_timestamp_seconds": "the interval and the failures of probes are shown",
    "probe_server_time_ratio": "the interval and the duration of probes are shown, and a budget limits it",
    "config_last_reload_success_timestamp_seconds": "whether the last load succeeded is shown",
    "web_requests_in_flight": "connections and requests are shown",
}
"""Metrics of the sidecar about itself that are for a closer look, and why."""


def test_what_the_sidecar_says_of_itself_is_on_a_dashboard_or_in_a_rule() -> None:
    texts = [path.read_text() for folder in ("dashboards", "rules") for path in (ROOT / folder).glob("*.*")]
    used = set(re.findall(r"vllm_sidecar_([a-z0-9_]+)", " ".join(texts)))
    assert {signal.name for signal in OWN} - used == NOT_SHOWN.keys()


def test_a_chosen_model_hides_no_source_that_has_none() -> None:
    """GPUs, a server that has not answered yet, and what a plain Prometheus says of servers."""
    written = Notation(Thresholds()).promql('~up{source="vllm"} or ~requests_running')
    up, running = written.split(" or ")
    assert 'model_name=~"($model_name)?"' in up
    assert 'model_name=~"$model_name"' in running


def test_a_rate_is_over_the_interval_that_fits_scrape_and_zoom_unless_a_time_is_named_for_a_reason() -> None:
    named = {"5m", "10m", "1h", "1d", "$__range", "$__rate_interval"}
    for uid, title, target in every_target():
        assert set(re.findall(r"\[([^\]]+)\]", target["expr"])) <= named, (uid, title)


def test_panels_that_compare_with_thresholds_take_the_users() -> None:
    def red(thresholds: Thresholds) -> list[float]:
        document = json.loads(dashboard_files(thresholds)["vllm-engine.json"])
        (panel,) = (
            each
            for each in dashboards_on_disk.panels(document)
            if each["title"] == "How long do requests wait in the queue?"
        )
        steps = panel["fieldConfig"]["defaults"]["thresholds"]["steps"]
        return [step["value"] for step in steps if step["color"] == "red"]

    assert red(Thresholds()) == [10.0]
    assert red(Thresholds(profile="interactive")) == [2.0]
    own = Thresholds.model_validate({"alerts": {"VllmQueueWaitHigh": {"wait": "7s"}}})
    assert red(own) == [7.0]


def test_burn_panels_follow_the_windows_of_the_thresholds() -> None:
    burn = [{"long": "2h", "short": "10m", "factor": 5, "severity": "page", "for": "2m"}]
    files = dashboard_files(Thresholds.model_validate({"slos": {"burn": burn}}))
    text = files["vllm-slo.json"].decode()
    assert "slo_burn:ratio_rate2h{" in text
    assert "ratio_rate1h" not in text
    assert '"title": "Burn over 2h"' in text


def test_without_the_sidecar_a_query_reads_what_vllm_itself_gives() -> None:
    notation = Notation(Thresholds())
    both = notation.query(Query("max(~live_queue_wait_seconds)", plain="max(~requests_waiting)"))
    assert re.fullmatch(
        r"\(max\(vllm_sidecar_live.*\)\) or on \(cluster, .*engine\) \(max\(vllm_sidecar_requests_.*\)\)", both
    )
    top = notation.query(Query("~live_queue_wait_seconds", plain="~requests_waiting", top=3))
    assert " and topk(3, max_over_time(vllm_sidecar_live_queue_wait_seconds{" in top
    assert "@ end()))) or on () topk(3, vllm_sidecar_requests_waiting{" in top
    assert "bottomk(2, min_over_time(" in notation.query(Query("~saturation_ratio", top=-2))


def test_states_are_words_for_all_values_that_the_expression_gives() -> None:
    values = {word.value for word in SERVER_STATES}
    for uid, title, target in every_target():
        if "* 0 + 11" in target["expr"]:
            assert {int(value) for value in re.findall(r"\* 0 \+ (\d+)", target["expr"])} == values, (uid, title)


def test_config_maps_hold_the_dashboards_and_are_what_grafanas_sidecar_looks_for() -> None:
    maps = list(yaml.safe_load_all((dashboards_on_disk.FOLDER / CONFIG_MAPS).read_text()))
    assert len(maps) == len(DASHBOARDS)
    for each in maps:
        assert each["kind"] == "ConfigMap"
        assert each["metadata"]["labels"]["grafana_dashboard"] == "1"
        ((name, text),) = each["data"].items()
        document = dashboards_on_disk.DOCUMENTS[name.removesuffix(".json")]
        assert json.loads(text) == {key: value for key, value in document.items() if key != "generated"}
        assert len(text.encode()) < CONFIG_MAP_BYTES


def test_provisioning_names_a_folder_and_a_data_source_that_compose_mounts() -> None:
    folder = dashboards_on_disk.FOLDER / "provisioning"
    (provider,) = yaml.safe_load((folder / "dashboards" / "vllm-sidecar.yml").read_text())["providers"]
    (source,) = yaml.safe_load((folder / "datasources" / "vllm-sidecar.yml").read_text())["datasources"]
    services = yaml.safe_load((ROOT / "docker-compose.yml").read_text())["services"]
    assert f"./dashboards:{provider['options']['path']}:ro" in services["grafana"]["volumes"]
    assert "./dashboards/provisioning:/etc/grafana/provisioning:ro" in services["grafana"]["volumes"]
    assert source["url"] == "http://prometheus:9090"
    home = services["grafana"]["environment"]["GF_DASHBOARDS_DEFAULT_HOME_DASHBOARD_PATH"]
    assert home == f"{provider['options']['path']}/vllm-overview.json"


def test_the_command_writes_the_dashboards_and_leaves_those_of_the_user_alone(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "boards"
    assert cli.main(["generate", "dashboards", "--out", str(out)]) == 0
    assert json.loads((out / "vllm-gpu.json").read_text()) == dashboards_on_disk.DOCUMENTS["vllm-gpu"]
    assert cli.main(["generate", "dashboards", "--out", str(out), "--check"]) == 0
    (out / "vllm-old.json").write_bytes((out / "vllm-gpu.json").read_bytes())
    edited = (out / "vllm-slo.json").read_bytes().replace(b'"uid": "vllm-slo"', b'"uid": "vllm-slo-mine"', 1)
    (out / "mine.json").write_bytes(edited)
    (out / "own.json").write_text("{}")
    (out / "vllm-slo.json").write_text("{}")
    capsys.readouterr()
    assert cli.main(["generate", "dashboards", "--out", str(out), "--check"]) == 1
    told = "vllm-old.json: no longer generated; --prune deletes it\n"
    assert capsys.readouterr().out == f"vllm-slo.json: not as generated\n{told}"
    assert cli.main(["generate", "dashboards", "--out", str(out), "--prune"]) == 1
    assert (out / "vllm-slo.json").read_text() == "{}"
    assert (out / "vllm-old.json").exists()
    capsys.readouterr()
    assert cli.main(["generate", "dashboards", "--out", str(out), "--force"]) == 0
    assert capsys.readouterr().out == f"vllm-slo.json: written\n{told}"
    assert cli.main(["generate", "dashboards", "--out", str(out), "--prune"]) == 0
    assert not (out / "vllm-old.json").exists()
    assert (out / "own.json").exists()
    assert (out / "mine.json").read_bytes() == edited


def test_mistakes_in_the_thresholds_are_told_with_their_file(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "own.yaml"
    file.write_text("slos: {time_to_first_token: {threshold: 3s}}\n")
    assert cli.main(["generate", "dashboards", "--thresholds", str(file), "--out", str(tmp_path)]) == 1
    assert "own.yaml" in capsys.readouterr().err
    assert not list(tmp_path.glob("*.json"))


@for_each(
    ("changes", "problem"),
    [
        ({"help": "No sentence"}, "has a description that is not a sentence"),
        ({"width": 25}, "is not between 1 and 24 columns wide"),
        ({"queries": ()}, "has no query"),
        ({"text": "x"}, "has a text if and only if it is a text panel"),
    ],
)
def test_a_panel_that_breaks_a_rule_is_refused_when_the_catalog_is_made(changes: dict[str, Any], problem: str) -> None:
    made = {"title": "t", "help": "A sentence.", "style": Style.LINES, "queries": (Query("1"),), **changes}
    with pytest.raises(ValueError, match=problem):
        Panel(**made)
