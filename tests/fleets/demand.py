"""Traffic of the models: requests a second at each time."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from fleets.clock import DAY, HOUR, WEEKEND

if TYPE_CHECKING:
    from fleets.clock import Floats, Mask

WEEKEND_SHARE = 1 / 3
BATCH_HOURS = (2.0, 3.0)
BATCH_FACTOR = 3.0


def hour_of(times: Floats) -> Floats:
    """Return the hour of the day."""
    return times % DAY / HOUR


def in_batch(times: Floats) -> Mask:
    """Return when the nightly batch runs."""
    hours = hour_of(times)
    return (hours >= BATCH_HOURS[0]) & (hours < BATCH_HOURS[1])


def chat(times: Floats) -> Floats:
    """Six a second at night, eight times that at noon, a third of it at the weekend, and the batch."""
    hours = hour_of(times)
    day = np.clip(np.sin((hours - 6.0) / 14.0 * np.pi), 0.0, None) * ((hours > 6.0) & (hours < 20.0))
    weekend = np.isin(times // DAY, WEEKEND)
    found: Floats = (6.0 + 40.0 * day**0.8) * np.where(weekend, WEEKEND_SHARE, 1.0)
    return found * np.where(in_batch(times), BATCH_FACTOR, 1.0)


def large(times: Floats) -> Floats:
    """Three replicas' worth of steady traffic with a gentle day."""
    return 2.0 + 1.5 * np.clip(np.sin((hour_of(times) - 6.0) / 12.0 * np.pi), 0.0, None)


def night(times: Floats) -> Floats:
    """Traffic from seven in the morning until ten to nine in the evening, and none else: KEDA ends its pods at nine."""
    hours = hour_of(times)
    return np.where((hours >= 7.25) & (hours < 20.8), 1.5, 0.0)
