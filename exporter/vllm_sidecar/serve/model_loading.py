"""Loads the model of the quantiles, and numpy with it, in a thread: on the event loop it would hold it for 0.2 s."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from typing import TYPE_CHECKING

from vllm_sidecar.quantiles import is_loaded, load

if TYPE_CHECKING:
    from vllm_sidecar.series.readings import Readings

_PAUSE = 0.02
_loading: list[threading.Thread] = []
"""The thread that loads it, once there is something to estimate."""


async def model_loaded(readings: Readings) -> None:
    """Return once the model is loaded, or at once if the server has not served anything that it would be needed for.

    Where no thread can be started, the first estimate loads it.
    """
    if not _loading and not is_loaded() and _has_served(readings):
        _loading.append(threading.Thread(target=load, name="load-quantiles", daemon=True))
        with contextlib.suppress(RuntimeError):
            _loading[0].start()
    # An event would belong to one event loop, and the thread belongs to the process.
    while _loading and _loading[0].is_alive():  # noqa: ASYNC110
        await asyncio.sleep(_PAUSE)


def _has_served(readings: Readings) -> bool:
    return any(
        histogram.cumulative[-1] > 0.0 for group in readings.groups.values() for histogram in group.histograms.values()
    )
