"""Hours of a day, such as those of a nightly batch: `HH:MM-HH:MM` in UTC, the time zone of PromQL."""

import re
from typing import Annotated, NamedTuple

from pydantic import BeforeValidator

from vllm_sidecar.config.values import not_allowed

DAY = 24 * 60
"""Minutes."""
_HOURS = re.compile(r"([01]\d|2[0-3]):([0-5]\d)-([01]\d|2[0-3]|24(?=:00)):([0-5]\d)", re.ASCII)


class Hours(NamedTuple):
    """Start and end in minutes of the day; over midnight if `end` is before `start`."""

    start: int
    end: int


def _hours(value: object) -> Hours:
    found = _HOURS.fullmatch(value) if isinstance(value, str) else None
    if found is None:
        raise not_allowed('hours in UTC such as "02:00-03:30", or over midnight "23:30-01:00"')
    start, end = int(found[1]) * 60 + int(found[2]), int(found[3]) * 60 + int(found[4])
    if start == end % DAY:
        raise not_allowed("hours that end at another time than they start, and less than a day")
    return Hours(start, end % DAY)


def _listed(value: object) -> tuple[Hours, ...]:
    if not isinstance(value, list | tuple):
        raise not_allowed('a list of hours in UTC, such as ["02:00-03:30"]')
    return tuple(each if isinstance(each, Hours) else _hours(each) for each in value)


BatchHours = Annotated[tuple[Hours, ...], BeforeValidator(_listed)]
