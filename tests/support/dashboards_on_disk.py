"""The committed dashboards, and their queries as Grafana would send them; a library for tests."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from places import ROOT

from vllm_sidecar.generate.dashboards.panels import EMPTY

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

FOLDER = ROOT / "dashboards"
DOCUMENTS: dict[str, dict[str, Any]] = {path.stem: json.loads(path.read_text()) for path in FOLDER.glob("*.json")}


@dataclass(frozen=True)
class Asked:
    """One query of a panel."""

    dashboard: str
    panel: str
    expr: str


def panels(document: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return all panels but rows, those in closed rows too."""
    found = []
    for panel in document["panels"]:
        found += panel["panels"] if panel["type"] == "row" else [panel]
    return found


def may_be_empty() -> set[tuple[str, str]]:
    """Return board and title of the panels that say themselves why they have no data."""
    return {
        (uid, panel["title"])
        for uid, document in DOCUMENTS.items()
        for panel in panels(document)
        if panel["type"] != "text" and panel["fieldConfig"]["defaults"]["noValue"] != EMPTY
    }


def asked(chosen: Mapping[str, str], interval: str = "1m", time_range: str = "1h") -> Iterator[Asked]:
    """Yield every query of every board, with values in place of Grafana's variables.

    Args:
        chosen: What stands for each variable, a regular expression.
        interval: What stands for `$__rate_interval`.
        time_range: What stands for `$__range`.
    """
    values = {"__rate_interval": interval, "__range": time_range, **chosen}
    for uid, document in sorted(DOCUMENTS.items()):
        for panel in panels(document):
            for target in panel.get("targets", ()):
                yield Asked(uid, panel["title"], filled(target["expr"], values))


def filled(expr: str, values: Mapping[str, str]) -> str:
    """Put values in place of variables; one that is not given stays, and no parser takes it."""
    return re.sub(r"\$(\w+)", lambda found: values.get(found[1], found[0]), expr)


ANYTHING = dict.fromkeys(("cluster", "namespace", "job", "model_name", "engine", "instance"), ".*")
