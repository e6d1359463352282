"""Every alert has a runbook with five sections; its queries parse and name metrics that exist, its flags are vLLM's."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import yaml

import promtool
from vllm_sidecar.catalog.alerts import ALERTS
from vllm_sidecar.catalog.slos import SLO_ALERTS
from vllm_sidecar.config.thresholds import labels_of

FOLDER = Path(__file__).parents[1] / "rules" / "runbooks"
BOOKS = sorted(FOLDER.glob("Vllm*.md"))
ALL = [*BOOKS, FOLDER / "README.md"]
SECTIONS = ["Meaning", "Impact", "Diagnosis", "Mitigation", "Escalation"]
FLAGS = {
    *(Path(__file__).parent / "vllm_flags.txt").read_text().split(),
    "--custom-histogram-buckets",  # vLLM 0.33
    *("--thresholds", "--live", "--out"),  # of vllm-sidecar
}


def queries(book: Path) -> list[str]:
    blocks = re.findall(r"```promql\n(.*?)```", book.read_text(), flags=re.DOTALL)
    return [line for block in blocks for line in block.splitlines() if line]


def test_every_alert_has_a_runbook_and_every_runbook_an_alert() -> None:
    assert {book.stem for book in BOOKS} == {*(alert.name for alert in ALERTS), *SLO_ALERTS}


@pytest.mark.parametrize("book", BOOKS, ids=lambda book: book.stem)
def test_a_runbook_has_its_five_sections_in_order_and_a_query(book: Path) -> None:
    text = book.read_text()
    assert text.startswith(f"# {book.stem}\n")
    assert re.findall(r"^## (.+)$", text, flags=re.MULTILINE) == SECTIONS
    assert all(part.strip() for part in re.split(r"^## .+$", text, flags=re.MULTILINE)[1:])
    assert queries(book)


@pytest.mark.parametrize("book", ALL, ids=lambda book: book.stem)
def test_every_metric_of_a_query_is_in_the_catalog(book: Path) -> None:
    for query in queries(book):
        for name in re.findall(r"\bvllm_sidecar_(\w+)", query):
            labels_of(name)  # raises where there is none


def test_prometheus_can_read_every_query(tmp_path: Path) -> None:
    rules = [
        {"record": f"book:{number}:query", "expr": query}
        for number, query in enumerate(query for book in ALL for query in queries(book))
    ]
    file = tmp_path / "queries.yml"
    file.write_text(yaml.safe_dump({"groups": [{"name": "books", "rules": rules}]}))
    verdict = promtool.check_rules(file)
    assert verdict.ok, verdict.output


@pytest.mark.parametrize("book", ALL, ids=lambda book: book.stem)
def test_every_flag_and_link_exists(book: Path) -> None:
    text = book.read_text()
    assert set(re.findall(r"`(--[a-z][a-z0-9-]+)", text)) <= FLAGS
    for target in re.findall(r"\]\(([^)#]+)\)", text):
        assert (FOLDER / target).exists(), target
