"""Draws docs/images/percentiles.svg: a minute of a real vLLM, as it was, as the sidecar and as the buckets have it.

python tests/bench/accuracy/draw.py
"""

from __future__ import annotations

from math import ceil, log10
from pathlib import Path
from typing import TYPE_CHECKING

from suite import real

from vllm_sidecar.quantiles import window_quantiles

if TYPE_CHECKING:
    from collections.abc import Sequence

    from suite import Case

PICTURE = Path(__file__).parents[3] / "docs" / "images" / "percentiles.svg"
SHOWN = "real tpot"
SHARES = [i / 100 for i in range(1, 101)]
WIDTH, HEIGHT, LEFT, TOP, RIGHT, BOTTOM = 720, 400, 60, 50, 20, 50
SMALLEST, LARGEST = 0.003, 0.12
LINES = (("as it was", "#111111", 4.0), ("buckets and sums (the sidecar)", "#1f77b4", 2.0),
         ("buckets alone (histogram_quantile)", "#d62728", 2.0))  # fmt: skip


def x_of(seconds: float) -> float:
    share = (log10(seconds) - log10(SMALLEST)) / (log10(LARGEST) - log10(SMALLEST))
    return LEFT + (WIDTH - LEFT - RIGHT) * min(1.0, max(0.0, share))


def y_of(share: float) -> float:
    return HEIGHT - BOTTOM - (HEIGHT - TOP - BOTTOM) * share


def text(x: float, y: float, words: str, anchor: str = "middle", colour: str = "#333333") -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" fill="{colour}">{words}</text>'


def curve(values: Sequence[float | None], colour: str, width: float) -> str:
    points = " ".join(
        f"{x_of(value):.1f},{y_of(share):.1f}" for share, value in zip(SHARES, values, strict=True) if value
    )
    return f'<polyline points="{points}" fill="none" stroke="{colour}" stroke-width="{width}" stroke-linejoin="round"/>'


def picture(case: Case, values: Sequence[float]) -> str:
    true = [values[max(0, ceil(share * len(values)) - 1)] for share in SHARES]
    ours = window_quantiles(case.bounds, case.polls, SHARES)
    alone = window_quantiles(case.bounds, [(counts, None) for counts, _ in case.polls], SHARES)
    box = f'viewBox="0 0 {WIDTH} {HEIGHT}" font-family="sans-serif" font-size="13"'
    parts = [f'<svg xmlns="http://www.w3.org/2000/svg" {box}>']
    parts.append(f'<rect width="{WIDTH}" height="{HEIGHT}" fill="#ffffff"/>')
    for bound in case.bounds:
        if SMALLEST < bound < LARGEST:
            x = x_of(bound)
            parts.append(f'<path d="M{x:.1f} {TOP}V{HEIGHT - BOTTOM}" stroke="#bbbbbb" stroke-dasharray="4 3"/>')
            parts.append(text(x, HEIGHT - BOTTOM + 18, f"{1e3 * bound:g} ms"))
    for share in (0.5, 0.9, 0.95, 0.99):
        y = y_of(share)
        parts.append(f'<path d="M{LEFT} {y:.1f}H{WIDTH - RIGHT}" stroke="#eeeeee"/>')
        if share != 0.95:  # there is no room between its neighbours
            parts.append(text(LEFT - 8, y + 4, f"p{100 * share:g}", "end"))
    for (name, colour, width), line in zip(LINES, (true, ours, alone), strict=True):
        parts.append(curve(line, colour, width))
        parts.append(text(LEFT + 215 * [entry[0] for entry in LINES].index(name), TOP - 26, name, "start", colour))
    parts.append(
        text((LEFT + WIDTH - RIGHT) / 2, HEIGHT - 8, "time per output token; dashed: bounds of vLLM's buckets")
    )
    return "\n".join([*parts, "</svg>", ""])


def main() -> None:
    case, values = next((case, values) for case, values in real() if case.shape == SHOWN)
    PICTURE.write_text(picture(case, values), encoding="utf-8")
    print(f"{PICTURE} drawn from {len(values)} requests")


if __name__ == "__main__":
    main()
