"""Panels side by side on Grafana's grid, line by line."""

from __future__ import annotations

from typing import TYPE_CHECKING

from vllm_sidecar.catalog.dashboards.panel import WIDTH

if TYPE_CHECKING:
    from collections.abc import Sequence

    from vllm_sidecar.catalog.dashboards import Panel

Place = dict[str, int]
"""Grafana's gridPos: h, w, x, y."""


def placed(panels: Sequence[Panel], top: int) -> tuple[list[Place], int]:
    """Place panels below `top`; return their places, and the top of the next ones.

    All panels of a line get the height of the highest one, otherwise Grafana moves panels below up.
    """
    places: list[Place] = []
    for line in _lines(panels):
        height = max(panel.height for panel in line)
        left = 0
        for panel in line:
            places.append({"h": height, "w": panel.width, "x": left, "y": top})
            left += panel.width
        top += height
    return places, top


def _lines(panels: Sequence[Panel]) -> list[list[Panel]]:
    lines: list[list[Panel]] = []
    for panel in panels:
        if not lines or sum(each.width for each in lines[-1]) + panel.width > WIDTH:
            lines.append([])
        lines[-1].append(panel)
    return lines
