"""Parts of Grafana's field configuration that panels and tables share."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from vllm_sidecar.catalog.dashboards.panel import Color, Style

if TYPE_CHECKING:
    from collections.abc import Sequence

    from vllm_sidecar.catalog.dashboards import Panel, Word
    from vllm_sidecar.generate.dashboards.notation import Notation


_LOWEST = -1e9
"""Below every value of a panel: a missing value has the color of the first step."""
NEUTRAL = "transparent"
"""Behind a number that is neither good nor bad."""


def ref_id(index: int) -> str:
    """Return Grafana's name of a query: A, B, ..."""
    return chr(ord("A") + index)


def limits(panel: Panel, notation: Notation, bad: str = "") -> list[dict[str, Any]]:
    """Return the colors from each value on; empty if the panel names no threshold."""
    named = ((bad or panel.bad, Color.BAD), ("" if bad else panel.watch, Color.WATCH))
    found = [(value, color) for name, color in named if (value := notation.limit(name)) is not None]
    if not found:
        return []
    # A value that may be missing is not shown as good while it is.
    good = NEUTRAL if panel.style is Style.NUMBERS and panel.empty else Color.GOOD.value
    if panel.below:
        steps = [(_LOWEST, found[0][1].value), *((value, good) for value, _ in found)]
    else:
        steps = [(value, color.value) for value, color in found]
    return [{"color": good, "value": None}, *({"color": color, "value": value} for value, color in sorted(steps))]


def mappings(words: Sequence[Word]) -> list[dict[str, Any]]:
    """Return words that replace values."""
    options = {
        str(word.value): {"text": word.text, "color": word.color.value, "index": index}
        for index, word in enumerate(words)
    }
    return [{"type": "value", "options": options}] if options else []
