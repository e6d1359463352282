"""Injects faults into the running program and prints what was promised and what was seen.

    python tests/faults [--group TEXT] [-o FILE]       all of it takes some five minutes

The exit code is 1 if a promise was broken.
"""

from __future__ import annotations

import argparse
import asyncio
import sys
from pathlib import Path

HERE = Path(__file__).parent
sys.path[:0] = [str(HERE), str(HERE.parent / "support")]

import http_answers  # noqa: E402 - the helpers of the tests are beside this folder
import many_series  # noqa: E402
import texts  # noqa: E402
import values  # noqa: E402
import watched  # noqa: E402
from table import Group, markdown  # noqa: E402

GROUPS = {
    "Statuses of /metrics": http_answers.statuses,
    "Connections and framing of /metrics": http_answers.framing,
    "Encodings and types of /metrics": http_answers.encodings,
    "Text of /metrics": texts.texts,
    "Values of /metrics": values.values,
    "Labels of /metrics": many_series.labels,
    "Floods of series in /metrics": many_series.floods,
}
FEW = 2
"""Floods at a time: each is as much work as a hundred servers."""


def groups(wanted: str) -> list[Group]:
    """Run the groups whose title contains a text."""
    found = []
    for title, faults in GROUPS.items():
        if wanted.lower() in title.lower():
            found.append(
                asyncio.run(watched.judged(title, list(faults()), FEW if title.startswith("Floods") else watched.BATCH))
            )
            print(f"{title}: {sum(row.held for row in found[-1].rows)} of {len(found[-1].rows)} held", file=sys.stderr)
    return found


def main() -> int:
    """Run what was asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--group", default="", help="only groups whose title contains this")
    parser.add_argument("-o", dest="output", type=Path, help="also write the tables here, as Markdown")
    given = parser.parse_args()
    found = groups(given.group)
    broken = [row for group in found for row in group.rows if not row.held]
    if given.output:
        given.output.write_text(markdown(found), encoding="utf-8")
    for row in broken:
        print(f"BROKEN {row.fault}: promised {row.promise}; observed {row.observed}")
    print(f"{sum(len(group.rows) for group in found)} faults, {len(broken)} promises broken")
    return int(bool(broken))


if __name__ == "__main__":
    sys.exit(main())
