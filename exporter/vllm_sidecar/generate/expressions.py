"""Expressions and texts of the catalog -> PromQL and templates of Prometheus, with a user's thresholds put in."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from vllm_sidecar.catalog.alerts import Measure
from vllm_sidecar.catalog.alerts.types import LABEL_SETS, SIDECAR
from vllm_sidecar.catalog.types import PREFIX
from vllm_sidecar.config import format_duration, parse_duration
from vllm_sidecar.config.thresholds import labels_of
from vllm_sidecar.generate.templating import JINJA

if TYPE_CHECKING:
    from collections.abc import Mapping

    from vllm_sidecar.catalog.alerts import Threshold
    from vllm_sidecar.config.thresholds import Thresholds

_METRIC = re.compile(r"~([a-z0-9_]+)(?:\{([^}]*)\})?")
_RANGE = re.compile(r"\[(\w+)\]")
_OFFSET = re.compile(r"\boffset (\w+)")
RANGE_SCRAPES = 4
"""Scrapes that a range must hold: rate() needs two, one may fail, and the ends are cut off."""


def expression(text: str, values: Mapping[str, str], thresholds: Thresholds, matcher: str = "") -> str:
    """Write an expression of the catalog as PromQL.

    Args:
        text: In the notation of `catalog.alerts.types`.
        values: What stands for the names of thresholds.
        thresholds: For the selector, the job and the times.
        matcher: A matcher of `model_name`, for metrics that have it.
    """
    sidecar = _joined(f'job=~"{thresholds.sidecar_job}"', thresholds.selector)
    named = JINJA.from_string(text).render(**LABEL_SETS, **{SIDECAR: sidecar}, **values)
    selected = _METRIC.sub(lambda found: _selected(found[1], found[2] or "", thresholds.selector, matcher), named)
    return _OFFSET.sub(
        lambda found: f"offset {scaled(found[1], thresholds)}",
        _RANGE.sub(lambda found: f"[{_range(found[1], thresholds)}]", selected),
    )


def _selected(metric: str, own: str, selector: str, matcher: str) -> str:
    matchers = _joined(own, matcher if "model_name" in labels_of(metric) else "", selector)
    return f"{PREFIX}{metric}{{{matchers}}}" if matchers else PREFIX + metric


def _joined(*matchers: str) -> str:
    return ",".join(each for each in matchers if each)


def scaled(duration: str, thresholds: Thresholds) -> str:
    """Multiply a duration by the user's time scale."""
    return format_duration(parse_duration(duration) * thresholds.time_scale)


def _range(duration: str, thresholds: Thresholds) -> str:
    seconds = parse_duration(duration) * thresholds.time_scale
    return format_duration(max(seconds, RANGE_SCRAPES * thresholds.scrape_interval))


def in_expression(threshold: Threshold, value: float) -> str:
    """Write a threshold for PromQL: a duration of the rule itself as such, everything else as a number."""
    return format_duration(value) if threshold.measure is Measure.DURATION else f"{value:g}"


def in_text(threshold: Threshold, value: float, thresholds: Thresholds) -> str:
    """Write a threshold for people."""
    if threshold.measure is Measure.DURATION:
        return format_duration(value * thresholds.time_scale)
    if threshold.measure is Measure.SECONDS:
        return format_duration(value)
    return f"{100 * value:g}%" if threshold.measure is Measure.RATIO else f"{value:g}"


def model_matcher(model: str | None, others: tuple[str, ...]) -> str:
    """Return the matcher of `model_name` for one model, or for all but those that have settings of their own."""
    if model is not None:
        return f'model_name="{_quoted(model)}"'
    if not others:
        return ""
    return f'model_name!~"{_quoted("|".join(re.escape(each) for each in others))}"'


def _quoted(text: str) -> str:
    return text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
