"""Injects faults into the running program and prints what was promised and what was seen.

    python tests/faults [--group TEXT] [--sample N] [-o FILE]     all of it takes seven minutes on two free cores

The exit code is 1 if a promise was broken.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from pathlib import Path

HERE = Path(__file__).parent
sys.path[:0] = [str(HERE), str(HERE.parent / "support"), str(HERE.parent)]

from groups import GROUPS  # noqa: E402 - the helpers of the tests are beside this folder
from page import page  # noqa: E402
from table import Group, Row, cell  # noqa: E402


def groups(wanted: str, sample: int = 0) -> list[Group]:
    """Run the groups whose title contains a text, or a sample of each."""
    found = []
    for title, kind in GROUPS.items():
        if wanted.lower() in title.lower():
            began = time.monotonic()
            found.append(kind.run(title, sample))
            held = sum(row.held for row in found[-1].rows)
            print(f"{title}: {held} of {len(found[-1].rows)} held, {time.monotonic() - began:.0f} s", file=sys.stderr)
    return found


def main() -> int:
    """Run what was asked for, or read the rows of earlier runs."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--group", default="", help="only groups whose title contains this")
    parser.add_argument("--sample", type=int, default=0, metavar="N", help="only about N faults of each group")
    parser.add_argument("--rows", type=Path, help="write the rows here, as JSON")
    parser.add_argument("--read", type=Path, nargs="+", default=[], help="read these rows instead of injecting faults")
    parser.add_argument("-o", dest="output", type=Path, help="write them into the generated section of this page")
    parser.add_argument("--list", action="store_true", help="inject nothing; print the names of all faults, as JSON")
    given = parser.parse_args()
    if given.list:
        print(json.dumps({title: [cell(case.name) for case in kind.cases()] for title, kind in GROUPS.items()}))
        return 0
    found = [group for path in given.read for group in read(path)] or groups(given.group, given.sample)
    broken = [row for group in found for row in group.rows if not row.held]
    if given.rows:
        given.rows.write_text(
            json.dumps([[title, rows, measured] for title, rows, measured in found]), encoding="utf-8"
        )
    if given.output:
        text = given.output.read_text(encoding="utf-8") if given.output.exists() else ""
        given.output.write_text(page(text, found), encoding="utf-8")
    for row in broken:
        print(f"BROKEN {row.fault}: promised {row.promise}; observed {row.observed}")
    print(f"{sum(len(group.rows) for group in found)} faults, {len(broken)} promises broken")
    return int(bool(broken))


def read(path: Path) -> list[Group]:
    """Return the rows that an earlier run wrote."""
    found = json.loads(path.read_text(encoding="utf-8"))
    return [Group(title, [Row(*row) for row in rows], measured) for title, rows, measured in found]


if __name__ == "__main__":
    sys.exit(main())
