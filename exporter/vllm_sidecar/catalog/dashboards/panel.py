"""Types of the dashboards; a panel that breaks a rule raises ValueError when the catalog is imported.

Expressions are written as those of the alerts (see `catalog.alerts.alert`), with two more: `@name{...}` is a recorded
rule of the objectives, and `<<Alert.threshold>>` or `<<slo.name>>` is a number of the user's thresholds. Every `~name`
and `@name` gets the matchers of the dashboard's variables that it has labels for.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from vllm_sidecar.catalog.types import Unit


class Style(StrEnum):
    """How a panel draws; the values are Grafana's panel types."""

    LINES = "timeseries"
    NUMBERS = "stat"
    TABLE = "table"
    STATES = "state-timeline"
    HEATMAP = "heatmap"
    BARS = "bargauge"
    TEXT = "text"


class Color(StrEnum):
    """A meaning and its color, the same on every dashboard."""

    GOOD = "green"
    WATCH = "orange"
    BAD = "red"
    P50 = "light-blue"
    P95 = "purple"
    P99 = "dark-purple"
    HISTOGRAM = "#8a8f98"
    """Value of the histogram, next to the recent one; also the past, next to the present."""
    RUNNING = "blue"
    WAITING = "dark-orange"
    PROMPT = "yellow"
    GENERATION = "dark-blue"
    CACHE = "semi-dark-green"
    GPU = "light-green"


@dataclass(frozen=True, slots=True)
class Query:
    """One query of a panel.

    `plain` is used where `expr` has no series: it reads metrics that exist without the sidecar too. In a table,
    `legend` is the heading of the column; a query without one only adds its labels. `top` keeps that many series with
    the highest peaks in the range, a negative one those with the lowest values; `expr` is then a single metric.
    """

    expr: str
    legend: str = ""
    color: Color | None = None
    plain: str = ""
    top: int = 0
    dashed: bool = False
    unit: Unit | None = None
    """Of a column; None takes the panel's."""
    decimals: int | None = None
    """Of a column."""
    bad: str = ""
    """Of a column: the threshold from which it is red."""
    states: bool = False
    """Of a column: the value is a word of the panel's `words`."""


@dataclass(frozen=True, slots=True)
class Word:
    """A word that replaces a value, and its color."""

    value: int
    text: str
    color: Color


FINE_OR_BAD = (Word(0, "fine", Color.GOOD), Word(1, "bad", Color.BAD))
YES = (Word(1, "yes", Color.BAD),)
IN_USE = (Word(1, "in use", Color.RUNNING),)
WIDTH = 24
"""Columns of Grafana's grid."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Panel:
    """One panel: `help` explains what it means and what to do when it is bad.

    `empty` is the reason why it may have no data on a healthy system; a panel without `empty` must always have data.
    `bad` and `watch` name the user's threshold from which it is red or orange; with `below`, up to which.
    """

    title: str
    help: str
    style: Style
    queries: tuple[Query, ...] = ()
    unit: Unit = Unit.NONE
    width: int = 8
    height: int = 8
    least: float | None = 0.0
    most: float | None = None
    decimals: int | None = None
    bad: str = ""
    watch: str = ""
    below: bool = False
    empty: str = ""
    words: tuple[Word, ...] = ()
    stacked: bool = False
    named: tuple[tuple[str, Color], ...] = ()
    """Colors of series by their legend."""
    links: tuple[str, ...] = ()
    """Labels of a table's rows that link to other dashboards."""
    labels: tuple[str, ...] = ()
    """Label columns of a table, in order; others are hidden."""
    sort: str = ""
    """Column of a table that it is sorted by, the largest first."""
    text: str = ""
    """Markdown of a text panel."""

    def __post_init__(self) -> None:
        problems = (
            (not self.help.endswith((".", "?")), "has a description that is not a sentence"),
            (not 0 < self.width <= WIDTH, "is not between 1 and 24 columns wide"),
            (self.style is not Style.TEXT and not self.queries, "has no query"),
            ((self.style is Style.TEXT) != bool(self.text), "has a text if and only if it is a text panel"),
        )
        for broken, text in problems:
            if broken:
                raise ValueError(f"panel {self.title!r} {text}")


@dataclass(frozen=True, slots=True)
class Row:
    """Panels under a heading; a collapsed row sends no queries until it is opened."""

    title: str
    panels: tuple[Panel, ...]
    collapsed: bool = False


@dataclass(frozen=True, slots=True)
class Dashboard:
    """One dashboard; its uid is public, because alerts and bookmarks link to it."""

    uid: str
    title: str
    help: str
    rows: tuple[Row, ...]
    since: str = "1h"
    """Time range that it opens with."""

    @property
    def panels(self) -> tuple[Panel, ...]:
        """All panels, in order."""
        return tuple(panel for row in self.rows for panel in row.panels)
