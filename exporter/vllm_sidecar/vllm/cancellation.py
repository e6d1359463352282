"""Whether a task was canceled from outside: libraries raise CancelledError on their own, too."""

from __future__ import annotations

import asyncio


def is_canceled() -> bool:
    """Return whether the running task was canceled from outside."""
    task = asyncio.current_task()
    return task is not None and task.cancelling() > 0
