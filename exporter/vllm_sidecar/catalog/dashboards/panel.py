"""Types of the dashboards; what breaks a rule of the boards raises when the catalog is imported.

Expressions are written as those of the alerts (see `catalog.alerts.types`), with two more: `@name{...}` is a recorded
rule of the objectives, and `<<Alert.threshold>>` or `<<slo.name>>` is a number of the user's thresholds. Every `~name`
and `@name` gets the matchers of the board's variables that it has labels for.
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


class Colour(StrEnum):
    """A meaning and its colour, the same on every board."""

    GOOD = "green"
    WATCH = "orange"
    BAD = "red"
    P50 = "light-blue"
    P95 = "purple"
    P99 = "dark-purple"
    HISTOGRAM = "#8a8f98"
    """What the histogram says beside the recent value; also the past beside the present."""
    RUNNING = "blue"
    WAITING = "dark-orange"
    PROMPT = "yellow"
    GENERATION = "dark-blue"
    CACHE = "semi-dark-green"
    GPU = "light-green"


@dataclass(frozen=True, slots=True)
class Query:
    """One query of a panel.

    `plain` is asked where `expr` has no series: it reads what a Prometheus without the sidecar has too. In a table
    `legend` is the head of the column; one without is asked for its labels alone. `top` keeps the so many series that
    rose highest in the range, a negative one those that fell lowest; `expr` is then a single metric.
    """

    expr: str
    legend: str = ""
    colour: Colour | None = None
    plain: str = ""
    top: int = 0
    dashed: bool = False
    unit: Unit | None = None
    """Of a column; None takes the panel's."""
    decimals: int | None = None
    """Of a column."""
    bad: str = ""
    """Of a column: from which number on it is red."""
    states: bool = False
    """Of a column: the value is a word of the panel's `words`."""


@dataclass(frozen=True, slots=True)
class Word:
    """A word in place of a value, and how it is coloured."""

    value: int
    text: str
    colour: Colour


FINE_OR_BAD = (Word(0, "fine", Colour.GOOD), Word(1, "bad", Colour.BAD))
YES = (Word(1, "yes", Colour.BAD),)
IN_USE = (Word(1, "in use", Colour.RUNNING),)
WIDTH = 24
"""Columns of Grafana's grid."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Panel:
    """One panel: `help` says what it means and what to do when it is bad.

    `empty` says why it may have no data on a healthy system; without it a panel that has none is a mistake. `bad` (and
    `watch`) name the number of the user's thresholds from which on it is red (orange), with `below` up to which.
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
    named: tuple[tuple[str, Colour], ...] = ()
    """Colours of series by their legend."""
    links: tuple[str, ...] = ()
    """Labels of a table's rows that lead to other boards."""
    labels: tuple[str, ...] = ()
    """Label columns of a table, in order; others are hidden."""
    sort: str = ""
    """Column of a table that it is sorted by, the largest first."""
    text: str = ""
    """Markdown of a text panel."""

    def __post_init__(self) -> None:
        problems = (
            (not self.help.endswith((".", "?")), "has a description that is no sentence"),
            (not 0 < self.width <= WIDTH, "is not between 1 and 24 columns wide"),
            (self.style is not Style.TEXT and not self.queries, "has no query"),
            ((self.style is Style.TEXT) != bool(self.text), "has a text if and only if it is a text panel"),
        )
        for broken, text in problems:
            if broken:
                raise ValueError(f"panel {self.title!r} {text}")


@dataclass(frozen=True, slots=True)
class Row:
    """Panels under a heading; `collapsed` ones ask nothing until they are opened."""

    title: str
    panels: tuple[Panel, ...]
    collapsed: bool = False


@dataclass(frozen=True, slots=True)
class Dashboard:
    """One dashboard; its uid is public, for alerts and bookmarks lead to it."""

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
