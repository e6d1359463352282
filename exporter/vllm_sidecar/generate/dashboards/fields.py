"""Parts of Grafana's field configuration that panels and tables share."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from vllm_sidecar.catalog.dashboards.panel import Colour, Style

if TYPE_CHECKING:
    from collections.abc import Sequence

    from vllm_sidecar.catalog.dashboards import Panel, Word
    from vllm_sidecar.generate.dashboards.notation import Notation


_LOWEST = -1e9
"""Below every value of a panel: no value at all has the colour of the first step."""
NEUTRAL = "transparent"
"""Behind a number that is neither good nor bad."""


def ref_id(index: int) -> str:
    """Return Grafana's name of a query: A, B, ..."""
    return chr(ord("A") + index)


def limits(panel: Panel, notation: Notation, bad: str = "") -> list[dict[str, Any]]:
    """Return the colours from each value on; empty where the panel names no number."""
    named = ((bad or panel.bad, Colour.BAD), ("" if bad else panel.watch, Colour.WATCH))
    found = [(value, colour) for name, colour in named if (value := notation.limit(name)) is not None]
    if not found:
        return []
    # What may be missing is not called good while it is.
    good = NEUTRAL if panel.style is Style.NUMBERS and panel.empty else Colour.GOOD.value
    if panel.below:
        steps = [(_LOWEST, found[0][1].value), *((value, good) for value, _ in found)]
    else:
        steps = [(value, colour.value) for value, colour in found]
    return [{"color": good, "value": None}, *({"color": colour, "value": value} for value, colour in sorted(steps))]


def mappings(words: Sequence[Word]) -> list[dict[str, Any]]:
    """Return words in place of values."""
    options = {
        str(word.value): {"text": word.text, "color": word.colour.value, "index": index}
        for index, word in enumerate(words)
    }
    return [{"type": "value", "options": options}] if options else []
