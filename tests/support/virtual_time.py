"""An event loop whose clock jumps to the next timer in place of waiting: hours of the real loops pass in seconds.

Only for code without sockets and threads, which cannot jump.
"""

from __future__ import annotations

import asyncio
import selectors
from typing import TYPE_CHECKING, Any, TypeVar

import vllm_sidecar.quantiles.model  # noqa: F401 - otherwise a thread would load it, for which such a loop cannot wait

if TYPE_CHECKING:
    from collections.abc import Coroutine

T = TypeVar("T")

START = 1000.0
"""What the clock of such a loop says at first."""


class _Jumping(selectors.SelectSelector):
    """Lets the time pass that it is asked to wait."""

    now = START

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        if timeout is None:
            raise RuntimeError("everything waits, and nothing is going to happen")
        self.now += max(0.0, timeout)
        return super().select(0)


class _Loop(asyncio.SelectorEventLoop):
    def __init__(self) -> None:
        self._jumping = _Jumping()
        super().__init__(self._jumping)

    def time(self) -> float:
        return self._jumping.now


def run(main: Coroutine[Any, Any, T]) -> T:
    """Run a coroutine to its end on a loop of its own whose time jumps."""
    with asyncio.Runner(loop_factory=_Loop) as runner:
        return runner.run(main)


def now() -> float:
    """Return the time of the running loop: a clock to inject."""
    return asyncio.get_running_loop().time()
