"""How many examples a property gets: few in the quick run, all with pytest --hypothesis-profile=all."""

from __future__ import annotations

from typing import Any

from hypothesis import settings

QUICK_SHARE = 5
FEWEST = 15


def examples(number: int, **more: Any) -> settings:
    """Return settings with so many examples, or a share of them in the quick run."""
    every = settings.get_current_profile_name() == "all"
    return settings(max_examples=number if every else min(number, max(FEWEST, number // QUICK_SHARE)), **more)
