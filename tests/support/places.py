"""Folders of the checkout that tests read."""

from __future__ import annotations

from pathlib import Path

TESTS = Path(__file__).parents[1]
ROOT = TESTS.parent
EXPORTER = ROOT / "exporter"
RULES = ROOT / "rules"
CAPTURES = TESTS / "captures"
"""Bodies of real servers."""
GOLDEN = TESTS / "golden"
