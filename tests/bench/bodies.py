"""Bodies of a real vLLM 0.32 under a load of 3 requests a second, one each second; and the same with more engines."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

SERIES = Path(__file__).parents[1] / "captures" / "series" / "0.32.0-rate3.jsonl.gz"


def recorded(path: Path = SERIES) -> Iterator[bytes]:
    """Yield the recorded bodies; the file holds for each poll the lines that differ from the one before."""
    lines: list[str] = []
    with gzip.open(path, "rt") as file:
        for row in map(json.loads, file):
            lines = lines[: row["length"]] + [""] * (row["length"] - len(lines))
            for index, text in row["lines"].items():
                lines[int(index)] = text
            yield ("\n".join(lines) + "\n").encode()


def with_engines(body: bytes, count: int) -> bytes:
    """Repeat every series of engine 0 for `count` engines, as a data-parallel server has them."""
    lines: list[bytes] = []
    for line in body.splitlines():
        lines.append(line)
        if b'engine="0"' in line:
            lines += (line.replace(b'engine="0"', b'engine="%d"' % number) for number in range(1, count))
    return b"\n".join(lines) + b"\n"
