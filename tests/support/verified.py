"""Remembers in tests/alerts/verified.json with which rules and cases no mutant of a rule went unnoticed.

Playing all mutants takes many minutes, and their outcome follows from the rules, the cases and the mutants alone: what
is recorded with the same digest need not be played again. The file has one line for each rule, sorted, so that
branches that change different rules merge.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from collections.abc import Callable, Collection

FILE = Path(__file__).parents[1] / "alerts" / "verified.json"
COMMAND = "pytest --numprocesses=auto --record-mutants -k mutants"


def digest(*parts: Any) -> str:
    """Return the digest of what decides the outcome: values that JSON can hold."""
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:20]


def recorded() -> dict[str, str]:
    """Return the digests by what they are of."""
    found: dict[str, str] = json.loads(FILE.read_text())
    return found


def verify_once(config: pytest.Config, name: str, now: str, verify: Callable[[], None]) -> None:
    """Verify unless that was recorded with this digest; then record it if that is asked for, or fail with how to."""
    if recorded().get(name) == now:
        return
    verify()
    if not config.getoption("--record-mutants"):
        pytest.fail(f"{name}: the rule, its cases or its mutants changed. All holds; record that with: {COMMAND}")
    _write(lambda found: found | {name: now})


def only_of(config: pytest.Config, kind: str, names: Collection[str]) -> None:
    """Fail if something is recorded of a rule that is gone, or delete that if recording is asked for."""
    gone = {key for key in recorded() if key.partition(" ")[0] == kind and key not in names}
    if gone and config.getoption("--record-mutants"):
        _write(lambda found: {key: value for key, value in found.items() if key not in gone})
        return
    assert gone == set(), f"recorded, and no longer there; delete them with: {COMMAND}"


def _write(change: Callable[[dict[str, str]], dict[str, str]]) -> None:
    """Rewrite the file; other workers may do so too."""
    with FILE.open("r+") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        found = change(json.load(file))
        file.seek(0)
        file.truncate()
        json.dump(found, file, indent=0, sort_keys=True)
        file.write("\n")
