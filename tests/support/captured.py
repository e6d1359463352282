"""Recorded bodies, and ways to make one dialect of another; a library for tests."""

from __future__ import annotations

import math
import re
from typing import TYPE_CHECKING

from places import CAPTURES

from vllm_sidecar.catalog.types import Scope
from vllm_sidecar.exposition import DifferentialParser
from vllm_sidecar.series.readings import Group
from vllm_sidecar.vllm.normalize import Normalizer

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from vllm_sidecar.series.readings import Reading, Readings

NAMES = sorted(path.name for path in CAPTURES.iterdir() if path.suffix in (".prom", ".openmetrics"))
TEXT_NAMES = [name for name in NAMES if name.endswith(".prom")]
LOADED = [name for name in TEXT_NAMES if name.endswith("__after.prom")]
BASELINE = "0.32.0__baseline__load.prom"
ENGINE = Group(Scope.ENGINE, ("tiny", "0"))


def text(name: str = BASELINE) -> str:
    """Return a recorded body."""
    return (CAPTURES / name).read_text()


def read(body: str) -> Readings:
    """Parse and normalise one body, as the first poll of a new sidecar would."""
    return Normalizer().normalize(DifferentialParser().parse(body.encode()))


def engine(body: str, model: str = "tiny", number: str = "0") -> Reading:
    """Return the reading of one engine of a body."""
    return read(body).groups[Group(Scope.ENGINE, (model, number))]


def vllm_lines(body: str) -> list[str]:
    """Return the sample lines of vLLM's own metrics."""
    return [line for line in body.splitlines() if line.startswith("vllm:")]


def map_samples(body: str, change: Callable[[str], str | Iterable[str]]) -> str:
    """Replace each sample line of vLLM's own metrics by what `change` makes of it: a line or several."""
    lines: list[str] = []
    for line in body.splitlines():
        changed = change(line) if line.startswith("vllm:") else line
        lines.extend([changed] if isinstance(changed, str) else changed)
    return "\n".join(lines) + "\n"


def without(body: str, pattern: str) -> str:
    """Drop the lines, comments included, in which a pattern is found."""
    return "".join(line for line in body.splitlines(keepends=True) if not re.search(pattern, line))


def add_label(line: str, pair: str) -> str:
    """Add a label pair to a sample line, before those it has."""
    head, _, value = line.rpartition(" ")
    return f"{head[:-1].replace('{', '{' + pair + ',', 1)}}} {value}" if "{" in head else f"{head}{{{pair}}} {value}"


def plain(value: float) -> float | str:
    """Make NaN equal to itself, for comparisons."""
    return "NaN" if math.isnan(value) else value
