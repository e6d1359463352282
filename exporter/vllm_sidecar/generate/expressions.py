"""Expressions and texts of the catalog -> PromQL and templates of Prometheus, with a user's thresholds put in."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from vllm_sidecar.catalog.alerts import RECORDS, Measure
from vllm_sidecar.catalog.alerts.alert import LABEL_SETS, SIDECAR
from vllm_sidecar.catalog.types import PREFIX, RECORD_PREFIX
from vllm_sidecar.config import format_duration, parse_duration
from vllm_sidecar.generate.settings.batch_hours import DAY
from vllm_sidecar.generate.settings.thresholds import labels_of
from vllm_sidecar.generate.templating import render

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from vllm_sidecar.catalog.alerts import Threshold
    from vllm_sidecar.generate.settings.batch_hours import Hours
    from vllm_sidecar.generate.settings.thresholds import Thresholds

_USERS = "\0"
"""Placeholder of the user's text for `<<sidecar>>`. It is inserted last, so that nothing in it is rewritten."""
_METRIC = re.compile(rf"(?:~([a-z0-9_]+)|@([a-z0-9_]+:[a-z0-9]+))(?:\{{([^}}]*)\}})?|{_USERS}")
_RANGE = re.compile(r"\[(\w+)\]")
_OFFSET = re.compile(r"\boffset (\w+)")
_CLUSTER = re.compile(r"\bcluster\b")
_MINUTE = "hour() * 60 + minute()"
RANGE_SCRAPES = 4
"""Scrapes that a range must hold: rate() needs two, one may fail, and one may be cut off at an end."""
FURTHEST = 30 * 86_400.0
"""Seconds that an expression may look back at most."""
AFTER_HOURS = 10
"""Minutes for which five-minute windows still contain a batch that has ended."""
LEAST_SECONDS = 0.001
"""The shortest time that Prometheus can write."""


def expression(text: str, values: Mapping[str, str], thresholds: Thresholds, matcher: str = "") -> str:
    """Write an expression of the catalog as PromQL.

    Args:
        text: In the notation of `catalog.alerts.alert`.
        values: Values of the thresholds, by name.
        thresholds: For the selector, the job and the times.
        matcher: A matcher of `model_name`, for metrics and records that have it.
    """
    named = in_cluster(render(text, **LABEL_SETS, **{SIDECAR: _USERS}, **values), thresholds)
    ranged = _RANGE.sub(lambda found: f"[{_range(found[1], thresholds)}]", named)
    timed = _OFFSET.sub(lambda found: f"offset {scaled(found[1], thresholds)}", ranged)
    return _METRIC.sub(lambda found: _selected(found[1], found[2], found[3] or "", thresholds, matcher), timed)


def outside(hours: Sequence[Hours], expr: str) -> str:
    """Disable an expression in the hours of batches, and until no window contains the batch anymore."""
    if not hours:
        return expr
    return f"({expr}) unless on () ({' or '.join(_during(each) for each in hours)})"


def longest(hours: Sequence[Hours]) -> int:
    """Return the minutes for which the longest hours disable an expression."""
    return max((each.end - each.start) % DAY for each in hours) + AFTER_HOURS


def _during(hours: Hours) -> str:
    if (hours.end - hours.start) % DAY + AFTER_HOURS >= DAY:
        return "vector(1)"
    end = (hours.end + AFTER_HOURS) % DAY or DAY
    between = "" if hours.start < end else f" or {_MINUTE}"  # over midnight it is after the start, or before the end
    return f"{_MINUTE} >= {hours.start}{between} < {end}"


def in_cluster(text: str, thresholds: Thresholds) -> str:
    """Write the user's name of the label `cluster` into a text of the catalog."""
    return _CLUSTER.sub(thresholds.cluster_label, text)


def of_sidecars(thresholds: Thresholds) -> str:
    """Return the matchers of Prometheus' own series about the sidecars."""
    return joined(f"job=~{quoted(thresholds.sidecar_job)}", thresholds.selector)


def _selected(metric: str | None, record: str | None, own: str, thresholds: Thresholds, matcher: str) -> str:
    if metric is not None:
        known = matcher if "model_name" in labels_of(metric) else ""
        return _series(PREFIX + metric, own, known, thresholds.selector)
    if record is not None:
        known = matcher if "model_name" in RECORDS[record].labels else ""
        # Records of another pack have another label `pack`; a pack without a name has no such label.
        pack = f"pack={quoted(thresholds.pack_name)}" if thresholds.pack_name else ""
        return _series(RECORD_PREFIX + record, own, known, pack)
    return of_sidecars(thresholds)


def _series(name: str, *matchers: str) -> str:
    found = joined(*matchers)
    return f"{name}{{{found}}}" if found else name


def joined(*matchers: str) -> str:
    """Join matchers, of which some may be empty."""
    return ",".join(each for each in matchers if each)


def scaled(duration: str, thresholds: Thresholds) -> str:
    """Multiply a duration by the user's time scale."""
    return format_duration(max(parse_duration(duration, FURTHEST) * thresholds.time_scale, LEAST_SECONDS))


def _range(duration: str, thresholds: Thresholds) -> str:
    seconds = parse_duration(duration) * thresholds.time_scale
    return format_duration(max(seconds, RANGE_SCRAPES * thresholds.scrape_interval))


def in_expression(threshold: Threshold, value: float) -> str:
    """Write a threshold for PromQL: a duration of the rule itself as a duration, all others as a number."""
    return format_duration(value) if threshold.measure is Measure.DURATION else f"{value:.15g}"


def in_text(threshold: Threshold, value: float, thresholds: Thresholds) -> str:
    """Write a threshold for people."""
    if threshold.measure is Measure.DURATION:
        return format_duration(max(value * thresholds.time_scale, LEAST_SECONDS))
    if threshold.measure is Measure.SECONDS:
        return format_duration(value)
    return f"{100 * value:g}%" if threshold.measure is Measure.RATIO else f"{value:g}"


def model_matcher(models: Sequence[str], others: Sequence[str] = ()) -> str:
    """Return the matcher of `model_name` for some models, or with none for all but `others`."""
    if len(models) == 1:
        return f"model_name={quoted(models[0])}"
    if not models and not others:
        return ""
    operator = "=~" if models else "!~"
    return f"model_name{operator}{quoted('|'.join(re.escape(each) for each in models or others))}"


def quoted(text: str) -> str:
    """Write a text as a string of PromQL."""
    escaped = text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
    return f'"{escaped}"'
