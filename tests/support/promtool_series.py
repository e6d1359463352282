"""What a rehearsal shows at each scrape, as the input series of promtool."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from places import RULES

from vllm_sidecar.catalog.types import PREFIX

if TYPE_CHECKING:
    from scenario_run import ScenarioRun

READ = frozenset(
    re.findall(rf"\b{PREFIX}([a-z0-9_]+)", "".join(path.read_text() for path in sorted(RULES.glob("*.rules.yml"))))
)


def series(played: ScenarioRun) -> list[dict[str, str]]:
    """Write what the alerts read as promtool's series; a series that ends is marked stale, as a scrape does it."""
    found = [{"series": 'up{job="vllm-sidecar",instance="sidecar:10190"}', "values": f"1x{played.scrapes - 1}"}]
    for text, values in played.series.items():
        name, _, labels = text.partition("{")
        if name not in READ:
            continue
        instance = 'job="vllm-sidecar",instance="sidecar:10190"'
        full = f"{PREFIX}{name}{{{instance}{',' + labels if labels else '}'}"
        words = ["stale" if value is None else repr(value) for value in values]
        found.append({"series": full, "values": " ".join(words)})
    return found
