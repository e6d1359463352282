"""What the generator writes into the chart: actions of Helm for thresholds, the schema, the table of values."""

from __future__ import annotations

import json
import re
import shutil
from typing import TYPE_CHECKING, Any

import pytest
from places import ROOT

from vllm_sidecar.catalog.alerts import ALERTS
from vllm_sidecar.generate.chart_values import values_table
from vllm_sidecar.generate.helm_chart import CHART, FILES, SCHEMA, chart_files, chart_sections
from vllm_sidecar.generate.output_files import FilesError

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.io

VALUES = """\
# For readers of the file.
image:
  # -- Where it is | from,
  # in two lines
  registry: ghcr.io
  tag: ""
# -- What may be left out
labels:
  a: {b: 1}
list:
  # A comment in between.
  # -- Deep
  deep: [1, <x>]
"""


@pytest.fixture(scope="module")
def files() -> dict[str, bytes]:
    return chart_files(ROOT, {"board.json": b"{}\n", "kubernetes/maps.yaml": b""})


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    shutil.copytree(ROOT / CHART, tmp_path / CHART)
    return tmp_path


def test_every_threshold_of_every_alert_is_a_value(files: dict[str, bytes]) -> None:
    text = files[f"{FILES}/alerts.yaml"].decode()
    included = set(re.findall(r'include "vllm-sidecar\.\w+" \(list \$ "(\w+)" "(\w+)" [^)]+\)', text))
    assert included == {(alert.name, each.name) for alert in ALERTS for each in alert.thresholds}
    assert "\N{SECTION SIGN}" not in text


def test_the_schema_has_the_settings_of_every_alert(files: dict[str, bytes]) -> None:
    settings = json.loads(files[SCHEMA])["$defs"]["alerts"]["properties"]
    common = {"enabled", "severity", "labels", "annotations"}
    for alert in ALERTS:
        own = {each.name for each in alert.thresholds} | ({"for"} if alert.hold else set())
        assert set(settings[alert.name]["properties"]) == common | own
        assert settings[alert.name]["additionalProperties"] is False


def test_the_chart_has_the_bytes_of_the_dashboards_and_no_other_files_of_their_folder(files: dict[str, bytes]) -> None:
    boards = {path: content for path, content in files.items() if "/dashboards/" in path}
    assert boards == {f"{FILES}/dashboards/board.json": b"{}\n"}


def test_every_value_is_described_or_is_part_of_one_that_is() -> None:
    table = chart_sections(ROOT)[f"{CHART}/README.md"]["values"]
    described = re.findall(r"^\| `([\w.]+)` \|", table, flags=re.MULTILINE)
    schema = json.loads((ROOT / SCHEMA).read_text())

    def leaves(found: dict[str, Any], path: str = "") -> list[str]:
        inner = found.get("properties")
        if not inner or not any(each.startswith(path) and each != path[:-1] for each in described):
            return [path[:-1]]
        return [leaf for name, each in inner.items() for leaf in leaves(each, f"{path}{name}.")]

    missing = [
        leaf
        for leaf in leaves(schema)
        if leaf != "global" and not any(leaf == each or leaf.startswith(f"{each}.") for each in described)
    ]
    assert missing == []


def test_the_table_has_defaults_and_descriptions_in_the_order_of_the_file() -> None:
    assert values_table(VALUES).splitlines()[2:] == [
        r'| `image.registry` | `"ghcr.io"` | Where it is \| from, in two lines |',
        '| `labels` | `{"a": {"b": 1}}` | What may be left out |',
        '| `list.deep` | `[1, "&lt;x>"]` | Deep |',
    ]


def test_a_schema_that_is_not_one_and_a_missing_file_are_named(copy: Path) -> None:
    (copy / SCHEMA).write_text("[]")
    with pytest.raises(FilesError, match=re.escape(f"{SCHEMA} must be JSON with an object")):
        chart_files(copy, {})
    (copy / CHART / "values.yaml").unlink()
    with pytest.raises(FilesError, match=r"values\.yaml is missing: restore it"):
        chart_sections(copy)
